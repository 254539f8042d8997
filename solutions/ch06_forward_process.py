"""Solutions of chapter 06. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def alpha_bar_of(beta: Tensor) -> Tensor:
    """ch06.1: a running product of 1 − β, begun with the product of no factors."""
    beta = beta.double()  # before anything is subtracted or multiplied
    return torch.cumprod(torch.cat([beta.new_ones(1), 1 - beta]), 0)


def merged(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """ch06.2: within a jump factors multiply, and the variance gathered so far is multiplied by the square of each."""
    factors, variances = torch.zeros(2, len(times), dtype=torch.float64)
    factors[0] = 1
    for k in range(1, len(times)):
        factor, variance = 1.0, 0.0
        for t in range(int(times[k - 1]) + 1, int(times[k]) + 1):
            factor, variance = c[t] * factor, c[t] ** 2 * variance + d[t] ** 2
        factors[k], variances[k] = factor, variance
    return factors, variances.sqrt()


def time_of_snr(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """ch06.3: find the interval, then how far into it."""
    fall = -0.5 * torch.log(alpha_bar[1:] / (1 - alpha_bar[1:]))  # −λ_1 … −λ_T, rising
    wanted = -0.5 * torch.log(snr)
    above = torch.searchsorted(fall, wanted).clamp(1, len(fall) - 1)
    weight = (wanted - fall[above - 1]) / (fall[above] - fall[above - 1])
    return above + weight  # entry i belongs to t = i + 1, so above − 1 + 1


def exploding_twin(alpha_bar: Tensor) -> Tensor:
    """ch06.4: y_t holds noise of variance (1 − ᾱ_t)/ᾱ_t = 1/ᾱ_t − 1, and variances add."""
    variance = (1 - alpha_bar) / alpha_bar
    return torch.sqrt(torch.diff(variance, prepend=variance[:1]))


def shifted(alpha_bar: Tensor, factor: float) -> Tensor:
    """ch06.5: ᾱ'/(1 − ᾱ') = ᾱ/(1 − ᾱ)/factor², solved for ᾱ'."""
    return alpha_bar / (alpha_bar + factor**2 * (1 - alpha_bar))
