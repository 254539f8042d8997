"""Solutions of chapter 05. They stand alone: nothing is imported from minildm."""

import math

import torch
from torch import Tensor


def elbo_of_tables(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """ch05.1: a table over all pairs (z_1, z_2), weighed by how often q draws them."""
    q = up[:, :, None] * higher  # N×A×B
    p = seen[:, :, None] * down.T * top  # N×A×B
    return (q * torch.log(p / q)).sum((1, 2))


def split_divergence(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """ch05.2: the marginals of z_2 are the columns' sums; what remains is divided by them."""
    q_top, p_top = q.sum(0), p.sum(0)  # B
    above = (q_top * torch.log(q_top / p_top)).sum()
    below = (q * torch.log((q / q_top) / (p / p_top))).sum()  # q = q_top · q(z_1 | z_2) weighs each column's KL by q_top
    return above, below


def levels_needed(beta: float, x: Tensor, tolerance: float) -> int:
    """ch05.3: with k = (1 − β)^L, q(z_L | x) = N(√k x, 1 − k), and the KL is ½ Σ [k x² − k − log(1 − k)]."""
    level = 1
    while True:
        k = (1 - beta) ** level
        if 0.5 * (k * (x**2).sum().item() - len(x) * (k + math.log1p(-k))) <= tolerance:
            return level
        level += 1


def bridge(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """ch05.4: from below N(x, s_1² + … + s_l²), from above z_{l+1} with variance s_{l+1}²."""
    below, step = variances[:level].sum(), variances[level]
    variance = 1 / (1 / below + 1 / step)
    return variance * (x / below + above / step), variance


def skip_reconstruction(
    x: Tensor, likelihood: tuple[float, float, float], first: tuple[float, float], second: tuple[float, float]
) -> Tensor:
    """ch05.5: a z_1 + c z_2 = (a + c w)(u x + √v_1 ε_1) + c √v_2 ε_2."""
    (a, c, variance), (u, v1), (w, v2) = likelihood, first, second
    both = a + c * w
    square = (x - both * u * x) ** 2 + both**2 * v1 + c**2 * v2
    return -0.5 * (math.log(2 * math.pi * variance) + square / variance)
