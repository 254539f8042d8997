"""The posterior of the forward process: one step back when x_0 is known (chapter 07)."""

import torch
from torch import Tensor

from minildm.gaussian import Gaussian, per_example
from minildm.schedule import NoiseSchedule


def posterior(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor | None = None) -> Gaussian:
    """q(x_s | x_t, x_0) for s < t; by default s = t − 1, the one step of DDPM.

    With α = ᾱ_t/ᾱ_s, the share of the signal that survives from s to t, and β = 1 − α,

        mean     = √ᾱ_s β/(1 − ᾱ_t) x_0 + √α (1 − ᾱ_s)/(1 − ᾱ_t) x_t
        variance = β (1 − ᾱ_s)/(1 − ᾱ_t).

    Args:
        x_t, x0: noisy and clean data (or its estimate), N×....
        t: integer times in 1..T, shape N or a single one.
        s: integer times in 0..t−1, shaped like t.

    Returns: a Gaussian over N×..., its log-variance N×1×…×1. At s = 0 the variance is 0: x_0 is known.

    Raises:
        ValueError: t or s out of range.

    Source: Ho et al. 2020 (arXiv:2006.11239), Eqs. 6 and 7; for s < t − 1 Song et al. 2021 (arXiv:2010.02502).
    """
    s = t - 1 if s is None else s
    if bool((s >= t).any()):
        raise ValueError(f"the posterior goes back in time, so s < t; got s = {s.tolist()}, t = {t.tolist()}")
    noise_s, noise_t = schedule.noise(s) ** 2, schedule.noise(t) ** 2  # 1 − ᾱ_s and 1 − ᾱ_t
    signal_s = schedule.signal(s)
    root_alpha = schedule.signal(t) / signal_s
    beta = 1 - root_alpha**2
    mean = per_example(signal_s * beta / noise_t, x0) * x0 + per_example(root_alpha * noise_s / noise_t, x_t) * x_t
    log_var = torch.log(beta * noise_s / noise_t)
    return Gaussian(mean, per_example(log_var, x_t))
