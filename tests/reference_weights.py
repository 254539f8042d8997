"""Weights of diffusers' and transformers' networks in ours: the same tensors under other names, given by rules."""

import re
from collections.abc import Callable, Iterable

import torch
from torch import nn

from minildm.config import AutoencoderConfig

Rules = Iterable[tuple[str, str | Callable[[re.Match], str]]]  # (pattern in our names, its replacement), applied in order

RESIDUAL: Rules = ((r"\.time\.", ".time_emb_proj."), (r"\.skip\.", ".conv_shortcut."))
ATTENTION: Rules = (
    (r"\.(query|key|value)\.", lambda found: f".to_{found[1][0]}."),
    (r"(attend\w*|attn\d)\.out\.", r"\1.to_out.0."),
)
UNET: Rules = (
    (r"^extra\.", "class_embedding."),
    (r"^time\.", "time_embedding."),
    (r"embedding\.0\.", "embedding.linear_1."),
    (r"embedding\.2\.", "embedding.linear_2."),
    (r"^first\.", "conv_in."),
    (r"^norm\.", "conv_norm_out."),
    (r"^last\.", "conv_out."),
    (r"^(down|up)\.(\d)\.(\d)\.residual\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d)\.(\d)\.transformer\.", r"\1_blocks.\2.attentions.\3."),
    (r"^shrink\.(\d)\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^grow\.(\d)\.", r"up_blocks.\1.upsamplers.0."),
    (r"^middle\.0\.", "mid_block.resnets.0."),
    (r"^middle\.1\.", "mid_block.attentions.0."),
    (r"^middle\.2\.", "mid_block.resnets.1."),
    (r"\.project_(in|out)\.", r".proj_\1."),
    (r"\.blocks\.", ".transformer_blocks."),
    (r"\.feed_forward\.gated\.", ".ff.net.0.proj."),
    (r"\.feed_forward\.out\.", ".ff.net.2."),
    (r"\.attend_self\.", ".attn1."),
    (r"\.attend_context\.", ".attn2."),
    *ATTENTION,
    *RESIDUAL,
)
TEXT: Rules = (
    (r"^tokens\.", "embeddings.token_embedding."),
    (r"^positions\.", "embeddings.position_embedding."),
    (r"^norm\.", "final_layer_norm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"\.attend\.(query|key|value)\.", lambda found: f".self_attn.{found[1][0]}_proj."),
    (r"\.attend\.out\.", ".self_attn.out_proj."),
    (r"\.wide\.", ".mlp.fc1."),
    (r"\.narrow\.", ".mlp.fc2."),
)


def autoencoder_rules(config: AutoencoderConfig) -> Rules:
    """Our encoder and decoder are plain sequences, so the places of their layers follow from the configuration."""
    levels = range(len(config.widths))
    down, up = [], []
    for level in levels:
        down += [f"down_blocks.{level}.resnets.{place}" for place in range(config.blocks)]
        down += [f"down_blocks.{level}.downsamplers.0"] if level < levels[-1] else []
        up += [f"up_blocks.{level}.resnets.{place}" for place in range(config.blocks + 1)]
        up += [f"up_blocks.{level}.upsamplers.0"] if level < levels[-1] else []
    tail = ["conv_norm_out", "silu", "conv_out"]
    encoder, decoder = ["conv_in", *down, "mid_block", *tail], ["conv_in", "mid_block", *up, *tail]
    middle = ["resnets.0", "attentions.0", "resnets.1"] if config.middle_attention else ["resnets.0", "resnets.1"]
    return (
        (r"^encoder\.(\d+)\.", lambda found: f"encoder.{encoder[int(found[1])]}."),
        (r"^decoder\.(\d+)\.", lambda found: f"decoder.{decoder[int(found[1])]}."),
        (r"mid_block\.(\d)\.", lambda found: f"mid_block.{middle[int(found[1])]}."),
        (r"^(quant|post_quant)\.", r"\1_conv."),
        (r"\.norm\.", ".group_norm."),
        *ATTENTION,
        (r"\.attend\.", "."),
        *RESIDUAL,
    )


def copy_weights(ours: nn.Module, reference: nn.Module, rules: Rules) -> None:
    """Fill our network from the reference. Raises ValueError when a parameter on either side finds no partner of its shape."""
    theirs = dict(reference.named_parameters())
    with torch.no_grad():
        for name, parameter in ours.named_parameters():
            partner = name
            for pattern, replacement in rules:
                partner = re.sub(pattern, replacement, partner)
            if partner not in theirs:
                raise ValueError(f"our {name} would be the reference's {partner}, which does not exist or is already taken")
            value = theirs.pop(partner)
            if value.shape != parameter.shape:
                raise ValueError(f"our {name} is {tuple(parameter.shape)}, the reference's {partner} {tuple(value.shape)}")
            parameter.copy_(value)
    if theirs:
        raise ValueError(f"{len(theirs)} parameters of the reference are left over: {', '.join(theirs)}")


def fill_at_random(module: nn.Module, size: float = 1.0, seed: int = 0) -> nn.Module:
    """Give every parameter its own random values, of a size that keeps signals near 1, so that nothing hides behind a zero.

    Matrices and kernels: variance 1/fan-in. Gains of norms: 1 ± 0.2. Biases and shifts: ± 0.2. All but the 1 times `size`.
    """
    generator = torch.Generator().manual_seed(seed)
    norms = (nn.GroupNorm, nn.LayerNorm)
    gains = {id(part.weight) for part in module.modules() if isinstance(part, norms)}
    with torch.no_grad():
        for parameter in module.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            scale = 0.2 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.copy_(values * scale * size + (1 if id(parameter) in gains else 0))
    return module.eval()
