"""Solutions of chapter 11. They stand alone: nothing is imported from minildm."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def largest_eta(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """ch11.1: σ_s = η (σ_s/σ_t) √(1 − ᾱ_t/ᾱ_s), solved for η."""
    return ((1 - alpha_bar[t]) / (1 - alpha_bar[t] / alpha_bar[s])).sqrt()


def encode(denoise: Callable[[Tensor, Tensor], Tensor], alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """ch11.2: take the noise out as at the time where we stand, put it back as at the next."""
    a, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    for now, later in pairwise(times.tolist()):
        x0 = denoise(x, torch.full((len(x),), now))
        x = a[later] * x0 + sigma[later] * (x - a[now] * x0) / sigma[now]
    return x


def adams_bashforth(slope: Callable[[Tensor, Tensor], Tensor], y: Tensor, r: Tensor) -> Tensor:
    """ch11.3: the line through the last two slopes, half a step ahead."""
    before, h_before = None, None
    for now, after in pairwise(r):
        h, here = after - now, slope(y, now)
        middle = here if before is None else here + h / (2 * h_before) * (here - before)
        y, before, h_before = y + h * middle, here, h
    return y


def churn(denoise: Callable[[Tensor, Tensor], Tensor], y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """ch11.4: r̂² = r² + (what is added)², then Euler from (ŷ, r̂)."""
    higher = r * (1 + gamma)
    y = y + (higher**2 - r**2) ** 0.5 * noise
    return y + (r_next - higher) * (y - denoise(y, higher)) / higher


def line_mean(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """ch11.5: the mean of u over [0, h] with the weights e^u is h/(1 − e^{−h}) − 1."""
    return x0 + (h / -torch.expm1(-h) - 1) / h_before * (x0 - x0_before)
