"""What a network's layers compute, in plain sums, and what they cost: sizes, reach, shapes, parameters, FLOPs (chapter 09).

A FLOP is one multiplication or one addition of two numbers; only matrix products and convolutions are counted.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minildm.engine.book import COLOURS
from minildm.unet import Embedding, ResidualBlock, SpatialTransformer, Stage, Upsample


def conv_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """How many places along one side a convolution's kernel finds: ⌊(n + 2p − k)/s⌋ + 1, in pixels.

    Raises ValueError where the kernel is larger than the padded map.
    """
    if kernel > size + 2 * padding:
        raise ValueError(f"a kernel of {kernel} does not fit on {size} pixels with a margin of {padding}")
    return (size + 2 * padding - kernel) // stride + 1


def reach(layers: Sequence[tuple[int, int]]) -> int:
    """The receptive field of convolutions in a row: 1 + Σ_l (k_l − 1) ∏_{j<l} s_j, in pixels along one side.

    Args:
        layers: kernel and stride of each, the first layer first.
    """
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """A convolution as a sum of shifted maps, Eq. (09.1): one matrix of channels for each place of the kernel.

    y[o, i, j] = b[o] + Σ_{c, k, l} w[o, c, k, l] x[c, s i + k − p, s j + l − p], and x is 0 outside.

    Args:
        x: N×C×H×W.
        weight: O×C×K×K.
        bias: O.

    Returns: N×O×H'×W', sizes as in `conv_size`.
    """
    kernel = weight.shape[-1]
    height, width = (conv_size(size, kernel, stride, padding) for size in x.shape[2:])
    x = nn.functional.pad(x, (padding,) * 4)
    y = bias[:, None, None].expand(len(x), -1, height, width)
    for k in range(kernel):
        for m in range(kernel):
            shifted = x[:, :, k : k + stride * height : stride, m : m + stride * width : stride]
            shifted = shifted[:, :, :height, :width]
            y = y + torch.einsum("oc,nchw->nohw", weight[:, :, k, m], shifted)
    return y


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Each group of channels of each example to mean 0 and variance 1, Eq. (09.3), then a scale and a shift for each channel.

    Args:
        x: N×C×H×W.
        groups: how many; must divide C.
        weight, bias: C.
        eps: added to the variance.

    Source: Wu and He 2018 (arXiv:1803.08494), Eq. 1 and 2.
    """
    together = x.unflatten(1, (groups, -1)).flatten(2)  # N×groups×(C/groups · HW)
    mean = together.mean(2, keepdim=True)
    variance = (together - mean).square().mean(2, keepdim=True)
    return ((together - mean) / (variance + eps).sqrt()).view_as(x) * weight[:, None, None] + bias[:, None, None]


@dataclasses.dataclass(frozen=True)
class Part:
    """A block of a network as one forward pass finds it.

    Attributes:
        name: where it stands in the network, as in `down.0.0`.
        kind: its class.
        taken, given: shapes of its first input and of its output, without the batch.
        parameters: how many.
        flops: for this batch.
    """

    name: str
    kind: str
    taken: tuple[int, ...]
    given: tuple[int, ...]
    parameters: int
    flops: int


BLOCKS = (Stage, ResidualBlock, SpatialTransformer, Upsample, Embedding, nn.Conv2d, nn.GroupNorm)


def outermost(network: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """The blocks that are inside no other block, by name."""
    found = {}
    for name, child in network.named_children():
        found |= {prefix + name: child} if isinstance(child, BLOCKS) else outermost(child, f"{prefix}{name}.")
    return found


@torch.no_grad()
def survey(network: nn.Module, *inputs: Tensor) -> list[Part]:
    """The network's blocks in the order in which data pass, seen by hooks in one forward pass.

    Keys and values of the text, which a U-Net computes beforehand, count to the blocks that use them.
    """
    shapes: dict[str, tuple] = {}
    blocks = outermost(network)
    hooks = [
        block.register_forward_hook(lambda _, given, out, name=name: shapes.update({name: (given[0].shape, out.shape)}))
        for name, block in blocks.items()
    ]
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    for hook in hooks:
        hook.remove()
    counts = {name: sum(kinds.values()) for name, kinds in counter.get_flop_counts().items()}
    top = type(network).__name__

    def flops(name: str) -> int:
        inside = [other for other in counts if other.startswith(f"{top}.{name}.")]
        apart = [other for other in inside if other.endswith(("context.key", "context.value"))]
        return counts.get(f"{top}.{name}", 0) + sum(counts[other] for other in apart)

    def part(name: str, taken: torch.Size, given: torch.Size) -> Part:
        parameters = sum(parameter.numel() for parameter in blocks[name].parameters())
        return Part(name, type(blocks[name]).__name__, tuple(taken[1:]), tuple(given[1:]), parameters, flops(name))

    return [part(name, *pair) for name, pair in shapes.items()]


def skips_of(parts: Sequence[Part]) -> list[tuple[Part, Part]]:
    """Which block's map is kept for which block of the way up: last kept, first read."""
    kept = [part for part in parts if part.name.split(".")[0] in ("first", "down", "shrink")]
    return list(zip(reversed(kept), [part for part in parts if part.name.startswith("up.")], strict=True))


def draw_map(axis: plt.Axes, network: nn.Module, parts: Sequence[Part]) -> None:
    """A U-Net as its survey found it: boxes with channels and sizes, going down, through the middle and up; skips as arrows."""
    parts = [part for part in parts if part.name not in ("time", "extra", "norm")]
    depth = {part.name: (parts[0].taken[1] // part.given[1]).bit_length() - 1 for part in parts}
    levels, half, spots = max(depth.values()), 0.46, {}
    kinds = {
        "guide": "convolution",
        "model": "residual block: reads t",
        "approximation": "with a transformer: reads the text",
    }
    for place, part in enumerate(parts):
        spots[part.name] = x, y = place, -2.7 * (levels + 0.6 if part.name.startswith("middle") else depth[part.name])
        attends = part.kind == "SpatialTransformer" or getattr(network.get_submodule(part.name), "transformer", None) is not None
        kind = "approximation" if attends else "guide" if part.kind in ("Conv2d", "Upsample") else "model"
        colours = {"facecolor": COLOURS[kind] + "40", "edgecolor": COLOURS[kind]}
        axis.add_patch(FancyBboxPatch((x - half, y - 0.65), 2 * half, 1.3, boxstyle="round,pad=0,rounding_size=0.1", **colours))
        label = f"{part.name}\n{part.taken[0]}→{part.given[0]}\n{'×'.join(map(str, part.given[1:]))}"
        axis.text(x, y, label, ha="center", va="center", fontsize=6.5)
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6}
    for before, after in itertools.pairwise(spots.values()):
        axis.add_patch(FancyArrowPatch((before[0] + half, before[1]), (after[0] - half, after[1]), **arrow))
    pairs = skips_of(parts)
    for place, (kept, read) in enumerate(pairs):
        nested = sum(depth[other.name] == depth[kept.name] for other, _ in pairs[:place])
        (x0, y), (x1, _), height = spots[kept.name], spots[read.name], 1.1 + 0.5 * nested
        axis.plot([x0, x0, x1], [y + 0.65, y + height, y + height], color=COLOURS["exact"], linewidth=1.2)
        axis.add_patch(FancyArrowPatch((x1, y + height), (x1, y + 0.65), color=COLOURS["exact"], **arrow))
        words = {"fontsize": 7, "ha": "center", "va": "center", "bbox": {"facecolor": "white", "linewidth": 0, "pad": 1}}
        axis.text((x0 + x1) / 2, y + height, f"{kept.given[0]}", color=COLOURS["exact"], **words)
    for place, (kind, words) in enumerate(kinds.items()):
        axis.text(len(parts) - 3.9, -2.7 * levels - 0.7 * place, f"■ {words}", color=COLOURS[kind], fontsize=7, va="center")
    axis.set(xlim=(-0.6, len(parts) - 0.4), ylim=(-2.7 * (levels + 0.6) - 0.8, 2.6))
    axis.axis("off")
