"""From file to smaller file: what is read, what is kept, what is refused, with every kind of layer and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.write.style import Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Outcome, Settings
from lib_resize.errors import DamagedFileError, LayerError, UnsupportedError
from lib_resize.plans import Plan
from lib_resize.prompts.sources import expand
from lib_resize.recipe.grammar import parse_recipes
from tests.adapters.lorafiles import best, delta, factors, kohya, relative, tensors_of, write


def run(argument: Path | str, recipe: str = "rank=2", **settings) -> list[Outcome]:
    return list(resize(expand([str(argument)]), Settings(recipes=parse_recipes(recipe), **settings)))


def plan_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None
    return outcome.plan


def resized(argument: Path | str, recipe: str = "rank=2", **settings) -> tuple[dict[str, np.ndarray], Outcome]:
    (outcome,) = run(argument, recipe, **settings)
    assert outcome.error is None, outcome.error
    return tensors_of(Path(plan_of(outcome).output)), outcome


def refused(argument: Path | str, recipe: str = "rank=2", **settings) -> Exception:
    (outcome,) = run(argument, recipe, **settings)
    assert outcome.error is not None
    folder = Path(str(argument).partition(":")[0]).parent
    assert not [p for p in folder.iterdir() if p.name.startswith(".") or "rank2" in p.name]
    return outcome.error


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("alpha", [None, 3.0, 12.0, -2.0])
@pytest.mark.parametrize(("dtype", "rounding"), [("F16", 7e-4), ("F32", 1e-6), ("BF16", 6e-3), ("F8_E4M3", 0.07)])
def test_the_written_delta_is_the_exact_truncation(tmp_path, rank, alpha, dtype, rounding) -> None:
    source = kohya("lora_unet_a", alpha=alpha) | kohya("lora_unet_b", 40, 9, seed=1, alpha=alpha)
    found, _ = resized(write(tmp_path / "x.safetensors", source), f"rank={rank}", style=Style(dtype))
    for stem in ("lora_unet_a", "lora_unet_b"):
        assert relative(delta(found, stem), best(delta(source, stem), rank)) < rounding


def test_full_rank_keeps_every_key_and_every_delta(tmp_path) -> None:
    source = kohya("lora_unet_a") | kohya("lora_unet_b", 8, 30, seed=1)
    found, outcome = resized(write(tmp_path / "x.safetensors", source), "retain=1")
    assert found.keys() == source.keys()
    assert plan_of(outcome).retention == pytest.approx(1.0)
    for stem in ("lora_unet_a", "lora_unet_b"):
        assert relative(delta(found, stem), delta(source, stem)) < 5e-4


@pytest.mark.parametrize("shapes", [((24, 6, 1, 1), (6, 16, 3, 3)), ((24, 6), (6, 16, 3, 3)), ((24, 6, 1, 1), (6, 16)),
                                    ((24, 6, 1, 1), (6, 16, 1, 1)), ((24, 6, 1, 1, 1), (6, 4, 2, 2, 2))])  # fmt: skip
def test_convolutions_and_mixed_shapes_keep_their_own(tmp_path, shapes) -> None:
    up_shape, down_shape = shapes
    up, down = factors(24, int(np.prod(down_shape[1:])), 6)
    source = {"c.lora_up.weight": up.reshape(up_shape), "c.lora_down.weight": down.reshape(down_shape)}
    found, _ = resized(write(tmp_path / "x.safetensors", source))
    assert found["c.lora_up.weight"].shape == (24, 2, *up_shape[2:])
    assert found["c.lora_down.weight"].shape == (2, *down_shape[1:])
    assert relative(delta(found, "c"), best(delta(source, "c"), 2)) < 7e-4


def test_all_layers_of_a_file_share_one_alpha(tmp_path) -> None:
    source = kohya("a", strength=1.0) | kohya("b", strength=1e-3, seed=1) | kohya("c", strength=30, seed=2)
    path = write(tmp_path / "x.safetensors", source)
    found, outcome = resized(path, "spn_lora,min_rank=1,thr=-0.9")
    assert len({layer.new_rank for layer in plan_of(outcome).layers}) > 0
    assert len({float(found[f"{stem}.alpha"]) for stem in "abc"}) == 1
    for stem, layer in zip("abc", plan_of(outcome).layers, strict=True):
        assert relative(delta(found, stem), best(delta(source, stem), layer.new_rank)) < 7e-4


@pytest.mark.parametrize("strength", [1e-7, 1e-4, 1e4])
def test_tiny_and_huge_layers_next_to_ordinary_ones_are_exact_in_float16(tmp_path, strength) -> None:
    source = kohya("tiny", strength=strength) | kohya("usual", seed=1)
    for stem in ("tiny", "usual"):
        found, _ = resized(write(tmp_path / "x.safetensors", source), style=Style("F16"), overwrite=True)
        assert relative(delta(found, stem), best(delta(source, stem), 2)) < 7e-4


def test_a_uniform_rank_is_its_own_alpha(tmp_path) -> None:
    found, _ = resized(write(tmp_path / "x.safetensors", kohya("a") | kohya("b", seed=1)), "rank=3")
    assert {float(found["a.alpha"]), float(found["b.alpha"])} == {3.0}


def test_dora_magnitudes_stay_byte_for_byte_and_alpha_is_the_rank(tmp_path) -> None:
    magnitude = np.random.default_rng(5).random((24, 1)).astype(np.float16)
    source = kohya("a") | {"a.dora_scale": magnitude} | kohya("b", seed=1)
    found, outcome = resized(write(tmp_path / "x.safetensors", source), "spn_lora,thr=-0.5")
    np.testing.assert_array_equal(found["a.dora_scale"], magnitude)
    assert float(found["a.alpha"]) == found["a.lora_down.weight"].shape[0]
    assert any("DoRA" in note for note in plan_of(outcome).notes)
    assert ("a.dora_scale", "DoRA magnitude") in plan_of(outcome).copied


def test_a_dora_layer_never_falls_away(tmp_path) -> None:
    """Its magnitudes act even where its delta is zero."""
    source = kohya("weak", strength=1e-5) | {"weak.dora_scale": np.ones((24, 1), np.float32)}
    source |= kohya("zero", strength=0) | {"zero.dora_scale": np.ones((24, 1), np.float32)} | kohya("strong", seed=1)
    source |= kohya("plain_weak", strength=1e-5, seed=2)
    found, _ = resized(write(tmp_path / "x.safetensors", source), "params,thr=-2")
    assert {key.partition(".")[0] for key in found} == {"weak", "zero", "strong"}
    assert not np.any(delta(found, "zero"))


def test_what_is_not_low_rank_is_copied_byte_for_byte_and_named(tmp_path) -> None:
    rng = np.random.default_rng(0)
    others: dict[str, np.ndarray] = {
        "lora_unet_n.w_norm": rng.standard_normal(7).astype(np.float32),
        "lora_unet_n.b_norm": rng.standard_normal(7).astype(np.float16),
        "lora_unet_d.diff": rng.standard_normal(4).astype(np.float64),
        "a.diff_b": rng.standard_normal(24).astype(np.float32),
        "bundle_emb.cat.clip_l": rng.standard_normal((2, 8)).astype(np.float16),
        "<s1>": rng.standard_normal(8).astype(np.float32),
        "strange.int": np.arange(5, dtype=np.int64),
    }
    path = write(tmp_path / "x.safetensors", kohya("a") | others)
    found, outcome = resized(path)
    assert set(found) == set(kohya("a")) | set(others)
    assert {key for key, _ in plan_of(outcome).copied} == set(others)
    for key, value in others.items():
        np.testing.assert_array_equal(found[key], value.astype(np.float64))


def test_an_orphan_alpha_is_dropped_and_reported(tmp_path) -> None:
    source = kohya("a") | {"lost.alpha": np.array(4.0, np.float32)}
    found, outcome = resized(write(tmp_path / "x.safetensors", source))
    assert set(found) == set(kohya("a"))
    assert any("lost.alpha" in note for note in plan_of(outcome).notes)


def test_zero_layers_fall_away_with_all_their_keys_and_are_counted(tmp_path) -> None:
    source = kohya("a") | kohya("dead", strength=0, seed=1)
    found, outcome = resized(write(tmp_path / "x.safetensors", source))
    assert {key.partition(".")[0] for key in found} == {"a"}
    assert plan_of(outcome).zero == plan_of(outcome).dropped == ("dead",)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"])
def test_every_floating_dtype_is_read(tmp_path, dtype) -> None:
    import torch
    from safetensors.torch import save_file

    kinds = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
             "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}  # fmt: skip
    source = {key: torch.from_numpy(value).to(kinds[dtype]) for key, value in kohya("a", alpha=4.0).items()}
    save_file(source, tmp_path / "x.safetensors")
    found, _ = resized(tmp_path / "x.safetensors", "rank=3")
    expected = {key: value.double().numpy() for key, value in source.items()}
    assert relative(delta(found, "a"), best(delta(expected, "a"), 3)) < 7e-4


@pytest.mark.parametrize(("dtype", "size"), [("F16", 2), ("F32", 4)])
def test_same_keeps_the_dtype_of_the_source(tmp_path, dtype, size) -> None:
    source = kohya("a")
    if dtype == "F16":
        source = {key: value.astype(np.float16) for key, value in source.items()}
    path = write(tmp_path / "x.safetensors", source)
    (outcome,) = run(path, style=Style(dtype=None))
    from lib_resize.files.header import read_header

    entries = read_header(plan_of(outcome).output).entries
    assert entries["a.lora_up.weight"].dtype == dtype
    assert plan_of(outcome).bytes_after == Path(plan_of(outcome).output).stat().st_size


def test_an_fp32_source_halves_at_full_rank(tmp_path) -> None:
    path = write(tmp_path / "x.safetensors", kohya("a", 400, 300, 32))
    _, outcome = resized(path, "retain=1")
    assert 0.49 < plan_of(outcome).bytes_after / plan_of(outcome).bytes_before < 0.53


# Refusals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ({"l.lambda_layer": (1, 2), "l.p_layer.weight": (4, 2), "l.q_layer.weight": (2, 4)}, "T-LoRA"),
        ({"lllite_unet_x.down.0.weight": (4, 2)}, "ControlNet-LLLite"),
        ({"image_proj.norm.weight": (4,)}, "IP-Adapter"),
        ({"l.B": (4, 2)}, "PaRa"),
        ({"l.up": (4, 2), "l.down": (2, 4)}, "bare up and down"),
        ({"unet:0:up": (4, 2), "unet:0:down": (2, 4)}, "cloneofsimo"),
        ({"l.lora_embedding_A": (2, 9), "l.lora_embedding_B": (4, 2)}, "embedding"),
    ],
)
@pytest.mark.parametrize("with_lora", [True, False])
def test_kinds_that_are_not_handled_are_refused_by_name(tmp_path, extra, kind, with_lora) -> None:
    tensors = {key: np.ones(shape, np.float32) for key, shape in extra.items()} | (kohya("a") if with_lora else {})
    error = refused(write(tmp_path / "x.safetensors", tensors))
    assert isinstance(error, UnsupportedError)
    assert kind in str(error)
    assert str(tmp_path / "x.safetensors") in str(error)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda t: t.pop("a.lora_up.weight"), DamagedFileError, "layer a has down but no up"),
        (lambda t: t.pop("a.lora_down.weight"), DamagedFileError, "layer a has up but no down"),
        (lambda t: t.update({"a.lora_up.weight": np.ones((24, 5), np.float32)}), LayerError, "ranks 5 and 6 differ"),
        (lambda t: t.update({"a.lora_up.weight": np.ones((24, 0), np.float32),
                             "a.lora_down.weight": np.ones((0, 16), np.float32)}), LayerError, "without dimensions"),
        (lambda t: t["a.lora_up.weight"].__setitem__((0, 0), np.nan), LayerError, "layer a: up holds NaN"),
        (lambda t: t["a.lora_down.weight"].__setitem__((0, 0), np.inf), LayerError, "layer a: down holds NaN"),
        (lambda t: t.update({"a.alpha": np.array(np.nan, np.float32)}), LayerError, "layer a: a.alpha is nan"),
        (lambda t: t.update({"a.lora_up.weight": np.ones((24, 6), np.int8)}), LayerError, "dtype I8"),
        (lambda t: t.update({"a.lora_up.weight": np.ones(24, np.float32)}), LayerError, "expected (out, rank)"),
        (lambda t: t.update({"a.lora_A.weight": np.ones((6, 16), np.float32)}), DamagedFileError, "two tensors"),
    ],
)  # fmt: skip
def test_damaged_layers_are_refused_by_name(tmp_path, change, error, text) -> None:
    tensors = kohya("fine", seed=3) | kohya("a")
    change(tensors)
    found = refused(write(tmp_path / "x.safetensors", tensors))
    assert isinstance(found, error)
    assert text in str(found)


@pytest.mark.parametrize(
    ("tensors", "kind", "reason"),
    [
        ({"l.oft_blocks": (2, 3, 3), "l.alpha": ()}, "OFT", "rotates"),
        ({"l.oft_diag": (2, 3, 3)}, "OFT", "rotates"),
        ({"l.oft_R.weight": (2, 3)}, "OFT", "rotates"),
        ({"l.boft_R": (2, 2, 3, 3)}, "BOFT", "rotates"),
        ({"l.weight": (4,), "l.on_input": ()}, "IA3", "multiplies rows"),
        ({"l.ia3_l": (4, 1)}, "IA3", "multiplies rows"),
        ({"l.w_norm": (4,), "l.b_norm": (4,)}, "norm", "is a vector"),
        ({"l.diff_b": (4,)}, "bias difference", "is a vector"),
        ({"l.bias_indices": (4,), "l.bias_values": (4,), "l.bias_size": (1,)}, "sparse bias", "single numbers"),
        ({"l.set_weight": (4, 4)}, "weight replacement", "replaces"),
        ({"<s1>": (4,)}, "embedding", "learned token"),
        ({"l.alpha": ()}, "alpha without factors", "left over"),
        ({"who.knows": (4, 4)}, "no layer of a LoRA", "nothing to resize"),
    ],
)
def test_what_is_copied_with_others_is_refused_alone_with_the_reason(tmp_path, tensors, kind, reason) -> None:
    made = {key: np.ones(shape, np.float32) for key, shape in tensors.items()}
    error = refused(write(tmp_path / "alone.safetensors", made))
    assert isinstance(error, UnsupportedError)
    assert all(text in str(error) for text in (str(tmp_path), kind, reason))
    found, outcome = resized(write(tmp_path / "mixed.safetensors", made | kohya("a")))
    carried = set(made) - {"l.alpha"} if kind == "alpha without factors" else set(made)
    assert carried <= set(found)
    assert {key for key, _ in plan_of(outcome).copied} == carried
    for key in carried:
        np.testing.assert_array_equal(found[key], made[key])


def test_a_checkpoint_is_not_taken_for_a_lora(tmp_path) -> None:
    key = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    assert "base model" in str(refused(write(tmp_path / "x.safetensors", {key: np.ones((8, 8), np.float32)})))


def test_float16_overflow_is_refused_with_a_remedy(tmp_path) -> None:
    source = {"a.lora_A.weight": np.full((2, 4), 1e6, np.float32), "a.lora_B.weight": np.full((4, 2), 1e6, np.float32)}
    error = refused(write(tmp_path / "x.safetensors", source))
    assert "Use -t 32" in str(error)


# Merges -----------------------------------------------------------------------------------------------------

SD15_LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def test_a_merge_is_the_exact_weighted_sum(tmp_path) -> None:
    one = kohya("lora_unet_a", rank=3) | kohya("lora_unet_only_one", seed=4)
    two = kohya("lora_unet_a", rank=6, seed=7) | kohya("lora_unet_only_two", seed=8, alpha=None)
    write(tmp_path / "one.safetensors", one)
    write(tmp_path / "two.safetensors", two)
    found, outcome = resized(f"{tmp_path / 'one.safetensors'}:0.6,{tmp_path / 'two'}:-0.4", "retain=1")
    expected = 0.6 * delta(one, "lora_unet_a") - 0.4 * delta(two, "lora_unet_a")
    assert relative(delta(found, "lora_unet_a"), expected) < 7e-4
    assert relative(delta(found, "lora_unet_only_one"), 0.6 * delta(one, "lora_unet_only_one")) < 7e-4
    assert relative(delta(found, "lora_unet_only_two"), -0.4 * delta(two, "lora_unet_only_two")) < 7e-4
    assert Path(plan_of(outcome).output).name.startswith("one_0.6+two_-0.4_")


def test_a_merge_across_key_formats_meets_under_canonical_names(tmp_path) -> None:
    stem = "lora_unet_" + SD15_LAYER.replace(".", "_")
    up, down = factors(320, 320, 4, seed=1)
    one = kohya(stem, 320, 320, 4)
    two = {f"unet.{SD15_LAYER}.lora.up.weight": up, f"unet.{SD15_LAYER}.lora.down.weight": down}
    write(tmp_path / "one.safetensors", one)
    write(tmp_path / "two.safetensors", two)
    found, _ = resized(f"{tmp_path / 'one'},{tmp_path / 'two'}:2", "retain=1")
    expected = delta(one, stem) + 2 * up.astype(np.float64) @ down.astype(np.float64)
    assert relative(delta(found, stem), expected) < 7e-4
    assert set(found) == {f"{stem}.{part}" for part in ("lora_up.weight", "lora_down.weight", "alpha")}


def test_a_weighted_single_file_is_scaled(tmp_path) -> None:
    source = kohya("a")
    found, _ = resized(f"{write(tmp_path / 'x.safetensors', source)}:0.5", "retain=1")
    assert relative(delta(found, "a"), 0.5 * delta(source, "a")) < 7e-4


def test_a_bias_of_one_file_goes_into_a_merge_at_its_strength(tmp_path) -> None:
    bias = np.arange(24, dtype=np.float32)
    write(tmp_path / "one.safetensors", kohya("a") | {"a.diff_b": bias})
    write(tmp_path / "two.safetensors", kohya("a", seed=2))
    (outcome,) = run(f"{tmp_path / 'one'}:-0.5,{tmp_path / 'two'}")
    assert outcome.error is None
    assert np.array_equal(tensors_of(Path(plan_of(outcome).output))["a.diff_b"], -0.5 * bias)


@pytest.mark.parametrize("keys", [("a.diff_b",), ("n.w_norm", "n.b_norm"), ("lone.diff_b",)])
def test_vectors_of_two_files_are_added_each_at_its_strength(tmp_path, keys) -> None:
    chance = np.random.default_rng(4)
    vectors = [{key: chance.standard_normal(24).astype(np.float32) for key in keys} for _ in range(3)]
    for i, more in enumerate(vectors):
        write(tmp_path / f"x{i}.safetensors", kohya("a", seed=i) | more)
    (outcome,) = run(f"{tmp_path / 'x0'}:-0.5,{tmp_path / 'x1'},{tmp_path / 'x2'}:3")
    assert outcome.error is None, outcome.error
    found = tensors_of(Path(plan_of(outcome).output))
    for key in keys:
        wanted = -0.5 * vectors[0][key] + vectors[1][key] + 3 * vectors[2][key]
        np.testing.assert_allclose(found[key], wanted, rtol=1e-5, atol=1e-5)


def test_the_bias_of_an_up_is_added_at_the_scale_of_its_layer(tmp_path) -> None:
    chance, sources = np.random.default_rng(4), []
    for i, alpha in enumerate((2.0, 6.0)):
        layer = {"a.lora_A.weight": chance.standard_normal((4, 32)), "a.lora_B.weight": chance.standard_normal((24, 4))}
        layer |= {"a.lora_B.bias": chance.standard_normal(24), "a.alpha": np.array(alpha)}
        sources.append({key: value.astype(np.float32) for key, value in layer.items()})
        write(tmp_path / f"x{i}.safetensors", sources[-1])
    (outcome,) = run(f"{tmp_path / 'x0'}:-0.5,{tmp_path / 'x1'}:2")
    assert outcome.error is None, outcome.error
    wanted = -0.5 * 2 / 4 * sources[0]["a.lora_B.bias"] + 2 * 6 / 4 * sources[1]["a.lora_B.bias"]
    np.testing.assert_allclose(tensors_of(Path(plan_of(outcome).output))["a.lora_B.bias"], wanted, rtol=1e-5, atol=1e-6)


def test_a_bias_of_another_shape_elsewhere_is_not_added(tmp_path) -> None:
    write(tmp_path / "one.safetensors", kohya("a") | {"a.diff_b": np.ones(24, np.float32)})
    write(tmp_path / "two.safetensors", kohya("a") | {"a.diff_b": np.ones(25, np.float32)})
    (outcome,) = run(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert "two.safetensors: a." in str(outcome.error)
    assert "has 25 numbers and a.diff_b of one.safetensors has 24" in str(outcome.error)


@pytest.mark.parametrize(
    "extra",
    [
        {"a.dora_scale": np.ones((24, 1), np.float32)},
        {"n.on_input": np.zeros((), np.float32), "n.weight": np.ones(24, np.float32)},
        {"n.oft_blocks": np.ones((2, 4, 4), np.float32)},
    ],
)
def test_what_cannot_be_added_is_not_merged(tmp_path, extra) -> None:
    write(tmp_path / "one.safetensors", kohya("a") | extra)
    write(tmp_path / "two.safetensors", kohya("a", seed=2))
    (outcome,) = run(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert next(iter(extra)) in str(outcome.error)


def test_layers_of_other_sizes_are_not_merged(tmp_path) -> None:
    write(tmp_path / "one.safetensors", kohya("a"))
    write(tmp_path / "two.safetensors", kohya("a", 12, 12))
    (outcome,) = run(f"{tmp_path / 'one'},{tmp_path / 'two'}")
    assert "(24, 16) and (12, 12) differ" in str(outcome.error)


# Names ------------------------------------------------------------------------------------------------------


def test_rescale_is_baked_in(tmp_path) -> None:
    source = kohya("a")
    found, outcome = resized(write(tmp_path / "x.safetensors", source), "rescale=0.8,rank=3")
    assert relative(delta(found, "a"), 0.8 * best(delta(source, "a"), 3)) < 7e-4
    assert "scale0.8" in plan_of(outcome).output


def test_naming_kohya_renames_all_that_belongs_to_a_layer(tmp_path) -> None:
    body = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    canonical = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q"
    up, down = factors(640, 640, 4)
    source = {f"{body}.lora_A.weight": down, f"{body}.lora_B.weight": up,
              f"{body}.lora_magnitude_vector": np.ones(640, np.float32),
              f"{body}.lora_B.bias": np.ones(640, np.float32),
              "keep.me": np.ones(2, np.float32)}  # fmt: skip
    found, _ = resized(write(tmp_path / "x.safetensors", source), style=Style(kohya=True))
    assert set(found) == {"keep.me", *(f"{canonical}{end}" for end in (
        ".lora_up.weight", ".lora_down.weight", ".alpha", ".dora_scale", ".diff_b"))}  # fmt: skip
    assert found[f"{canonical}.dora_scale"].shape == (640, 1)


def test_naming_kohya_is_refused_where_no_name_is_known(tmp_path) -> None:
    error = refused(write(tmp_path / "x.safetensors", kohya("toy_layer")), style=Style(kohya=True))
    assert "toy_layer" in str(error)


def test_fp8_is_refused_where_no_alpha_can_carry_the_scale(tmp_path) -> None:
    up, down = factors(24, 16, 4)
    path = write(tmp_path / "x.safetensors", {"a.lora_A.weight": down, "a.lora_B.weight": up})
    assert "--naming kohya" in str(refused(path, style=Style("F8_E4M3")))
