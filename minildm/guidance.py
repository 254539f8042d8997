"""Guidance: make samples follow the condition more closely than the data do (chapter 12).

`classifier_guided`, `classifier_free` and the thresholds take denoisers and return a denoiser, so no sampler knows of them.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from minildm.ddpm import Denoise
from minildm.elbo import Mixture
from minildm.gaussian import per_example
from minildm.schedule import NoiseSchedule

LogProb = Callable[[Tensor, Tensor], Tensor]  # (x_t, t) → log p(c | x_t), one number per example; the condition is inside


def guided_score(slope: Tensor, class_slope: Tensor, w: float) -> Tensor:
    """∇ log p(x_t) + w ∇ log p(c | x_t), Eq. (12.2); with w = 1 it is Bayes' rule for scores, Eq. (12.1): ∇ log p(x_t | c).

    Args:
        slope, class_slope: the two gradients in x_t, N×….
    """
    return slope + w * class_slope


def class_slope(log_prob: LogProb, x_t: Tensor, t: Tensor) -> Tensor:
    """∇ log p(c | x_t) by automatic differentiation, N×…: each example's own gradient.

    The examples do not touch each other, so the gradient of the sum holds all of them. Works under `torch.no_grad` too.
    """
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(log_prob(x, t).sum(), x)
    return slope


def pushed_noise(noise: Tensor, class_slope: Tensor, t: Tensor, schedule: NoiseSchedule, w: float) -> Tensor:
    """ε̃ = ε̂ − w σ_t ∇ log p(c | x_t), Eq. (12.3): the guided score in the coordinates of the noise, N×….

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), Eq. 14 and algorithm 2.
    """
    return noise - w * per_example(schedule.noise(t), noise) * class_slope


def pushed_x0(x0: Tensor, class_slope: Tensor, t: Tensor, schedule: NoiseSchedule, w: float) -> Tensor:
    """x̃_0 = x̂_0 + w (σ_t²/a_t) ∇ log p(c | x_t), Eq. (12.4): the same in the coordinates of the picture, N×….

    σ²/a has no bound where a_t is small; there the gradient is small too, if the classifier is right. Infinite at a_t = 0.
    """
    scale = schedule.noise(t) ** 2 / schedule.signal(t)  # N
    return x0 + w * per_example(scale, x0) * class_slope


def classifier_guided(denoise: Denoise, log_prob: LogProb, schedule: NoiseSchedule, w: float) -> Denoise:
    """A denoiser that is pushed towards a class by a classifier of noisy data: `class_slope`, then `pushed_x0`.

    Args:
        denoise: without the condition; with w = 1 and a right classifier the result is the conditional one.
        log_prob: (x_t, t) → log p(c | x_t), shape N, differentiable in x_t.

    Raises:
        ValueError: when it is called where a_t = 0.
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        if bool((schedule.signal(t) == 0).any()):
            raise ValueError("at zero terminal SNR σ²/a is infinite: begin earlier, or use classifier_free")
        return pushed_x0(denoise(x_t, t), class_slope(log_prob, x_t, t), t, schedule, w)

    return guided


def implicit_slope(x0_cond: Tensor, x0_null: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """∇ log p(c | x_t) = (a_t/σ_t²)(x̂_0(c) − x̂_0(∅)), Eq. (12.6): the classifier that two denoisers are, N×….

    Source: Ho & Salimans 2022 (arXiv:2207.12598), section 3.2, in the coordinates of the noise: −(ε_c − ε_∅)/σ.
    """
    scale = schedule.signal(t) / schedule.noise(t) ** 2
    return per_example(scale, x0_cond) * (x0_cond - x0_null)


def extrapolated(cond: Tensor, null: Tensor, w: float) -> Tensor:
    """ε̃ = ε_∅ + w (ε_c − ε_∅), Eq. (12.7): from the null prediction through the conditional one and, for w > 1, beyond.

    The same for predictions of any kind, N×…: each is x̂_0 times a number plus something that c does not change.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), Eq. 6, where w here is their 1 + w; Saharia et al. 2022
    (arXiv:2205.11487), Eq. 2, where it is their w.
    """
    return null + w * (cond - null)


def classifier_free(denoise_cond: Denoise, denoise_null: Denoise, w: float) -> Denoise:
    """x̃_0 = x̂_0(∅) + w (x̂_0(c) − x̂_0(∅)): `extrapolated`.

    w = 1 is plain conditional sampling, w = 0 unconditional; w > 1 exaggerates what the condition changes. Since x̂_0 is
    linear in ε̂, this is the same as ε̃ = ε_∅ + w (ε_c − ε_∅).
    """

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        return extrapolated(denoise_cond(x_t, t), denoise_null(x_t, t), w)

    return guided


def classifier_free_batched(denoise_both: Denoise, w: float) -> Denoise:
    """The same from one call on twice the batch: `denoise_both` has the condition for its first half, ∅ for its second."""

    def guided(x_t: Tensor, t: Tensor) -> Tensor:
        return extrapolated(*denoise_both(torch.cat([x_t, x_t]), torch.cat([t, t])).chunk(2), w)

    return guided


def guided_below(guided: Denoise, plain: Denoise, high: float) -> Denoise:
    """Guidance where the sample can be seen: `guided` at times t ≤ high, `plain` at noisier ones.

    Args:
        guided, plain: (x_t, t) → x̂_0. One of them is asked, so the null branch costs nothing at the noisy times.
        high: the noisiest time at which to guide, a time like t. (`guidance_high` of `generate` is a share of T.)

    Raises:
        ValueError: when it is called with times on both sides of `high`; a sampler's batch has one time.

    Source: Kynkäänniemi et al. 2024 (arXiv:2404.07724), section 3, whose interval may end before t = 0 as well.
    """

    def chosen(x_t: Tensor, t: Tensor) -> Tensor:
        noisy = t > math.nextafter(high, math.inf)  # a share of T may round below its time: 0.58 · 50 is 28.999999999999996
        if noisy.any() and not noisy.all():
            raise ValueError(f"times {t.min():g} to {t.max():g} lie on both sides of high={high:g}: give a batch one time")
        return plain(x_t, t) if noisy.any() else guided(x_t, t)

    return chosen


def log_sharpened(noisy: Mixture, x: Tensor, c: int, w: float) -> Tensor:
    """log p(x_t) + w log p(c | x_t), Eq. (12.9), nats, shape N: what (12.2) is the gradient of. It is not normalised.

    Args: noisy: of x_t, each component a class.   x: numbers, shape N.   c: the class, counted from 0.
    """
    return noisy.log_evidence(x) + w * noisy.log_posterior(x)[:, c]


def sharpened_variance(var_cond: float, var_null: float, w: float) -> float:
    """The variance of p(x) p(c | x)^w ∝ p(x)^{1−w} p(x | c)^w for two Gaussians of mean 0, Eq. (12.10): 1/(w/s² + (1 − w)/S²).

    Args: var_cond, var_null: s² of p(x | c) and S² of p(x).   Raises ValueError where there is no such density.
    """
    precision = w / var_cond + (1 - w) / var_null
    if precision <= 0:
        raise ValueError(f"w={w} with variances {var_cond} and {var_null}: the density cannot be normalised")
    return 1 / precision


def flow_variance(var_cond: float, var_null: float, w: float) -> float:
    """Where guided sampling without noise ends in that world, in infinitely many steps, Eq. (12.11): (s²)^w (S²)^{1−w}.

    Source: Bradley & Nakkiran 2024 (arXiv:2408.09000), theorem 1, for s² = 1 and S² = 2.
    """
    return var_cond**w * var_null ** (1 - w)


def walk_variance(var_cond: float, var_null: float, w: float) -> float:
    """Where guided ancestral sampling ends in that world, in infinitely many steps, Eq. (12.12).

    S² (ρ − ρ^{2w})/((2w − 1)(1 − ρ)) with ρ = s²/S², and its limit −S² ρ log ρ/(1 − ρ) at w = ½.

    Source: Bradley & Nakkiran 2024 (arXiv:2408.09000), theorem 1, for s² = 1 and S² = 2.
    """
    rho, power = var_cond / var_null, 2 * w - 1
    if rho == 1:
        return var_null
    integral = -math.log(rho) if power == 0 else (1 - rho**power) / power
    return var_null * rho * integral / (1 - rho)


def clipped(x0: Tensor, s: Tensor) -> Tensor:
    """x̂_0 clipped to [−s, s] and divided by s, Eq. (12.13), N×…; s has one number per example. s = 1 is static thresholding."""
    s = per_example(s, x0)
    return x0.clamp(-s, s) / s


def dynamic_range(x0: Tensor, quantile: float = 0.995) -> Tensor:
    """s = max(1, the quantile of |x̂_0|), Eq. (12.14), over all dimensions of each example: N×… → N.

    Source: Saharia et al. 2022 (arXiv:2205.11487), section 2.3.
    """
    return x0.abs().flatten(1).float().quantile(quantile, dim=1).clamp(min=1)


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
        return clipped(x0, dynamic_range(x0, quantile))

    return thresholded
