"""A merge has one layer for each weight, with the sum of all files, in any key format.

The judge is ComfyUI's rule, restated: a model's weights have names, each name in a LoRA belongs to one weight,
``diff`` and ``w_norm`` are added to a weight, ``diff_b`` and ``b_norm`` to a bias. It fails where a file holds a weight
twice, or a key that belongs to none.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from lib_resize.adapters.forms.form import Form
from lib_resize.adapters.merge import merge as module
from lib_resize.adapters.write.style import Style
from tests.adapters.lorafiles import delta, factors, kohya, relative, tensors_of, write
from tests.adapters.test_resize_file import resized, run

WAN, WAN_OWN = "blocks.0.self_attn.q", "blocks.0.attn1.to_q"
Tensors = dict[str, np.ndarray]
AB, UPDOWN = (".lora_B.weight", ".lora_A.weight"), (".lora_up.weight", ".lora_down.weight")

SPELLINGS: Mapping[str, tuple[str, str, tuple[str, str]]] = {
    "kohya": ("lora_unet_", "_", UPDOWN),
    "Wan-Fun": ("lora_unet__", "_", UPDOWN),
    "LyCORIS": ("lycoris_", "_", UPDOWN),
    "ComfyUI": ("diffusion_model.", ".", AB),
    "ComfyUI with kohya's suffixes": ("diffusion_model.", ".", UPDOWN),
    "the checkpoint's own": ("model.diffusion_model.", ".", AB),
    "bare": ("", ".", AB),
    "PEFT": ("base_model.model.", ".", (".lora_B.default.weight", ".lora_A.default.weight")),
    "PEFT around a model": ("base_model.model.diffusion_model.", ".", AB),
}


def spelled(words: str, spelling: str, seed: int, size: tuple[int, int] = (24, 16), rank: int = 4) -> Tensors:
    prefix, dot, suffixes = SPELLINGS[spelling]
    stem = prefix + words.replace(".", dot)
    return {f"{stem}{suffix}": part for suffix, part in zip(suffixes, factors(*size, rank, seed), strict=True)}


def true(*seeds: int, size: tuple[int, int] = (24, 16), rank: int = 4) -> np.ndarray:
    found: np.ndarray = sum(up.astype(float) @ down for up, down in (factors(*size, rank, seed) for seed in seeds))
    return found


def applied(tensors: Tensors, weights: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """What is added to each weight of a model by ComfyUI's rule; `weights` are names in the model, with shapes."""
    names: dict[str, str] = {}
    for weight in weights:
        flat = weight.replace(".", "_")
        names |= dict.fromkeys((weight, f"diffusion_model.{weight}", f"lora_unet_{flat}", f"lycoris_{flat}"), weight)
        names |= dict.fromkeys((f"base_model.model.{weight}", f"base_model.model.diffusion_model.{weight}"), weight)
        names |= dict.fromkeys((f"lora_unet__{flat}", f"model.diffusion_model.{weight}"), weight)
    found: dict[str, np.ndarray] = {}
    stems: dict[str, str] = {}
    used = set()
    for stem, weight in names.items():
        ups = [key for key in tensors if key.startswith((f"{stem}.lora_up", f"{stem}.lora_B"))]
        vectors = {f"{stem}{end}": goal for end, goal in
                   ((".diff", ""), (".w_norm", ""), (".diff_b", " bias"), (".b_norm", " bias"))}  # fmt: skip
        for up in ups:
            down = up.replace("lora_up", "lora_down").replace("lora_B", "lora_A")
            alpha = float(tensors.get(f"{stem}.alpha", np.array(len(tensors[down]))).reshape(()))
            assert weight not in found, f"{weight} is there as {stems[weight]} and as {stem}"
            found[weight], stems[weight] = alpha / len(tensors[down]) * tensors[up] @ tensors[down], stem
            used |= {up, down, f"{stem}.alpha"}
        for key, goal in vectors.items():
            if key in tensors:
                assert weight + goal not in found, f"{weight + goal} is there twice"
                found[weight + goal] = tensors[key]
                used.add(key)
    assert used >= tensors.keys(), f"no host reads {sorted(tensors.keys() - used)}"
    return found


def merged(folder: Path, *files: Tensors, strengths: tuple[float, ...] = (), recipe: str = "rank=999", **settings):
    strengths = strengths or (1.0,) * len(files)
    paths = [write(folder / f"x{i}.safetensors", tensors) for i, tensors in enumerate(files)]
    return resized(",".join(f"{path}:{strength:g}" for path, strength in zip(paths, strengths, strict=True)),
                   recipe, style=Style("F32"), **settings)  # fmt: skip


def refusal(folder: Path, *files: Tensors, strengths: tuple[float, ...] = ()) -> str:
    strengths = strengths or (1.0,) * len(files)
    paths = [write(folder / f"x{i}.safetensors", tensors) for i, tensors in enumerate(files)]
    (outcome,) = run(",".join(f"{path}:{strength:g}" for path, strength in zip(paths, strengths, strict=True)))
    assert outcome.error is not None
    return str(outcome.error)


# Spellings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(SPELLINGS, 2)))
def test_two_key_formats_of_an_unknown_family_give_one_layer(tmp_path, one, other) -> None:
    words = ["tower.0.mix_in.q_proj", "tower.0.mix_in.k_proj", "tower.1.mlp.fc_1"]
    first = spelled(words[0], one, 1) | spelled(words[1], one, 2)
    second = spelled(words[0], other, 3) | spelled(words[2], other, 4)
    found = applied(merged(tmp_path, first, second)[0], dict.fromkeys(words, (24, 16)))
    assert found.keys() == set(words)
    for word, seeds in zip(words, ((1, 3), (2,), (4,)), strict=True):
        assert relative(found[word], true(*seeds)) < 1e-6


def test_three_key_formats_give_one_layer(tmp_path) -> None:
    files = [spelled("tower.0.q_proj", spelling, seed) for seed, spelling in enumerate(("bare", "PEFT", "kohya"))]
    found = applied(merged(tmp_path, *files, strengths=(1, -0.5, 2))[0], {"tower.0.q_proj": (24, 16)})
    wanted = true(0) - 0.5 * true(1) + 2 * true(2)
    assert relative(found["tower.0.q_proj"], wanted) < 1e-6


@pytest.mark.parametrize(
    ("one", "other"), [("kohya", "ComfyUI"), ("ComfyUI", "kohya"), ("bare", "PEFT around a model")]
)
def test_key_formats_of_a_known_family_meet_across_vocabularies(tmp_path, one, other) -> None:
    """Wan in its own words and in diffusers', at its own width."""
    size = (1536, 1536)
    first = spelled(WAN, one, 1, size, 2) | spelled(WAN.replace("q", "k"), one, 2, size, 2)
    own = {f"transformer.{WAN_OWN}{end}": part for end, part in zip(AB, factors(*size, 2, 3), strict=True)}
    second = own | spelled(WAN.replace("q", "v"), other, 4, size, 2)
    if one != "bare":
        second = own
    weights = dict.fromkeys((WAN, WAN.replace("q", "k"), WAN.replace("q", "v")), size)
    found = applied(merged(tmp_path, first, second)[0], weights)
    assert relative(found[WAN], true(1, 3, size=size, rank=2)) < 1e-6


def test_layers_that_only_differ_in_their_suffixes_keep_their_names(tmp_path) -> None:
    first = spelled("tower.0.q", "ComfyUI", 1)
    second = spelled("tower.0.q", "ComfyUI with kohya's suffixes", 2) | spelled("tower.1.q", "ComfyUI", 3)
    found, _ = merged(tmp_path, first, second)
    assert set(found) == {f"diffusion_model.tower.{i}.q{end}" for i in (0, 1) for end in AB}


def test_one_file_by_itself_keeps_all_of_its_key_formats(tmp_path) -> None:
    """Hosts use one of them, and go on to use the one that they used."""
    tensors = spelled("tower.0.q", "kohya", 1) | spelled("tower.0.q", "ComfyUI", 2)
    found, _ = merged(tmp_path, tensors, strengths=(0.5,))
    assert tensors.keys() <= found.keys()
    assert relative(delta(found, "lora_unet_tower_0_q"), 0.5 * true(1)) < 1e-6


def test_a_file_with_a_weight_twice_is_refused_in_a_merge_by_both_names(tmp_path) -> None:
    twice = spelled("tower.0.q", "kohya", 1) | spelled("tower.0.q", "ComfyUI", 2)
    error = refusal(tmp_path, spelled("tower.0.q", "kohya", 3), twice)
    assert "x1.safetensors: " in error
    assert "diffusion_model.tower.0.q" in error
    assert "lora_unet_tower_0_q" in error
    assert "one weight in two key formats" in error


def test_a_file_with_the_same_numbers_in_two_key_formats_counts_once(tmp_path) -> None:
    twice = spelled("tower.0.q", "kohya", 1) | spelled("tower.0.q", "ComfyUI", 1)
    found = applied(merged(tmp_path, twice, spelled("tower.0.q", "kohya", 2))[0], {"tower.0.q": (24, 16)})
    assert relative(found["tower.0.q"], true(1, 2)) < 1e-6


# Whole weights and their pieces ---------------------------------------------------------------------------------

QKV = "double_blocks.0.img_attn.qkv"
WIDTH = 3072


def pieces(seed: int, names: str = "qkv") -> Tensors:
    return {f"transformer.transformer_blocks.0.attn.to_{name}{end}": part
            for i, name in enumerate(names)
            for end, part in zip(AB, factors(WIDTH, WIDTH, 1, seed + i), strict=True)}  # fmt: skip


def whole(seed: int) -> Tensors:
    made: Tensors = kohya("lora_unet_" + QKV.replace(".", "_"), 3 * WIDTH, WIDTH, 1, seed=seed, alpha=1)
    return made


@pytest.mark.parametrize("turned", [False, True])
def test_pieces_become_rows_of_the_whole(tmp_path, turned) -> None:
    files = [whole(1), pieces(2, "qv")]
    found, outcome = merged(tmp_path, *(files[::-1] if turned else files), strengths=(1, 1))
    added = applied(found, {QKV: (3 * WIDTH, WIDTH)})[QKV]
    q, v = (true(seed, size=(WIDTH, WIDTH), rank=1) for seed in (2, 3))
    wanted = true(1, size=(3 * WIDTH, WIDTH), rank=1) + np.vstack([q, np.zeros_like(q), v])
    assert relative(added, wanted) < 1e-5
    assert any("merged as rows of 1 whole" in note for note in outcome.plan.notes)


def test_a_piece_and_its_whole_in_one_file_are_refused_in_a_merge(tmp_path) -> None:
    error = refusal(tmp_path, whole(1) | pieces(2, "q"), whole(3))
    assert "one weight in two key formats" in error


# Vectors --------------------------------------------------------------------------------------------------------


def vector(seed: int, count: int = 24) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@pytest.mark.parametrize("role", ["diff", "w_norm", "diff_b", "b_norm"])
@pytest.mark.parametrize("strength", [0.5, -2.0])
def test_a_vector_is_multiplied_by_the_strength_of_its_file(tmp_path, role, strength) -> None:
    source = kohya("lora_unet_a") | {f"lora_unet_n.{role}": vector(1), "lora_unet_a.diff_b": vector(2)}
    found, _ = merged(tmp_path, source, strengths=(strength,))
    np.testing.assert_allclose(found[f"lora_unet_n.{role}"], strength * vector(1), rtol=1e-6)
    np.testing.assert_allclose(found["lora_unet_a.diff_b"], strength * vector(2), rtol=1e-6)


@pytest.mark.parametrize("recipe", ["rank=2", "rescale=0.5,rank=2"])
def test_rescale_is_a_strength_of_vectors_too(tmp_path, recipe) -> None:
    source = kohya("lora_unet_a") | {"lora_unet_n.diff": vector(1), "lora_unet_a.diff_b": vector(2)}
    found, _ = resized(write(tmp_path / "x.safetensors", source), recipe)
    factor = 0.5 if "rescale" in recipe else 1.0
    np.testing.assert_array_equal(found["lora_unet_n.diff"], factor * vector(1))
    np.testing.assert_array_equal(found["lora_unet_a.diff_b"], factor * vector(2))


@pytest.mark.parametrize(("one", "other"), [("kohya", "ComfyUI"), ("ComfyUI", "kohya"), ("bare", "ComfyUI"),
                                            ("ComfyUI", "ComfyUI with kohya's suffixes")])  # fmt: skip
def test_vectors_are_added_and_renamed_with_their_layers(tmp_path, one, other) -> None:
    words = {"tower.0.q": (24, 16), "tower.0.norm1": (24,)}

    def with_vectors(spelling: str, seed: int, weight: str, bias: str) -> Tensors:
        prefix, dot, _ = SPELLINGS[spelling]
        q, norm = (prefix + word.replace(".", dot) for word in words)
        return spelled("tower.0.q", spelling, seed) | {
            f"{q}.diff_b": vector(seed), f"{norm}.{weight}": vector(seed + 10), f"{norm}.{bias}": vector(seed + 20)
        }  # fmt: skip

    files = with_vectors(one, 1, "diff", "diff_b"), with_vectors(other, 2, "w_norm", "b_norm")
    found = applied(merged(tmp_path, *files, strengths=(0.5, 3))[0], words)
    assert found.keys() == {"tower.0.q", "tower.0.q bias", "tower.0.norm1", "tower.0.norm1 bias"}
    for place, seed in (("tower.0.q bias", 0), ("tower.0.norm1", 10), ("tower.0.norm1 bias", 20)):
        np.testing.assert_allclose(found[place], 0.5 * vector(1 + seed) + 3 * vector(2 + seed), rtol=1e-5, atol=1e-6)
    assert relative(found["tower.0.q"], 0.5 * true(1) + 3 * true(2)) < 1e-6


def test_the_bias_of_an_up_meets_a_bias_difference(tmp_path) -> None:
    """PEFT multiplies it by the scale of its layer."""
    first = spelled("tower.0.q", "ComfyUI", 1)
    first |= {
        "diffusion_model.tower.0.q.lora_B.bias": vector(1),
        "diffusion_model.tower.0.q.alpha": np.array(2, np.float32),
    }
    second = spelled("tower.0.q", "kohya", 2) | {"lora_unet_tower_0_q.diff_b": vector(2)}
    found = applied(merged(tmp_path, first, second)[0], {"tower.0.q": (24, 16)})
    np.testing.assert_allclose(found["tower.0.q bias"], 0.5 * vector(1) + vector(2), rtol=1e-5, atol=1e-6)


def test_the_bias_of_a_piece_becomes_a_part_of_the_bias_of_the_whole(tmp_path) -> None:
    bias = vector(5, WIDTH)
    first = pieces(2, "k") | {"transformer.transformer_blocks.0.attn.to_k.lora_B.bias": bias}
    found = applied(merged(tmp_path, whole(1), first)[0], {QKV: (3 * WIDTH, WIDTH)})
    np.testing.assert_allclose(found[f"{QKV} bias"][WIDTH : 2 * WIDTH], bias)
    assert not found[f"{QKV} bias"][:WIDTH].any()


def test_a_sum_above_float16_is_written_in_float32(tmp_path) -> None:
    sources = [kohya("lora_unet_a", seed=i) | {"lora_unet_n.diff": np.full(24, 5e4, np.float16)} for i in range(2)]
    found, _ = merged(tmp_path, *sources)
    np.testing.assert_array_equal(found["lora_unet_n.diff"], 2 * sources[0]["lora_unet_n.diff"].astype(np.float32))


def test_vectors_of_a_strength_zero_stay_away(tmp_path) -> None:
    first = kohya("lora_unet_a") | {"lora_unet_n.diff": np.array([np.nan] * 24, np.float32)}
    assert "NaN" in refusal(tmp_path, first, kohya("lora_unet_a", seed=1))


# What cancels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtypes", list(itertools.product((np.float16, np.float32), repeat=2)))
def test_a_layer_alike_in_two_files_is_left_out_with_a_note(tmp_path, dtypes) -> None:
    """Also where one file rounded its numbers more than the other."""
    alike = kohya("lora_unet_a", seed=1)
    files = [{key: part.astype(kind) for key, part in (alike | kohya("lora_unet_b", seed=seed)).items()}
             for seed, kind in zip((2, 3), dtypes, strict=True)]  # fmt: skip
    found, outcome = merged(tmp_path, *files, strengths=(1, -1))
    assert {key.partition(".")[0] for key in found} == {"lora_unet_b"}
    assert any("1 layers" in note and "cancel" in note and "lora_unet_a" in note for note in outcome.plan.notes)


def test_a_small_difference_above_the_rounding_stays(tmp_path) -> None:
    alike = {key: part.astype(np.float16) for key, part in kohya("lora_unet_a", seed=1).items()}
    up = alike["lora_unet_a.lora_up.weight"] * np.float16(1.01)
    found, _ = merged(tmp_path, alike, alike | {"lora_unet_a.lora_up.weight": up}, strengths=(-1, 1))
    assert relative(delta(found, "lora_unet_a"), 0.01 * delta(alike, "lora_unet_a")) < 0.06


@pytest.mark.parametrize("other", ["itself", "in another spelling"])
def test_nothing_is_left_of_a_file_less_itself(tmp_path, other) -> None:
    first = spelled("tower.0.q", "kohya", 1)
    second = first if other == "itself" else spelled("tower.0.q", "ComfyUI", 1)
    error = refusal(tmp_path, first, second, strengths=(0.7, -0.7))
    assert "there is nothing to write" in error
    assert "cancel one another" in error


def test_vectors_that_cancel_are_left_out(tmp_path) -> None:
    files = [kohya("lora_unet_a", seed=i) | {"lora_unet_n.diff": vector(7)} for i in range(2)]
    found, outcome = merged(tmp_path, *files, strengths=(1, -1))
    assert "lora_unet_n.diff" not in found
    assert any("vectors cancel" in note for note in outcome.plan.notes)


def test_what_cancels_is_measured_only_where_a_bound_does_not_tell(tmp_path, monkeypatch) -> None:
    measured = []

    def length(form: Form) -> float:
        measured.append(form)
        return 1.0

    monkeypatch.setattr(module, "_length", length)
    merged(tmp_path, kohya("lora_unet_a", seed=1), kohya("lora_unet_a", seed=2))
    assert not measured


def test_sources_of_a_merge_are_not_changed(tmp_path) -> None:
    source = spelled("tower.0.q", "kohya", 1)
    before = write(tmp_path / "x0.safetensors", source).read_bytes()
    merged(tmp_path, source, spelled("tower.0.q", "bare", 2))
    assert (tmp_path / "x0.safetensors").read_bytes() == before
    assert tensors_of(tmp_path / "x1.safetensors")
