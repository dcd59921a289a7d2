"""What singular values look like: groups by known names, laws on known spectra, and curves that agree with resizes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lib_resize.cli import main as cli
from lib_resize.demo.synthetic import LoraOptions, write_lora
from lib_resize.errors import OutputError
from lib_resize.names.families import SD15, SDXL
from lib_resize.names.family import layers
from lib_resize.studies.inspection import describe_closely
from lib_resize.studies.spectra import TYPES, LayerSpectrum, Study, effective_rank, groups, study_of_many, type_of


def layer(name: str, s: list[float], block: str = "IN04", kind: str = "self Q", size: int = 10) -> LayerSpectrum:
    return LayerSpectrum(name, block, kind, np.array(s, float), size)


# Names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stem", "kind"),
    [
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q", "self Q"),
        ("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", "cross K"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0", "cross out"),
        ("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_v", "self V"),
        ("lora_te1_text_model_encoder_layers_0_self_attn_out_proj", "self out"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", "feed forward"),
        ("lora_unet_middle_block_1_transformer_blocks_3_ff_net_0_proj", "feed forward"),
        ("lora_unet_middle_block_1_proj_in", "projection"),
        ("lora_unet_input_blocks_1_0_emb_layers_1", "time embedding"),
        ("lora_unet_time_embed_0", "time embedding"),
        ("unet.add_embedding.linear_1", "time embedding"),
        ("lora_unet_input_blocks_1_0_in_layers_2", "convolution"),
        ("lora_unet_input_blocks_3_0_op", "convolution"),
        ("unet.up_blocks.0.resnets.0.conv_shortcut", "convolution"),
        ("transformer.transformer_blocks.0.attn.add_k_proj", "self K"),
        ("transformer.transformer_blocks.0.attn.to_add_out", "self out"),
        ("transformer.single_transformer_blocks.0.proj_mlp", "feed forward"),
        ("something_else", "other"),
    ],
)
def test_a_layer_is_what_its_name_says_in_every_key_format(stem: str, kind: str) -> None:
    assert type_of(stem) == kind


@pytest.mark.parametrize("family", [SDXL, SD15], ids=lambda family: family.name)
def test_every_layer_of_known_families_has_a_type_and_all_key_formats_agree(family) -> None:
    for row in layers(family).values():
        kinds = {type_of(name, is_conv=len(row.shape) > 2 and row.shape[2] > 1) for name in (row.id, *row.dotted_names)}
        assert len(kinds) == 1, row
        assert kinds <= set(TYPES)
        assert kinds != {"other"} or row.id.endswith("text_projection"), row


# Numbers -----------------------------------------------------------------------------------------------------


def test_a_group_is_the_mean_of_its_normalised_padded_spectra() -> None:
    (everything, *_) = groups([[layer("a", [4, 2]), layer("b", [1, 1, 0.5, 0.5]), layer("z", [0, 0])]])
    assert everything.name == "all"
    assert everything.layers == 2
    assert everything.spectrum == pytest.approx((1.0, 0.75, 0.25, 0.25))
    assert everything.effective_rank == pytest.approx((effective_rank(np.array([4.0, 2])) + 2 ** (11 / 6)) / 2, rel=0.1)
    assert everything.top_energy == pytest.approx((16 / 20 + 1 / 2.5) / 2)
    assert everything.rank_90 == pytest.approx((2 + 3) / 2)
    assert everything.rank_99 == pytest.approx((2 + 4) / 2)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_equal_singular_values_use_all_of_their_rank_and_strength_does_not_matter(count: int) -> None:
    s = np.pad(np.full(count, 0.3), (0, 3))
    assert effective_rank(s) == pytest.approx(count)
    assert effective_rank(100 * s) == pytest.approx(count)


def test_groups_take_the_layers_that_they_are_named_for() -> None:
    made = [
        layer("q", [1, 0.1], kind="self Q"),
        layer("k", [1, 0.2], kind="cross K"),
        layer("t", [1, 0.3], kind="time embedding"),
        layer("c", [1, 0.4], kind="convolution", block="OUT08"),
        layer("o", [1, 0.5], kind="self V", block="OUT05"),
        layer("x", [1, 0.6], kind="self K", block="TE1"),
    ]
    second = {group.name: group.spectrum[1] for group in groups([made])}
    assert second == pytest.approx(
        {
            "all": 0.35,
            "time embedding": 0.3,
            "cross-attention": 0.2,
            "self-attention": 0.3,
            "high-level blocks": 0.4,
            "convolutions": 0.4,
            "attention K": 0.4,
            "attention Q": 0.1,
            "text encoders": 0.6,
        }
    )


def test_several_files_count_layer_by_layer_and_each_has_its_own_last_stage() -> None:
    one, two = [layer("a", [1, 0.2], block="OUT08")], [layer("b", [1, 0.4], block="OUT05"), layer("c", [1, 0.6])]
    seen = study_of_many("all", [one, two])
    found = {group.name: group for group in seen.groups}
    assert seen.files == 2
    assert found["all"].spectrum[1] == pytest.approx(0.4)
    assert found["high-level blocks"].spectrum[1] == pytest.approx(0.3)
    assert sum(seen.bytes.values()) == 30


# Files -------------------------------------------------------------------------------------------------------


def test_bytes_are_those_of_the_factors_in_the_file(lora) -> None:
    from lib_resize.files.header import read_header

    _, seen, _ = describe_closely(lora)
    entries = read_header(lora).entries
    assert sum(seen.bytes.values()) == sum(e.stop - e.start for key, e in entries.items() if not key.endswith("alpha"))


def test_curves_say_what_a_resize_would_make(lora, checkpoint, tmp_path) -> None:
    from lib_resize.base.checkpoint import Checkpoint

    base = Checkpoint(checkpoint)
    _, seen, _ = describe_closely(lora, base=base)
    base.close()
    names = [curve.name for curve in seen.curves]
    assert {"fro_lora=1", "spn_lora=1", "fro_ckpt=1", "spn_ckpt=1", "subspace=1", "rank", "sv_fro"} <= set(names)
    for recipe, name in (("rank=3", "rank"), ("sv_fro=0.88", "sv_fro"), ("fro_ckpt=1,retain=0.92", "fro_ckpt=1")):
        words = ["resize", str(checkpoint), str(lora), "-r", recipe, "--dry-run", "--report", str(tmp_path / "r.json")]
        assert cli.main(words) == 0
        plan, _ = json.loads((tmp_path / "r.json").read_text("utf-8"))
        points = next(curve.points for curve in seen.curves if curve.name == name)
        nearest = min(points, key=lambda point: abs(point[1] - plan["retention"]))
        assert nearest[1] == pytest.approx(plan["retention"], abs=1e-5)
        assert nearest[0] == pytest.approx(plan["bytes_after"], rel=0.03)
    for curve in seen.curves:
        assert list(curve.points) == sorted(curve.points)
        assert max(share for _, share in curve.points) == pytest.approx(1.0)


def test_without_a_base_model_there_are_no_curves_of_its_scores(lora) -> None:
    assert not [curve for curve in describe_closely(lora)[1].curves if "ckpt" in curve.name or "subspace" in curve.name]


def test_a_lora_of_zeros_has_no_groups_and_no_curves(tmp_path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "zero.safetensors"
    save_file({"lora_unet_a.lora_up.weight": np.zeros((8, 2)), "lora_unet_a.lora_down.weight": np.ones((2, 8))}, path)
    _, seen, _ = describe_closely(path)
    assert (seen.groups, seen.curves) == ((), ())
    assert cli.main(["inspect", str(path), "--spectra"]) == 0


def test_spectra_are_printed_for_each_file_and_for_all(lora, tmp_path, capsys) -> None:
    other = write_lora(tmp_path / "other.safetensors", LoraOptions(rank=4))
    assert cli.main(["inspect", str(lora), str(other), "--spectra"]) == 0
    text = capsys.readouterr().out
    assert text.count("attention K") == 3
    assert "all 2 files" in text
    assert cli.main(["inspect", str(lora), str(other), "--spectra", "--json"]) == 0
    first, _, together = json.loads(capsys.readouterr().out)
    assert together["spectra"]["files"] == 2
    assert len(first["spectra"]["groups"][0]["spectrum"]) == 8


# Plots -------------------------------------------------------------------------------------------------------

KINDS = ["spectra", "effective_rank", "retention", "bytes"]


@pytest.fixture(scope="module")
def drawn(lora, tmp_path_factory) -> tuple[Study, Path]:
    """A study, and a folder with its plots: drawing them takes seconds."""
    pytest.importorskip("matplotlib")
    from lib_resize.studies.plots import save

    _, seen, _ = describe_closely(lora)
    folder = tmp_path_factory.mktemp("plots")
    save(seen, folder, "pastry")
    return seen, folder


@pytest.fixture
def plots(drawn, tmp_path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(drawn[1], tmp_path / "plots"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_are_drawn_in_both_formats_with_their_numbers_next_to_them(lora, tmp_path, theme, capsys) -> None:
    pytest.importorskip("matplotlib")
    folder = tmp_path / "plots"
    assert cli.main(["inspect", str(lora), "--plot", str(folder), "--theme", theme]) == 0
    assert {path.name for path in folder.iterdir()} == {
        "pastry.json",
        *(f"pastry_{kind}.{ending}" for kind in KINDS for ending in ("png", "svg", "csv")),
    }
    for kind in KINDS:
        assert (folder / f"pastry_{kind}.png").read_bytes().startswith(b"\x89PNG")
        picture = (folder / f"pastry_{kind}.svg").read_text("utf-8")
        assert ("#161b22" in picture) == (theme == "dark")
    _, seen, _ = describe_closely(lora)
    assert json.loads((folder / "pastry.json").read_text("utf-8")) == json.loads(json.dumps(seen.as_json()))
    with open(folder / "pastry_bytes.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["block"], row["type"]): int(row["bytes"]) for row in rows} == seen.bytes
    with open(folder / "pastry_retention.csv", encoding="utf-8") as file:
        points = [(row["method"], int(row["bytes"]), float(row["weight_retention"])) for row in csv.DictReader(file)]
    assert points == [(curve.name, *point) for curve in seen.curves for point in curve.points]


def test_the_same_numbers_make_the_same_pictures_in_place_of_earlier_ones_of_ours(drawn, plots) -> None:
    from lib_resize.studies.plots import save

    made = save(drawn[0], plots, "pastry")
    assert {path.name for path in made} == {path.name for path in drawn[1].iterdir()}
    assert [path.read_bytes() for path in made] == [(drawn[1] / path.name).read_bytes() for path in made]


def test_files_of_one_name_do_not_draw_over_one_another(lora, tmp_path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr("lib_resize.studies.plots._PLOTS", {})  # the names are the law; the numbers have them too
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / lora.name).write_bytes(lora.read_bytes())
    folder = tmp_path / "plots"
    assert cli.main(["inspect", str(lora), str(tmp_path / "in"), "--plot", str(folder)]) == 0
    assert {path.stem for path in folder.glob("*.json")} == {"pastry", "pastry_2", "all"}


def test_lines_can_be_distinguished_without_colour_and_contrast_with_the_background() -> None:
    from lib_resize.studies.plots import THEMES

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for theme in THEMES.values():
        for colour in (theme.ink, *theme.lines):
            low, high = sorted((luminance(colour), luminance(theme.back)))
            assert (high + 0.05) / (low + 0.05) >= 3.0, colour  # WCAG 2.1, 1.4.11: graphical objects


def test_without_matplotlib_a_sentence_says_what_to_do_before_any_work(lora, tmp_path) -> None:
    code = f"""
import sys
sys.modules["matplotlib"] = None
from lib_resize.cli import main as cli
print("status", cli.main(["inspect", {str(lora)!r}, "--plot", {str(tmp_path / "p")!r}]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "status 2\n"
    assert "pip install matplotlib" in done.stderr
    assert not (tmp_path / "p").exists()


def test_a_folder_that_cannot_be_made_is_reported(lora, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "file").write_text("x")
    assert cli.main(["inspect", str(lora), "--plot", str(tmp_path / "file")]) == 1
    assert "there is a file where a folder should be" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.parametrize("name", ["pastry.json", "pastry_bytes.csv", "pastry_bytes.png", "pastry_spectra.svg"])
def test_plots_replace_nothing_but_plots_of_ours(drawn, plots, name) -> None:
    from lib_resize.studies.plots import save

    (plots / name).write_bytes(b'{"description": "mine"}')
    before = {path: path.read_bytes() for path in plots.iterdir()}
    with pytest.raises(OutputError, match="not a plot of Resize LoRA"):
        save(drawn[0], plots, "pastry")
    assert {path: path.read_bytes() for path in plots.iterdir()} == before


def test_a_plot_that_a_host_added_to_is_not_replaced(drawn, plots) -> None:
    """A1111 keeps its own words on a LoRA in ``pastry.json``."""
    from lib_resize.studies.plots import save

    path = plots / "pastry.json"
    document = json.loads(path.read_text("utf-8")) | {"description": "mine"}
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(OutputError, match=r"pastry\.json: .*not a plot of Resize LoRA"):
        save(drawn[0], plots, "pastry")


def test_foreign_files_in_the_way_of_plots_are_found_before_the_work(lora, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "pastry.json").write_text("mine", "utf-8")
    monkeypatch.setattr("lib_resize.studies.inspection.describe_closely", None)
    assert cli.main(["inspect", str(lora), "--plot", str(tmp_path)]) == 1
    assert "not a plot of Resize LoRA" in capsys.readouterr().err
    assert (tmp_path / "pastry.json").read_text("utf-8") == "mine"


def test_a_study_without_layers_of_a_kind_draws_what_there_is(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from lib_resize.studies.plots import save

    seen = study_of_many("x", [[layer("a", [0.0, 0.0])]])
    made = {path.name for path in save(replace(seen, name="zeros"), tmp_path, "zeros") if path.suffix == ".png"}
    assert made == {"zeros_bytes.png"}
