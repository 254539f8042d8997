"""Solutions of chapter 16's exercises."""

import torch
import torch.nn.functional as F
from torch import Tensor


def matched_alpha_bar(alpha_bar: Tensor, deviation: float) -> Tensor:
    """s² ᾱ'/(1 − ᾱ') = ᾱ/(1 − ᾱ), solved for ᾱ'; nothing is divided by zero at either end."""
    return alpha_bar / (alpha_bar + deviation**2 * (1 - alpha_bar))


def best_gaussian_prior(mean: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the variance of the mixture: of the means their variance, and the mean of the variances."""
    centre = mean.mean(0)
    return centre, torch.log((mean - centre).square().mean(0) + torch.exp(log_var).mean(0))


def without_token(weight: Tensor, value: Tensor, token: int) -> Tensor:
    """The other weights keep their proportions, and are divided by what they sum to."""
    hidden = weight.clone()
    hidden[..., token] = 0
    return hidden @ value / (1 - weight[..., token, None])


def folded_condition(weight: Tensor, bias: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """The image's part of the convolution, and the bias once."""
    channels = weight.shape[1] - image.shape[1]
    return weight[:, :channels], F.conv2d(image, weight[:, channels:], bias, padding=1)


def mismatch_of_chain(alpha_bar: Tensor, deviation: float) -> Tensor:
    """(a − a s²/E z_t²)² E z_t² with E z_t² = a² s² + σ²; a − a s²/E z_t² = a σ² (1 − s²)/E z_t²."""
    snr, noise = alpha_bar[1:] / (1 - alpha_bar[1:]), 1 - alpha_bar[2:]
    extra = alpha_bar[2:] * noise**2 * (1 - deviation**2) ** 2 / (alpha_bar[2:] * deviation**2 + noise)
    return 0.5 * (snr[:-1] - snr[1:]) * extra
