"""Which programs load a float8 LoRA: what the notes say of diffusers is what diffusers does."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lib_resize.adapters.write.float8 import programs_without_float8
from lib_resize.cli import main as cli
from lib_resize.names.families import FAMILIES
from tests.readers import tiny_sdxl
from tests.readers.lora_material import kohya, make_lora
from tests.readers.lora_material import save as write_lora
from tests.readers.test_flux import tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # those of third parties are not our business

FLUX = next(family for family in FAMILIES if family.name == "Flux.1")
WIDTH = 32
UPDOWN, AB = (".lora_up.weight", ".lora_down.weight"), (".lora_B.weight", ".lora_A.weight")
SPELLINGS = {
    "kohya, fused": ("lora_unet_double_blocks_0_img_attn_qkv", UPDOWN, 3 * WIDTH),
    "kohya": ("lora_unet_double_blocks_0_img_attn_proj", UPDOWN, WIDTH),
    "OneTrainer": ("lora_transformer_transformer_blocks_0_attn_to_q", UPDOWN, WIDTH),
    "ComfyUI with kohya's suffixes": ("diffusion_model.double_blocks.0.img_attn.proj", UPDOWN, WIDTH),
    "diffusers": ("transformer.transformer_blocks.0.attn.to_q", AB, WIDTH),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
def test_diffusers_loads_what_is_not_called_unreadable(tmp_path: Path, spelling: str, dtype: str) -> None:
    stem, suffixes, rows = SPELLINGS[spelling]
    kind = getattr(torch, dtype)
    tensors = {
        f"{stem}{suffixes[0]}": torch.ones(rows, 2).to(kind),
        f"{stem}{suffixes[1]}": torch.ones(2, WIDTH).to(kind),
    }
    if suffixes is UPDOWN:
        tensors[f"{stem}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "x.safetensors")
    named = "diffusers" in programs_without_float8(FLUX, kohya=suffixes is UPDOWN)
    try:
        tiny().load_lora_adapter(
            diffusers.FluxPipeline.lora_state_dict(tmp_path / "x.safetensors"), prefix="transformer"
        )
        refuses = False
    except NotImplementedError:
        refuses = True
    assert refuses == named


@pytest.mark.parametrize(
    ("spelling", "options", "programs"),
    [
        ("kohya", ("-t", "8"), "diffusers and nunchaku cannot load a float8 LoRA"),
        ("kohya", ("-t", "16"), None),
    ],
)
def test_the_plan_and_inspect_say_who_cannot_load_the_result(tmp_path, capsys, spelling, options, programs) -> None:
    stem, suffixes, _ = SPELLINGS[spelling]
    tensors = {
        f"{stem}{suffixes[0]}": torch.randn(3072, 2).half(),
        f"{stem}{suffixes[1]}": torch.randn(2, 3072).half(),
    }
    save_file(tensors, tmp_path / "x.safetensors")
    assert (
        cli.main(["resize", str(tmp_path / "x.safetensors"), "-r", "rank=1", *options, "-o", str(tmp_path / "out")])
        == 0
    )
    printed = capsys.readouterr().out
    (made,) = (tmp_path / "out").iterdir()
    assert cli.main(["inspect", str(made)]) == 0
    seen = capsys.readouterr().out
    assert [programs is not None and programs in text for text in (printed, seen)] == [programs is not None] * 2
    assert ("cannot load a float8" in printed + seen) == (programs is not None)


def test_inspect_reports_for_a_float8_file_in_diffusers_key_format_that_nunchaku_alone_cannot_load_it(
    tmp_path, capsys
) -> None:
    stem, suffixes, _ = SPELLINGS["diffusers"]
    shapes = dict(zip(suffixes, ((3072, 2), (2, 3072)), strict=True))
    tensors = {f"{stem}{end}": torch.randn(shape).to(torch.float8_e4m3fn) for end, shape in shapes.items()}
    save_file(tensors, tmp_path / "x.safetensors")
    assert cli.main(["inspect", str(tmp_path / "x.safetensors")]) == 0
    assert "  ! nunchaku cannot load a float8 LoRA" in capsys.readouterr().out


def test_a_float8_lora_of_a_unet_loads_in_diffusers_and_nothing_is_reported(tmp_path, capsys) -> None:
    source, true = tmp_path / "x.safetensors", make_lora(tiny_sdxl.few_shapes())
    write_lora(source, kohya(true))
    assert cli.main(["resize", str(source), "-r", "rank=4", "-t", "8", "-o", str(tmp_path / "out")]) == 0
    assert "cannot load" not in capsys.readouterr().out
    (made,) = (tmp_path / "out").iterdir()
    with safe_open(made, "pt") as file:
        assert torch.float8_e4m3fn in {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118 - no mapping
    assert tiny_sdxl.applied(made).keys() == true.keys()
