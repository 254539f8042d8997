"""Solutions of chapter 03. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def elbo_of_table(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.1: entries with q = 0 are replaced by ones before the logarithm, and then weigh nothing."""
    possible = q > 0
    ratio = torch.where(possible, joint, 1) / torch.where(possible, q, 1)
    return (q * torch.log(ratio)).sum(1)


def poisson_elbo(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """ch03.2: E_q[x z − exp(z) − log x!] with E_q[exp(z)] = exp(m + v/2), minus KL(N(m, v) ‖ N(0, 1))."""
    reconstruction = x * m - torch.exp(m + v / 2) - torch.lgamma(x + 1)
    matching = 0.5 * (m**2 + v - 1 - torch.log(v))
    return reconstruction - matching


def fit_belief(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """ch03.3: with e = exp(m + v/2), m = x − e and v = 1/(1 + e), one unknown is left: log e = x − e + 1/(2 + 2e).

    The right side falls as e grows and the left side rises, so there is one root, and bisection finds it.
    """
    low, high = torch.full_like(x, -20.0), torch.full_like(x, 5.0)  # of log e
    for _ in range(steps):
        middle = (low + high) / 2
        e = torch.exp(middle)
        too_small = middle < x - e + 0.5 / (1 + e)
        low, high = torch.where(too_small, middle, low), torch.where(too_small, high, middle)
    e = torch.exp((low + high) / 2)
    return x - e, 1 / (1 + e)


def two_draw_bound(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.4: all pairs, each as probable as its two draws together."""
    w = joint / q  # N×K
    pairs = torch.log((w[:, :, None] + w[:, None, :]) / 2)  # N×K×K
    return (q[:, :, None] * q[:, None, :] * pairs).sum((1, 2))


def upper_bound(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.5: 2 log p(x) ≤ log E_q[w²]."""
    return 0.5 * torch.log((joint**2 / q).sum(1))
