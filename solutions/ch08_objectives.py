"""Solutions of chapter 08. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def from_score(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ch08.1: the score is −ε/σ; then (08.2) and (08.1)."""
    a, s = a[:, None], s[:, None]
    noise = -s * slope
    x0 = (x_t - s * noise) / a
    return x0, noise, a * noise - s * x0, noise - x0


def exchange_weight(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """ch08.2: (08.5), and for the score σ²/a, since x̂_0 = (x_t + σ² score)/a."""
    scale = {"epsilon": s / a, "x0": torch.ones_like(a), "v": s / (a**2 + s**2), "flow": s / (a + s), "score": s**2 / a}
    return (scale[says] / scale[weighed]) ** 2


def best_skip(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """ch08.3: (1 − c a)² V + c² s² is least at c = a V/(a² V + s²), and there it is V s²/(a² V + s²)."""
    total = a**2 * variance + s**2
    return a * variance / total, torch.sqrt(variance * s**2 / total)


def what_is_left(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """ch08.4: the mean's slope is (1 + σ² curvature)/a by (08.9), and a/σ² times the variance by the integral."""
    return s**2 / a**2 * (1 + s**2 * curvature)


def any_noise(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """ch08.5: the ODE's drift, and against the noise's spreading another ½ h² β ∇ log q."""
    return -0.5 * beta * x - 0.5 * (1 + h**2) * beta * slope, h * beta**0.5
