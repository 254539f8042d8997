"""Solutions of chapter 04."""

import math
from collections.abc import Callable

import torch
from torch import Tensor


def bernoulli_score_gradient(f: Callable[[Tensor], Tensor], logit: float, coins: Tensor, baseline: float = 0.0) -> Tensor:
    """∂ log q/∂ℓ = b (1 − π) − (1 − b) π = b − π."""
    return (f(coins) - baseline) * (coins - 1 / (1 + math.exp(-logit)))


def best_baseline(values: Tensor, scores: Tensor) -> Tensor:
    """E[(f − b)² s²] = E[f² s²] − 2 b E[f s²] + b² E[s²] is least at b = E[f s²]/E[s²]."""
    return (values * scores**2).mean() / (scores**2).mean()


def exponential_pathwise_gradient(slope: Callable[[Tensor], Tensor], rate: Tensor, uniform: Tensor) -> Tensor:
    """∂z/∂r = log(1 − u)/r² = −z/r."""
    z = -torch.log1p(-uniform) / rate
    return -slope(z) * z / rate


def kl_to_wide_prior(mean: Tensor, log_var: Tensor, prior_variance: float) -> Tensor:
    """E_q[log p] has (μ² + σ²)/s² and log s² where (04.5) has μ² + σ² and 0."""
    ratio = (log_var.exp() + mean**2) / prior_variance
    return 0.5 * (ratio - 1 - log_var + math.log(prior_variance)).sum(1)


def calibrated_log_likelihood(x: Tensor, mean: Tensor) -> Tensor:
    """The best variance is the mean squared error, over the batch and all dimensions."""
    error = (x - mean).square().flatten(1)
    variance = error.mean()
    return -0.5 * (error / variance + torch.log(2 * math.pi * variance)).sum(1)


def true_beta(dimensions: int, latents: int, reconstruction: str, kl: str, weight: float = 1.0) -> float:
    """A mean over D is 1/D times the sum."""
    reconstruction_factor = 1 / dimensions if reconstruction == "mean" else 1
    kl_factor = 1 / latents if kl == "mean" else 1
    return weight * kl_factor / reconstruction_factor
