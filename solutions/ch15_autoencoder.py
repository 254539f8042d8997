"""Solutions of chapter 15. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def channel_scale(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """ch15.1: the law of total variance, channel by channel."""
    shift = mean.mean((0, 2, 3))
    variance = mean.var((0, 2, 3), correction=0) + torch.exp(log_var).mean((0, 2, 3))
    return shift, variance.rsqrt()


def patch_size(kernels: list[int], strides: list[int]) -> int:
    """ch15.2: n values after a layer need (n − 1) strides and a kernel before it."""
    n = 1
    for kernel, stride in zip(kernels[::-1], strides[::-1], strict=True):
        n = (n - 1) * stride + kernel
    return n


def level_of(variances: Tensor, error: float) -> float:
    """ch15.3: with the k smallest under water, their sum + (D − k) θ = error; right when λ_k ≤ θ ≤ λ_{k+1}."""
    ordered = variances.sort().values
    under = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])[:-1]  # the sum of the k smallest, k = 0..D−1
    levels = (error - under) / torch.arange(len(ordered), 0, -1, dtype=ordered.dtype)
    return levels[levels <= ordered][0].item() if bool((levels <= ordered).any()) else ordered[-1].item()


def moving_codes(
    codebook: Tensor, counts: Tensor, sums: Tensor, z: Tensor, decay: float, floor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """ch15.4: who belongs to whom, as a matrix of zeros and ones."""
    belongs = torch.zeros(len(z), len(codebook), dtype=z.dtype)
    belongs[torch.arange(len(z)), torch.cdist(z, codebook).argmin(1)] = 1
    counts = decay * counts + (1 - decay) * belongs.sum(0)
    sums = decay * sums + (1 - decay) * belongs.T @ z
    return sums / counts.clamp(min=floor)[:, None], counts, sums


def finite_scalar(z: Tensor, levels: list[int]) -> tuple[Tensor, Tensor]:
    """ch15.5: straight through around `round`, and a number in mixed bases."""
    sizes = torch.tensor(levels)
    half = ((sizes - 1) / 2).to(z).view(-1, 1, 1)
    y = half * torch.tanh(z)
    whole = y + (y.round() - y).detach()
    bases = torch.cat([torch.ones(1, dtype=torch.long), sizes.cumprod(0)[:-1]])
    codes = ((whole.detach() + half).round().long() * bases.view(-1, 1, 1)).sum(1)
    return whole / half, codes
