"""What a naive resizer gets wrong in other kinds than LoRA, each as a test."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

from safetensors.numpy import save_file

from lib_resize import Outcome
from lib_resize.adapters.forms.form import WriteSpec
from lib_resize.adapters.forms.loha import LohaSpectrum
from lib_resize.adapters.read.adapter import read_adapter
from lib_resize.adapters.write.style import DTYPES, Style
from lib_resize.engine.batch import resize
from lib_resize.engine.settings import Settings
from lib_resize.errors import LayerError, UnsupportedError
from lib_resize.files.header import read_header
from lib_resize.files.reader import SafeFile
from lib_resize.linalg.arrays import NumpyArrays
from lib_resize.linalg.factor import Stored
from lib_resize.plans import Plan
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes
from lib_resize.studies.inspection import describe
from tests.readers.host_rules import a1111_layers, a1111_type, comfyui_layers, comfyui_type, layers_of
from tests.readers.lora_material import Matrix, Tensors, difference, load, output

N, M, R = 24, 32, 4
KERNEL = (3, 3)
rules = pytest.mark.parametrize("rule", [a1111_type, comfyui_type], ids=["a1111", "comfyui"])


def random(*shape: int, seed: int = 0, falling: int | None = None) -> np.ndarray:
    """Normal numbers; along the axis `falling` they get weaker."""
    values = np.random.default_rng(seed).standard_normal(shape)
    if falling is not None:
        sizes = [1] * len(shape)
        sizes[falling] = -1
        values = values * np.geomspace(1, 0.1, shape[falling]).reshape(sizes)
    return values.astype(np.float32)


def plan_of(outcome: Outcome) -> Plan:
    assert outcome.plan is not None
    return outcome.plan


def named(name: str, alpha: float | None = 1.0, **parts: np.ndarray) -> Tensors:
    tensors = {f"{name}.{role.replace('__', '.')}": values for role, values in parts.items()}
    return tensors if alpha is None else tensors | {f"{name}.alpha": np.array(alpha, np.float32)}


def lora(name: str = "l", alpha: float | None = 2.0, seed: int = 0) -> Tensors:
    return named(name, alpha, lora_up__weight=random(N, R, seed=seed, falling=1),
                 lora_down__weight=random(R, M, seed=seed + 1))  # fmt: skip


def tucker(name: str = "t", alpha: float | None = 2.0, mid: tuple[int, int] = (R, R)) -> Tensors:
    return named(name, alpha, lora_up__weight=random(N, mid[0], 1, 1, falling=1),
                 lora_mid__weight=random(*mid, *KERNEL, seed=1, falling=0),
                 lora_down__weight=random(mid[1], M, 1, 1, seed=2))  # fmt: skip


def loha(name: str = "h", alpha: float | None = 2.0, ranks: tuple[int, int] = (R, R)) -> Tensors:
    return named(name, alpha, hada_w1_a=random(N, ranks[0], falling=1), hada_w1_b=random(ranks[0], M, seed=1),
                 hada_w2_a=random(N, ranks[1], seed=2, falling=1), hada_w2_b=random(ranks[1], M, seed=3))  # fmt: skip


def loha_core(name: str = "h", alpha: float | None = 2.0) -> Tensors:
    return named(name, alpha, hada_t1=random(R, R, *KERNEL, falling=0), hada_w1_a=random(R, N, seed=1, falling=0),
                 hada_w1_b=random(R, M, seed=2), hada_t2=random(R, R, *KERNEL, seed=3, falling=0),
                 hada_w2_a=random(R, N, seed=4, falling=0), hada_w2_b=random(R, M, seed=5))  # fmt: skip


W1 = {"whole": {"lokr_w1": random(4, 4, seed=6)},
      "pair": {"lokr_w1_a": random(4, 2, seed=6), "lokr_w1_b": random(2, 4, seed=7)}}  # fmt: skip
W2 = {
    "whole": {"lokr_w2": random(16, 20, falling=1)},
    "pair": {"lokr_w2_a": random(16, R, falling=1), "lokr_w2_b": random(R, 20, seed=1)},
    "kernel": {"lokr_w2": random(16, 20, *KERNEL, falling=1)},
    "core": {"lokr_t2": random(R, R, *KERNEL, falling=0), "lokr_w2_a": random(R, 16, seed=1, falling=0),
             "lokr_w2_b": random(R, 20, seed=2)},
}  # fmt: skip
LAYOUTS = [(one, other) for one in W1 for other in W2]


def lokr(name: str = "k", alpha: float | None = 2.0, layout: tuple[str, str] = ("whole", "whole")) -> Tensors:
    return named(name, alpha, **W1[layout[0]], **W2[layout[1]])


def full(name: str = "d") -> Tensors:
    u, v = np.linalg.qr(random(N, N))[0], np.linalg.qr(random(M, N, seed=1))[0]
    return {f"{name}.diff": (u * np.geomspace(1, 1e-3, N) @ v.T).astype(np.float32)}


def saved(path: Path, tensors: Tensors) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, str(path))
    return path


def run(
    tmp_path: Path, tensors: Tensors, recipe: str, *, dtype: str = "32", convert: str = "none", base=None
) -> Outcome:
    style = Style(DTYPES[dtype], convert=convert)
    settings = Settings(
        recipes=parse_recipes(recipe), output=tmp_path / "out", base=base, style=style, threads=1, overwrite=True
    )
    source = saved(tmp_path / "x.safetensors", tensors)
    (outcome,) = resize([Source((Member(source),))], settings)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def delta(tensors: Tensors, name: str, rule=comfyui_type) -> Matrix:
    wide = {key: np.asarray(value, np.float64) for key, value in tensors.items()}
    found: Matrix = rule(layers_of(wide)[name], np.zeros((0, 0)))
    return found


KINDS = {"lora": lora("x"), "tucker": tucker("x"), "loha": loha("x"), "loha_core": loha_core("x"),
         "lokr": lokr("x"), "lokr_pair": lokr("x", layout=("whole", "pair")),
         "lokr_core": lokr("x", layout=("pair", "core")), "full": full("x")}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.mark.parametrize("recipe", ["sv_fro=0.9", "sv_cumulative=0.9", "sv_ratio=2", "retain=0.9"])
def test_trap_03_rank_1_is_enough_for_rank_1_and_dead_layers_go_however_weak_the_others_are(tmp_path, recipe) -> None:
    """No smallest rank of 2, and no smallest singular value in absolute numbers."""
    weak = {"w.lora_up.weight": random(N, 1) * np.float32(1e-5), "w.lora_down.weight": random(1, M) * np.float32(1e-5)}
    more = np.pad(weak["w.lora_up.weight"], ((0, 0), (0, 3))), np.pad(weak["w.lora_down.weight"], ((0, 3), (0, 0)))
    dead = {"d.lora_up.weight": np.zeros((N, R), np.float32), "d.lora_down.weight": random(R, M)}
    source = dead | {"w.lora_up.weight": more[0], "w.lora_down.weight": more[1]}
    outcome = run(tmp_path, source, recipe)
    assert {plan.name: plan.new_rank for plan in plan_of(outcome).layers} == {"d": 0, "w": 1}
    assert difference(delta(load(output(outcome)), "w"), delta(source, "w")) < 1e-6
    assert not any(key.startswith("d.") for key in load(output(outcome)))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_trap_13_a_convolution_is_the_matrix_of_outputs_and_flattened_inputs(tmp_path, rank) -> None:
    """Its best approximation of rank k is that matrix's, and what is lost is its singular values' tail."""
    source = {"x.lora_up.weight": random(N, R, 1, 1, falling=1), "x.lora_down.weight": random(R, M, *KERNEL, seed=1)}
    outcome = run(tmp_path, source, f"rank={rank}")
    matrix = delta(source, "x").reshape(N, -1)
    s = np.linalg.svd(matrix, compute_uv=False)
    lost = np.linalg.norm(delta(load(output(outcome)), "x").reshape(N, -1) - matrix)
    assert lost == pytest.approx(np.linalg.norm(s[rank:]), rel=1e-5)
    assert plan_of(outcome).layers[0].error_lora == pytest.approx(lost / np.linalg.norm(s), rel=1e-5)


def test_trap_15_nothing_stale_is_written_of_the_source(tmp_path) -> None:
    """Hash, alias, dimensions and PEFT's configuration are those of the new file, regardless of the source's."""
    stale = {
        "sshs_model_hash": "0" * 64,
        "sshs_legacy_hash": "0" * 8,
        "ss_output_name": "x",
        "ss_network_dim": "4",
        "ss_base_model_version": "sdxl_base_v1-0",
        "lora_adapter_metadata": json.dumps({"unet.r": R, "unet.lora_alpha": R, "unet.rank_pattern": {}}),
    }
    path = tmp_path / "x.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in lora("unet.x").items()}, str(path), metadata=stale)
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "out", threads=1)
    (outcome,) = resize([Source((Member(path),))], settings)
    made = output(outcome)
    content, metadata = made.read_bytes(), read_header(made).metadata
    start = 8 + int.from_bytes(content[:8], "little")
    assert metadata["sshs_model_hash"] == hashlib.sha256(content[start:]).hexdigest()
    assert metadata["sshs_legacy_hash"] != stale["sshs_legacy_hash"]
    assert metadata["ss_output_name"] == made.stem != "x"
    assert metadata["ss_network_dim"] == "2"
    assert metadata["ss_base_model_version"] == stale["ss_base_model_version"]
    configuration = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    assert configuration.get("unet.r", 2) == 2


def test_trap_23_a_layer_in_two_key_formats_is_not_summed(tmp_path) -> None:
    """Hosts load one of the two, so each stays a layer with its own delta, and the report says so."""
    name = "double_blocks.0.img_attn.proj"
    up, down = random(3072, R, falling=1), random(R, 3072, seed=1)
    flat = f"lora_unet_{name.replace('.', '_')}"
    source = {
        f"{flat}.lora_up.weight": up,
        f"{flat}.lora_down.weight": down,
        f"transformer.{name}.lora_B.weight": up[::-1].copy(),
        f"transformer.{name}.lora_A.weight": down,
    }
    outcome = run(tmp_path, source, "rank=4")
    assert any("in the file twice" in note for note in plan_of(outcome).notes)
    found = load(output(outcome))
    assert difference(delta(found, flat), delta(source, flat)) < 1e-6
    before, after = (
        one[f"transformer.{name}.lora_B.weight"].astype(np.float64) @ one[f"transformer.{name}.lora_A.weight"]
        for one in (source, found)
    )
    assert difference(after, before) < 1e-6


@rules
@kinds
@pytest.mark.parametrize("rank", [1, 3])
def test_trap_01_no_kind_changes_its_strength_with_its_rank(tmp_path, kind, rank, rule) -> None:
    """A new rank with an old alpha would scale the delta: what is kept has the norm that the plan says."""
    outcome = run(tmp_path, KINDS[kind], f"rank={rank}")
    before, after = delta(KINDS[kind], "x", rule), delta(load(output(outcome)), "x", rule)
    (plan,) = plan_of(outcome).layers
    assert difference(after, before) == pytest.approx(plan.error_lora, abs=3e-6)
    if kind not in ("loha", "loha_core"):  # its truncation is no projection
        kept = np.linalg.norm(after) / np.linalg.norm(before)
        assert kept == pytest.approx(np.sqrt(1 - plan.error_lora**2), abs=1e-5)


@rules
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_trap_02_a_core_shrinks_with_its_rank_and_stays_square(tmp_path, rank, rule) -> None:
    found = load(output(run(tmp_path, tucker(), f"rank={rank}")))
    assert found["t.lora_mid.weight"].shape == (rank, rank, *KERNEL)
    assert found["t.lora_up.weight"].shape == (N, rank, 1, 1)
    assert found["t.lora_down.weight"].shape == (rank, M, 1, 1)
    assert np.isfinite(delta(found, "t", rule)).all()


@pytest.mark.parametrize("mid", [(3, 5), (5, 3)])
def test_trap_02_a_core_that_is_not_square_is_written_square(tmp_path, mid) -> None:
    """ComfyUI and Forge load no other; A1111 does."""
    source = tucker(mid=mid)
    found = load(output(run(tmp_path, source, "retain=1")))
    assert found["t.lora_mid.weight"].shape[0] == found["t.lora_mid.weight"].shape[1]
    assert difference(delta(found, "t"), delta(source, "t", a1111_type)) < 2e-6


@kinds
def test_trap_04_a_layer_that_goes_leaves_no_key_behind(tmp_path, kind) -> None:
    zero = {key: value * (0 if "alpha" not in key else 1) for key, value in KINDS[kind].items()}
    found = load(
        output(run(tmp_path, {key: np.asarray(v, np.float32) for key, v in zero.items()} | lora("y"), "rank=2"))
    )
    assert {key.partition(".")[0] for key in found} == {"y"}


def test_trap_04_a_bias_keeps_its_layer_alive(tmp_path) -> None:
    """A lone diff_b makes A1111 and diffusers refuse the whole file."""
    weak = {key: value * np.float32(1e-6) for key, value in full("weak").items()}
    source = weak | {"weak.diff_b": random(N)} | lora("strong")
    found = load(output(run(tmp_path, source, "params,thr=-2")))
    assert {"weak.lora_up.weight", "weak.lora_down.weight", "weak.diff_b"} <= set(found)
    np.testing.assert_array_equal(found["weak.diff_b"], random(N))


@kinds
def test_trap_05_magnitudes_stay_byte_for_byte_and_alpha_is_the_rank(tmp_path, kind) -> None:
    for shape in ((N if kind[:4] != "lokr" else 64, 1), (1, M if kind[:4] != "lokr" else 80)):
        magnitude = np.abs(random(*shape)).astype(np.float16)
        found = load(output(run(tmp_path, KINDS[kind] | {"x.dora_scale": magnitude}, "rank=2")))
        np.testing.assert_array_equal(found["x.dora_scale"], magnitude)
        if "x.alpha" in found:
            assert float(found["x.alpha"]) == 2.0


@rules
@pytest.mark.parametrize("layout", LAYOUTS, ids=" ".join)
@pytest.mark.parametrize("recipe", ["rank=1", "rank=2", "retain=1"])
def test_trap_06_lokr_alpha_follows_its_rule_in_every_layout(tmp_path, layout, recipe, rule) -> None:
    """Divided by the rows of w2_b, else of w1_b, else ignored: factoring a whole w2 turns it on."""
    source = lokr(alpha=0.5, layout=layout)
    outcome = run(tmp_path, source, recipe)
    found = load(output(outcome))
    error = difference(delta(found, "k", rule), delta(source, "k", rule))
    assert error == pytest.approx(plan_of(outcome).layers[0].error_lora, abs=3e-6)


def test_trap_06_factoring_a_whole_w2_writes_alpha_as_its_new_rank(tmp_path) -> None:
    found = load(output(run(tmp_path, lokr(alpha=7.0), "rank=2")))
    assert found["k.lokr_w2_b"].shape == (2, 20)
    assert float(found["k.alpha"]) == 2.0
    np.testing.assert_array_equal(found["k.lokr_w1"], W1["whole"]["lokr_w1"])


def test_trap_06_a_w2_that_factors_would_not_make_smaller_stays_whole_and_the_plan_reports_it(tmp_path) -> None:
    outcome = run(tmp_path, lokr(), "rank=12")
    found = load(output(outcome))
    np.testing.assert_array_equal(found["k.lokr_w2"], W2["whole"]["lokr_w2"])
    assert plan_of(outcome).layers[0].error_lora == 0
    assert any("kept in full" in note for note in plan_of(outcome).notes)


def test_trap_06_a_loha_applies_its_scale_once(tmp_path) -> None:
    source = loha(alpha=1.0)
    parts = {key.partition(".")[2]: value.astype(np.float64) for key, value in source.items()}
    by_hand = 1 / R * (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    found = load(output(run(tmp_path, source, "retain=1")))
    assert difference(delta(found, "h"), by_hand) < 2e-6


@rules
def test_trap_07_the_outer_factors_of_a_core_are_transposed(tmp_path, rule) -> None:
    found = load(output(run(tmp_path, loha_core(), "rank=2")))
    assert found["h.hada_w1_a"].shape == (2, N)
    assert found["h.hada_w1_b"].shape == (2, M)
    assert found["h.hada_t2"].shape == (2, 2, *KERNEL)
    assert np.isfinite(delta(found, "h", rule)).all()


@pytest.mark.parametrize("convert", ["none", "lora"])
def test_trap_07_a_kernel_that_a_file_hides_is_found_by_its_layers_name(tmp_path, convert) -> None:
    """LoHa and LoKr flatten it into their columns; SDXL's tables know it."""
    name = "lora_unet_input_blocks_1_0_in_layers_2"
    size = (320, 320 * 9)
    conv = named(name, 1.0, hada_w1_a=random(size[0], 2), hada_w1_b=random(2, size[1], seed=1),
                 hada_w2_a=random(size[0], 2, seed=2), hada_w2_b=random(2, size[1], seed=3))  # fmt: skip
    other = {key.replace("l.", "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q."): value
             for key, value in named("l", 1.0, lora_up__weight=random(1280, 2),
                                     lora_down__weight=random(2, 1280, seed=1)).items()}  # fmt: skip
    outcome = run(tmp_path, conv | other, "rank=2,max_conv_rank=1", convert=convert)
    ranks = {plan.name: plan.new_rank for plan in plan_of(outcome).layers}
    assert ranks[name] == 1
    if convert == "lora":
        assert load(output(outcome))[f"{name}.lora_down.weight"].shape == (1, 320, 3, 3)


@pytest.mark.parametrize("marker", ["oft_blocks", "oft_diag"])
def test_trap_08_an_oft_constraint_is_no_alpha_and_is_carried(tmp_path, marker) -> None:
    rotation = {f"r.{marker}": random(6, 4, 4), "r.alpha": np.array(0.25, np.float32), "r.rescale": random(N, 1)}
    outcome = run(tmp_path, lora() | rotation, "rank=1")
    found = load(output(outcome))
    for key, value in rotation.items():
        np.testing.assert_array_equal(found[key], value)
    assert not any("without factors" in note for note in plan_of(outcome).notes)


def test_trap_09_glora_and_ia3_need_the_base(tmp_path) -> None:
    glora = {f"g.{role}.weight": random(*shape) for role, shape in
             {"a1": (M, R), "a2": (R, M), "b1": (N, R), "b2": (R, M)}.items()}  # fmt: skip
    with pytest.raises(UnsupportedError, match="base model's weights"):
        run(tmp_path, glora | lora(), "rank=1")
    ia3 = {"i.weight": random(N), "i.on_input": np.zeros((), np.float32)}
    found = load(output(run(tmp_path, ia3 | lora(), "rank=1")))
    np.testing.assert_array_equal(found["i.weight"], ia3["i.weight"])


@kinds
def test_trap_12_layers_of_zeros_and_of_nan_are_distinguished(tmp_path, kind) -> None:
    zero = {key: np.zeros_like(value) if "alpha" not in key else value for key, value in KINDS[kind].items()}
    outcome = run(tmp_path, zero | lora("y"), "fro_lora=1,min_rank=1,retain=0.9")
    assert plan_of(outcome).zero == plan_of(outcome).dropped == ("x",)
    for damage in (np.nan, np.inf):
        for key in KINDS[kind]:
            broken = {name: value.copy() for name, value in KINDS[kind].items()}
            if broken[key].ndim:
                broken[key].reshape(-1)[0] = damage
                with pytest.raises(LayerError, match="x"):
                    run(tmp_path, broken | lora("y"), "rank=2")


@rules
def test_trap_16_kinds_share_a_file_each_with_the_alpha_of_its_own_rule(tmp_path, rule) -> None:
    """LoRA layers have one alpha; the alphas of others are no concern of diffusers, which loads none of them."""
    source = lora("a") | lora("b", seed=5) | loha("h") | lokr("k")
    outcome = run(tmp_path, source, "spn_lora=1,min_rank=1,thr=-0.4")
    found = load(output(outcome))
    assert float(found["a.alpha"]) == float(found["b.alpha"])
    for plan in plan_of(outcome).layers:
        error = difference(delta(found, plan.name, rule), delta(source, plan.name, rule))
        assert error == pytest.approx(plan.error_lora, abs=3e-6)


@rules
def test_trap_17_a_rank_stabilised_scale_is_in_the_alpha_and_goes_into_the_factors(tmp_path, rule) -> None:
    """LyCORIS writes alpha * sqrt(rank), so that plain readers apply alpha / sqrt(rank)."""
    source = lora(alpha=8.0 * np.sqrt(R))
    found = load(output(run(tmp_path, source, "retain=1")))
    assert difference(delta(found, "l", rule), delta(source, "l", rule)) < 2e-6


@kinds
@pytest.mark.parametrize("strength", [1e-4, 1.0, 300.0])
def test_trap_18_numbers_fit_float16_however_the_source_spreads_them(tmp_path, kind, strength) -> None:
    """One factor tiny and its partner huge is balanced; hosts multiply in float16."""
    source = {key: value.copy() for key, value in KINDS[kind].items()}
    first, *others = [key for key in source if source[key].ndim]
    source[first] = source[first] * np.float32(strength * (1e4 if others else 1))
    if others:
        source[others[-1]] = source[others[-1]] * np.float32(1e-4)
    found = load(output(run(tmp_path, source, "retain=1", dtype="16")))
    true = delta(source, "x")
    finest = 2**-25 * np.sqrt(N * M) / np.linalg.norm(true) if kind == "full" else 0.0  # has no factors to balance
    assert difference(delta(found, "x"), true) < 2e-3 + finest
    assert all(np.abs(value).max() < 6e4 for value in found.values())


@pytest.mark.parametrize("kind", ["lora", "lokr", "lokr_pair", "full", "loha"])
def test_trap_19_the_first_dimensions_are_the_strongest(tmp_path, kind) -> None:
    """Of a file at rank 3, the first column is the file at rank 1."""
    roles = {"lora": ("lora_up.weight", "lora_down.weight"), "full": ("lora_up.weight", "lora_down.weight"),
             "loha": ("hada_w1_a", "hada_w1_b")}  # fmt: skip
    up, down = roles.get(kind, ("lokr_w2_a", "lokr_w2_b"))
    one, three = (load(output(run(tmp_path, KINDS[kind], f"rank={rank}"))) for rank in (1, 3))
    first = np.outer(three[f"x.{up}"][:, 0], three[f"x.{down}"][0])
    alone = np.outer(one[f"x.{up}"][:, 0], one[f"x.{down}"][0])
    assert abs(np.vdot(first, alone)) / np.linalg.norm(first) / np.linalg.norm(alone) > 1 - 1e-6


def test_trap_21_embeddings_norms_and_biases_are_copied_and_forges_limit_is_reported(tmp_path) -> None:
    others = {f"bundle_emb.word{i}.{part}": random(2, 8, seed=i) for i in range(7) for part in ("clip_l", "clip_g")}
    others |= {"n.w_norm": random(8), "n.b_norm": random(8), "l.diff_b": random(N)}
    outcome = run(tmp_path, lora() | others, "rank=1")
    found = load(output(outcome))
    for key, value in others.items():
        np.testing.assert_array_equal(found[key], value)
    assert any("Forge" in note and "14" in note for note in plan_of(outcome).notes)
    assert any("Forge" in warning for warning in describe(tmp_path / "x.safetensors").warnings)


def test_the_hosts_rules_of_oft_differ_where_the_table_says(tmp_path) -> None:
    """The limit is alpha times the outputs in A1111, alpha alone in ComfyUI, which leaves rescale out as well."""
    weight = random(8, 6).astype(np.float64)
    tensors = {"r.oft_blocks": random(2, 4, 4).astype(np.float64) * 5, "r.alpha": np.array(0.1),
               "r.rescale": np.full((8, 1), 2.0)}  # fmt: skip
    theirs = [rule(tensors, "", {"r": weight})["r"] for rule in (a1111_layers, comfyui_layers)]
    assert difference(theirs[0], theirs[1]) > 0.1
    assert np.linalg.norm(theirs[1] + weight) == pytest.approx(np.linalg.norm(weight))
    assert np.linalg.norm(theirs[0] + weight) == pytest.approx(2 * np.linalg.norm(weight))


# Control-LoRA and its kin -----------------------------------------------------------------------------------


def control(marker: bool = True) -> Tensors:
    tensors = {
        "input_blocks.1.1.proj_in.up": random(N, R),
        "input_blocks.1.1.proj_in.down": random(R, M, seed=1),
        "input_blocks.1.0.in_layers.2.up": random(N, R, 1, 1),
        "input_blocks.1.0.in_layers.2.down": random(R, M, 3, 3, seed=1),
        "input_blocks.1.0.in_layers.2.bias": random(N),
        "input_blocks.0.0.weight": random(8, 4, 3, 3),
        "zero_convs.0.0.weight": random(8, 8, 1, 1),
    }
    return tensors | ({"lora_controlnet": np.zeros(0, np.float32)} if marker else {})


def bare_delta(tensors: Tensors, name: str) -> Matrix:
    """up @ down, both flattened, with no scale at all (Forge, diffusers)."""
    up, down = tensors[f"{name}.up"], tensors[f"{name}.down"]
    return np.asarray(up.reshape(len(up), -1) @ down.reshape(len(down), -1))


def test_a_control_lora_is_resized_under_its_own_names(tmp_path) -> None:
    source = control()
    outcome = run(tmp_path, source, "rank=2", dtype="16")
    found = load(output(outcome))
    assert set(found) == set(source)
    for key, value in source.items():
        if not key.endswith((".up", ".down")):
            np.testing.assert_array_equal(found[key], value)
    for plan in plan_of(outcome).layers:
        before, after = (bare_delta(one, plan.name) for one in (source, found))
        assert difference(after, before) == pytest.approx(plan.error_lora, abs=1e-3)
    assert "Control-LoRA" in describe(tmp_path / "x.safetensors").kind


def test_bare_factors_without_the_marker_are_refused(tmp_path) -> None:
    bare = {key: value for key, value in control(marker=False).items() if key.endswith((".up", ".down"))}
    with pytest.raises(UnsupportedError, match="lora_controlnet"):
        run(tmp_path, bare, "rank=2")


def test_a_control_lora_has_no_name_in_kohyas_key_format(tmp_path) -> None:
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "out", style=Style(kohya=True), threads=1)
    (outcome,) = resize([Source((Member(saved(tmp_path / "x.safetensors", control())),))], settings)
    assert "its own key format" in str(outcome.error)


def test_a_flux_control_lora_keeps_its_norms_and_biases(tmp_path) -> None:
    block = "double_blocks.0.img_attn"
    source = {
        f"{block}.qkv.lora_A.weight": random(R, M),
        f"{block}.qkv.lora_B.weight": random(N, R, seed=1),
        f"{block}.qkv.lora_B.bias": random(N, seed=2),
        f"{block}.norm.query_norm.scale": random(8, seed=3),
        "img_in.lora_A.weight": random(R, 128, seed=4),
        "img_in.lora_B.weight": random(N, R, seed=5),
        "img_in.lora_B.bias": random(N, seed=6),
    }
    found = load(output(run(tmp_path, source, "rank=2")))
    assert set(found) == set(source)
    for key in source:
        if not key.endswith((".lora_A.weight", ".lora_B.weight")):
            np.testing.assert_array_equal(found[key], source[key])


@pytest.mark.parametrize(
    "keys",
    [
        ["double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight", "ip_adapter_proj_model.proj.weight"],
        ["image_proj.proj.weight", "ip_adapter.0.to_q_lora.down.weight", "ip_adapter.0.to_q_lora.up.weight"],
    ],
)
def test_ip_adapters_are_distinguished_from_loras_and_from_checkpoints(tmp_path, keys) -> None:
    with pytest.raises(UnsupportedError, match="holds IP-Adapter"):
        run(tmp_path, {key: random(R, R) for key in keys}, "rank=2")


def test_what_is_next_to_a_lora_is_called_by_its_name(tmp_path) -> None:
    """A sparse residual, and OneTrainer's marker of an OFT."""
    sparse = {"x.bias_indices": np.array([[1, 2]], np.int16), "x.bias_values": random(2), "x.bias_size": random(1)}
    oft = {"y.oft_R.weight": random(4, 28), "y.oft_R.scaled_oft": random(1)}
    outcome = run(tmp_path, lora("x") | sparse | oft, "rank=2")
    assert dict(plan_of(outcome).copied) == dict.fromkeys(sparse, "sparse bias") | dict.fromkeys(oft, "OFT")
    found = load(output(outcome))
    assert all(np.array_equal(found[key], value) for key, value in (sparse | oft).items())


@pytest.mark.parametrize("suffix", ["lora_magnitude_vector", "lora_magnitude_vector.weight", "magnitude"])
def test_trap_05_magnitudes_of_peft_belong_to_outputs_in_any_shape(tmp_path, suffix) -> None:
    """PEFT writes (1, out, 1, 1) for a convolution, which elsewhere would be a magnitude for each input."""
    base, weight = base_file(tmp_path, "x", (N, N, *KERNEL))
    source = {
        "diffusion_model.x.lora_A.weight": random(R, N, *KERNEL, seed=1),
        "diffusion_model.x.lora_B.weight": random(N, R, 1, 1, seed=2, falling=1),
        f"diffusion_model.x.{suffix}": random(1, N, 1, 1, seed=3) + 9.0,
    }
    outcome = run(tmp_path, source, "rank=2", base=base)
    found, names = load(output(outcome)), ("B", "A")
    magnitude = source[f"diffusion_model.x.{suffix}"].astype(np.float64).reshape(N, 1)

    def applied(tensors: Tensors) -> Matrix:
        up, down = (tensors[f"diffusion_model.x.lora_{end}.weight"].astype(np.float64) for end in names)
        v = weight + up.reshape(N, -1) @ down.reshape(len(down), -1)
        scaled: Matrix = magnitude * v / np.linalg.norm(v, axis=1, keepdims=True)
        return scaled

    before, after = applied(source), applied(found)
    (plan,) = plan_of(outcome).layers
    assert plan.error_lora == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before - weight), rel=1e-4)


def test_magnitudes_that_fit_no_side_are_reported_by_layer(tmp_path) -> None:
    base, _ = base_file(tmp_path, "x", (N, M))
    source = {key.replace("x.", "lora_unet_x."): value for key, value in lora("x").items()}
    with pytest.raises(LayerError, match=r"lora_unet_x: it has DoRA magnitudes \(23, 1\) for a weight of 24 outputs"):
        run(tmp_path, source | {"lora_unet_x.dora_scale": random(N - 1, 1)}, "rank=2", base=base)


# PEFT's own -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr whole"])
def test_pefts_loha_and_lokr_apply_alpha_over_rank_always(tmp_path, kind) -> None:
    """Even a LoKr in full, whose alpha all other readers ignore: the configuration's scale is folded in."""
    peft = pytest.importorskip("peft")
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 48, bias=False))
    whole = {"rank_dropout": 0.0} | ({"decompose_factor": 4} if kind != "LoHa" else {})
    config = (peft.LoHaConfig if kind == "LoHa" else peft.LoKrConfig)(
        r=16 if kind == "LoKr whole" else 4, alpha=8, target_modules=["0"], init_weights=False, **whole
    )
    wrapped = peft.get_peft_model(model, config)
    with torch.no_grad():
        true = wrapped.base_model.model[0].get_delta_weight("default").double().numpy()
    wrapped.save_pretrained(str(tmp_path / "peft"))
    settings = Settings(
        recipes=parse_recipes("retain=1"), output=tmp_path / "out", style=Style("F32", convert="none"), threads=1
    )
    (outcome,) = resize([Source((Member(tmp_path / "peft" / "adapter_model.safetensors"),))], settings)
    assert outcome.error is None, outcome.error
    tensors = {key.replace("base_model.model.0.", "x."): value for key, value in load(output(outcome)).items()}
    assert difference(delta(tensors, "x"), true) < 2e-6


def _made_by_peft(folder: Path, config) -> Path:
    """What PEFT saves of a network of one Linear under it."""
    import peft
    import torch

    torch.manual_seed(0)
    wrapped = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(48, 48)), config)
    with torch.no_grad():
        for values in wrapped.parameters():
            if values.requires_grad and values.is_floating_point():
                values.normal_()
    wrapped.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors"


PEFT_ALONE = {
    "AdaLoraConfig": ("AdaLoRA", {"init_r": 4, "target_r": 2, "total_step": 100}),
    "VeraConfig": ("VeRA", {"r": 4}),
    "FourierFTConfig": ("FourierFT", {"n_frequency": 20}),
    "HRAConfig": ("HRA", {"r": 4}),
    "MissConfig": ("MiSS", {"r": 4}),
    "VBLoRAConfig": ("VB-LoRA", {"r": 4, "num_vectors": 8, "vector_length": 16}),
    "RandLoraConfig": ("RandLoRA", {"r": 4}),
    "C3AConfig": ("C3A", {"block_size": 16}),
    "ShiraConfig": ("SHiRA", {"r": 4}),
    "DeloraConfig": ("DeLoRA", {"r": 4}),
    "GraloraConfig": ("GraLoRA", {"r": 4}),
    "WaveFTConfig": ("WaveFT", {"n_frequency": 20}),
    "RoadConfig": ("RoAd", {"group_size": 16}),
    "HiraConfig": ("HiRA", {"r": 4}),
    "GloraConfig": ("PEFT's GLoRA", {"r": 4}),
}
"""Configuration -> what its method is called, and what it needs."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("config", PEFT_ALONE)
def test_what_peft_alone_reads_is_refused_by_its_name(tmp_path, config) -> None:
    """AdaLoRA above all: it has a lora_A and a lora_B, whose product is not its delta."""
    peft = pytest.importorskip("peft")
    name, options = PEFT_ALONE[config]
    path = _made_by_peft(tmp_path / "peft", getattr(peft, config)(target_modules=["0"], **options))
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "out", threads=1)
    (outcome,) = resize([Source((Member(path),))], settings)
    assert isinstance(outcome.error, UnsupportedError)
    assert f"holds {name} (" in str(outcome.error)
    assert "base_model" in str(outcome.error)
    assert "merge it into the model with PEFT" in str(outcome.error)
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_a_configuration_that_makes_another_product_of_up_and_down_is_refused(tmp_path) -> None:
    """BD-LoRA writes what looks like a LoRA of a layer with fewer inputs."""
    peft = pytest.importorskip("peft")
    blocks = peft.BdLoraConfig(target_modules_bd_a=["0"], nblocks=2)
    path = _made_by_peft(tmp_path / "peft", peft.LoraConfig(r=4, target_modules=["0"], use_bdlora=blocks))
    settings = Settings(recipes=parse_recipes("rank=2"), output=tmp_path / "out", threads=1)
    (outcome,) = resize([Source((Member(path),))], settings)
    assert isinstance(outcome.error, UnsupportedError)
    assert "use_bdlora" in str(outcome.error)


def test_a_tensor_of_lora_that_we_do_not_know_is_not_left_out_of_the_delta(tmp_path) -> None:
    with pytest.raises(UnsupportedError, match=r"LoRA with further tensors .*x\.lora_diag"):
        run(tmp_path, lora("x") | {"x.lora_diag": random(R)}, "rank=2")


# Recipes ----------------------------------------------------------------------------------------------------


def base_file(tmp_path: Path, name: str, shape: tuple[int, ...]) -> tuple[Path, Matrix]:
    weight = random(*shape, seed=11)
    path = saved(tmp_path / "base.safetensors", {f"diffusion_model.{name}.weight": weight})
    return path, weight.reshape(len(weight), -1).astype(np.float64)


SIZES = {"lora": (N, M), "tucker": (N, M, *KERNEL), "loha": (N, M), "loha_core": (N, M, *KERNEL),
         "lokr": (64, 80), "lokr_pair": (64, 80), "lokr_core": (64, 80, *KERNEL), "full": (N, M)}  # fmt: skip


def unet(kind: str) -> Tensors:
    """Under a name that has a partner in the base."""
    return {key.replace("x.", "lora_unet_x."): value for key, value in KINDS[kind].items()}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("recipe", ["subspace=1,min_rank=2,thr=9", "fro_ckpt=1,thr=-1.5", "spn_ckpt=1,size=0.008"])
def test_scores_against_the_base_choose_among_the_dimensions_of_every_kind(tmp_path, kind, recipe) -> None:
    base, _ = base_file(tmp_path, "x", SIZES[kind])
    outcome = run(tmp_path, unet(kind), recipe, base=base)
    (plan,) = plan_of(outcome).layers
    assert plan.new_rank >= 1
    before, after = delta(unet(kind), "lora_unet_x"), delta(load(output(outcome)), "lora_unet_x")
    assert difference(after, before) == pytest.approx(plan.error_lora, abs=3e-6)
    assert plan.error_ckpt is not None


@pytest.mark.parametrize("kind", SIZES)
def test_the_subspace_of_a_dimension_is_its_inner_product_with_the_base(tmp_path, kind) -> None:
    """``|<D_j, W>| / |D_j|``, D_j being what the j-th dimension adds."""
    weight = random(*SIZES[kind], seed=11).reshape(SIZES[kind][0], -1)
    with SafeFile(saved(tmp_path / "x.safetensors", KINDS[kind])) as file:
        (layer,) = read_adapter(file).layers
        solved = layer.form.decompose(NumpyArrays())
        found, mirrored = (
            layer.form.base_alignment(
                solved, Stored(np.ascontiguousarray(w), "F32"), NumpyArrays(), transposed=transposed
            )
            for w, transposed in ((weight, False), (weight.T, True))
        )
        parts = [np.zeros_like(weight), *(_truncation(layer.form, solved, k) for k in range(1, 4))]
    for j in range(3):
        step = (parts[j + 1] - parts[j]).astype(np.float64)
        assert found[j] == pytest.approx(abs(np.vdot(step, weight)) / np.linalg.norm(step), rel=2e-3)
        assert mirrored[j] == pytest.approx(found[j], rel=1e-5)


def _truncation(form, solved, k: int) -> np.ndarray:
    found: np.ndarray = form.full(form.values(WriteSpec(solved, np.arange(k), NumpyArrays())))
    return found


def glora(name: str, old: bool) -> Tensors:
    """A convolution; the old layout has its pairs the other way round."""
    a, b = (random(M, R, 1, 1), random(R, M, 1, 1, seed=1)), (random(N, R, 1, 1, seed=2), random(R, M, *KERNEL, seed=3))
    first, second = (1, 0) if old else (0, 1)
    return named(name, 2.0, a1__weight=a[first], a2__weight=a[second], b1__weight=b[first], b2__weight=b[second])


@pytest.mark.parametrize("old", [False, True])
def test_the_subspace_of_glora_is_that_of_what_its_two_parts_add_together(tmp_path, old) -> None:
    """``b_j + W a_j``, the old layout being the new one's mirror; factors as they are written, alpha aside."""
    base, wide = base_file(tmp_path, "x", (N, M, *KERNEL))
    weight = Stored(wide.astype(np.float32), "F32")
    with SafeFile(saved(tmp_path / "x.safetensors", glora("lora_unet_x", old))) as file:
        (layer,) = read_adapter(file).layers
        solved = layer.form.decompose(NumpyArrays(), weight)
        found = layer.form.base_alignment(solved, weight, NumpyArrays(), transposed=False)
        mirror = Stored(np.ascontiguousarray(weight.bits.T), "F32")
        mirrored = layer.form.base_alignment(solved, mirror, NumpyArrays(), transposed=True)
        values = layer.form.values(WriteSpec(solved, np.arange(R), NumpyArrays(), base=weight))
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    a_up, a_down, b_up, b_down = (values[name].astype(np.float64) for name in names)
    taps = np.moveaxis(wide.reshape(N, M, -1), 2, 1)
    for j in range(R):
        through = np.moveaxis(taps @ np.outer(a_up[:, j], a_down[j]), 1, 2).reshape(N, -1)
        step = np.outer(b_up[:, j], b_down[j]) + through
        assert found[j] == pytest.approx(abs(np.vdot(step, wide)) / np.linalg.norm(step), rel=1e-4)
    np.testing.assert_allclose(mirrored, found, rtol=1e-5)
    assert run(tmp_path, glora("lora_unet_x", old), "subspace=1,min_rank=2,thr=9", base=base).plan is not None


def test_a_rank_of_loha_that_another_represents_has_no_subspace(tmp_path) -> None:
    """A second dimension that only makes the product worse is never written, so nothing is measured along it."""
    first, second = random(N, 2, falling=1), random(2, M, seed=1)
    sides = {"hada_w1_a": first, "hada_w1_b": second, "hada_w2_a": first[:, :1], "hada_w2_b": second[:1]}
    source = {key.replace("x.", "lora_unet_x."): value for key, value in named("x", None, **sides).items()}
    _, wide = base_file(tmp_path, "x", (N, M))
    with SafeFile(saved(tmp_path / "x.safetensors", source)) as file:
        (layer,) = read_adapter(file).layers
        solved = layer.form.decompose(NumpyArrays())
        assert isinstance(solved, LohaSpectrum)
        solved = replace(solved, written_ranks=np.array([0, 1, 1]))
        found = layer.form.base_alignment(
            solved, Stored(wide.astype(np.float32), "F32"), NumpyArrays(), transposed=False
        )
    assert found[0] > 0
    assert found[1] == 0


@kinds
def test_a_recipe_that_rescales_does_so_in_every_kind(tmp_path, kind) -> None:
    found = load(output(run(tmp_path, KINDS[kind], "rescale=0.5,fro_lora=1,retain=1")))
    assert difference(delta(found, "x"), 0.5 * delta(KINDS[kind], "x")) < 3e-6


@kinds
def test_same_keeps_the_numbers_dtype_of_every_kind(tmp_path, kind) -> None:
    half = {key: value.astype(np.float16) if "alpha" not in key else value for key, value in KINDS[kind].items()}
    outcome = run(tmp_path, half, "rank=2", dtype="same")
    entries = read_header(output(outcome)).entries
    assert {entry.dtype for key, entry in entries.items() if "alpha" not in key} == {"F16"}


@pytest.mark.parametrize("kind", ["tucker", "loha", "lokr"])
def test_float8_is_for_loras_and_the_refusal_names_a_remedy(tmp_path, kind) -> None:
    with pytest.raises(UnsupportedError, match="--convert lora"):
        run(tmp_path, KINDS[kind], "rank=2", dtype="8")
    found = load(output(run(tmp_path, KINDS[kind], "rank=2", dtype="8", convert="lora")))
    assert np.isfinite(delta(found, "x")).all()


@kinds
def test_the_size_that_was_promised_holds_for_every_kind(tmp_path, kind) -> None:
    source = KINDS[kind] | lora("y")
    for mib in (0.003, 0.005, 0.01):
        outcome = run(tmp_path, source, f"fro_lora=1,size={mib}", dtype="16", convert="auto")
        assert output(outcome).stat().st_size <= mib * (1 << 20)
        assert output(outcome).stat().st_size == plan_of(outcome).bytes_after


@kinds
def test_retention_that_was_asked_for_is_kept_in_every_kind(tmp_path, kind) -> None:
    for share in (0.5, 0.8, 0.95):
        outcome = run(tmp_path, KINDS[kind], f"retain={share}")
        error = difference(delta(load(output(outcome)), "x"), delta(KINDS[kind], "x"))
        assert np.sqrt(max(0.0, 1 - error**2)) >= share - 1e-6
        assert plan_of(outcome).retention >= share - 1e-9
