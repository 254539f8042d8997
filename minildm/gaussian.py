"""The diagonal Gaussian: sampling, log-density, KL and entropy in closed form (chapter 01)."""

import dataclasses
import math

import torch
from torch import Tensor


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape one number per example so that it multiplies `like`: N → N×1×…×1, in `like`'s dtype and on its device.

    A single number (no dimension) is left single. Raises ValueError when there are neither 1 nor N values.
    """
    if values.ndim == 0:
        return values.to(like)
    if values.shape != like.shape[:1]:
        raise ValueError(f"one value per example is needed: {like.shape[0]} examples, values of shape {tuple(values.shape)}")
    return values.to(like).reshape(-1, *[1] * (like.ndim - 1))


def sum_per_example(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first: N×… → N."""
    return values.flatten(1).sum(1) if values.ndim > 1 else values


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """N(mean, exp(log_var) I) for each of N examples, the dimensions independent.

    Args:
        mean: N×….
        log_var: log σ², in any shape that broadcasts to the mean's. −∞ is allowed: all mass at the mean.

    Densities are in nats, summed over dimensions, one per example: shape N.
    """

    mean: Tensor
    log_var: Tensor

    def sample(self, noise: Tensor | None = None) -> Tensor:
        """Draw x = μ + σ ε (reparameterised: gradients reach μ and σ). `noise` is ε; by default it is drawn here."""
        noise = torch.randn_like(self.mean) if noise is None else noise
        if noise.shape != self.mean.shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} for a mean of shape {tuple(self.mean.shape)}")
        return self.mean + torch.exp(0.5 * self.log_var) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; μ, σ²) = −½ Σ [log 2π + log σ² + (x − μ)²/σ²], shape N.

        Raises ValueError where the variance is zero: there is no density.
        """
        log_var = self._log_var("log_prob")
        return sum_per_example(-0.5 * (math.log(2 * math.pi) + log_var + (x - self.mean) ** 2 * torch.exp(-log_var)))

    def kl(self, other: "Gaussian | None" = None) -> Tensor:
        """KL(self ‖ other) = ½ Σ [log σ₂² − log σ₁² + (σ₁² + (μ₁ − μ₂)²)/σ₂² − 1], shape N.

        `other` is N(0, I) by default. Raises ValueError where either variance is zero: the divergence is infinite.
        """
        log_var = self._log_var("kl")
        if other is None:
            return sum_per_example(0.5 * (torch.exp(log_var) + self.mean**2 - 1 - log_var))
        other_log_var = other._log_var("kl")
        square = torch.exp(log_var) + (self.mean - other.mean) ** 2
        return sum_per_example(0.5 * (other_log_var - log_var + square * torch.exp(-other_log_var) - 1))

    def entropy(self) -> Tensor:
        """The differential entropy ½ Σ (1 + log 2π + log σ²), shape N. Raises ValueError where the variance is zero."""
        return sum_per_example(0.5 * (1 + math.log(2 * math.pi) + self._log_var("entropy")))

    def _log_var(self, wanted: str) -> Tensor:
        if torch.isneginf(self.log_var).any():
            raise ValueError(f"{wanted} of a Gaussian with variance 0 (a point mass) does not exist; use its mean")
        return self.log_var.expand(torch.broadcast_shapes(self.log_var.shape, self.mean.shape))
