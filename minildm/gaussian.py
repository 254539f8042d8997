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
    """Sum over all dimensions but the first: N×… → N.

    For independent dimensions log-densities, entropies and divergences add, Eq. (01.17): KL = Σ_d KL_d.
    """
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
        """Draw x = μ + σ ε, Eq. (01.2): gradients reach μ and σ.

        Args:
            noise: ε ~ N(0, I), shaped like the mean; by default it is drawn here.

        Returns: x, shaped like the mean.

        Raises ValueError for noise of another shape, which would broadcast in silence.
        """
        noise = torch.randn_like(self.mean) if noise is None else noise
        if noise.shape != self.mean.shape:
            raise ValueError(f"noise of shape {tuple(noise.shape)} for a mean of shape {tuple(self.mean.shape)}")
        return self.mean + torch.exp(0.5 * self.log_var) * noise

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; μ, σ²) = −½ Σ [log 2π + log σ² + (x − μ)²/σ²], Eq. (01.1).

        Args:
            x: shaped like the mean.

        Returns: nats, shape N.

        Raises ValueError where the variance is zero: there is no density.
        """
        log_var = self._log_var("log_prob")
        return sum_per_example(-0.5 * (math.log(2 * math.pi) + log_var + (x - self.mean) ** 2 * torch.exp(-log_var)))

    def kl(self, other: "Gaussian | None" = None) -> Tensor:
        """KL(self ‖ other) = ½ Σ [log σ₂² − log σ₁² + (σ₁² + (μ₁ − μ₂)²)/σ₂² − 1], Eq. (01.11).

        Args:
            other: of the same shape; N(0, I) by default.

        Returns: nats, summed over dimensions, shape N.

        Raises ValueError where either variance is zero: the divergence is infinite.

        Source: Kingma and Welling 2013 (arXiv:1312.6114), Appendix B, for `other` = N(0, I).
        """
        log_var = self._log_var("kl")
        if other is None:
            return sum_per_example(0.5 * (torch.exp(log_var) + self.mean**2 - 1 - log_var))
        other_log_var = other._log_var("kl")
        square = torch.exp(log_var) + (self.mean - other.mean) ** 2
        return sum_per_example(0.5 * (other_log_var - log_var + square * torch.exp(-other_log_var) - 1))

    def entropy(self) -> Tensor:
        """The differential entropy ½ Σ (1 + log 2π + log σ²), Eq. (01.10).

        Returns: nats, summed over dimensions, shape N; negative for a narrow Gaussian.

        Raises ValueError where the variance is zero.

        Source: Shannon 1948 (A Mathematical Theory of Communication), section 20.
        """
        return sum_per_example(0.5 * (1 + math.log(2 * math.pi) + self._log_var("entropy")))

    def _log_var(self, wanted: str) -> Tensor:
        if torch.isneginf(self.log_var).any():
            raise ValueError(f"{wanted} of a Gaussian with variance 0 (a point mass) does not exist; use its mean")
        return self.log_var.expand(torch.broadcast_shapes(self.log_var.shape, self.mean.shape))


def fit(examples: Tensor) -> Gaussian:
    """The Gaussian under which the examples are most probable, Eq. (01.3): μ̂ = mean, σ̂² = mean squared distance from it.

    Args:
        examples: N×…, floating point; N divides, not N − 1: that is the maximum of the likelihood.

    Returns: one Gaussian, 1×….

    Raises:
        ValueError: fewer than 2 examples, values that are not finite, or examples that all agree in some dimension: the
            likelihood then grows without bound as the variance goes to zero.

    Source: Bishop 2006 (Pattern Recognition and Machine Learning), Eq. 1.55 and 1.56.
    """
    if len(examples) < 2:
        raise ValueError(f"a Gaussian cannot be fitted to {len(examples)} example(s): give at least 2")
    if not bool(examples.isfinite().all()):
        raise ValueError(f"{int((~examples.isfinite()).sum())} of the examples' values are not finite: leave them out")
    variance = examples.var(0, correction=0, keepdim=True)
    if not bool((variance > 0).all()):
        raise ValueError("all examples agree in some dimension: the likeliest variance there is 0, which is no Gaussian")
    return Gaussian(examples.mean(0, keepdim=True), torch.log(variance))


def affine(x: Gaussian, scale: Tensor | float, shift: Tensor | float = 0.0) -> Gaussian:
    """The distribution of y = a x + b, Eq. (01.12): N(a μ + b, a² σ²).

    Args:
        x: N(μ, σ²), N×….
        scale, shift: a and b, which broadcast to the mean's shape; a = 0 leaves all mass at b.

    Returns: N×….
    """
    scale = torch.as_tensor(scale, dtype=x.mean.dtype, device=x.mean.device)
    return Gaussian(scale * x.mean + shift, x.log_var + torch.log(scale**2))


def multiply(p: Gaussian, q: Gaussian) -> tuple[Gaussian, Tensor]:
    """The product of two densities in the same variable is a Gaussian density times a constant.

    p(x) q(x) = c N(x; μ, σ²) with 1/σ² = 1/σ₁² + 1/σ₂² and μ/σ² = μ₁/σ₁² + μ₂/σ₂², Eq. (01.13), and
    c = N(μ₁; μ₂, σ₁² + σ₂²), Eq. (01.14).

    Args:
        p, q: N(μ₁, σ₁²) and N(μ₂, σ₂²), N×… both.

    Returns: the Gaussian, N×…, and log c, shape N.

    Raises ValueError where either variance is zero.

    Source: Rasmussen and Williams 2006 (Gaussian Processes for Machine Learning), Eq. A.7 and A.8.
    """
    p_log_var, q_log_var = p._log_var("the product"), q._log_var("the product")
    log_var = -torch.logaddexp(-p_log_var, -q_log_var)
    mean = torch.exp(log_var) * (p.mean * torch.exp(-p_log_var) + q.mean * torch.exp(-q_log_var))
    return Gaussian(mean, log_var), Gaussian(q.mean, torch.logaddexp(p_log_var, q_log_var)).log_prob(p.mean)


def add(x: Gaussian, y: Gaussian) -> Gaussian:
    """The distribution of x + y for independent x and y, Eq. (01.15): means add, and so do variances (not deviations).

    Args:
        x, y: N(μ₁, σ₁²) and N(μ₂, σ₂²), N×… both.

    Returns: N(μ₁ + μ₂, σ₁² + σ₂²), N×….
    """
    return Gaussian(x.mean + y.mean, torch.logaddexp(x.log_var, y.log_var))


def condition(prior: Gaussian, x: Tensor, scale: Tensor | float, shift: Tensor | float, log_var: Tensor | float) -> Gaussian:
    """p(z | x) when z has the prior and x = a z + b + noise of variance s², each dimension by itself, Eq. (01.16).

    The precisions add, 1/v = 1/v₀ + a²/s², and the mean weighs what was expected against what was seen:
    m = v (m₀/v₀ + a (x − b)/s²).

    Args:
        prior: N(m₀, v₀), N×….
        x: what was seen, N×….
        scale, shift: a and b, which broadcast to the mean's shape.
        log_var: log s².

    Returns: N(m, v), N×….

    Raises ValueError where v₀ or s² is zero.

    Source: Bishop 2006 (Pattern Recognition and Machine Learning), Eq. 2.116 and 2.117.
    """
    scale, log_var = (torch.as_tensor(value, dtype=x.dtype, device=x.device) for value in (scale, log_var))
    if torch.isneginf(log_var).any():
        raise ValueError("the noise has variance 0 (log_var is −∞): then z = (x − b)/a exactly, and nothing is left to infer")
    prior_log_var = prior._log_var("the posterior")
    posterior_log_var = -torch.logaddexp(-prior_log_var, torch.log(scale**2) - log_var)
    seen = scale * (x - shift) * torch.exp(-log_var)
    return Gaussian(torch.exp(posterior_log_var) * (prior.mean * torch.exp(-prior_log_var) + seen), posterior_log_var)
