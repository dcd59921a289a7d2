"""LoRA tags of prompts: what is read, what is refused, and that text and data are the same thing twice."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib_resize.errors import PromptError
from lib_resize.prompts.block_weights import BLOCK_NAMES, BLOCK_PRESETS, read_presets
from lib_resize.prompts.tags import Schedule, Tag, check_bakeable, parse_prompt, replaced


def one(text: str) -> Tag:
    (tag,) = parse_prompt(text).tags
    return tag


# What hosts read ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "te", "unet", "dyn"),
    [
        ("<lora:a>", 1, 1, None),
        ("<lora:a:0.8>", 0.8, 0.8, None),
        ("<lora:a: 0.8 >", 0.8, 0.8, None),
        ("<lora:a:0.5:1.5>", 0.5, 1.5, None),
        ("<lora:a:0.5:1.5:8>", 0.5, 1.5, 8),
        ("<lora:a:te=0.5:unet=1.5:dyn=8>", 0.5, 1.5, 8),
        ("<lora:a:te=0.5>", 0.5, 0.5, None),
        ("<lora:a:0.7:te=0.5>", 0.5, 0.5, None),
        ("<lora:a:0.7:unet=0.5>", 0.7, 0.5, None),
        ("<lyco:a:-1>", -1, -1, None),
        ("<lora:te=0.5:a:0.25>", 0.5, 0.5, None),
    ],
)
def test_strengths_are_filled_in_as_a1111_does(text: str, te: float, unet: float, dyn: int | None) -> None:
    tag = one(text)
    assert (tag.name, tag.te, tag.unet, tag.dyn) == ("a", te, unet, dyn)
    assert not tag.errors


@pytest.mark.parametrize("name", ["it's odd", 'a "b" [c]', "画風", "a.b-c_d (2)", "x@0.5", "1"])
def test_a_name_is_all_up_to_the_colon(name: str) -> None:
    assert one(f"<lora:{name}:0.5>").name == name


def test_texts_that_are_no_tags_stay_texts() -> None:
    for text in ("", "a < b > c", "<hypernet:x:1>", "<LORA:x:1>", "lora:x:1", "a [b:c:0.5] {x|y}"):
        assert parse_prompt(text).pieces == ((text,) if text else ())


def test_parts_of_the_unet_follow_sdnext() -> None:
    """Its rule: middle and output blocks by name, all other layers of the UNet as `in`; the text encoder by `te`."""
    tag = one("<lora:a:1.0:in=0.25:mid=0.5:out=0.75>")
    places = {"IN00": 0.25, "IN08": 0.25, "TIME": 0.25, "LABEL": 0.25, "OUT": 0.25, "MID": 0.5, "OUT00": 0.75}
    assert {place: tag.gain(place) for place in places} == places
    assert tag.gain("TE1") == 1.0
    assert one("<lora:a:te=0.5:unet=2:mid=0>").gain("IN04") == 2.0


# Block weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", BLOCK_NAMES)
def test_each_list_has_a_name_for_each_of_its_weights(count: int) -> None:
    weights = [round(0.01 * place, 2) for place in range(1, count + 1)]
    tag = one(f"<lora:a:2:lbw={','.join(map(str, weights))}>")
    names = BLOCK_NAMES[count]
    assert len(set(names)) == len(names) == count
    for name, weight in zip(names, weights, strict=True):
        assert tag.gain("TE2" if name == "BASE" else name) == 2 * weight
    for place in ("TIME", "LABEL", "OUT", "OTHER"):
        assert tag.gain(place) == 2
    everything = {*BLOCK_NAMES[26]} - {*names}
    assert all(tag.gain(name) == 0 for name in everything)


def test_the_presets_are_what_their_names_say() -> None:
    def on(preset: str) -> set[str]:
        return {name for name, weight in zip(BLOCK_NAMES[17], BLOCK_PRESETS[preset], strict=True) if weight}

    assert on("NONE") == set()
    assert on("ALL") == set(BLOCK_NAMES[17])
    assert on("INS") == {"BASE", "IN01", "IN02", "IN04"}
    assert on("IND") == {"BASE", "IN05", "IN07", "IN08"}
    assert on("INALL") == on("INS") | on("IND")
    assert on("OUTD") == {"BASE", "OUT03", "OUT04", "OUT05", "OUT06"}
    assert on("OUTALL") == on("OUTD") | on("OUTS")
    assert on("MIDD") == on("IND") | on("OUTD") | {"MID"}
    assert all(weight == 0.5 for weight in BLOCK_PRESETS["ALL0.5"])


def test_old_forms_of_block_weights_mean_the_same() -> None:
    wanted = one("<lora:a:0.5:lbw=OUTD>")
    assert one("<lora:a:0.5:w=OUTD>") == wanted
    assert one("<lora:a:0.5:OUTD>") == wanted
    assert one("<lora:a:1:" + ",".join("1" * 12) + ">") == one("<lora:a:1:lbw=" + ",".join("1" * 12) + ">")


# What cannot be baked -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("<lora:a:te=0.1@1,0.6@6>", "0.1@1,0.6@6"),
        ("<lora:a:[0.5@0,1@10]>", "0.5@0,1@10"),
        ("<lora:a:1:unet=0~0;1~0.5>", "unet="),
        ("<lora:a:1:in=0@0,1@1>", "in="),
        ("<lora:a:1:start=5>", "start=5"),
        ("<lora:a:1:stop=0.4>", "stop=0.4"),
        ("<lora:a:1:step=5-10>", "step=5-10"),
        ("<lora:a:1:hr=0.5>", "second pass"),
        ("<lora:a:1:lbwe=ATTNDEEPON>", "lbwe="),
        ("<lora:a:1:lbw=MINE>", "MINE"),
        ("<lora:a:1:lbw=1,R,1,1,1,1,1,1,1,1,1,1>", "has R"),
        ("<lora:a:1:lbw=1,X+0.1,1,1,1,1,1,1,1,1,1,1>", "has X+0.1"),
        ("[<lora:a:1>:10]", "[…:10]"),
        ("[x:<lora:a:1> y:0.5]", "[…:0.5]"),
        ("[<lora:a:1>::8]", "[…:8]"),
        ("[<lora:a:1>|b]", "alternates"),
        ("[(b [<lora:a:1>]):4]", "[…:4]"),
        ("{<lora:a:1>|b}", "drawn"),
    ],
)
def test_what_changes_over_time_is_reported_with_the_part_and_the_reason(text: str, part: str) -> None:
    (error,) = one(text).errors
    assert part in error
    with pytest.raises(PromptError, match="cannot be baked") as caught:
        check_bakeable(parse_prompt(text).tags)
    assert caught.value.column == text.index("<") + 1


@pytest.mark.parametrize(
    "text",
    ["(<lora:a:1>:1.2)", "[<lora:a:1>]", "[x:y:3] <lora:a:1>", r"\[<lora:a:1>:10\]", "<lora:a:1> [", "] <lora:a:1>:3]"],
)
def test_brackets_that_only_weigh_words_do_no_harm(text: str) -> None:
    assert one(text).errors == ()


def test_a_schedule_that_never_changes_is_a_strength() -> None:
    tag = one("<lora:a:0.5@0,0.5@10>")
    assert isinstance(tag.te, Schedule)
    assert tag.errors == ()
    assert tag.gain("MID") == tag.gain("TE") == 0.5


def test_an_unknown_option_is_reported_and_left_out() -> None:
    tag = one("<lora:a:1:colour=red>")
    assert tag.errors == ()
    assert "colour=red" in tag.warnings[0]


# Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("a <lora:x:0.5", 3, "not closed"),
        ("<lora:x:1 <lora:y:1>", 1, "not closed"),
        ("<lora:>", 7, "name"),
        ("<lora:te=1>", 7, "name"),
        ("ab <lora:x:much>", 12, "'much'"),
        ("<lora:x:>", 9, "''"),
        ("<lora:x:nan>", 9, "'nan'"),
        ("<lora:x:1:2:3:4>", 15, "one too many"),
        ("<lora:x:1:1:0>", 13, "dyn"),
        ("<lora:x:dyn=2.5>", 13, "dyn"),
        ("<lora:x:te=1:te=2>", 14, "twice"),
        ("<lora:x:1:lbw=1,2,3>", 15, "3 weights"),
        ("<lora:x:1:lbw=>", 15, "empty"),
        ("<lora:x:te=0.5@1@2>", 12, "one @"),
    ],
)
def test_an_error_names_where_and_what(text: str, column: int, words: str) -> None:
    with pytest.raises(PromptError, match="column") as caught:
        parse_prompt(text)
    assert caught.value.column == column
    assert words in str(caught.value)


# Laws ---------------------------------------------------------------------------------------------------------


def _list(count: int) -> str:
    return ",".join([str(weight) for weight in [-0.25, 1, "R", 0.1 + 0.2, 1e-7, 0.0, "X+0.1"] * 4][:count])


NAMES = st.text(st.characters(exclude_characters=":=<>", exclude_categories=["Cs"]), min_size=1, max_size=6)
NUMBERS = st.floats(-1e5, 1e5, allow_nan=False)
SCHEDULES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=3).map(lambda points: Schedule(tuple(points)))
STRENGTHS = NUMBERS | SCHEDULES
BLOCKS = st.none() | st.sampled_from([*BLOCK_PRESETS, "MINE", *(_list(n) for n in BLOCK_NAMES)])


@st.composite
def tags(draw: st.DrawFn) -> str:
    items = [draw(NAMES.filter(str.strip))]
    for name in draw(st.lists(st.sampled_from(["te", "unet", "in", "mid", "out"]), unique=True)):
        items.append(f"{name}={_written(draw(STRENGTHS))}")
    dyn, blocks = draw(st.none() | st.integers(1, 999)), draw(BLOCKS)
    items += [] if dyn is None else [f"dyn={dyn}"]
    items += [] if blocks is None else [f"lbw={blocks}"]
    items += draw(st.sampled_from([[], ["start=3"], ["foo=bar", "step=1-2"]]))
    return f"<{draw(st.sampled_from(['lora', 'lyco']))}:{':'.join(items)}>"


def _written(strength: float | Schedule) -> str:
    return str(strength) if isinstance(strength, Schedule) else repr(strength)


PROMPTS = st.lists(
    tags() | st.sampled_from(["a, ", " b ", "[", "]", "|", ":0.5]", "{", "}", "\\", "<", "(x:1.2)"]), max_size=6
).map("".join)
UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
"""For machines that do other things too."""


@UNHURRIED
@given(PROMPTS)
def test_what_is_written_reads_back_as_itself(text: str) -> None:
    with contextlib.suppress(PromptError):
        prompt = parse_prompt(text)
        assert parse_prompt(str(prompt)) == prompt
        assert str(parse_prompt(str(prompt))) == str(prompt)


@UNHURRIED
@given(st.text() | st.lists(st.sampled_from([*"<>:=@,;~[]{}|\\.-0R5e", "lora", "lyco", "te", "lbw"])).map("".join))
def test_no_text_raises_anything_but_our_error(text: str) -> None:
    for whole in (text, f"<lora:{text}>", f"<lora:a:{text}>", f"<lora:a:1:{text}"):
        try:
            for tag in parse_prompt(whole).tags:
                if not tag.errors:
                    assert abs(tag.gain("MID")) <= 1e12
                assert isinstance(tag.warnings, tuple)
        except PromptError as error:
            assert error.column > 0


@UNHURRIED
@given(PROMPTS)
def test_replacing_takes_the_tags_and_leaves_the_rest(text: str) -> None:
    with contextlib.suppress(PromptError):
        found = parse_prompt(text).tags
        after = replaced(text, found, "<lora:new:1>")
        assert [tag.name for tag in parse_prompt(after).tags] == (["new"] if found else [])
        assert replaced(text, (), "<lora:new:1>") == text


def test_a_replaced_prompt_has_no_double_commas_or_spaces() -> None:
    text = "<lora:a:1>, a cat, <lora:b:0.5:lbw=OUTD>, <lora:c:1> red <lora:d:1> and <lora:a:1>"
    gone = [tag for tag in parse_prompt(text).tags if tag.name != "c"]
    assert replaced(text, gone, "<lora:n:1>") == "<lora:n:1>, a cat, <lora:c:1> red and "


# Presets of one's own ------------------------------------------------------------------------------------------

OWN = """# mine
FACE:1,0,0,0,0.5,0,0,0,0,0,0,0
 XL FULL : 1,1,1,1,1,1,1,1,1,1,1,0,0,0,0,0,0,0,0,0
OUTD:0,0,0,0,0,0,0,0,0,0,0,0

DICE:R,1,1,1,1,1,1,1,1,1,1,1
SHORT:1,1
ODD:1,one,1,1,1,1,1,1,1,1,1,1
NOT A PRESET
"""


def test_presets_of_ones_own_are_read_as_the_extension_keeps_them() -> None:
    presets = read_presets(OWN)
    (face,) = parse_prompt("<lora:x:1:lbw=FACE>", presets).tags
    assert (face.gain("TE1"), face.gain("IN08"), face.gain("OUT00"), face.gain("TIME")) == (1.0, 0.5, 0.0, 1.0)
    (full,) = parse_prompt("<lora:x:1:lbw=XL FULL>", presets).tags
    assert (full.gain("MID"), full.gain("OUT00"), full.errors) == (1.0, 0.0, ())
    assert parse_prompt("<lora:x:1:FACE>", presets).tags[0].blocks == face.blocks  # the old place
    assert parse_prompt("<lora:x:1:lbw=OUTD>", presets).tags[0].gain("OUT05") == 0.0  # the person's goes before
    assert parse_prompt("<lora:x:1:lbw=OUTS>", presets).tags[0].gain("OUT08") == 1.0


@pytest.mark.parametrize(
    ("name", "words"), [("DICE", "R"), ("SHORT", "2 weights"), ("ODD", "'one'"), ("NO", "not known")]
)
def test_a_preset_that_cannot_be_baked_is_reported_with_the_reason(name: str, words: str) -> None:
    (tag,) = parse_prompt(f"<lora:x:1:lbw={name}>", read_presets(OWN)).tags
    assert words in " ".join(tag.errors)


def test_weights_for_flux_are_read_and_distinguished() -> None:
    (tag,) = parse_prompt(f"<lora:x:1:lbw={','.join('1' * 61)}>").tags
    assert "61 weights" in " ".join(tag.errors)


@UNHURRIED
@given(st.text())
def test_no_text_of_presets_raises_anything(text: str) -> None:
    presets = read_presets(text)
    assert presets.keys() >= BLOCK_PRESETS.keys()
    for name in presets:
        with contextlib.suppress(PromptError):
            for tag in parse_prompt(f"<lora:x:1:lbw={name}>", presets).tags:
                assert tag.errors or abs(tag.gain("MID")) <= 1e6
