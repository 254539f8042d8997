"""Solutions of chapter 07. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def posterior_variances(beta: Tensor) -> Tensor:
    """ch07.1: β_t (1 − ᾱ_{t−1})/(1 − ᾱ_t) for t ≥ 1, with ᾱ_0 = 1 at the head of the table."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    inner = beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])
    return torch.cat([torch.zeros_like(beta[:1]), inner])


def two_steps_back(later: tuple[float, float, float], earlier: tuple[float, float, float]) -> tuple[float, float, float]:
    """ch07.2: x_{t−2} = A' x_0 + B' (A x_0 + B x_t + √V ε) + √V' ε'."""
    A, B, V = later
    A_earlier, B_earlier, V_earlier = earlier
    return A_earlier + B_earlier * A, B_earlier * B, V_earlier + B_earlier**2 * V


def noise_weights(beta: Tensor, variance: Tensor) -> Tensor:
    """ch07.3: the means differ by β_t/(σ_t √α_t) (ε − ε̂); its square over twice the variance."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    later = slice(2, None)
    inner = beta[later] ** 2 / (2 * variance[later] * (1 - beta[later]) * (1 - alpha_bar[later]))
    return torch.cat([torch.zeros_like(beta[:2]), inner])


def price_of_variance(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """ch07.4: KL between Gaussians of one mean, ½ (ρ − 1 − log ρ), ρ the true variance β_t r_{t−1}/r_t over the one used."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    r = alpha_bar * v + 1 - alpha_bar
    rho = beta[1:] * r[:-1] / r[1:] / variance[1:]
    return torch.cat([torch.zeros_like(beta[:1]), 0.5 * (rho - 1 - torch.log(rho))])


def best_variances(beta: Tensor, slope: Tensor) -> Tensor:
    """ch07.5: β̃_t + (a_{t−1}β_t/σ_t²)² Var(x_0 | x_t), and the slope is a_t/σ_t² Var(x_0 | x_t).

    For ∂/∂x_t log N(x_t; a_t x_0, σ_t²) = (a_t x_0 − x_t)/σ_t². The fraction's derivative is therefore the covariance of x_0
    with (a_t x_0 − x_t)/σ_t², given x_t.
    """
    alpha_bar = torch.cumprod(1 - beta, 0)
    noise, noise_before = 1 - alpha_bar[1:], 1 - alpha_bar[:-1]
    left_open = noise / alpha_bar[1:].sqrt() * slope[1:]
    inner = beta[1:] * noise_before / noise + alpha_bar[:-1] * (beta[1:] / noise) ** 2 * left_open
    return torch.cat([torch.zeros_like(beta[:1]), inner])
