"""What `message_texts` leaves out, each with its reason."""

from __future__ import annotations

NOT_ON_THE_PAGE = frozenset(
    {
        # answers of the HTTP API and of the gate, for programs
        "panel/api.py",
        "panel/gate.py",
        "panel/firewall.py",
        # the start of a server of its own, in a terminal
        "panel/standalone.py",
        # the frame of the tab and the settings page of the host, which the host translates
        "panel/layout.py",
        # descriptions of the protocol; its checks find faults of the page, whose title is translated
        "panel/protocol/__init__.py",
        "panel/protocol/errors.py",
        "panel/protocol/image_methods.py",
        "panel/protocol/find_objects.py",
        "panel/protocol/method.py",
        "panel/protocol/methods.py",
        "panel/protocol/run_methods.py",
        "panel/protocol/objects.py",
        "panel/protocol/run_objects.py",
        "panel/protocol/types.py",
        # warnings with values of their own, which the page translates by `template`
        "panel/lora_warnings.py",
        # names of families, layers and key formats
        "names/families.py",
        "names/key_formats.py",
        "names/table_reader.py",
        "names/transformers.py",
        # the card's button as HTML, and lines of the log
        "hosts/webui_page.py",
        # keys of a cache
        "engine/solver_cache.py",
        # results of `inspect` for a terminal
        "studies/inspection.py",
        "studies/plots.py",
        "studies/record_text.py",
    }
)
"""Modules whose texts the page never shows."""

TABLES = frozenset(
    {
        "adapters/write/style.py:CONVERSIONS",
        "recipe/grammar.py:SCORES",
        "recipe/grammar.py:SELECTIONS",
        "recipe/grammar.py:LIMITS",
        "recipe/grammar.py:METHODS",
        "recipe/grammar.py:FILLS",
        "recipe/grammar.py:METHOD_NUMBERS",
        "adapters/write/float8.py:_LOADERS",
        "panel/preferences.py:REFERENCE_WORDS",
        "panel/preferences.py:DTYPE_WORDS",
        "panel/preferences.py:_OLD_CHOICES",
        "panel/preferences.py:SETTINGS",
    }
)
"""Module and name of tables for the command line, the documentation or the host."""

LOCAL_FAULTS = frozenset(
    {
        "ValueError",
        "TypeError",
        "AssertionError",
        "AttributeError",
        "FileExistsError",
        "FileNotFoundError",
        "KeyError",
    }
)
"""Exceptions for programmers; what reaches a user is raised as another."""

TEXT_OF_FAULTS = frozenset({"adapters/read/patterns.py", "files/header_json.py", "prompts/block_weights.py"})
"""Modules whose ValueErrors are quoted in messages."""

LOG_CALLS = frozenset(
    {"debug", "info", "warning", "guarded", "asked", "attempt", "attempt_list", "read", "host_module", "compile"}
)
"""Functions whose texts go to the log."""

TEXT_NAMES = frozenset({"error", "reason", "note", "why", "message", "problem", "advice", "expected"})
"""Names that hold messages wherever they occur."""

VALUE_FUNCTIONS = frozenset({"shortened", "_known_words"})
"""Functions that return values, although some of these are phrases."""

VALUE_FIELDS = frozenset({"name", "key", "path", "title", "label", "text", "kind", "wanted"})
"""Names that hold values, although some of them are phrases."""

NOT_SHOWN = frozenset(
    {
        # names of kinds, families and programs
        "weight difference",
        "weight replacement",
        "bias difference",
        "LN tuning",
        "alpha without factors",
        "quantised LoRA",
        "Tucker LoCon",
        "cloneofsimo LoRA",
        "LoRA of an embedding",
        "LoRA of stacked experts",
        "LoRA with further tensors",
        "sparse bias",
        "OFT rescale",
        "DoRA magnitude",
        "DoRA magnitude without factors",
        "bias of up",
        "bare up and down",
        "SDXL refiner",
        "Forge Neo",
        "Resize LoRA",
        "Resize LoRA trash",
        "Resize LoRA archive",
        "LoRA resize",
        "a copy of Resize LoRA",
        "a result of Resize LoRA",
        # labels that the scripts translate
        "text encoders",
        "feed forward",
        "time embedding",
        "high-level blocks",
        "attention K",
        "attention Q",
        "read base",
        "file names",
        "activation text",
        "negative text",
        "preferred weight",
        "in memory",
        "waiting for the current image",
        # a prompt
        "a photo of {1}",
        # titles of jobs, which the scripts show as they are
        "Estimate {1}",
        "Estimate {1} LoRAs",
        "Restore {1}",
        "Restore {1} originals",
        "Shrink {1}",
        "Shrink {1} LoRAs",
        # metadata, the log and the programmer
        "No space left on device",
        "[{1}, ... {2} in all]",
        "difference of {1}, rank {2}; ",
        "merged from {1} files; ",
        "{1}dimension is resized from {2} to {3}; ",
        "bytes | bytearray | memoryview | NDArray[Any]",
        "str | None",
        "int | None",
        "not enough",
        " and ",
        " again (",
        "{1} again ({2})",
        "{1}: not available in this host ({2}).",
        "the entry {1} in the host's list of LoRAs names no file and is ignored.",
        "the checkpoint {1} in the host's list names no file and is ignored.",
        "this host has no lock for its model (modules.call_queue.queue_lock), so the model is not read.",
        "scores: {1}; exactly one selection: {2}; limits: {3}; rescale; with rank=: {4}; or a preset: {5}",
    }
)
"""Templates that are names, or never reach a user. Places of messages are written as places of values here."""
