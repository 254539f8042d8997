"""Guidance: make samples follow the condition more closely than the data do (chapter 12).

Each function takes denoisers and returns a denoiser, so no sampler knows of it.
"""

import torch
from torch import Tensor

from minildm.ddpm import Denoise
from minildm.gaussian import per_example


def classifier_free(denoise_cond: Denoise, denoise_null: Denoise, w: float) -> Denoise:
    """x̃_0 = x̂_0(∅) + w (x̂_0(c) − x̂_0(∅)).

    w = 1 is plain conditional sampling, w = 0 unconditional; w > 1 exaggerates what the condition changes. Since x̂_0 is
    linear in ε̂, this is the same as ε̃ = ε_∅ + w (ε_c − ε_∅).

    Source: Ho & Salimans 2022 (arXiv:2207.12598), Eq. 6, where w here is their 1 + w.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        null = denoise_null(x_t, t)
        return null + w * (denoise_cond(x_t, t) - null)

    return guided


def classifier_free_batched(denoise_both: Denoise, w: float) -> Denoise:
    """The same from one call on twice the batch: `denoise_both` has the condition for its first half, ∅ for its second."""

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        cond, null = denoise_both(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2)
        return null + w * (cond - null)

    return guided


def static_threshold(denoise: Denoise) -> Denoise:
    """Clip x̂_0 to [-1, 1], where images live. Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3."""
    return lambda x_t, t: denoise(x_t, t).clamp(-1, 1)


def dynamic_threshold(denoise: Denoise, quantile: float = 0.995) -> Denoise:
    """Clip x̂_0 to [-s, s] and divide by s, where s is the quantile of |x̂_0| in each example, at least 1.

    Pixels that guidance drives out of range are pulled in, and with them the rest, instead of all piling up at ±1.

    Raises:
        ValueError: a quantile outside (0, 1].

    Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile={quantile} must lie in (0, 1], for example 0.995")

    def thresholded(x_t: Tensor, t: Tensor) -> Tensor:
        x0 = denoise(x_t, t)
        s = per_example(x0.abs().flatten(1).float().quantile(quantile, dim=1).clamp(min=1), x0)  # N×1×…×1
        return x0.clamp(-s, s) / s

    return thresholded
