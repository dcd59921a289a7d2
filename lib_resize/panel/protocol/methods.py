"""All that a page may ask."""

from __future__ import annotations

from . import objects as of
from .image_methods import IMAGE_METHODS
from .method import CHOICE, HOW, MOST_NAMES, NAMES, RESULT_OR_NAME, Method
from .objects import BOOLEAN, INTEGER, NUMBER, TEXT, TEXTS
from .run_methods import RUN_METHODS
from .run_objects import ARCHIVE_SIZE
from .types import Field, Integer, ListOf, MapOf, Nullable, Object, Text

MOST_PREVIEWS = 48
MOST_RESULTS = 500
"""Results of one answer."""
LONGEST_PROMPT = 100_000

# Parameters of several methods ---------------------------------------------------------------------------------

_NAME = Field("name", TEXT, "a LoRA of the list")
_SINCE = Field("since", INTEGER, "the `revision` of the last answer", 0)
_PROMPT = Field("prompt", Text(longest=LONGEST_PROMPT))
_RESULT = Field("result", TEXT, "id of a result")
_OUTPUT_NAME = Field("name", TEXT, "name of the new file; it becomes unique by `_2`", "")
_METHODS = (
    Method(
        "hello",
        "looking",
        "Describe the host: its features, checkpoints, presets and defaults",
        Object(
            "Host",
            (
                Field("session", TEXT, "id of this service"),
                Field("host", TEXT, "name of the host"),
                Field(
                    "features",
                    TEXTS,
                    "some of `loaded_model`, `generate`, `prompt`, `cards`, `xyz`, `fit`, `ignores_text_encoders`, "
                    "`parts_in_tags`",
                ),
                Field("version", TEXT, "version of Resize LoRA"),
                Field("device", TEXT, "such as `cpu` or `cuda:0`"),
                Field("remote", BOOLEAN, "the page is served to other machines; offer no folder field"),
                Field("reference", of.REFERENCE, "the reference `loaded`"),
                Field("checkpoints", TEXTS, "titles that `reference` takes"),
                Field("presets", MapOf("preset", TEXT), "recipe of each preset, in this order"),
                Field("counts", of.COUNTS),
                Field("floor", NUMBER, "retention below which a plan warns; 0.88, or as set in the host's settings"),
                Field("defaults", of.DEFAULTS, "what the page starts with, as set in the host's settings"),
                Field("words", of.WORDS, "the words of recipes"),
                Field("archive", ARCHIVE_SIZE, "the archive of replaced originals"),
            ),
        ),
    ),
    Method(
        "library",
        "looking",
        "List the LoRAs, or those that changed since a revision",
        Object(
            "Library",
            (
                Field("files", ListOf(of.FILE_ENTRY), "new or changed since `since`"),
                Field("gone", TEXTS, "names that disappeared since `since`"),
                Field("roots", TEXTS, "names of the LoRA folders, without their paths"),
                Field("complete", BOOLEAN, "all headers are read"),
                Field("known", INTEGER, "files whose header is read"),
                Field("total", INTEGER, "files of the host's list"),
                Field("revision", INTEGER, "`status` has it as `library` too: where that is larger, ask again"),
            ),
        ),
        (
            _SINCE,
            Field(
                "refresh", BOOLEAN, "let the host read its folders first, and compare all files with the disk", False
            ),
        ),
    ),
    Method(
        "previews",
        "looking",
        "Return small preview images, at most 160 pixels high",
        Object(
            "Previews",
            (
                Field("previews", MapOf("name", Nullable(TEXT)), "data URI, or null"),
                Field("pending", TEXTS, "names that took too long for one call: ask for them again"),
            ),
        ),
        (Field("names", ListOf(TEXT, MOST_PREVIEWS), "LoRAs of the list"),),
    ),
    Method(
        "details",
        "looking",
        "Return trigger words, the Civitai page and the description of a LoRA, from the files next to it",
        of.DETAILS,
        (_NAME,),
    ),
    Method(
        "open_folder",
        "looking",
        "Show the folder of a LoRA in the file manager of the server's desktop",
        Object("Opened", (Field("folder", TEXT, "name of the folder"),)),
        (_NAME,),
        changes=True,
    ),
    Method(
        "status",
        "looking",
        "List the jobs that changed since a revision, and the state of the queue",
        Object(
            "Status",
            (
                Field("session", TEXT, "id of this service"),
                Field("queue", ListOf(of.JOB), "jobs that changed since `since`, in order"),
                Field(
                    "reset",
                    BOOLEAN,
                    "jobs that changed after `since` are not kept any more. `queue` then has all jobs that are kept: "
                    "forget all others, and ask `results` for what was made",
                ),
                Field("revision", INTEGER, "for the next `since`"),
                Field(
                    "places",
                    MapOf("job", ListOf(Nullable(NUMBER))),
                    "jobs ahead and seconds left (or null) of every active job, changed or not",
                ),
                Field("active", INTEGER, "jobs that are queued, wait or run; 0: stop asking until a call adds a job"),
                Field("busy", Nullable(TEXT), "the generation that the host is busy with"),
                Field("seconds_left", Nullable(NUMBER), "for all active jobs"),
                Field("library", INTEGER, "revision of the library"),
                Field("reference", of.REFERENCE, "the reference `loaded`"),
            ),
        ),
        (_SINCE,),
    ),
    Method(
        "check_recipe",
        "looking",
        "Parse a recipe as it is typed",
        Object(
            "Recipe check",
            (
                Field("ok", BOOLEAN),
                Field("message", TEXT, "what is wrong; else empty"),
                Field("column", INTEGER, "where: 1 is the first character, 0 is unknown"),
                Field("full", Nullable(TEXT), "all recipes in full, separated by `:`"),
                Field("needs_base", BOOLEAN, "one of them compares with a base model"),
            ),
        ),
        (Field("text", TEXT, "one or several recipes, separated by `:`"),),
    ),
    Method(
        "analyse",
        "analysing",
        "Decompose LoRAs in the background",
        of.JOB_ID,
        (
            NAMES,
            Field("reference", TEXT, "`loaded`, `none`, or a title of `checkpoints`", of.LOADED),
            Field("recipe", TEXT, "measure what this recipe needs of the reference, too", ""),
            Field("convert", of.OPTIONS.fields[-1].type, "`lora` decomposes other kinds as LoRA, too", "auto"),
        ),
        job=of.ANALYSIS,
    ),
    Method(
        "plan",
        "analysing",
        "Compute exactly what a resize would write; needs an analysis",
        of.PLAN,
        (_NAME, *HOW),
        CHOICE,
    ),
    Method(
        "spectra",
        "analysing",
        "Study rank, energy and size by block and by group of layers, in the background",
        of.JOB_ID,
        (_NAME,),
        job=of.SPECTRA,
    ),
    Method(
        "resize",
        "resizing",
        "Make smaller files in the background, one job for each file and recipe",
        Object(
            "Orders",
            (
                Field("jobs", TEXTS, "ids, in order"),
                Field("same", ListOf(of.SAME_ORDER), "orders that are queued, or whose result exists"),
                Field("refused", ListOf(of.REFUSED), "names that are unknown"),
            ),
        ),
        (
            NAMES,
            *HOW,
            Field("again", BOOLEAN, "make the same once more, under another name", False),
            Field("fit", of.FIT, "fit the new factors to images of the loaded model; needs the feature `fit`", None),
        ),
        CHOICE,
        job=of.RESULT,
        changes=True,
    ),
    Method(
        "cancel",
        "resizing",
        "Stop jobs",
        Object("Cancelled", (Field("cancelled", ListOf(of.CANCELLED_JOB), "without those that had ended"),)),
        (
            Field("job", TEXT, "id of one job", None),
            Field("jobs", ListOf(TEXT, MOST_NAMES), "ids of jobs", None),
        ),
        ("job", "jobs"),
        changes=True,
    ),
    Method(
        "results",
        "results",
        f"List the latest {MOST_RESULTS} results, oldest first",
        Object(
            "Results",
            (
                Field("results", ListOf(of.RESULT), "of this session and of earlier ones, oldest first"),
                Field("more", BOOLEAN, "there are older ones: ask again with `before`, the id of the first of these"),
                Field("trash", of.TRASH_SIZE),
            ),
        ),
        (
            Field("before", TEXT, "id of a result: list those that are older", None),
            Field("limit", Integer(1, MOST_RESULTS), "how many", MOST_RESULTS),
        ),
    ),
    Method(
        "undo",
        "results",
        "Move a result to the trash",
        Object(
            "Undone",
            (
                Field("result", of.RESULT),
                Field("kept", TEXTS, "file names of sidecars that stay because they were changed"),
                Field("note", TEXT, "a sentence about these; else empty"),
            ),
        ),
        (_RESULT,),
        changes=True,
    ),
    Method(
        "restore",
        "results",
        "Move a result back from the trash",
        Object(
            "Restored",
            (
                Field("result", Nullable(of.RESULT), "null for an item without a record"),
                Field("name", TEXT, "of the LoRA"),
            ),
        ),
        (
            Field("result", TEXT, "id of a result", None),
            Field("item", TEXT, "id of an item of the trash", None),
        ),
        ("result", "item"),
        changes=True,
    ),
    Method(
        "trash",
        "results",
        "List the trash, of earlier sessions too",
        Object("Trash", (Field("items", ListOf(of.TRASH_ITEM)),)),
    ),
    Method(
        "empty_trash",
        "results",
        "Delete the contents of the trash for good",
        Object("Emptied", (Field("files", INTEGER, "number of files"), Field("bytes", INTEGER))),
        (Field("confirm", BOOLEAN, "must be true; else error `confirm`", False),),
        changes=True,
    ),
    Method(
        "prompt_tag",
        "prompts",
        "Return the tag and the trigger words of a file",
        Object(
            "Prompt tag",
            (
                Field("tag", TEXT, "such as `<lora:pastry-sdxl_46mb:1>`"),
                Field("name", TEXT, "the name in it"),
                Field("weight", NUMBER, "the preferred weight; 1 where none is set"),
                Field("activation", TEXT, "activation text; empty where none is set"),
                Field("negative", TEXT, "text for the negative prompt; empty where none is set"),
                Field(
                    "old_names",
                    TEXTS,
                    "names to replace by `name` in `<lora:NAME:…>` of a prompt, with any multipliers: name and "
                    "alias of the original, and its other versions",
                ),
            ),
        ),
        RESULT_OR_NAME,
        ("result", "name"),
    ),
    Method(
        "read_prompt",
        "prompts",
        "List the LoRAs of a prompt, and which of them can be baked into one file",
        Object(
            "Prompt",
            (
                Field("ok", BOOLEAN, "there is something to bake"),
                Field("message", TEXT, "why not; else empty"),
                Field("column", INTEGER, "where: 1 is the first character, 0 is unknown"),
                Field("tags", ListOf(of.PROMPT_TAG), "in the order of the prompt"),
                Field("warnings", ListOf(of.WARNING), "`other_family`: they are made for different models"),
                Field("name", TEXT, "a name for the new file"),
            ),
        ),
        (_PROMPT,),
    ),
    Method(
        "bake",
        "prompts",
        "Merge the LoRAs of a prompt into one file, in the background",
        Object("Bake", (*of.JOB_ID.fields, Field("left", TEXTS, "tags that cannot be baked"))),
        (_PROMPT, _OUTPUT_NAME, *HOW),
        CHOICE,
        either_is_required=False,
        job=of.RESULT,
        changes=True,
    ),
    Method(
        "bake_plan",
        "prompts",
        "Compute exactly what `bake` would write, in the background",
        of.JOB_ID,
        (_PROMPT, _OUTPUT_NAME, *HOW),
        CHOICE,
        either_is_required=False,
        job=of.BAKE_PLAN,
    ),
    Method(
        "bake_into",
        "prompts",
        "Replace the tags of a prompt by the tag of the file that was baked from them",
        Object(
            "New prompt",
            (
                Field("prompt", TEXT),
                Field("replaced", INTEGER, "number of tags"),
                Field("tag", TEXT, "the new tag"),
            ),
        ),
        (_RESULT, _PROMPT),
    ),
    Method(
        "extract",
        "extracting",
        "Extract the difference of two checkpoints as a LoRA, in the background",
        of.JOB_ID,
        (
            Field("tuned", TEXT, "`loaded` (in memory, LoRAs set aside), or a title of `checkpoints`", of.LOADED),
            Field("base", TEXT, "`file` (of the loaded model), or a title of `checkpoints`", of.FILE),
            _OUTPUT_NAME,
            Field("text_encoders", BOOLEAN, "include the text encoders", True),
            *HOW,
        ),
        CHOICE,
        job=of.RESULT,
        changes=True,
    ),
    *IMAGE_METHODS,
    *RUN_METHODS,
)

METHODS: dict[str, Method] = {method.name: method for method in _METHODS}
"""Name -> method, in the order of docs/panel-protocol.md."""

JOB_RESULTS: dict[str, Object] = {
    method.kind or method.name: method.job for method in _METHODS if method.job is not None
}
"""Kind of a job -> its result."""
