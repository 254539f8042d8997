"""Solutions of chapter 12. They stand alone: nothing is imported from minildm."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]


def push_velocity(v: Tensor, class_slope: Tensor, alpha_bar: Tensor, w: float) -> Tensor:
    """ch12.1: −w ∇ (a σ + σ · σ²/a) = −w ∇ (σ/a)(a² + σ²)."""
    return v - w * ((1 - alpha_bar) / alpha_bar).sqrt()[:, None] * class_slope


def two_conditions(eps_null: Tensor, eps_image: Tensor, eps_both: Tensor, w_image: float, w_text: float) -> Tensor:
    """ch12.2: the text's classifier knows the picture already, so it is the difference from the prediction that was told I."""
    return eps_null + w_image * (eps_image - eps_null) + w_text * (eps_both - eps_image)


def in_interval(denoise_cond: Denoise, denoise_null: Denoise, w: float, first: int, last: int) -> Denoise:
    """ch12.3: w inside and 1 outside, example by example."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        cond, inside = denoise_cond(x_t, t), (t >= last) & (t <= first)
        if not inside.any():
            return cond
        null = denoise_null(x_t, t)
        inside = inside.view(-1, *[1] * (x_t.ndim - 1))
        return torch.where(inside, null + w * (cond - null), cond)

    return denoise


def rescaled(guided: Tensor, cond: Tensor, phi: float) -> Tensor:
    """ch12.4: the ratio of deviations, one for each example."""
    ratio = cond.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True)
    return phi * ratio * guided + (1 - phi) * guided


def interval_end(var_cond: float, var_null: float, w: float, low: float, high: float) -> float:
    """ch12.5: outside the class alone, which would end at s²; inside w − 1 times the difference of the two logarithms more."""
    at_high = 1.0 if math.isinf(high) else (var_cond + high**2) / (var_null + high**2)
    at_low = (var_cond + low**2) / (var_null + low**2)
    return var_cond * (at_low / at_high) ** (w - 1)
