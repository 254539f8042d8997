"""A field that a configuration leaves out means what diffusers takes for it, and what we write we read again."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig

from minildm.config import AutoencoderConfig, GridConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.fields import Fields
from minildm.foreign import (
    SPACINGS,
    read_autoencoder,
    read_schedule,
    read_text_encoder,
    read_unet,
    write_autoencoder,
    write_schedule,
    write_text_encoder,
    write_unet,
)


def written(folder: Path, document: dict[str, Any]) -> Fields:
    (folder / "config.json").write_text(json.dumps(document))
    return Fields(folder / "config.json")


def defaults(kind: type) -> dict[str, Any]:
    """What a class of diffusers takes for arguments that it is not given."""
    parameters = inspect.signature(kind.__init__).parameters.values()
    found = {each.name: each.default for each in parameters if each.default is not inspect.Parameter.empty}
    assert len(found) > 8, f"{kind} does not show its arguments"
    return found


def read_text(fields: Fields) -> TextConfig:
    return read_text_encoder(fields, 5)


NEEDED = ("block_out_channels", "down_block_types", "up_block_types")  # no model of use has the defaults of these
WORDS = {name: getattr(CLIPTextConfig(), name) for name in CLIPTextConfig.__annotations__}
SAMPLERS = [name for name in SPACINGS if name != "LMSDiscreteScheduler"]  # which diffusers has only beside scipy
PARTS: dict[str, tuple[Callable[[Fields], Any], dict[str, Any], dict[str, Any]]] = {  # reader, what must be there, defaults
    "U-Net": (read_unet, {"sample_size": 32}, defaults(UNet2DConditionModel)),
    "autoencoder": (read_autoencoder, {}, defaults(AutoencoderKL)),
    "text encoder": (read_text, {}, WORDS),
} | {name: (read_schedule, {"_class_name": name, "clip_sample": False}, defaults(getattr(diffusers, name))) for name in SAMPLERS}


@pytest.mark.parametrize("part", PARTS)
def test_what_is_left_out_is_what_diffusers_takes(tmp_path, part):
    read, needed, full = PARTS[part]
    needed = {name: full[name] for name in NEEDED if name in full} | needed
    assert len(full) > len(needed) + 5
    assert read(written(tmp_path, needed)) == read(written(tmp_path, full | needed))


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(),
        UNetConfig(
            in_channels=9, out_channels=8, widths=(24, 48, 96), blocks=3, attention=(True, False, True), heads=(3, 4, 6), depth=2,
            context_width=40, groups=6, linear_projection=True,
        ),
    ],
)  # fmt: skip
def test_a_unet_comes_back(tmp_path, config):
    assert read_unet(written(tmp_path, write_unet(config, 24))) == (config, 24)
    assert UNet2DConditionModel(**write_unet(config, 24)).config.sample_size == 24


def test_an_autoencoder_comes_back(tmp_path):
    config = AutoencoderConfig(image_channels=1, latent_channels=6, widths=(24, 48), blocks=3, groups=12, middle_attention=False)
    assert read_autoencoder(written(tmp_path, write_autoencoder(config, 0.7, 48))) == (config, 0.7)
    assert AutoencoderKL(**write_autoencoder(config, 0.7, 48)).config.scaling_factor == 0.7


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("feed_forward", [None, 100])
@pytest.mark.parametrize("pad", [None, 7])
def test_a_text_encoder_comes_back(tmp_path, quick, feed_forward, pad):
    """The padding is the tokenizer's affair: the file holds it for others. Where nothing is said it is the end token."""
    config = TextConfig(
        vocabulary=900, length=30, width=48, layers=3, heads=6, quick_gelu=quick, feed_forward=feed_forward, pad=pad
    )
    document = write_text_encoder(config, 1, 2)
    assert (document["bos_token_id"], document["eos_token_id"], document["pad_token_id"]) == (1, 2, pad or 2)
    expected = dataclasses.replace(config, feed_forward=feed_forward or 192, pad=5)
    assert read_text(written(tmp_path, document)) == expected


@pytest.mark.parametrize("grid", [GridConfig("leading", 1, 1), GridConfig("leading", 0, 0), GridConfig("trailing", 0, 1)])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "cosine"])
def test_a_schedule_comes_back(tmp_path, grid, schedule):
    config = LatentDiffusionConfig(
        T=500, schedule=schedule, betas=None if schedule == "cosine" else (0.0017, 0.031), prediction="v", grid=grid,
        zero_terminal_snr=True,
    )  # fmt: skip
    document = write_schedule(config, (0.0017, 0.031))
    again = read_schedule(written(tmp_path, document))
    assert again == {name: getattr(config, name) for name in again}
    assert len(again) == 6
    assert document["clip_sample"] is False, "diffusers makes a DDIM of this file, and DDIM would clip"
    assert document["steps_offset"] == (grid.offset if grid.spacing == "leading" else 1)


def test_only_samplers_that_clip_are_asked_not_to(tmp_path):
    """To [-1, 1] of latents: DDIM and DDPM do so unless told otherwise, the others never do, whatever the file says."""
    for name in SPACINGS:
        for clip in ({"clip_sample": True}, {}):
            fields = written(tmp_path, {"_class_name": name, **clip})
            if name in ("DDIMScheduler", "DDPMScheduler"):
                with pytest.raises(ValueError, match="clip_sample must be false"):
                    read_schedule(fields)
            else:
                assert read_schedule(fields)["T"] == 1000
