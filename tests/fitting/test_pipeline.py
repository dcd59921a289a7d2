"""A tiny pipeline of diffusers with random weights: it is fitted, and its own loader judges the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import torch

from lib_resize.cli.main import main
from lib_resize.engine.batch import resize
from lib_resize.engine.job import ResizeJob
from lib_resize.engine.settings import Settings
from lib_resize.files.metadata import RECORD, prompt_hash
from lib_resize.files.reader import SafeFile
from lib_resize.fitting.layers import original_deltas
from lib_resize.fitting.pipeline import ImageOptions, PipelineFit, models_of, open_pipeline
from lib_resize.fitting.places import applied
from lib_resize.prompts.sources import Member, Source
from lib_resize.recipe.grammar import parse_recipes
from tests.fitting.small_net import save_lora, scene_of

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

PROMPT = "a red fox, oil on canvas, autumn"
WISH = ImageOptions((PROMPT,), "blurry", images=2, steps=2, sampling_steps=4, size=(64, 64), guidance=3.0)


def save_pipeline(folder: Path) -> Path:
    """SD1.5's structure at tiny widths, with a tokenizer of single letters."""
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    letters = "abcdefghijklmnopqrstuvwxyz,"
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    folder.mkdir(parents=True)
    vocabulary.write_text(json.dumps({word: i for i, word in enumerate(words)}), "utf-8")
    merges.write_text("#version: 0.2\n", "utf-8")
    config = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    pipe: Any = StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8),
            norm_num_groups=8,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
        ),
        text_encoder=transformers.CLIPTextModel(config),
        tokenizer=transformers.CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77),
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(str(folder / "model"))
    return folder / "model"


def lora_for(pipe: Any, path: Path) -> Any:
    """Attention, feed-forward and convolutions of the UNet, and the text encoder, under kohya's names of diffusers."""
    shapes = {}
    for prefix, model in (("unet", pipe.unet), ("te", pipe.text_encoder)):
        for name, module in model.named_modules():
            trained = "attentions" in name or "resnets" in name if prefix == "unet" else "layers" in name
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and trained:
                full = name if prefix == "unet" or name.startswith("text_model") else f"text_model.{name}"
                shapes[f"{prefix}_{full}"] = tuple(module.weight.shape)
    return save_lora(path, shapes, prefix="lora_", strongest=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def pipe(folder: Path) -> Any:
    return open_pipeline(folder, "cpu")


def latents(pipe: Any, lora: Path | None, seed: int) -> Any:
    """As diffusers makes them, with its own loader."""
    if lora is not None:
        pipe.load_lora_weights(str(lora))
    try:
        chance = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return pipe(
                PROMPT,
                negative_prompt="blurry",
                num_inference_steps=4,
                guidance_scale=3.0,
                width=64,
                height=64,
                generator=chance,
                output_type="latent",
            ).images
    finally:
        pipe.unload_lora_weights()


def error(pipe: Any, file: Path, source: Path, seeds: range) -> float:
    original = torch.stack([latents(pipe, source, seed) for seed in seeds])
    without = torch.stack([latents(pipe, None, seed) for seed in seeds])
    found = torch.stack([latents(pipe, file, seed) for seed in seeds])
    return float((found - original).square().sum() / (without - original).square().sum())


def made(source: Path, out: Path, recipe: str, refine: PipelineFit | None) -> ResizeJob:
    settings = Settings(parse_recipes(recipe), out, refine=refine, threads=1)
    (outcome,) = resize([Source((Member(source),))], settings)
    assert outcome.error is None, outcome.error
    assert outcome.job is not None
    return outcome.job


def test_the_fitted_file_is_nearer_to_the_original_as_diffusers_loads_it(pipe: Any, tmp_path: Path) -> None:
    source = lora_for(pipe, tmp_path / "a.safetensors")
    before = {name: one.clone() for name, one in pipe.unet.state_dict().items()}
    plain = made(source, tmp_path / "plain", "rank=4", None)
    fitted = made(source, tmp_path / "fitted", "rank=4", PipelineFit(pipe, WISH))
    assert all(torch.equal(one, before[name]) for name, one in pipe.unet.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in pipe.unet.modules())
    errors = [error(pipe, one.path, source, range(50, 53)) for one in (plain, fitted)]
    assert errors[1] < 0.95 * errors[0]  # random weights and a random LoRA leave little to fit
    selection = fitted.selection
    assert len(selection.fitted) > 0.8 * len(selection.layout.layers)
    assert selection.fit is not None
    assert {"unet", "text_encoder"} == selection.fit.errors.keys()
    with SafeFile(fitted.path) as file:
        record = json.loads(file.header.metadata[RECORD])["fit"]
        assert all("fox" not in text for text in file.header.metadata.values())
    assert record["prompt"] == prompt_hash([PROMPT, "blurry"])
    assert (record["images"], record["steps"]) == (2, 2)


def test_every_layer_finds_its_module_and_the_original_is_what_diffusers_applies(pipe: Any, tmp_path: Path) -> None:
    source = lora_for(pipe, tmp_path / "a.safetensors")
    wanted = latents(pipe, source, 7)
    with scene_of(pipe.unet, source) as scene:
        job = scene.job("rank=8")
        models = models_of(pipe, job)
        assert sum(len(model.places) for model in models) == len(job.analysis.adapter.layers)
        with applied([delta for model in models for delta in original_deltas(job, model)]):
            found = latents(pipe, None, 7)
    assert torch.allclose(found, wanted, atol=1e-3 * float(wanted.abs().max()))


def test_several_recipes_share_the_images(pipe: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from lib_resize.fitting import pipeline

    source = lora_for(pipe, tmp_path / "a.safetensors")
    seen: list[int] = []
    original = pipeline._image

    def counted(pipe: Any, wish: ImageOptions, number: int) -> None:
        seen.append(number)
        original(pipe, wish, number)

    monkeypatch.setattr(pipeline, "_image", counted)
    settings = Settings(parse_recipes("rank=2:rank=3"), tmp_path / "out", refine=PipelineFit(pipe, WISH), threads=1)
    outcomes = list(resize([Source((Member(source),))], settings))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert seen == [0, 1, 2]


def test_a_lora_of_another_model_is_refused(pipe: Any, tmp_path: Path) -> None:
    source = save_lora(tmp_path / "other.safetensors", {"somewhere_else": (24, 16)})
    settings = Settings(parse_recipes("rank=2"), tmp_path / "out", refine=PipelineFit(pipe, WISH), threads=1)
    (outcome,) = resize([Source((Member(source),))], settings)
    assert "none of its layers is in StableDiffusionPipeline" in str(outcome.error)
    assert list((tmp_path / "out").glob("*")) == []


# The command line -------------------------------------------------------------------------------------------------


def arguments(folder: Path, source: Path, *more: str) -> list[str]:
    images = ["--images", "2", "--steps", "2", "--sampling-steps", "4", "--image-size", "64x64"]
    return ["fit", str(folder), str(source), "--prompt", PROMPT, "--threads", "1", *images, *more]


def test_the_command_writes_a_fitted_file(folder: Path, pipe: Any, tmp_path: Path, capsys: Any) -> None:
    source = lora_for(pipe, tmp_path / "a.safetensors")
    target = tmp_path / "small.safetensors"
    assert main(arguments(folder, source, "-r", "rank=2", "-t", "8", "-o", str(target))) == 0
    printed = capsys.readouterr().out
    assert "small.safetensors: fitted to images:" in printed
    assert "unet: error on an image that was not used" in printed
    assert error(pipe, target, source, range(60, 61)) < 1
    with SafeFile(target) as file:
        assert {one.dtype for name, one in file.header.entries.items() if "lora_up" in name} == {"F8_E4M3"}


def test_a_dry_run_makes_no_image(folder: Path, pipe: Any, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    from lib_resize.fitting import pipeline

    source = lora_for(pipe, tmp_path / "a.safetensors")
    monkeypatch.setattr(pipeline, "record", lambda *_: pytest.fail("images were made"))
    assert main(arguments(folder, source, "-r", "rank=2", "--dry-run", "-o", str(tmp_path))) == 0
    assert "Nothing was written" in capsys.readouterr().out


def test_the_benchmark_measures_a_pipeline(folder: Path, pipe: Any, tmp_path: Path, capsys: Any) -> None:
    """As a person with a GPU runs it on their own model."""
    from benchmarks.fit import main as measure

    source = lora_for(pipe, tmp_path / "a.safetensors")
    words = ["--base", str(folder), "--prompt", PROMPT, "--lora", str(source), "--share", "0.2"]
    assert measure([*words, "--images", "2", "--steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert 0 < found["fitted"]["eps"] < found["plain"]["eps"] < 1
    assert found["ratio_eps"] < 1
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("name", ["diffusers", "transformers", "torch"])
def test_a_missing_library_is_named_with_the_way_to_install_it(
    tmp_path: Path, name: str, capsys: Any, monkeypatch: Any
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda one, *more: None if one == name else find(one, *more))
    assert main(arguments(tmp_path, tmp_path / "a.safetensors")) == 1
    assert f'fit needs {name}, which is not installed. Install with pip install ".[fit]".' in capsys.readouterr().err


def test_a_folder_that_is_no_pipeline_is_an_error_with_a_way_out(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    source = save_lora(tmp_path / "a.safetensors")
    assert main(arguments(tmp_path / "empty", source)) == 1
    error = capsys.readouterr().err
    assert "diffusers cannot load it as a pipeline" in error
    assert "Give a folder in the layout of diffusers" in error


def test_a_method_that_cannot_be_fitted_is_refused_before_the_model_is_loaded(tmp_path: Path, capsys: Any) -> None:
    assert main(arguments(tmp_path / "missing", tmp_path / "a.safetensors", "-r", "rank=2,rsvd")) == 2
    assert "factors are fitted from the exact decomposition" in capsys.readouterr().err
