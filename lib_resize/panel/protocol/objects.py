"""The objects that parameters and answers consist of."""

from __future__ import annotations

from ...adapters.write.style import CONVERSIONS, DTYPES
from ...files import own_record
from ...recipe.grammar import PRESETS
from .types import Boolean, Field, Integer, JobResult, ListOf, MapOf, Nullable, Number, Object, Text, Type

DEFAULT_SCORES = "fro_lora=1,min_rank=1"
LOADED, NONE = "loaded", "none"
FILE = "file"
"""The choice of the loaded model's own file."""
DEFAULT_SUFFIX = "_{size}"

TEXT, INTEGER, NUMBER, BOOLEAN = Text(), Integer(), Number(), Boolean()
TEXTS, INTEGERS = ListOf(TEXT), ListOf(INTEGER)

PRESET = Text(tuple(PRESETS))
BASIS = Text(("latents", "pixels"))


def _or_null(type: Type) -> Nullable:
    return Nullable(type)


# Parameters ----------------------------------------------------------------------------------------------------

OPTIONS = Object(
    "Options",
    (
        Field("dtype", Text(tuple(DTYPES)), "dtype of the new file; `same` keeps that of the source", "16"),
        Field("naming", Text(("same", "kohya")), "key format; `same` keeps that of the source", "same"),
        Field(
            "suffix",
            TEXT,
            "file name suffix; `{size}` becomes `46mb`, `{retention}` `92`, `{rank}` the largest rank",
            DEFAULT_SUFFIX,
        ),
        Field(
            "folder",
            TEXT,
            "sub-folder of the LoRA's root, parts separated by `/`; without it the new file is written next to its "
            "source. Refused (`remote`) where the page is served to other machines",
            None,
        ),
        Field("sidecars", BOOLEAN, "copy preview, description and metadata files", True),
        Field("scores", TEXT, "scores and limits that complete a `target`; no selection", DEFAULT_SCORES),
        Field("rescale", NUMBER, "strength that is baked in, for a `target`; above 0", 1.0),
        Field("reference", TEXT, "`loaded`, `none`, or a title of `checkpoints`", LOADED),
        Field(
            "convert",
            Text(tuple(CONVERSIONS)),
            "`auto` keeps the kind of each layer, except LoHa where LoRA makes the better file; `lora` converts every "
            "layer that can be converted, and needs an `analyse` with the same value; `none` keeps all",
            "auto",
        ),
    ),
)

TARGET = Object(
    "Target",
    (
        Field("preset", PRESET, "one of the presets", None),
        Field("size", NUMBER, "largest size in MiB", None),
        Field("retention", NUMBER, "weight retention to keep, 0 to 1", None),
        Field("rank", INTEGER, "rank of every layer, at least 1", None),
        Field("effect", NUMBER, "share of the effect on images to keep, as in `find`; of `shrink` and its plan", None),
    ),
    exactly_one=True,
)

IMAGE_SETTINGS = Object(
    "Image settings",
    (
        Field("prompt", TEXT, "", None),
        Field("negative_prompt", TEXT, "", None),
        Field("seed", INTEGER, "-1 or none: a random one, the same for all images", None),
        Field("steps", INTEGER, "", None),
        Field("cfg_scale", NUMBER, "", None),
        Field("width", INTEGER, "pixels", None),
        Field("height", INTEGER, "pixels", None),
        Field("sampler_name", TEXT, "", None),
        Field("scheduler", TEXT, "", None),
    ),
)

FIT = Object(
    "Fit",
    (
        Field(
            "settings",
            IMAGE_SETTINGS,
            "of the images. A prompt without the LoRA's tag gets it; its strength is 1 in these images",
            None,
        ),
        Field("images", Integer(1, 16), "images for the fit; one more is made for the comparison", 4),
        Field("steps", Integer(1, 16), "recorded steps of each image", 4),
    ),
)

# Of many answers -----------------------------------------------------------------------------------------------

REFERENCE = Object(
    "Reference",
    (
        Field("kind", Text(("memory", "file", "cache", "none")), "where the weights or their norms come from"),
        Field("title", _or_null(TEXT), "title of the checkpoint"),
        Field("family", _or_null(TEXT), "model family, such as `SDXL`"),
        Field("note", TEXT, "why the weights are not read from memory; else empty"),
    ),
)

WARNING = Object(
    "Warning",
    (
        Field("kind", TEXT, "one of the kinds above"),
        Field("text", TEXT, "English"),
        Field("template", TEXT, "the text with `{places}` for the values; for translation", optional=True),
        Field("values", MapOf("place", TEXT), "what to put into the places of `template`", optional=True),
    ),
)

WARNINGS: dict[str, str] = {
    "flat": "even High would save less than 10 %: extracted from a checkpoint, or small already",
    "not_smaller": "the new file would not be smaller than the source",
    "low_retention": "the weight retention is below the `floor` of `hello`",
    "fp32": "the file is float32: float16 halves its size without a resize",
    "fp8": "the file is float8, which the programs in `values.programs` cannot load",
    "unknown_family": "the layer names belong to no known model family; the LoRA's own norms are used",
    "other_family": "made for another family than the reference, or than the other LoRAs of a prompt",
    "ignored_text_encoders": "some layers change text encoders, and the host ignores these: a bake of "
    "`<lora:NAME:te=0:unet=1>` leaves them out",
    "resized": "the file was made by Resize LoRA; the discarded detail cannot be recovered",
}
"""Kind of a warning -> its meaning."""

ERROR = Object(
    "Error",
    (
        Field("kind", TEXT, "one of the kinds above"),
        Field("message", TEXT, "English, for the user"),
        Field("column", INTEGER, "of a recipe or prompt: 1 is the first character, 0 is unknown", optional=True),
    ),
)

REFUSED = Object(
    "Refused file",
    (Field("name", TEXT, "the name in the request"), *ERROR.fields),
)

# hello ---------------------------------------------------------------------------------------------------------

COUNTS = Object(
    "Counts",
    (
        Field("loras", INTEGER),
        Field("checkpoints", INTEGER),
        Field("jobs", INTEGER, "queued, waiting or running"),
        Field("results", INTEGER),
        Field("trashed", INTEGER),
    ),
)
DEFAULT_OPTIONS = Object(
    "Default options",
    tuple(
        Field(field.name, field.type)
        for field in OPTIONS.fields
        if field.name in ("suffix", "dtype", "reference", "sidecars")
    ),
)
DEFAULTS = Object(
    "Defaults",
    (
        Field("preset", PRESET, "preset to start with"),
        Field("options", DEFAULT_OPTIONS, "options to start with"),
        Field("card_menu", BOOLEAN, "show the menu on the cards of LoRAs"),
        Field("notes", TEXTS, "which settings cannot be used, and why"),
    ),
)
WORDS = Object(
    "Words",
    (
        Field("scores", MapOf("word", TEXT), "meaning of each score"),
        Field("selections", MapOf("word", TEXT), "meaning of each selection"),
        Field("limits", MapOf("word", TEXT), "meaning of each limit"),
        Field("dtypes", TEXTS),
    ),
)

# library -------------------------------------------------------------------------------------------------------

SOURCE = Object(
    "Source",
    (
        Field("source", TEXT, "name of the original"),
        Field("recipe", TEXT, "recipe that it was resized with"),
        Field("there", BOOLEAN, "the original is in the list"),
    ),
)
SAME_NAME = Object(
    "Same name",
    (
        Field("folder", TEXT, "as in `File`"),
        Field("bytes", INTEGER, "size of the file"),
    ),
)
FILE_ENTRY = Object(
    "File",
    (
        Field("name", TEXT, "unique; what `<lora:NAME:1>` takes"),
        Field("folder", TEXT, "below its root, parts separated by `/`; with several roots the root's name comes first"),
        Field("family", _or_null(TEXT), "`SDXL`, `SD1.5`, …; null: unknown"),
        Field("kind", _or_null(TEXT), "`LoRA`, `LoCon`, `DoRA`, `LoKr`, …; null: the file cannot be read"),
        Field("rank", _or_null(INTEGER), "largest rank"),
        Field("dtype", _or_null(TEXT), "`F16`, `BF16`, `F32`, … of most factors"),
        Field("layers", INTEGER),
        Field("bytes", INTEGER, "size of the file"),
        Field("modified", NUMBER, "moment"),
        Field("preview", BOOLEAN, "there is a preview image; `previews` has it"),
        Field("fits", _or_null(BOOLEAN), "same family as the reference; null: one of them is unknown"),
        Field("ours", _or_null(SOURCE), "where a file that Resize LoRA made comes from; null for others"),
        Field("problem", _or_null(TEXT), "why it cannot be resized; null: it can"),
        Field("same_name", ListOf(SAME_NAME), "other files of this name on the disk, which the host does not use"),
        Field("read", BOOLEAN, "false until the header was read; the fields above are then null, 0 or false"),
        Field(
            "predicted",
            _or_null(MapOf("preset", _or_null(INTEGER))),
            "bytes that each preset would write, once estimated or analysed; null for a preset that is impossible",
        ),
        Field("estimated", BOOLEAN, "`predicted` is estimated from a sample of layers; false: it is exact, or null"),
        Field("archived", _or_null(TEXT), "id of the entry of the archive that has the original; null: none"),
    ),
)

# analyse and plan ----------------------------------------------------------------------------------------------

POINT = Object(
    "Point",
    (
        Field("retention", NUMBER, '0 to 1; as `target: {"retention": …}` it makes exactly this point'),
        Field("bytes", INTEGER, "within 0.1 % of the size that `plan` answers"),
        Field("ranks", INTEGERS, "smallest, median and largest, of the layers that are kept"),
        Field("layers_gone", INTEGER, "layers removed"),
        Field("threshold", _or_null(NUMBER), "log10 score of the weakest dimension that is kept"),
    ),
)
PRESET_SIZE = Object(
    "Preset result",
    (
        Field("bytes", INTEGER),
        Field("saved", NUMBER, "share of the bytes, negative where the file grows"),
        Field("retention", NUMBER, "0 to 1"),
        Field("ranks", INTEGERS, "smallest, median and largest, of the layers that are kept"),
        Field("layers_gone", INTEGER, "layers removed"),
        Field("recipe", TEXT, "the recipe in full"),
    ),
)
BLOCK = Object(
    "Block",
    (
        Field("layers", INTEGER, "layers of the block"),
        Field("old", NUMBER, "mean rank in the source"),
        Field("kept", MapOf("preset", NUMBER), "mean rank after each preset that is possible"),
    ),
)
ANALYSED = Object(
    "Analysed file",
    (
        Field("name", TEXT),
        Field("bytes", INTEGER, "size of the source"),
        Field("layers", INTEGER),
        Field("zero", INTEGER, "layers that are zero"),
        Field("ranks", INTEGERS, "smallest, median and largest rank of the source"),
        Field(
            "table",
            _or_null(ListOf(POINT)),
            "about 200 points of the slider, smallest file first; null in jobs of more than 8 files",
        ),
        Field("blocks", MapOf("block", BLOCK), "in the order of the model"),
        Field("flat", BOOLEAN, "there is little to gain, see the warning `flat`"),
        Field("warnings", ListOf(WARNING)),
        Field("presets", MapOf("preset", _or_null(PRESET_SIZE)), "null for a preset that is impossible"),
        Field("reference", REFERENCE, "the reference that was used; kind `none` where none was"),
        Field("device", TEXT, "what computed the norms of the reference"),
    ),
)
ANALYSIS = Object(
    "Analysis",
    (
        Field("files", ListOf(ANALYSED)),
        Field("failed", ListOf(REFUSED), "files that cannot be analysed; the job fails only if all do"),
    ),
)
PLANNED_BLOCK = Object(
    "Planned block",
    (
        Field("layers", INTEGER, "layers of the block"),
        Field("old", NUMBER, "mean rank in the source"),
        Field("kept", NUMBER, "mean rank in the new file"),
    ),
)
_SAVING = (
    Field("bytes_before", INTEGER, "size of the source"),
    Field("bytes_after", INTEGER, "size of the new file, exact"),
    Field("saved", NUMBER, "share of the bytes, negative where the file grows"),
    Field("retention", NUMBER, "weight retention, 0 to 1"),
    Field("recipe", TEXT, "the recipe in full"),
    Field("notes", TEXTS, "for the user"),
    Field("ranks", INTEGERS, "smallest, median and largest, of the layers that are kept"),
    Field("layers_gone", INTEGER, "layers removed"),
)
PLAN = Object(
    "Plan",
    (
        Field("name", TEXT, "the source"),
        Field("output", TEXT, "name that the new file would get"),
        *_SAVING,
        Field("ranks_before", INTEGERS, "smallest, median and largest of the source"),
        Field("layers", INTEGER),
        Field("threshold", _or_null(NUMBER), "log10 score of the weakest dimension that is kept"),
        Field("warnings", ListOf(WARNING)),
        Field("blocks", MapOf("block", PLANNED_BLOCK), "in the order of the model"),
        Field("reference", REFERENCE, "the reference that was used; kind `none` where none was"),
    ),
)

# Results -------------------------------------------------------------------------------------------------------

_EFFECT = (
    Field("kept", NUMBER, "share of the LoRA's effect on the images that the file keeps, at most 1"),
    Field("worst", NUMBER, "the same of the image that differs most"),
    Field("seeds", INTEGER, "number of images"),
    Field("sampler", _or_null(TEXT), "null: the host's default"),
    Field("steps", _or_null(INTEGER), "null: the host's default"),
    Field("width", INTEGER, "pixels"),
    Field("height", INTEGER, "pixels"),
    Field("basis", BASIS, "what was compared"),
    Field("prompt", TEXT, "a hash of the prompts; they are not kept"),
)
EFFECT_RECORD = Object("Effect record", (*_EFFECT, Field("made", NUMBER, "moment")))
RESULT = Object(
    "Result",
    (
        Field("result", TEXT, "id"),
        Field("name", TEXT, "the source, as in prompts"),
        Field("output", TEXT, "the new file, as in prompts"),
        Field("folder", TEXT, "as in `library`"),
        *_SAVING,
        Field("sidecars", INTEGER, "number of files that were copied"),
        Field(
            "state",
            Text(("there", "trashed", "gone")),
            "`trashed`: undone; `gone`: deleted, or the trash was emptied",
        ),
        Field("changed", BOOLEAN, "size or time of the file are not those that were written; Undo may refuse"),
        Field("earlier", BOOLEAN, "made in an earlier session"),
        Field("made", NUMBER, "moment"),
        Field("seconds", NUMBER, "how long it took"),
        Field("device", TEXT, "what computed the norms of the reference"),
        Field("reference", REFERENCE, "the reference that was used; kind `none` where none was"),
        Field("effect", _or_null(EFFECT_RECORD), "of the last comparison of images that gave a figure"),
        Field("batch", TEXT, "of `resize`: the same for all results of one call", optional=True),
        Field("baked", TEXTS, "of `bake`: the tags that the file replaces", optional=True),
        Field("extracted", BOOLEAN, "of `extract`: true", optional=True),
    ),
)
TRASH_SIZE = Object("Trash size", (Field("items", INTEGER), Field("bytes", INTEGER)))
TRASH_ITEM = Object(
    "Trash item",
    (
        Field("item", TEXT, "id"),
        Field("name", TEXT, "of the LoRA, as in prompts"),
        Field("bytes", INTEGER),
        Field("files", INTEGER),
        Field("trashed", NUMBER, "moment"),
        Field("result", _or_null(TEXT), "id of the result; null for items of earlier versions"),
    ),
)
SAME_ORDER = Object(
    "Same order",
    (
        Field("name", TEXT),
        Field("recipe", TEXT, "the recipe in full"),
        Field("job", _or_null(TEXT), "the job that is queued or runs"),
        Field("result", _or_null(TEXT), "the result that exists"),
    ),
)

# Prompts and images --------------------------------------------------------------------------------------------

PROMPT_TAG = Object(
    "Tag",
    (
        Field("text", TEXT, "the tag, normalised"),
        Field("name", TEXT, "the name in it"),
        Field("lora", _or_null(TEXT), "the LoRA of the list"),
        Field("column", INTEGER, "1 is the first character of the prompt"),
        Field("troubles", TEXTS, "errors: why it cannot be baked; empty: it can"),
        Field("remarks", TEXTS, "notes for the user"),
    ),
)
BAKE_PLAN = Object(
    "Planned bake",
    (
        Field("name", TEXT, "names of the LoRAs"),
        Field("output", TEXT, "name that the new file would get"),
        *_SAVING,
    ),
)
FIT_ERROR = Object(
    "Fit error",
    (
        Field("model", TEXT, "the part of the checkpoint, such as `unet`"),
        Field("plain", NUMBER, "mean squared difference from the output with the original LoRA, over its effect"),
        Field("fitted", NUMBER, "the same of the fitted factors"),
    ),
)
FIT_RECORD = Object(
    "Fit record",
    (
        Field("images", INTEGER, "number of images"),
        Field("steps", INTEGER, "recorded steps of each image"),
        Field("prompt", TEXT, "a hash of the prompts; they are not kept"),
        Field("layers", INTEGER, "fitted layers; 0 where plain truncation was kept"),
        Field("errors", ListOf(FIT_ERROR)),
    ),
)
FILE_EFFECT = Object("Effect in a file", _EFFECT)
DETAILS = Object(
    "Details",
    (
        Field("name", TEXT),
        Field("activation", TEXT, "activation text that the user entered in the WebUI; empty where none is set"),
        Field("trained_words", TEXTS, "trigger words, from the sidecars of model managers"),
        Field("civitai", _or_null(TEXT), "address of the model's page, `https://civitai.com/models/…`"),
        Field("description", TEXT, "plain text, shortened; empty where there is none"),
        Field("fit", _or_null(FIT_RECORD), "how the file was fitted to images, by its record"),
        Field("effect", _or_null(FILE_EFFECT), "the figure of a comparison of images in its record"),
        Field(
            "unreadable", ListOf(Text((own_record.FIT, own_record.EFFECT))), "records that this program did not write"
        ),
        Field("path", _or_null(TEXT), "path of the file; null where the page is served to other machines"),
    ),
)
COMPARED = Object("Compared", (Field("name", _or_null(TEXT), "of the LoRA"), Field("prompt", TEXT)))
IMAGE = Object(
    "Image",
    (
        Field("id", TEXT, "for `picture`"),
        Field(
            "what",
            Text(("original", "resized", "without", "difference")),
            "`difference`: of the first two, scaled so that the largest difference is white",
        ),
        Field("width", INTEGER, "pixels"),
        Field("height", INTEGER, "pixels"),
    ),
)
COMPARISON = Object(
    "Comparison",
    (
        Field("original", COMPARED),
        Field("resized", COMPARED),
        Field("without", _or_null(COMPARED), "null where it was not asked for"),
        Field("pictures", ListOf(IMAGE)),
        Field(
            "kept",
            _or_null(NUMBER),
            "share of the LoRA's effect that the new file keeps, at most 1: 1 less the mean squared difference of "
            "`resized` from `original` over that of `without`, both over all seeds; null without a figure",
        ),
        Field("worst", _or_null(NUMBER), "the same of the image that differs most, with the mean effect of all"),
        Field("noise", _or_null(NUMBER), "mean squared difference of two images of the original with one seed"),
        Field("basis", _or_null(BASIS), "what `kept`, `worst` and `noise` compare; null without `without`"),
        Field("seeds", INTEGERS, "of the images that were made"),
        Field("weak", BOOLEAN, "the images hardly show the LoRA, so there is no figure"),
        Field("number", NUMBER, "mean difference of the pixels, 0 to 255, over all three colours; of the first seed"),
        Field("largest", INTEGER, "largest difference, 0 to 255"),
        Field("effect", _or_null(NUMBER), "the same mean between `original` and `without`, as a baseline"),
        Field("text", TEXT, "such as `keeps 97.8 % of the LoRA's effect (worst image 96.1 %)`"),
        Field("note", TEXT, "why the figure is not in the new file; empty where it is, or where there is none"),
        Field("seed", INTEGER, "the first seed, which `pictures` are of"),
        Field("width", INTEGER, "pixels"),
        Field("height", INTEGER, "pixels"),
    ),
)

# Jobs ----------------------------------------------------------------------------------------------------------

TRIAL = Object(
    "Trial",
    (
        Field("bytes", INTEGER, "size of the file that was tried"),
        Field("recipe", TEXT, "the recipe in full"),
        Field("retention", NUMBER, "weight retention, 0 to 1"),
        Field("kept", _or_null(NUMBER), "share of the LoRA's effect that it keeps, at most 1; null: no figure"),
        Field("worst", _or_null(NUMBER), "the same of the image that differs most"),
        Field("seeds", INTEGER, "images that it was measured with"),
        Field("accepted", BOOLEAN, "it keeps the target"),
        Field("fitted", BOOLEAN, "its factors were fitted to images of the original"),
        Field("pictures", ListOf(IMAGE), "`original`, `resized` and `without`, of the first seed"),
    ),
)

_JOB_KINDS = (
    *("analyse", "resize", "bake", "bake_plan", "extract", "compare", "spectra"),
    *("estimate", "shrink", "restore_originals", "find"),
)
JOB = Object(
    "Job",
    (
        Field("id", TEXT),
        Field("batch", TEXT, "the same for all jobs of one call"),
        Field("kind", Text(_JOB_KINDS)),
        Field("title", TEXT),
        Field(
            "state",
            Text(("queued", "waits", "running", "done", "failed", "cancelled")),
            "`waits`: for an image of the host",
        ),
        Field("place", INTEGER, "number of jobs ahead when this was sent; `places` is up to date"),
        Field("stage", TEXT, "such as `analyse`, `sizes`, `read base`, `write`, `image`; empty before and after"),
        Field("done", INTEGER, "steps of this stage: layers, or images"),
        Field("total", INTEGER, "0: there are no steps"),
        Field("file", INTEGER, "file 2 of 3"),
        Field("files", INTEGER),
        Field("name", TEXT, "the file that it works on"),
        Field("recipe", _or_null(TEXT), "of a `resize`: the recipe in full"),
        Field("run", _or_null(TEXT), "of a `shrink`: id of its run"),
        Field("share", NUMBER, "share of the whole job that is done, 0 to 1; of a `shrink` by bytes"),
        Field("seconds_left", _or_null(NUMBER), "measured"),
        Field("trial", _or_null(TRIAL), "of a `find` that runs: the size that was measured last; else null"),
        Field("result", _or_null(JobResult()), "null before the end"),
        Field("error", _or_null(ERROR)),
    ),
)
CANCELLED_JOB = Object(
    "Cancelled job",
    (
        Field("job", TEXT, "id"),
        Field("kind", TEXT),
        Field("name", TEXT),
        Field("recipe", _or_null(TEXT), "of a `resize`: the recipe in full"),
    ),
)
JOB_ID = Object("Job id", (Field("job", TEXT, "id of the job"),))

# spectra -------------------------------------------------------------------------------------------------------

SPECTRUM_GROUP = Object(
    "Group",
    (
        Field("name", TEXT),
        Field("layers", INTEGER),
        Field("spectrum", ListOf(NUMBER), "mean singular values; the largest of each layer is scaled to 1"),
        Field("effective_rank", NUMBER, "mean"),
        Field("top_energy", NUMBER, "mean share of the first dimension in the sum of squares, 0 to 1"),
        Field("rank_90", NUMBER, "mean number of dimensions that hold 90 % of the sum of squares"),
        Field("rank_99", NUMBER, "the same for 99 %"),
    ),
)
SPECTRUM_CURVE = Object(
    "Curve",
    (
        Field("name", TEXT, "the score or the selection"),
        Field("points", ListOf(ListOf(NUMBER)), "pairs of bytes and retention, rising"),
    ),
)
SPECTRA = Object(
    "Study",
    (
        Field("name", TEXT),
        Field("files", INTEGER, "1"),
        Field("groups", ListOf(SPECTRUM_GROUP), "those that have layers: `all`, `cross-attention`, …"),
        Field("blocks", TEXTS, "rows of the tables"),
        Field("types", TEXTS, "columns of the tables"),
        Field("effective_rank", ListOf(ListOf(_or_null(NUMBER))), "mean per block and type; null: no layers"),
        Field("layers", ListOf(INTEGERS), "layers that are not zero"),
        Field("bytes", ListOf(INTEGERS), "bytes of factors in the source"),
        Field("curves", ListOf(SPECTRUM_CURVE), "retention over size, per score and selection"),
    ),
)
