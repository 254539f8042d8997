"""The sizes of Stable Diffusion, and where the numbers of a U-Net are, counted from its configuration alone (chapter 21).

Counts are floats, exact up to 2⁵³, because they are multiplied by bytes and operations more often than they index anything.
"""

import dataclasses

from minildm.config import AutoencoderConfig, GridConfig, LatentDiffusionConfig, TextConfig, UNetConfig

SD15 = LatentDiffusionConfig(  # Stable Diffusion 1.5; 1.4 is the same
    image_size=512,
    unet=UNetConfig(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), (8, 8, 8, 8), context_width=768, groups=32),
    autoencoder=AutoencoderConfig(3, 4, (128, 256, 512, 512), blocks=2, groups=32),
    text=TextConfig(vocabulary=49408, length=77, width=768, layers=12, heads=12),
    schedule="scaled_linear",
    betas=(0.00085, 0.012),
    prediction="epsilon",
    grid=GridConfig("leading", offset=1, end=1),
)
SD21 = dataclasses.replace(  # Stable Diffusion 2.1, for 768 pixels
    SD15,
    image_size=768,
    unet=dataclasses.replace(SD15.unet, heads=(5, 10, 20, 20), context_width=1024, linear_projection=True),
    text=TextConfig(vocabulary=49408, length=77, width=1024, layers=23, heads=16, quick_gelu=False, pad=0),
    prediction="v",
)


def residual_size(width_in: int, width_out: int, time_width: int) -> float:
    """The numbers in a residual block, Eq. (21.1): 9cd + 9d² + (w + 1)d for the convolutions and time, and what is small.

    Args:
        width_in, width_out: channels c and d.
        time_width: of the embedding of time, w.

    Small are 2c + 2d of the norms, 2d of biases, and, where c ≠ d, a 1×1 convolution cd + d around the block.
    """
    norms, time = 2 * (width_in + width_out), (time_width + 1) * width_out
    convolutions = 9 * width_in * width_out + 9 * width_out**2 + 2 * width_out
    skip = (width_in + 1) * width_out if width_in != width_out else 0
    return float(norms + time + convolutions + skip)


def transformer_size(width: int, context_width: int | None, depth: int = 1) -> float:
    """The numbers in a spatial transformer, Eq. (21.2): 2c² + 4c + n (18c² + 2kc + 17c).

    Each of the n blocks has 4c² + c in self-attention, 2c² + 2kc + c in cross-attention, 12c² + 9c in its gated feed-forward half
    and 6c in three norms. How many heads there are does not matter: they share the same matrices.

    Args:
        width: c.   context_width: k of the text states; None: no cross-attention, and no norm before it.   depth: n.
    """
    c, k = width, context_width
    block = 4 * c * c + c + 12 * c * c + 9 * c + 4 * c
    block += 2 * c * c + 2 * k * c + c + 2 * c if k else 0
    return float(2 * c * c + 4 * c + depth * block)


@dataclasses.dataclass(frozen=True)
class Share:
    """The numbers of one part of the U-Net, by what they are for."""

    residual: float = 0.0
    transformer: float = 0.0
    rest: float = 0.0  # embeddings, first and last convolution, shrinking and growing

    @property
    def total(self) -> float:
        return self.residual + self.transformer + self.rest


def unet_shares(config: UNetConfig) -> dict[str, Share]:
    """The numbers of the U-Net, part by part: (21.1) and (21.2) over its blocks, and the ends.

    On the way up a residual block reads two maps, the one from below and the one that the way down left: c is the sum of both.

    Returns: ends, down 0, …, middle, up …, 0. Their totals sum to the number of parameters.
    """
    widths, w = config.widths, 4 * config.widths[0]
    last = len(widths) - 1

    def transformers(width: int, attends: bool, count: int = 1) -> float:
        return count * transformer_size(width, config.context_width, config.depth) if attends else 0.0

    embeddings = (widths[0] + 1) * w + (w + 1) * w + ((config.extra_width + 1) * w + (w + 1) * w if config.extra_width else 0)
    first, final = (9 * config.in_channels + 1) * widths[0], 2 * widths[0] + (9 * widths[0] + 1) * config.out_channels
    shares = {"ends": Share(rest=float(embeddings + first + final))}
    width, skips = widths[0], [widths[0]]
    for level, wide in enumerate(widths):
        residual = residual_size(width, wide, w) + (config.blocks - 1) * residual_size(wide, wide, w)
        shrink = (9 * wide + 1) * wide if level < last else 0
        shares[f"down {level}"] = Share(residual, transformers(wide, config.attention[level], config.blocks), float(shrink))
        width, skips = wide, skips + [wide] * (config.blocks + (level < last))
    shares["middle"] = Share(2 * residual_size(width, width, w), transformers(width, config.middle_attention))
    for level in range(last, -1, -1):
        residual = 0.0
        for _ in range(config.blocks + 1):
            residual += residual_size(width + skips.pop(), widths[level], w)
            width = widths[level]
        grow = (9 * width + 1) * width if level > 0 else 0
        shares[f"up {level}"] = Share(residual, transformers(width, config.attention[level], config.blocks + 1), float(grow))
    return shares


def unet_size(config: UNetConfig) -> float:
    """The numbers in the whole U-Net, Eq. (21.3): the sum over its parts."""
    return sum(share.total for share in unet_shares(config).values())
