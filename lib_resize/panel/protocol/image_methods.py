"""All that a page may ask about images: comparisons, and the search for the smallest file."""

from __future__ import annotations

from . import find_objects as of
from .find_objects import SEED_COUNT
from .method import NAMES, RESULT_OR_NAME, Method
from .objects import BOOLEAN, COMPARISON, IMAGE_SETTINGS, JOB_ID, NUMBER, OPTIONS, RESULT, TEXT
from .types import Field, Object, Text

_FIND = Field("find", TEXT, "id of a search; the last 4 are kept")

IMAGE_METHODS = (
    Method(
        "compare",
        "comparing",
        "Render the same image with the original and with the new file, in the background",
        JOB_ID,
        (
            *RESULT_OR_NAME,
            Field("entry", TEXT, "id of an entry of the archive", None),
            Field("settings", IMAGE_SETTINGS, "settings of the image; others are the host's defaults", {}),
            Field("without", BOOLEAN, "also render without the LoRA, which a figure needs", False),
            Field("seeds", SEED_COUNT, "number of seeds, with `without`: 1, 2 or 4; without it there is one", 1),
        ),
        ("result", "name", "entry"),
        job=COMPARISON,
        changes=True,
    ),
    Method(
        "picture",
        "comparing",
        "Return an image of a comparison or a search",
        Object("Picture", (Field("png", TEXT, "the PNG file in base64"),)),
        (Field("id", TEXT, "id of an image"),),
    ),
    Method(
        "find",
        "finding",
        "Find the smallest file that draws the same images, in the background, one job for each LoRA",
        of.FINDS,
        (
            Field("name", TEXT, "a LoRA of the list", None),
            Field("names", NAMES.type, "LoRAs of the list, each with a prompt of its own", None),
            Field(
                "target",
                NUMBER,
                f"share of the LoRA's effect that must be kept, {of.LEAST_TARGET} to {of.MOST_TARGET}: 0.98 is the "
                "same image, 0.95 hardly visible, 0.9 the same character",
            ),
            Field(
                "settings",
                IMAGE_SETTINGS,
                "settings of the images; others are the host's defaults. With `names` the prompt is a template for "
                "LoRAs without a prompt of their own: `{trigger}` becomes the trigger words",
                {},
            ),
            Field("seeds", SEED_COUNT, "images that decide: 1, 2 or 4, with consecutive seeds", 4),
            Field("options", OPTIONS, "how the file is written", {}),
            Field("fit", BOOLEAN, "fit the factors to images of the original first; needs the feature `fit`", False),
            Field("save", BOOLEAN, "write the file that was found", False),
        ),
        ("name", "names"),
        job=of.FOUND,
        changes=True,
    ),
    Method(
        "find_more",
        "finding",
        "Try a file that is 15 % smaller or larger than the best of a search, in the background",
        JOB_ID,
        (_FIND, Field("direction", Text(of.DIRECTIONS))),
        job=of.FOUND,
        kind="find",
        changes=True,
    ),
    Method(
        "find_stop",
        "finding",
        "End a search after the current image; its job is `done`, with the best file so far",
        Object("Stopped", (Field("stopped", BOOLEAN, "false where the search had ended"),)),
        (Field("job", TEXT, "id of the job"),),
        changes=True,
    ),
    Method(
        "find_save",
        "finding",
        "Write the best file of a search, in the background, as a job of the kind `resize`",
        JOB_ID,
        (_FIND,),
        job=RESULT,
        kind="resize",
        changes=True,
    ),
)
