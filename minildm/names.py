"""The name table: what Stable Diffusion's weights are called in diffusers and transformers, and here (chapter 21).

Rules, not a thousand lines: each is a pattern in our name of a tensor and what takes its place, applied one after the other.
They run one way only. Whoever wants the other way names all of ours and looks them up.
"""

import re
from collections.abc import Callable, Iterable

from minildm.config import AutoencoderConfig

Rules = Iterable[tuple[str, str | Callable[[re.Match], str]]]

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
    (r"^(down|up)\.(\d+)\.(\d+)\.residual\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.(\d+)\.transformer\.", r"\1_blocks.\2.attentions.\3."),
    (r"^shrink\.(\d+)\.", r"down_blocks.\1.downsamplers.0.conv."),
    (r"^grow\.(\d+)\.", r"up_blocks.\1.upsamplers.0."),
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
LEGACY: Rules = (  # names of 2022, in today's
    (r"attentions\.0\.(query|key|value)\.", lambda found: f"attentions.0.to_{found[1][0]}."),
    (r"\.proj_attn\.", ".to_out.0."),
    (r"^text_model\.", ""),
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


def renamed(name: str, rules: Rules) -> str:
    """The name after all rules, in their order. A pattern that is nowhere in the name changes nothing."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
