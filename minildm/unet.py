"""The conditional U-Net that predicts noise, image, velocity or flow (chapter 09).

Going down, maps shrink and widen; going up, they grow back, and each block also reads the map that the way down
left at the same size. Time is added inside every residual block; text is read by cross-attention.
The structure is that of Ho et al. 2020 (arXiv:2006.11239) as extended by Rombach et al. 2022 (arXiv:2112.10752),
with every size left open (`UNetConfig`), so that the same class holds Stable Diffusion's weights.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import KeysValues, TransformerBlock
from minildm.config import UNetConfig


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Features of time, N → N×width, Eq. (09.5): cosines, then sines, of t at wavelengths from 2π to almost 2π·10⁴.

    Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.5, with the cosines first as in Stable Diffusion.
    """
    half = width // 2
    frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angle = t.float()[:, None] * frequency  # N×half
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


class Embedding(nn.Sequential):
    """A vector for the residual blocks, from features of time or from any other vector: linear, SiLU, linear."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))


class ResidualBlock(nn.Module):
    """Two halves of GroupNorm, SiLU, 3×3 convolution, around which the input passes unchanged, Eq. (09.4).

    The second convolution starts at zero, so a fresh block is the identity. `time_width=None` leaves time out.
    """

    def __init__(self, width_in: int, width_out: int, time_width: int | None, groups: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, width_in, eps), nn.Conv2d(width_in, width_out, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, width_out, eps), zero(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.time = nn.Linear(time_width, width_out) if time_width else None
        self.skip = nn.Conv2d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """x: N×width_in×H×W; time: N×time_width. Returns N×width_out×H×W."""
        h = self.conv1(F.silu(self.norm1(x)))
        if self.time is not None:
            h = h + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class SpatialTransformer(nn.Module):
    """A map as a sequence of positions, through transformer blocks and back, and added to the map.

    Unlike a residual block's, the last projection does not start at zero: with it at zero no gradient reaches the text
    encoder at first, and on small data sets the model learns to read several times more slowly.
    """

    def __init__(self, width: int, heads: int, config: UNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, width, 1e-6)
        self.linear = config.linear_projection
        self.project_in = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        self.project_out = nn.Linear(width, width) if self.linear else nn.Conv2d(width, width, 1)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, config.context_width) for _ in range(config.depth))

    def forward(self, x: Tensor, keys_values: Iterator[KeysValues], mask: Tensor | None) -> Tensor:
        size = x.shape[2:]
        h = self.norm(x)  # N×C×H×W
        h = h if self.linear else self.project_in(h)
        h = h.flatten(2).transpose(1, 2)  # N×HW×C
        h = self.project_in(h) if self.linear else h
        for block in self.blocks:
            h = block(h, next(keys_values, None), mask)
        h = self.project_out(h) if self.linear else h
        h = h.transpose(1, 2).unflatten(2, size)
        return x + (h if self.linear else self.project_out(h))


class Upsample(nn.Module):
    """Double height and width: repeat each pixel, then convolve, Eq. (09.2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """One residual block and, where the level has attention, one spatial transformer."""

    def __init__(self, width_in: int, width_out: int, heads: int | None, config: UNetConfig) -> None:
        super().__init__()
        self.residual = ResidualBlock(width_in, width_out, 4 * config.widths[0], config.groups)
        self.transformer = SpatialTransformer(width_out, heads, config) if heads else None

    def forward(self, x: Tensor, time: Tensor, keys_values: Iterator[KeysValues], mask: Tensor | None) -> Tensor:
        x = self.residual(x, time)
        return x if self.transformer is None else self.transformer(x, keys_values, mask)


class UNet(nn.Module):
    """ε, x_0, v or u from (x_t, t, context): the structure above, Eq. (09.10), with the sizes of `config`.

    Attributes, in the order in which data pass:
        time, extra: embeddings (extra: None unless configured).
        first: convolution to widths[0].
        down: for each level a list of stages, then `shrink` (a convolution of stride 2; nothing at the last level).
        middle: residual block, spatial transformer, residual block.
        up: for each level, smallest maps first, a list of stages that read the skips, then `grow`.
        norm, last: to the output channels; `last` starts at zero.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, levels = config.widths, range(len(config.widths))
        time_width = 4 * widths[0]
        heads = [heads if attends else None for heads, attends in zip(config.heads, config.attention, strict=True)]
        self.time = Embedding(widths[0], time_width)
        self.extra = Embedding(config.extra_width, time_width) if config.extra_width else None
        self.first = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        width, skips = widths[0], [widths[0]]  # the width now, and of every map kept for the way up
        for level in levels:
            stages = nn.ModuleList()
            for _ in range(config.blocks):
                stages.append(Stage(width, widths[level], heads[level], config))
                width = widths[level]
                skips.append(width)
            self.down.append(stages)
            self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1) if level < levels[-1] else nn.Identity())
            if level < levels[-1]:
                skips.append(width)

        block = ResidualBlock(width, width, time_width, config.groups)
        transformer = SpatialTransformer(width, config.heads[-1], config) if config.middle_attention else None
        self.middle = nn.ModuleList([block, transformer, ResidualBlock(width, width, time_width, config.groups)])

        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(levels):
            stages = nn.ModuleList()
            for _ in range(config.blocks + 1):
                stages.append(Stage(width + skips.pop(), widths[level], heads[level], config))
                width = widths[level]
            self.up.append(stages)
            self.grow.append(Upsample(width) if level > 0 else nn.Identity())
        self.norm, self.last = nn.GroupNorm(config.groups, width), zero(nn.Conv2d(width, config.out_channels, 3, padding=1))
        lay_out(self, widths, config.groups)

    def keys_values(self, context: Tensor) -> list[KeysValues]:
        """Keys and values of every cross-attention, in the order of use. Pass them as `context` to compute them once.

        context: N×L×context_width.
        """
        blocks = (module for module in self.modules() if isinstance(module, TransformerBlock))  # registered in order of use
        return [block.attend_context.keys_values(context) for block in blocks]

    def forward(
        self,
        x_t: Tensor,
        t: Tensor,
        context: Tensor | list[KeysValues] | None = None,
        *,
        context_mask: Tensor | None = None,
        extra: Tensor | None = None,
    ) -> Tensor:
        """Predict from noisy data.

        Args:
            x_t: N×in_channels×H×W; H and W multiples of 2^(levels − 1).
            t: times, shape N, whole or real.
            context: text states N×L×context_width, or `keys_values` of them, or None to skip cross-attention.
            context_mask: N×L, True where there is text to look at; by default everywhere.
            extra: N×extra_width, added to the time embedding.

        Returns: N×out_channels×H×W.

        Raises:
            ValueError: H or W that cannot be halved often enough; context or `extra` without a place for them.
        """
        multiple = 2 ** (len(self.config.widths) - 1)
        if x_t.shape[2] % multiple or x_t.shape[3] % multiple:
            raise ValueError(f"maps of {x_t.shape[2]}×{x_t.shape[3]}: height and width must be multiples of {multiple}")
        if (extra is None) != (self.extra is None):
            raise ValueError(f"extra_width={self.config.extra_width}, but `extra` is {'missing' if extra is None else 'given'}")
        if context is not None and not self.config.context_width:
            raise ValueError("context_width=None: this U-Net has no cross-attention to read a context with")
        time = self.time(sinusoidal(t, self.config.widths[0]).to(x_t))  # N×time_width
        if self.extra is not None:
            time = time + self.extra(extra)
        mask = None if context_mask is None else context_mask[:, None, None, :]
        keys_values = iter(self.keys_values(context) if isinstance(context, Tensor) else context or [])

        x = self.first(x_t)
        skips = [x]
        for stages, shrink in zip(self.down, self.shrink, strict=True):
            for stage in stages:
                x = stage(x, time, keys_values, mask)
                skips.append(x)
            if isinstance(shrink, nn.Conv2d):
                x = shrink(x)
                skips.append(x)
        block, transformer, block_after = self.middle
        x = block(x, time)
        x = x if transformer is None else transformer(x, keys_values, mask)
        x = block_after(x, time)
        for stages, grow in zip(self.up, self.grow, strict=True):
            for stage in stages:
                x = stage(torch.cat([x, skips.pop()], 1), time, keys_values, mask)
            x = grow(x)
        return self.last(F.silu(self.norm(x)))


def lay_out(network: nn.Module, widths: tuple[int, ...], groups: int) -> None:
    """Keep the channels of each position side by side in memory (channels-last) where that is faster.

    It is for convolutions, and for reading a map as a sequence. But PyTorch's GroupNorm works in vectors of 16 channels of
    one group in that layout, and is ten to twenty times slower with fewer: then each channel's map stays in one piece.
    """
    if min(widths) >= 16 * groups:
        network.to(memory_format=torch.channels_last)


def zero(layer: nn.Module) -> nn.Module:
    """The layer, with weight and bias set to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
