"""The objects of runs over a library, and of the archive of originals."""

from __future__ import annotations

from .objects import BOOLEAN, EFFECT_RECORD, INTEGER, NUMBER, TEXT, TEXTS
from .types import Field, ListOf, MapOf, Nullable, Object, Text

REASONS: dict[str, str] = {
    "broken": "the file cannot be read",
    "kind": "its kind cannot be resized",
    "resized": "it was resized before; `again` resizes it once more",
    "link": "it is a symbolic link, so that the file is elsewhere",
    "hard_link": "the file has another name on the disk, which would keep its bytes",
    "copy": "another LoRA of the list has the same content",
    "read_only": "the file or its folder cannot be written to",
    "reference": "the recipe compares with a base model, or images are made with one, and there is none, or it is of "
    "another family",
    "gain": "it would not become smaller by `least_gain`",
    "floor": "its weight retention would be below `floor`",
    "weak": "the images hardly show the LoRA, so that its effect cannot be compared; of a target `effect`",
    "effect": "even its largest file does not keep the target `effect`",
    "folder": "its folder is in `excluded_folders`",
    "family": "its family is in `excluded_families`",
    "in_use": "another program has the file open",
    "changed": "the file was changed or replaced while it was resized",
    "missing": "the file does not exist any more",
    "error": "an error, which the message describes",
}
"""Why a run leaves a file alone -> its meaning."""

PLAN_REASONS = ("broken", "kind", "resized", "link", "hard_link", "copy", "read_only", "reference", "missing")
RUN_STATES = ("running", "paused", "interrupted", "done", "stopped")
ITEM_STATES = ("waiting", "working", "resized", "left", "failed", "restored", "purged")
RUN_ACTIONS = ("pause", "continue", "stop")
ORIGINALS = ("archive", "none")

ARCHIVE_SIZE = Object(
    "Archive size",
    (
        Field("folder", Nullable(TEXT), "the folder; null where the page is served to other machines"),
        Field("bytes", INTEGER, "of all originals"),
        Field("entries", INTEGER),
    ),
)

# Plan ----------------------------------------------------------------------------------------------------------

PLAN_ROW = Object(
    "Plan row",
    (
        Field("name", TEXT),
        Field("folder", TEXT, "as in `library`"),
        Field("family", Nullable(TEXT), "as in `library`"),
        Field("bytes", INTEGER, "size of the file that is resized: the archived original where there is one"),
        Field("bytes_now", INTEGER, "size of the file of the list"),
        Field(
            "predicted",
            Nullable(MapOf("preset", Nullable(INTEGER))),
            "bytes that each preset would write; null: not known yet, ask `estimate`",
        ),
        Field(
            "after",
            Nullable(INTEGER),
            "bytes that the given `recipe` or `target` would write; null: not known before the run",
        ),
        Field("left", Nullable(Text(PLAN_REASONS)), "why the file is left alone; null: it is resized"),
        Field("message", TEXT, "the same in English; else empty"),
    ),
)
PLAN_ARCHIVE = Object(
    "Plan archive",
    (
        Field("folder", Nullable(TEXT), "the folder; null where the page is served to other machines"),
        Field("free", Nullable(INTEGER), "free bytes of its disk; null: unknown"),
        Field("same_disk", BOOLEAN, "all LoRA folders are on its disk, so that originals need no more space there"),
        Field("problem", TEXT, "why originals cannot be archived there; else empty"),
    ),
)

# Runs ----------------------------------------------------------------------------------------------------------

RUN = Object(
    "Library run",
    (
        Field("run", TEXT, "id"),
        Field("began", NUMBER, "moment"),
        Field("ended", Nullable(NUMBER), "moment; null before the end"),
        Field(
            "state",
            Text(RUN_STATES),
            "`running`: queued, or at work (`job` is null where another program works on it); `interrupted`: the "
            "server ended before the run did; `paused` and `interrupted` can be continued",
        ),
        Field("message", TEXT, "why it was paused, such as a full disk; else empty"),
        Field("recipe", TEXT, "the recipe in full; with `effect` that of the largest file that is tried"),
        Field("effect", Nullable(NUMBER), "share of the effect on images that each file keeps; null: not asked for"),
        Field("fit", BOOLEAN, "each file is fitted to images of its LoRA"),
        Field("originals", Text(ORIGINALS)),
        Field("files", INTEGER, "of the run"),
        Field("done", INTEGER, "files that are finished in any way"),
        Field("resized", INTEGER, "files, those that were restored since left out"),
        Field("left", INTEGER, "files that were left alone"),
        Field("failed", INTEGER, "files"),
        Field("restored", INTEGER, "files"),
        Field("bytes_before", INTEGER, "of the files that are resized"),
        Field("bytes_after", INTEGER, "of the same files"),
        Field("freed", INTEGER, "the difference of both: by so much the LoRA folders are smaller"),
        Field("archived", INTEGER, "bytes of this run's originals that the archive holds"),
        Field("share", NUMBER, "share of the bytes that are worked through, 0 to 1"),
        Field("seconds_left", Nullable(NUMBER), "for the whole run, measured; null: unknown"),
        Field("job", Nullable(TEXT), "id of the job that works on it"),
    ),
)
ITEM = Object(
    "Item",
    (
        Field("name", TEXT, "of the LoRA"),
        Field("folder", TEXT, "as in `library`"),
        Field("family", Nullable(TEXT), "as in `library`"),
        Field("state", Text(ITEM_STATES)),
        Field("reason", Nullable(Text(tuple(REASONS))), "of `left` and `failed`"),
        Field("message", TEXT, "of `left` and `failed`, in English; else empty"),
        Field("bytes_before", INTEGER, "size of the original"),
        Field("bytes_after", Nullable(INTEGER), "size of the new file; also of one that was left because of its size"),
        Field("retention", Nullable(NUMBER), "weight retention, 0 to 1; also of one that was left because of it"),
        Field("notes", TEXTS, "for the user"),
        Field("entry", Nullable(TEXT), "id of the entry of the archive"),
        Field("seconds", NUMBER, "how long it took"),
        Field("effect", Nullable(EFFECT_RECORD), "of the last comparison of images that gave a figure"),
    ),
)

# Archive -------------------------------------------------------------------------------------------------------

ARCHIVE_ENTRY = Object(
    "Archive entry",
    (
        Field("entry", TEXT, "id"),
        Field("run", TEXT, "id of the run; empty for files that the command line replaced"),
        Field("name", TEXT, "of the LoRA"),
        Field("folder", TEXT, "as in `library`"),
        Field("bytes", INTEGER, "size of the original"),
        Field("bytes_after", INTEGER, "size of the file that replaced it"),
        Field("replaced", NUMBER, "moment"),
        Field("there", BOOLEAN, "the original is in the archive"),
    ),
)
RESTORED_ORIGINALS = Object(
    "Restored originals",
    (
        Field("restored", TEXTS, "names"),
        Field("refused", ListOf(Object("Refused original", (Field("name", TEXT), Field("message", TEXT))))),
        Field("notes", TEXTS, "for the user, such as sidecars that stay because they were changed"),
        Field("bytes", INTEGER, "of the originals that were restored"),
    ),
)
