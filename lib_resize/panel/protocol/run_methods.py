"""All that a page may ask about runs over a library, and about the archive of originals."""

from __future__ import annotations

from . import run_objects as of
from .find_objects import SEED_COUNT
from .method import CHOICE, HOW, MOST_NAMES, NAMES, Method
from .objects import BOOLEAN, IMAGE_SETTINGS, JOB_ID, NUMBER, TEXT, TEXTS
from .types import Field, Integer, ListOf, Nullable, Object, Text

_RUN = Field("run", TEXT, "id of a run")
_ALL_OR_NAMES = Field("names", NAMES.type, "LoRAs of the list; without it all of them", None)
_AGAIN = Field("again", BOOLEAN, "also resize files that were resized before", False)
_FIT = Field("fit", BOOLEAN, "fit each file to images of its LoRA first; needs the feature `fit`", False)
_ENTRIES = Field("entries", ListOf(TEXT, MOST_NAMES), "ids of entries", None)
_OF_RUN = Field("run", TEXT, "id of a run: all of its entries", None)
_ALL = Field("all", BOOLEAN, "true: all entries", None)
_ONE_RUN = Object("Run answer", (Field("run", of.RUN),))

RUN_METHODS = (
    Method(
        "estimate",
        "shrinking",
        "Estimate what each preset would write, from a sample of layers, in the background",
        JOB_ID,
        (_ALL_OR_NAMES,),
        job=Object(
            "Estimates",
            (
                Field("files", Integer(), "files that were estimated; `library` has the figures"),
                Field("known", Integer(), "files whose figures were known"),
                Field("failed", Integer(), "files that cannot be estimated"),
            ),
        ),
    ),
    Method(
        "shrink_plan",
        "shrinking",
        "List what a run would do, before anything is written",
        Object(
            "Run plan",
            (
                Field("rows", ListOf(of.PLAN_ROW), "in the order of the list"),
                Field("recipe", Nullable(TEXT), "the recipe in full; null where none was given"),
                Field("archive", of.PLAN_ARCHIVE),
                Field(
                    "pace",
                    Nullable(NUMBER),
                    "seconds per byte of the source, as measured on earlier files; null: none was measured",
                ),
                Field(
                    "image_pace",
                    Nullable(NUMBER),
                    "seconds per pixel and step of an image, as measured on earlier images; null: none was measured",
                ),
                Field("unknown", TEXTS, "names that are not in the list"),
            ),
        ),
        (_ALL_OR_NAMES, *HOW, _AGAIN, _FIT),
        CHOICE,
        either_is_required=False,
    ),
    Method(
        "shrink",
        "shrinking",
        "Resize LoRAs in place, in the background, as one run",
        Object("Run started", (_RUN, *JOB_ID.fields)),
        (
            _ALL_OR_NAMES,
            *HOW,
            _AGAIN,
            Field(
                "settings",
                IMAGE_SETTINGS,
                "of a target `effect`, and with `fit`: settings of the images, as for `find` with `names`",
                {},
            ),
            Field("seeds", SEED_COUNT, "of a target `effect`: images that decide, 1, 2 or 4", 4),
            _FIT,
            Field("least_gain", NUMBER, "percent of the bytes; what gains less is left alone", 10.0),
            Field("floor", NUMBER, "weight retention, 0 to 1; what would be below is left alone", None),
            Field("excluded_folders", ListOf(TEXT), "folders as in `library`, with all below them", []),
            Field("excluded_families", ListOf(TEXT), "families as in `library`", []),
            Field(
                "originals", Text(of.ORIGINALS), "`none`: originals are not kept, which must be confirmed", "archive"
            ),
            Field("confirm", BOOLEAN, "must be true for `originals` `none`; else error `confirm`", False),
        ),
        CHOICE,
        job=of.RUN,
        changes=True,
    ),
    Method(
        "runs",
        "runs",
        "List the runs of this session and of earlier ones, newest first",
        Object(
            "Runs",
            (
                Field("runs", ListOf(of.RUN)),
                Field("recovered", TEXTS, "what the start of this server completed or reverted; for the user, once"),
            ),
        ),
    ),
    Method(
        "run",
        "runs",
        "Return a run with its files",
        Object("Run with items", (Field("run", of.RUN), Field("items", ListOf(of.ITEM), "in the order of the run"))),
        (_RUN,),
    ),
    Method(
        "run_control",
        "runs",
        "Pause, continue or stop a run",
        _ONE_RUN,
        (_RUN, Field("action", Text(of.RUN_ACTIONS))),
        changes=True,
    ),
    Method(
        "archive",
        "archiving",
        "List the archive of originals",
        Object(
            "Archive",
            (
                Field("folder", Nullable(TEXT), "the folder; null where the page is served to other machines"),
                Field("entries", ListOf(of.ARCHIVE_ENTRY), "oldest first"),
                Field("bytes", Integer(), "of all originals"),
                Field("problem", TEXT, "why the archive cannot be used; else empty"),
            ),
        ),
    ),
    Method(
        "restore_originals",
        "archiving",
        "Move originals back from the archive, in place of the smaller files, in the background",
        JOB_ID,
        (_ENTRIES, _OF_RUN, Field("names", NAMES.type, "LoRAs of the list", None), _ALL),
        ("entries", "run", "names", "all"),
        job=of.RESTORED_ORIGINALS,
        changes=True,
    ),
    Method(
        "purge",
        "archiving",
        "Delete originals of the archive for good, or count them",
        Object(
            "Purged",
            (
                Field("files", Integer(), "originals"),
                Field("bytes", Integer(), "of them"),
                Field("done", BOOLEAN, "they are deleted; false: they are only counted"),
            ),
        ),
        (
            _ENTRIES,
            _OF_RUN,
            Field("older_days", Integer(0, 100_000), "entries that are older", None),
            _ALL,
            Field("confirm", BOOLEAN, "true deletes; without it they are only counted", False),
        ),
        ("entries", "run", "older_days", "all"),
        changes=True,
    ),
)
