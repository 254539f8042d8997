"""Solutions of chapter 21. They stand alone: nothing is imported from minildm."""

import json

import torch
from torch import Tensor


def head_of(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """ch21.1: the numbers begin after the eight bytes and the text."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    entries.pop("__metadata__", None)
    return {
        name: (entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]) for name, entry in entries.items()
    }


def three_of_one(weight: Tensor, bias: Tensor, heads: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """ch21.2: a row is (head, kind, channel)."""
    rows, offsets = weight.unflatten(0, (heads, 3, -1)), bias.unflatten(0, (heads, 3, -1))
    return tuple((rows[:, kind].flatten(0, 1), offsets[:, kind].flatten(0, 1)) for kind in range(3))


def without_scale(quant_weight: Tensor, quant_bias: Tensor, post_weight: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """ch21.3: the means are multiplied, the log-variances raised by 2 log s, and the decoder divides."""
    half = len(quant_bias) // 2
    gain = torch.ones_like(quant_bias)
    gain[:half] = scale
    shift = torch.zeros_like(quant_bias)
    shift[half:] = 2 * torch.log(torch.tensor(scale, dtype=torch.float64))
    return quant_weight * gain[:, None, None, None], quant_bias * gain + shift, post_weight / scale


def reversed_clock(weight: Tensor, T: float) -> Tensor:
    """ch21.4: cos ω(T − t) = cos ωT cos ωt + sin ωT sin ωt and sin ω(T − t) = sin ωT cos ωt − cos ωT sin ωt."""
    half = weight.shape[1] // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = torch.cos(omega * T), torch.sin(omega * T)
    of_cos, of_sin = weight.double().split(half, 1)
    return torch.cat([of_cos * cos + of_sin * sin, of_cos * sin - of_sin * cos], 1).to(weight)


def as_adapter(before: Tensor, after: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """ch21.5: the r largest singular values and their directions, the root of each value on either side."""
    u, s, v = torch.linalg.svd((after - before).flatten(1), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]
