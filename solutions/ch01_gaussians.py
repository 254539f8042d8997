"""Solutions of chapter 01's exercises."""

import torch
from torch import Tensor


def mutual_information(joint: Tensor) -> Tensor:
    """ch01.1: xlogy(0, 0) is 0, so entries without probability add nothing."""
    independent = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)  # K×L
    nats = torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, independent)
    return nats.sum() / torch.log(torch.tensor(2.0, dtype=joint.dtype))


def fit_weighted(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """ch01.2: the sum of the weights takes the place of N."""
    share = (weights / weights.sum())[:, None]  # N×1
    mean = (share * x).sum(0)
    return mean, torch.log((share * (x - mean) ** 2).sum(0))


def kl_gaussians(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """ch01.3: E_1[(x − μ₂)²] = σ₁² + (μ₁ − μ₂)²."""
    square = torch.exp(log_var1) + (mean1 - mean2) ** 2
    return 0.5 * (log_var2 - log_var1 + square / torch.exp(log_var2) - 1).sum(1)


def combine(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """ch01.4: each measurement adds its precision a²/s², and pulls with a x/s²."""
    new = 1 / (1 / var + (scales**2 / noise_vars).sum())
    return new * (mean / var + (scales * x / noise_vars).sum()), new


def kl_correlated(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """ch01.5: E_1[(x − m₂)ᵀ A (x − m₂)] = trace(A S₁) + (m₁ − m₂)ᵀ A (m₁ − m₂) with A = S₂⁻¹."""
    precision, apart = torch.linalg.inv(covariance2), mean1 - mean2
    square = torch.trace(precision @ covariance1) + apart @ precision @ apart
    return 0.5 * (torch.logdet(covariance2) - torch.logdet(covariance1) + square - len(mean1))
