"""Solutions of chapter 10. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def ancestral_step(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """ch10.1: (x_t − β_t/σ_t ε̂)/√α_t + √β̃_t z; β̃_1 is 0 by itself, since ᾱ_0 = 1."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    mean = (x_t - beta[t] / (1 - alpha_bar[t]).sqrt() * noise_hat) / (1 - beta[t]).sqrt()
    variance = beta[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
    return mean + variance.sqrt() * z


def average_shares(decay: float, updates: int) -> Tensor:
    """ch10.2: s_n = (1 − d_n) d_{n+1} d_{n+2} …; d_0 = 0 wipes out the copy."""
    n = torch.arange(updates, dtype=torch.float64)
    d = (n / (10 + n)).clamp(max=decay)
    later = torch.cat([d[1:], torch.ones(1, dtype=torch.float64)]).flip(0).cumprod(0).flip(0)
    return (1 - d) * later


def best_share(beta: Tensor, error: Tensor) -> Tensor:
    """ch10.3: log V_t is linear in ρ, so ρ = (log V_t − log β̃)/(log β − log β̃)."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    now, before = alpha_bar[2:], alpha_bar[1:-1]
    small = beta[2:] * (1 - before) / (1 - now)
    best = small + (before.sqrt() * beta[2:] / (1 - now)) ** 2 * error[2:]
    v = (best / small).log() / (beta[2:] / small).log()
    return torch.cat([v.new_zeros(2), v])


def logistic_levels(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """ch10.4: differences of the distribution function at −∞, the levels − 1 edges half-way between levels, and ∞.

    F(−u) = 1 − F(u), so above the mean F(−a) − F(−b) is the same difference, of numbers that are small there.
    """
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    edges = torch.cat([x.new_tensor([-torch.inf]), (x[1:] + x[:-1]) / 2, x.new_tensor([torch.inf])])
    u = (edges - mean[:, None]) / scale[:, None]
    low, high = u[:, :-1], u[:, 1:]
    flip = low + high > 0
    return torch.sigmoid(torch.where(flip, -low, high)) - torch.sigmoid(torch.where(flip, -high, low))


def importance_times(losses: Tensor) -> tuple[Tensor, Tensor]:
    """ch10.5: p w = 1/T keeps the mean; then Σ E[L²]/(T² p) is smallest for p ∝ √E[L²]."""
    p = losses.square().mean(1).sqrt()
    p[0] = 0
    p = p / p.sum()
    w = torch.zeros_like(p)
    w[1:] = 1 / ((len(p) - 1) * p[1:])
    return p, w
