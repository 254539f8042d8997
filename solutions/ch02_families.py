"""Solutions of chapter 02. They stand alone: nothing is imported from minildm."""

import math

import torch
from torch import Tensor


def discriminator_for_shares(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """ch02.1: D* = π p/(π p + (1 − π) q), and its logit is log p − log q + log π/(1 − π): Bayes' rule with a prior."""
    return torch.sigmoid(log_p_data - log_p_model + math.log(share / (1 - share)))


def hinge_value(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """ch02.2: the best D is ±1, on the side of the larger density, and costs twice the smaller one.

    Between −1 and 1 both hinges are active and a(D − 1) + b(−1 − D) = (a − b)D − (a + b), a straight line; further out it
    only falls. With D = sign(a − b): |a − b| − (a + b) = −2 min(a, b). So V* = −2 ∫ min(p, q) = 2 TV − 2, with the total
    variation TV = ½ ∫ |p − q|.
    """
    return -2 * cell * torch.minimum(log_p_data, log_p_model).exp().sum()


def folded_log_prob(x: Tensor, c: float) -> Tensor:
    """ch02.3: z = c ± √x, and dx/dz = 2(z − c) = ±2√x at both."""
    root = x.sqrt()
    log_normal = -0.5 * (math.log(2 * math.pi) + torch.stack([c + root, c - root]) ** 2)  # 2×N
    return torch.logsumexp(log_normal, 0) - torch.log(2 * root)


def triangular_log_prob(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """ch02.4: z = L⁻¹(x − b), and the determinant of L⁻¹ is one over the product of L's diagonal."""
    z = torch.linalg.solve_triangular(lower, (x - shift).T, upper=False).T  # N×D
    log_normal = -0.5 * (math.log(2 * math.pi) + z**2).sum(1)
    return log_normal - lower.diagonal().abs().log().sum()


def planar(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """ch02.5: J = I + u ψᵀ with ψ = (1 − tanh²) w, and J u = (1 + ψ·u) u, so det J = 1 + ψ·u."""
    bent = torch.tanh(x @ w + b)  # N
    return x + bent[:, None] * u, torch.log((1 + (1 - bent**2) * (w @ u)).abs())
