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
        "unet": {"in_channels": 9, "block_out_channels": (32, 32, 64, 64), "attention_head_dim": 8, "cross_attention_dim": 24},
        "vae": {"block_out_channels": (32, 32, 64, 64), "layers_per_block": 2},
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


TEXT = {
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "pad_token_id": 1,
    "torch_dtype": "float32",
    "vocab_size": 49408,
}
UNET = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
PUBLISHED: dict[str, dict[str, dict[str, Any]]] = {  # the JSON of the real ones, field by field, but for paths and versions
    "SD 1.5": {
        "unet/config.json": UNET | {"attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64},
        "text_encoder/config.json": TEXT
        | {
            "_name_or_path": "openai/clip-vit-large-patch14",
            "hidden_act": "quick_gelu",
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "projection_dim": 768,
            "transformers_version": "4.22.0.dev0",
        },
        "scheduler/scheduler_config.json": SCHEDULER | {"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0"},
        "tokenizer/special_tokens_map.json": {"pad_token": "<|endoftext|>"},
    },
    "SD 2.1": {
        "unet/config.json": UNET
        | {
            "_diffusers_version": "0.10.0.dev0",
            "attention_head_dim": [5, 10, 20, 20],
            "cross_attention_dim": 1024,
            "dual_cross_attention": False,
            "num_class_embeds": None,
            "only_cross_attention": False,
            "sample_size": 96,
            "upcast_attention": True,
            "use_linear_projection": True,
        },
        "text_encoder/config.json": TEXT
        | {
            "hidden_act": "gelu",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_attention_heads": 16,
            "num_hidden_layers": 23,
            "projection_dim": 512,
            "transformers_version": "4.25.0.dev0",
        },
        "scheduler/scheduler_config.json": SCHEDULER | {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
        "tokenizer/special_tokens_map.json": {"pad_token": "!"},
    },
}
for files in PUBLISHED.values():
    files |= {
        "model_index.json": {
            "_class_name": "StableDiffusionPipeline",
            "_diffusers_version": "0.8.0",
            "feature_extractor": [None, None],
            "safety_checker": [None, None],
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "_diffusers_version": "0.6.0",
            "act_fn": "silu",
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "in_channels": 3,
            "latent_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "out_channels": 3,
            "sample_size": 512,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "tokenizer/tokenizer_config.json": {
            "add_prefix_space": False,
            "bos_token": {"__type": "AddedToken", "content": "<|startoftext|>"},
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": 77,
            "pad_token": "<|endoftext|>",
            "tokenizer_class": "CLIPTokenizer",
            "unk_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
        },
    }

EPSILON = {"_class_name": "PNDMScheduler", "prediction_type": "epsilon"}
SIBLINGS: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {  # in which fields others differ from one of PUBLISHED
    "SD 1.4": ("SD 1.5", {"unet/config.json": {"_diffusers_version": "0.2.2"}}),
    "SD 1.5 for inpainting": (
        "SD 1.5",
        {"unet/config.json": {"in_channels": 9}, "model_index.json": {"_class_name": "StableDiffusionInpaintPipeline"}},
    ),
    "SD 2.0": ("SD 2.1", {"unet/config.json": {"upcast_attention": False}}),
    "SD 2.1 base": ("SD 2.1", {"unet/config.json": {"sample_size": 64}, "scheduler/scheduler_config.json": EPSILON}),
    "SD 2.0 for inpainting": (
        "SD 2.1",
        {
            "unet/config.json": {"in_channels": 9, "sample_size": 64, "upcast_attention": False},
            "scheduler/scheduler_config.json": EPSILON,
            "model_index.json": {"_class_name": "StableDiffusionInpaintPipeline"},
        },
    ),
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
    """One of PARTS, saved to the folder as diffusers saves it; the pipeline itself, with DDIM by the folder's file."""
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
