"""The sizes of Stable Diffusion in diffusers' words and in ours (chapter 21).

A folder of diffusers describes each part in a JSON file. Every field of these is read here, or known to change nothing, or
must have the one value that our classes have built in; a file with anything else is refused by the field's name.
"""

from typing import Any

from minildm.config import AutoencoderConfig, GridConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.fields import Fields

SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}
GELUS = {"quick_gelu": True, "gelu": False}
SPACINGS = {  # what each of diffusers' samplers does when its file does not say
    "PNDMScheduler": "leading",
    "DDIMScheduler": "leading",
    "DDPMScheduler": "leading",
    "DPMSolverMultistepScheduler": "linspace",
    "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
}


def attending(fields: Fields, name: str, words: tuple[str, str]) -> tuple[bool, ...]:
    """Which levels have attention, from the names of their blocks: without and with it."""
    types = fields.read(name, tuple[str, ...])
    for word in types:
        if word not in words:
            raise ValueError(f"{fields.path}: {name} has {word!r}, which is not in minildm: it has {' and '.join(words)}")
    return tuple(word == words[1] for word in types)


def read_unet(fields: Fields) -> tuple[UNetConfig, int]:
    """The U-Net, and the height and width of the latents that it was made for."""
    fields.must(_class_name="UNet2DConditionModel", mid_block_type="UNetMidBlock2DCrossAttn", class_embed_type=None)
    fields.must(center_input_sample=False, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1, mid_block_scale_factor=1)
    fields.must(act_fn="silu", norm_eps=1e-5, resnet_time_scale_shift="default", resnet_out_scale_factor=1)
    fields.must(only_cross_attention=False, time_embedding_type="positional", conv_in_kernel=3, conv_out_kernel=3)
    fields.must(attention_type="default", num_attention_heads=None)
    widths = fields.read("block_out_channels", tuple[int, ...])
    attention = attending(fields, "down_block_types", ("DownBlock2D", "CrossAttnDownBlock2D"))
    if attending(fields, "up_block_types", ("UpBlock2D", "CrossAttnUpBlock2D")) != attention[::-1]:
        raise ValueError(f"{fields.path}: up_block_types does not mirror down_block_types, which minildm's U-Net does")
    config = UNetConfig(
        in_channels=fields.read("in_channels", int, 4),
        out_channels=fields.read("out_channels", int, 4),
        widths=widths,
        blocks=fields.one("layers_per_block", 2),
        attention=attention,
        heads=fields.each("attention_head_dim", len(widths), 8),  # the number of heads, whatever its name says
        depth=fields.one("transformer_layers_per_block", 1),
        context_width=fields.one("cross_attention_dim", 1280),
        groups=fields.read("norm_num_groups", int, 32),
        linear_projection=fields.read("use_linear_projection", bool, False),
    )
    sizes = set(fields.each("sample_size", 1, 0))
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(f"{fields.path}: sample_size={fields.values.get('sample_size')} must be the side of a square")
    fields.end("dropout", "upcast_attention", "addition_embed_type_num_heads")  # the softmax is float32 here anyway
    return config, sizes.pop()


def write_unet(config: UNetConfig, size: int) -> dict[str, Any]:
    """The same in diffusers' words. Raises ValueError for what they have no word for."""
    for name, value, wanted in (
        ("middle_attention", config.middle_attention, True),
        ("context_width", bool(config.context_width), True),
        ("extra_width", config.extra_width, None),
    ):
        if value != wanted:
            raise ValueError(f"unet.{name}={getattr(config, name)} cannot be exported: Stable Diffusion has no such U-Net")
    return {
        "_class_name": "UNet2DConditionModel",
        "sample_size": size,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.widths,
        "layers_per_block": config.blocks,
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in config.attention[::-1]],
        "attention_head_dim": config.heads,
        "transformer_layers_per_block": config.depth,
        "cross_attention_dim": config.context_width,
        "norm_num_groups": config.groups,
        "use_linear_projection": config.linear_projection,
    }


def read_autoencoder(fields: Fields) -> tuple[AutoencoderConfig, float]:
    """The autoencoder, and the scale factor of its latents."""
    fields.must(_class_name="AutoencoderKL", act_fn="silu", use_quant_conv=True, use_post_quant_conv=True)
    fields.must(shift_factor=None, latents_mean=None, latents_std=None)
    widths = fields.read("block_out_channels", tuple[int, ...])
    for name, word in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if fields.read(name, tuple[str, ...]) != (word,) * len(widths):
            raise ValueError(f"{fields.path}: {name}={fields.values[name]} is not in minildm, which has {word} only")
    channels = fields.read("in_channels", int, 3)
    fields.must(out_channels=channels)
    config = AutoencoderConfig(
        image_channels=channels,
        latent_channels=fields.read("latent_channels", int, 4),
        widths=widths,
        blocks=fields.read("layers_per_block", int, 1),
        groups=fields.read("norm_num_groups", int, 32),
        middle_attention=fields.read("mid_block_add_attention", bool, True),
    )
    scale = fields.read("scaling_factor", float, 0.18215)
    if not 0 < scale < float("inf"):
        raise ValueError(f"{fields.path}: scaling_factor={scale} must be a positive, finite number")
    fields.end("sample_size", "force_upcast")
    return config, scale


def write_autoencoder(config: AutoencoderConfig, scale: float, size: int) -> dict[str, Any]:
    """The same in diffusers' words."""
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": size,
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "latent_channels": config.latent_channels,
        "block_out_channels": config.widths,
        "layers_per_block": config.blocks,
        "down_block_types": ["DownEncoderBlock2D"] * len(config.widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(config.widths),
        "norm_num_groups": config.groups,
        "mid_block_add_attention": config.middle_attention,
        "scaling_factor": scale,
    }


def read_text_encoder(fields: Fields, pad: int) -> TextConfig:
    """The text encoder, for a tokenizer that fills with the token `pad`."""
    fields.must(model_type="clip_text_model", layer_norm_eps=1e-5)
    config = TextConfig(
        vocabulary=fields.read("vocab_size", int, 49408),
        length=fields.read("max_position_embeddings", int, 77),
        width=fields.read("hidden_size", int, 512),
        layers=fields.read("num_hidden_layers", int, 12),
        heads=fields.read("num_attention_heads", int, 8),
        quick_gelu=fields.pick("hidden_act", GELUS, "quick_gelu"),
        feed_forward=fields.read("intermediate_size", int, 2048),
        pad=pad,
    )
    fields.end("architectures", "attention_dropout", "dropout", "initializer_factor", "initializer_range", "projection_dim",
               "torch_dtype", "dtype", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id")  # fmt: skip
    return config


def write_text_encoder(config: TextConfig, start: int, end: int) -> dict[str, Any]:
    """The same in transformers' words; `start` and `end` are tokens. Raises ValueError for what they have no word for."""
    if not config.causal:
        raise ValueError("text.causal=False cannot be exported: CLIP's text encoder looks back only")
    return {
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": config.vocabulary,
        "max_position_embeddings": config.length,
        "hidden_size": config.width,
        "intermediate_size": config.feed_forward or 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "hidden_act": "quick_gelu" if config.quick_gelu else "gelu",
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end if config.pad is None else config.pad,
    }


def read_schedule(fields: Fields) -> dict[str, Any]:
    """How noise grew in training, and at which times to stand when drawing: these fields of a `LatentDiffusionConfig`."""
    sampler = fields.read("_class_name", str)
    default = fields.pick("_class_name", SPACINGS)
    clips = sampler in ("DDIMScheduler", "DDPMScheduler")  # to [-1, 1], where pictures are and latents are not; others cannot
    fields.must(trained_betas=None, thresholding=False, interpolation_type="linear", timestep_type="discrete")
    if fields.read("clip_sample", bool, clips) and clips:
        raise ValueError(f"{fields.path}: clip_sample must be false: latents are not confined to [-1, 1]")
    if sampler == "DPMSolverMultistepScheduler":
        fields.must(solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint", use_flow_sigmas=False)
    fields.must(use_karras_sigmas=False, final_sigmas_type="zero", euler_at_final=False)
    spacing = fields.read("timestep_spacing", str, default)
    end = 0 if fields.read("set_alpha_to_one", bool, sampler != "PNDMScheduler") else 1
    offset = fields.read("steps_offset", int, 0)
    schedule = fields.pick("beta_schedule", SCHEDULES, "linear")
    betas = (fields.read("beta_start", float, 0.0001), fields.read("beta_end", float, 0.02))
    found = {
        "schedule": schedule,
        "T": fields.read("num_train_timesteps", int, 1000),
        "betas": None if schedule == "cosine" else betas,
        "zero_terminal_snr": fields.read("rescale_betas_zero_snr", bool, False),
        "prediction": fields.pick("prediction_type", PREDICTIONS, "epsilon"),
        "grid": GridConfig(spacing, offset if spacing == "leading" else 0, end),
    }
    fields.end("skip_prk_steps", "clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio", "lower_order_final",
               "variance_type", "lambda_min_clipped", "flow_shift", "time_shift_type")  # fmt: skip
    return found


def write_schedule(config: LatentDiffusionConfig, betas: tuple[float, float]) -> dict[str, Any]:
    """The same in diffusers' words, for DPM-Solver++; diffusers makes a DDIM of it. `betas` are β_1 and β_T."""
    words = {ours: theirs for theirs, ours in PREDICTIONS.items()}
    if config.prediction not in words:
        raise ValueError(f"prediction={config.prediction!r} cannot be exported: Stable Diffusion has {', '.join(words)}")
    grid = config.grid
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "beta_schedule": {ours: theirs for theirs, ours in SCHEDULES.items()}[config.schedule],
        "beta_start": betas[0],
        "beta_end": betas[1],
        "num_train_timesteps": config.T,
        "prediction_type": words[config.prediction],
        "rescale_betas_zero_snr": config.zero_terminal_snr,
        "timestep_spacing": grid.spacing,
        "steps_offset": grid.offset if grid.spacing == "leading" else 1,  # idle otherwise, and its pipelines insist on 1
        "set_alpha_to_one": grid.end == 0,
        "clip_sample": False,
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
        "final_sigmas_type": "zero",
    }
