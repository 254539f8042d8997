"""Stable Diffusion in miniature, out of diffusers' and transformers' own classes, with random weights."""

import json
from pathlib import Path
from typing import Any

import diffusers
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from reference_weights import fill_at_random
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from minildm.tokenizer import Tokenizer

for library in (diffusers, transformers):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()

CAPTIONS = ["a red cat sits on the mat!", "the green dog, near a cat", "two red dogs! on a green mat"] * 3
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
STABLE = {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}  # as in the files of all its versions

PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "SD 1.5": {
        "unet": {"block_out_channels": (32, 32, 64, 64), "attention_head_dim": 8, "cross_attention_dim": 24},
        "vae": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2},
        "text": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "quick_gelu"},
        "scheduler": {"skip_prk_steps": True, **STABLE},
    },
    "SD 2.1": {
        "unet": {
            "block_out_channels": (40, 40, 80, 80),
            "attention_head_dim": (5, 10, 20, 20),
            "cross_attention_dim": 24,
            "norm_num_groups": 8,
            "use_linear_projection": True,
            "upcast_attention": True,
        },
        "vae": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2},
        "text": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 96, "hidden_act": "gelu"},
        "scheduler": {"prediction_type": "v_prediction", **STABLE},
    },
    "inpainting": {
        "unet": {"in_channels": 9, "block_out_channels": (32, 64), "attention_head_dim": 8, "cross_attention_dim": 24},
        "vae": {"block_out_channels": (32, 64)},
        "text": {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 96},
        "scheduler": STABLE,
    },
    "f = 4, three latent channels, a tiny test model": {
        "unet": {"in_channels": 3, "out_channels": 3, "block_out_channels": (32, 64), "cross_attention_dim": 32},
        "vae": {"block_out_channels": (16, 32, 32), "latent_channels": 3, "norm_num_groups": 8, "scaling_factor": 0.7},
        "text": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 37, "max_position_embeddings": 20},
        "scheduler": {"skip_prk_steps": True, "prediction_type": "sample", **STABLE},
    },
}


def unet(size: int = 8, attends: tuple[bool, ...] | None = None, **sizes: Any) -> UNet2DConditionModel:
    """diffusers' U-Net; the deepest level alone has no attention, as in Stable Diffusion, unless told otherwise."""
    levels = len(sizes["block_out_channels"])
    attends = attends or tuple(level < levels - 1 or levels < 3 for level in range(levels))
    down = tuple("CrossAttnDownBlock2D" if attention else "DownBlock2D" for attention in attends)
    up = tuple("CrossAttnUpBlock2D" if attention else "UpBlock2D" for attention in attends[::-1])
    return UNet2DConditionModel(sample_size=size, down_block_types=down, up_block_types=up, **sizes)


def autoencoder(**sizes: Any) -> AutoencoderKL:
    levels = len(sizes["block_out_channels"])
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return AutoencoderKL(**blocks, **sizes)


def text_encoder(**sizes: Any) -> CLIPTextModel:
    tokens = {"vocab_size": 600, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return CLIPTextModel(CLIPTextConfig(**tokens | {"num_hidden_layers": 2} | sizes))


def tokenizer(folder: Path, pad: str = "<|endoftext|>", length: int = 77) -> CLIPTokenizer:
    """transformers' tokenizer, on the files of one of ours."""
    folder.mkdir()
    Tokenizer.train(CAPTIONS, 540).save(folder)
    return CLIPTokenizer.from_pretrained(folder, model_max_length=length, pad_token=pad)


def make(name: str, folder: Path) -> StableDiffusionPipeline:
    """One of PARTS, saved to the folder as diffusers saves it, with the JSON of its time; the pipeline itself."""
    sizes = PARTS[name]
    kind = StableDiffusionInpaintPipeline if name == "inpainting" else StableDiffusionPipeline
    scheduler = PNDMScheduler if "skip_prk_steps" in sizes["scheduler"] else DDIMScheduler
    options = {**BETAS, **sizes["scheduler"]}
    words = tokenizer(folder.with_name(folder.name + "-tokenizer"), "!" if name == "SD 2.1" else "<|endoftext|>",
                      sizes["text"].get("max_position_embeddings", 77))  # fmt: skip
    pipeline = kind(
        unet=fill_at_random(unet(**sizes["unet"]), seed=1),
        vae=fill_at_random(autoencoder(**sizes["vae"]), seed=2),
        text_encoder=fill_at_random(text_encoder(**sizes["text"]), seed=3),
        tokenizer=words,
        scheduler=scheduler(
            **{key: value for key, value in options.items() if key != "clip_sample" or scheduler is DDIMScheduler}
        ),
        safety_checker=None,
        feature_extractor=None,
    )
    pipeline.save_pretrained(folder)
    change(folder / "scheduler" / "scheduler_config.json", **options)
    pipeline.scheduler = DDIMScheduler(**{key: value for key, value in options.items() if key != "skip_prk_steps"})
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def change(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None removes one."""
    document = json.loads(path.read_text("utf-8")) | fields
    path.write_text(json.dumps({name: value for name, value in document.items() if value is not None}), "utf-8")
