"""Solutions of chapter 06. They stand alone: nothing is imported from minildm."""

import torch
from torch import Tensor


def alpha_bar_of(beta: Tensor) -> Tensor:
    """ch06.1: a running product of 1 − β, begun with the product of no factors."""
    beta = beta.double()  # before anything is subtracted or multiplied
    return torch.cumprod(torch.cat([beta.new_ones(1), 1 - beta]), 0)


def merged(beta: Tensor, times: Tensor) -> Tensor:
    """ch06.2: the jump from s to t leaves ᾱ_t/ᾱ_s of the signal's variance, so it adds 1 − ᾱ_t/ᾱ_s of noise."""
    left = torch.cumprod(1 - beta, 0)[times]
    return torch.cat([beta.new_zeros(1), 1 - left[1:] / left[:-1]])


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
