"""A prompt baked into one file is the weighted sum of its LoRAs, as hosts would have applied them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lib_resize.cli import main as cli
from lib_resize.prompts.tags import parse_prompt
from tests.readers.host_rules import a1111, comfyui
from tests.readers.lora_material import (
    Key,
    Lora,
    Matrix,
    difference,
    diffusers_export,
    kohya,
    kohya_stem,
    load,
    make_lora,
    metadata_of,
    small_shapes,
    unscaled,
)
from tests.readers.lora_material import save as write

HALF = 2e-3  # rounding of both factors to float16, of sums that may cancel a little


@pytest.fixture(scope="module")
def style() -> Lora:
    return make_lora(small_shapes(), seed=1)


@pytest.fixture(scope="module")
def char() -> Lora:
    """Other ranks, other layers, no alphas."""
    shapes = {key: shape for index, (key, shape) in enumerate(small_shapes().items()) if index % 4}
    return unscaled(make_lora(shapes, rank=lambda index: 2 + index % 5, seed=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, style: Lora, char: Lora) -> Path:
    """One LoRA in kohya's spelling, one in that of diffusers."""
    root = tmp_path_factory.mktemp("loras")
    metadata = {"ss_base_model_version": "sdxl_base_v1-0", "ss_output_name": "Style"}
    write(root / "style.safetensors", kohya(style), metadata=metadata)
    write(root / "chars" / "char.safetensors", diffusers_export(char))
    return root


def bake(prompt: str, folder: Path, out: Path, *more: str) -> Path:
    status = cli.main(["merge", "--prompt", prompt, "--lora-dir", str(folder), "-o", str(out), "--overwrite", *more])
    assert status == 0
    return out


Gains = Callable[[Key], float]


def wanted(*terms: tuple[Lora, Gains]) -> dict[str, Matrix]:
    """kohya's name -> the weighted sum in float64, without layers of weight 0."""
    found: dict[str, Matrix] = {}
    for lora, gain in terms:
        for key, factors in lora.items():
            if gain(key):
                before = found.get(kohya_stem(key), 0.0)
                found[kohya_stem(key)] = before + gain(key) * factors.delta
    return found


def check(path: Path, true: dict[str, Matrix], tolerance: float = HALF) -> None:
    found = comfyui(load(path))
    assert found.keys() == true.keys()
    worst = max(difference(found[name], true[name]) for name in true)
    assert worst < tolerance


def by_component(te: float, unet: float) -> Gains:
    return lambda key: unet if key[0] == "unet" else te


def by_block(te: float, down: float, mid: float, up: float) -> Gains:
    places = {"down": down, "mid_": mid, "up_b": up}
    return lambda key: places[key[1][:4]] if key[0] == "unet" else te


def test_strengths_of_text_encoder_and_unet_are_baked(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    path = bake("a cat, <lora:Style:0.5:1.5> by <lora:char:te=0.3:unet=-0.7>", folder, tmp_path / "out.safetensors")
    check(path, wanted((style, by_component(0.5, 1.5)), (char, by_component(0.3, -0.7))))


def test_in_mid_and_out_are_baked(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    path = bake("<lora:style:0.8:in=0:mid=1:out=0.5> <lora:char:0.4>", folder, tmp_path / "out.safetensors")
    check(path, wanted((style, by_block(0.8, 0, 1, 0.5)), (char, lambda _: 0.4)))


def test_weights_by_block_are_baked(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    """12 weights: BASE, IN04, IN05, IN07, IN08, MID, OUT00 to OUT05."""
    weights = [0.1, 0.2, 9, 9, 9, 0.3, 9, 9, 0.4, 9, 9, 0.5]
    places = {"down_blocks.1": 0.2, "mid_block": 0.3, "up_blocks.0.upsamplers": 0.4, "up_blocks.1": 0.5}

    def gain(key: Key) -> float:
        if key[0] != "unet":
            return 2 * 0.1
        return 2 * next(weight for start, weight in places.items() if key[1].startswith(start))

    text = f"<lora:style:2:lbw={','.join(map(str, weights))}> <lora:char:1>"
    check(bake(text, folder, tmp_path / "out.safetensors"), wanted((style, gain), (char, lambda _: 1.0)))


def test_a_preset_made_for_sd15_is_baked_as_it_works_and_reported(
    folder: Path, style: Lora, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUTALL names OUT03 and on: of SDXL's blocks OUT00 to OUT02 count as 0 in the extension, too."""

    def gain(key: Key) -> float:
        return float(key[0] != "unet" or key[1].startswith("up_blocks.1"))

    check(bake("<lora:style:1:lbw=OUTALL>", folder, tmp_path / "out.safetensors"), wanted((style, gain)))
    assert "OUT02" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 3, 50])
def test_dyn_takes_the_first_ranks_at_the_old_scale(folder: Path, style: Lora, tmp_path: Path, count: int) -> None:
    def cut(key: Key) -> Matrix:
        factors = style[key]
        scale = 1.0 if factors.alpha is None else factors.alpha / factors.rank
        return scale * 0.5 * factors.up[:, :count] @ factors.down[:count]

    path = bake(f"<lora:style:0.5:0.5:{count}>", folder, tmp_path / "out.safetensors")
    check(path, {kohya_stem(key): cut(key) for key in style})


def test_one_lora_named_twice_adds_and_may_cancel(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    text = "<lora:style:1:0.5> <lora:char:1> <lora:Style:-1:0.25>"
    path = bake(text, folder, tmp_path / "out.safetensors")
    check(path, wanted((style, by_component(0, 0.75)), (char, lambda _: 1.0)))
    assert max(t.shape[0] for name, t in load(path).items() if name.endswith("lora_down.weight")) <= 8 + 6


def test_the_same_lora_with_two_dyns_is_two_terms(folder: Path, style: Lora, tmp_path: Path) -> None:
    path = bake("<lora:style:1> <lora:style:dyn=2:te=-1>", folder, tmp_path / "out.safetensors")
    true = {kohya_stem(key): f.alpha / f.rank * f.up[:, 2:] @ f.down[2:] for key, f in style.items() if f.alpha}
    check(path, true, 1e-2)


def test_the_order_of_tags_does_not_matter(folder: Path, tmp_path: Path) -> None:
    tags = ["<lora:style:0.5:1.5>", "<lora:char:-0.4>", "<lora:style:0.1:lbw=MIDD>"]
    files = [
        bake(" ".join(order), folder, tmp_path / f"{place}" / "out.safetensors").read_bytes()
        for place, order in enumerate(itertools.permutations(tags))
    ]
    tensors = {file[8 + int.from_bytes(file[:8], "little") :] for file in files}
    assert len(tensors) == 1


def test_baked_at_full_rank_is_exact(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    """In float32 numbers nothing is lost."""
    path = bake("<lora:style:0.5:1.5> <lora:char:0.3>", folder, tmp_path / "out.safetensors", "-t", "32")
    check(path, wanted((style, by_component(0.5, 1.5)), (char, lambda _: 0.3)), 1e-6)


def test_a_target_keeps_the_best_of_the_sum(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    path = bake("<lora:style:0.5> <lora:char:0.5>", folder, tmp_path / "out.safetensors", "-r", "rank=3")
    for name, delta in comfyui(load(path)).items():
        true = wanted((style, lambda _: 0.5), (char, lambda _: 0.5))[name]
        u, s, vt = np.linalg.svd(true, full_matrices=False)
        assert difference(delta, (u[:, :3] * s[:3]) @ vt[:3]) < HALF


def test_a1111_applies_the_baked_file_as_it_applied_the_prompt(folder: Path, style: Lora, char: Lora) -> None:
    """In its own float16 arithmetic: the separate files added, compared with the baked file at strength 1."""
    strengths = {"style": (0.5, 1.5), "char": (0.3, 0.8)}
    renamed = {"style": kohya(style), "char": kohya(char)}
    set_of: dict[str, Matrix] = {}
    for name, (te, unet) in strengths.items():
        for stem, delta in a1111(renamed[name]).items():
            gain = unet if stem.startswith("lora_unet") else te
            set_of[stem] = set_of.get(stem, 0.0) + gain * delta
    path = bake("<lora:style:0.5:1.5> <lora:char:0.3:0.8>", folder, folder.parent / "a1111.safetensors")
    found = a1111(load(path))
    # char lacks some of the second text encoder's attention, and A1111 then leaves that out of char, not of the sum
    whole = {stem for stem in set_of if "te2" not in stem or "self_attn" not in stem}
    assert whole <= found.keys()
    assert max(difference(found[stem], set_of[stem]) for stem in whole) < 4e-3


@pytest.mark.filterwarnings("ignore")  # those of third parties
def test_diffusers_applies_the_baked_file_as_it_applied_the_prompt(tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    tiny_sdxl = pytest.importorskip("tiny_sdxl")
    few = tiny_sdxl.few_shapes()
    first, second = make_lora(few, seed=3), make_lora(few, rank=lambda index: 2 + index % 3, seed=4)
    write(tmp_path / "first.safetensors", kohya(first))
    write(tmp_path / "second.safetensors", kohya(second))
    path = bake("<lora:first:0.5:1.5> <lora:second:-0.4>", tmp_path, tmp_path / "out" / "baked.safetensors")
    found = tiny_sdxl.applied(path)
    assert found.keys() == few.keys()
    for key, layer in found.items():
        gain = 1.5 if key[0] == "unet" else 0.5
        assert difference(layer.delta, gain * first[key].delta - 0.4 * second[key].delta) < HALF


# Files, names, refusals ---------------------------------------------------------------------------------------


def test_the_record_names_the_tags(folder: Path, tmp_path: Path) -> None:
    path = bake("<lora:style:0.5:1.5> <lora:char:0.25>", folder, tmp_path / "mine.safetensors")
    metadata = metadata_of(path)
    assert metadata["ss_output_name"] == "mine"
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"
    merged = {one["name"]: one["weight"] for one in json.loads(metadata["resize_lora"])["merged"]}
    assert merged == {"style.safetensors": "te=0.5:unet=1.5", "char.safetensors": "0.25"}
    assert {tag.strengths for tag in parse_prompt("<lora:x:te=0.5:unet=1.5> <lora:x:0.25>").tags} == {*merged.values()}


def test_files_with_strengths_need_no_prompt(folder: Path, style: Lora, char: Lora, tmp_path: Path) -> None:
    out = tmp_path / "made" / "both"
    names = [f"{folder / 'style.safetensors'}:0.6", f"{folder / 'chars' / 'char'}:-0.4"]
    assert cli.main(["merge", *names, "-o", str(out)]) == 0
    check(out.with_suffix(".safetensors"), wanted((style, lambda _: 0.6), (char, lambda _: -0.4)))


def test_results_in_a_folder_have_descriptive_names(folder: Path, tmp_path: Path) -> None:
    arguments = ["merge", "--prompt", "<lora:style:0.5>", "--lora-dir", str(folder), "-o", str(tmp_path)]
    assert cli.main([*arguments, "-r", "medium:rank=2"]) == 0
    assert len(list(tmp_path.glob("style_0.5_*.safetensors"))) == 2


def test_a_plain_tag_is_the_file_itself(folder: Path, style: Lora, tmp_path: Path) -> None:
    path = bake("<lora:style:1>", folder, tmp_path / "same.safetensors")
    check(path, wanted((style, lambda _: 1.0)))
    assert json.loads(metadata_of(path)["resize_lora"])["source"] == "style.safetensors"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--prompt", "<lora:style:0.1@1,1@5>", "--lora-dir", "LORAS"], 2, "0.1@1,1@5"),
        (["--prompt", "[<lora:style:1>:5]", "--lora-dir", "LORAS"], 2, "[…:5]"),
        (["--prompt", "no tags", "--lora-dir", "LORAS"], 2, "the prompt has no LoRA"),
        (["--prompt", "<lora:style:x>", "--lora-dir", "LORAS"], 2, "column 13"),
        (["--prompt", "<lora:nobody:1>", "--lora-dir", "LORAS"], 1, "nobody"),
        (["--prompt", "<lora:style:0>", "--lora-dir", "LORAS"], 1, "strength 0"),
        (["--prompt", "<lora:style:1>"], 2, "--lora-dir"),
        (["--prompt", "<lora:style:1:lbw=MINE>", "--lora-dir", "LORAS"], 2, "--lbw-presets"),
        (["--prompt", "<lora:style:1>", "--lora-dir", "LORAS", "--lbw-presets", "nowhere.txt"], 1, "nowhere.txt"),
        (["style.safetensors", "--lbw-presets", "x.txt"], 2, "is only for --prompt"),
        (["--prompt", "<lora:style:1>", "a.safetensors"], 2, "merge needs either"),
        (["a.safetensors", "--lora-dir", "LORAS"], 2, "--lora-dir"),
        ([], 2, "merge needs either"),
    ],
)
def test_what_cannot_be_is_reported_in_a_sentence(
    arguments: list[str], status: int, words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(folder) if word == "LORAS" else word for word in arguments]
    assert cli.main(["merge", *named, "-o", str(tmp_path / "out.safetensors")]) == status
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_families_that_differ_are_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sd15 = {("unet", f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{p}"): (32, 32) for p in "qkv"}
    stems = {key: f"lora_unet_{key[1].replace('.', '_')}" for key in sd15}
    write(tmp_path / "old.safetensors", kohya(make_lora(sd15), stems.__getitem__))
    arguments = ["--lora-dir", str(folder), "--lora-dir", str(tmp_path), "-o", str(tmp_path / "out.safetensors")]
    assert cli.main(["merge", "--prompt", "<lora:style:1><lora:old:1>", *arguments]) == 1
    assert "SDXL" in capsys.readouterr().err


def test_block_weights_of_an_unknown_family_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = {("unet", "strange.block.0.lin"): (16, 16), ("te1", "strange.text.lin"): (16, 16)}
    lora = make_lora(odd)
    write(tmp_path / "odd.safetensors", kohya(lora, lambda key: f"lora_{key[0]}_{key[1].replace('.', '_')}"))
    arguments = ["--lora-dir", str(tmp_path), "-o", str(tmp_path / "out.safetensors")]
    assert cli.main(["merge", "--prompt", "<lora:odd:1:lbw=OUTALL>", *arguments]) == 1
    assert "none of the blocks" in capsys.readouterr().err
    assert cli.main(["merge", "--prompt", "<lora:odd:0.5:2>", *arguments]) == 0
    found = comfyui(load(tmp_path / "out.safetensors"))
    for key, factors in lora.items():
        stem = f"lora_{key[0]}_{key[1].replace('.', '_')}"
        assert difference(found[stem], (2 if key[0] == "unet" else 0.5) * factors.delta) < HALF


def test_block_weights_of_another_kind_of_model_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Flux has blocks of its own; none of them may count as 0 in silence."""
    odd = {("unet", f"double_blocks.{i}.img_attn.proj"): (16, 16) for i in range(3)}
    write(tmp_path / "flux.safetensors", kohya(make_lora(odd), lambda key: f"lora_unet_{key[1].replace('.', '_')}"))
    arguments = ["--lora-dir", str(tmp_path), "-o", str(tmp_path / "out.safetensors")]
    assert cli.main(["merge", "--prompt", "<lora:flux:1:lbw=OUTALL>", *arguments]) == 1
    assert "none of the blocks" in capsys.readouterr().err
    assert cli.main(["merge", "--prompt", "<lora:flux:0.5:2>", *arguments]) == 0


def test_sources_are_never_written_to(folder: Path) -> None:
    before = (folder / "style.safetensors").read_bytes()
    arguments = ["merge", "--prompt", "<lora:style:0.5>", "--lora-dir", str(folder), "--overwrite"]
    assert cli.main([*arguments, "-o", str(folder / "style.safetensors")]) == 1
    assert (folder / "style.safetensors").read_bytes() == before
