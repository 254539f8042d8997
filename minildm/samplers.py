"""Fast samplers: DDIM, Euler, Heun and DPM-Solver++(2M) over one denoiser (chapter 11).

Each is a generator over `denoise(x_t, t) → x̂_0` and a decreasing list of times. Each yields (t, x_t, x̂_0), with
x̂_0 as seen from the time before, so that a picture can be drawn at every step; the last yield is the result.
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from minildm.ddpm import Denoise, Draw, Step, ancestral
from minildm.schedule import NoiseSchedule

Spacing = Literal["leading", "trailing", "linspace"]


def time_grid(T: int, steps: int, spacing: Spacing = "trailing") -> Tensor:
    """Choose `steps` times out of 1..T, decreasing, and end with 0: shape steps + 1, int64.

    trailing: T first, evenly down.   linspace: T first and 1 last.   leading: 1 last, evenly up (T is never reached).

    Raises:
        ValueError: steps outside 1..T.

    Source: Lin et al. 2023 (arXiv:2305.08891), table 2.
    """
    if not 1 <= steps <= T:
        raise ValueError(f"steps={steps} must lie in 1..{T}, the number of diffusion steps")
    if spacing == "trailing":
        times = torch.round(torch.arange(T, 0, -T / steps, dtype=torch.float64))[:steps]
    elif spacing == "linspace":
        times = 1 + torch.linspace(T - 1, 0, steps, dtype=torch.float64).round()
    elif spacing == "leading":
        times = 1 + (T // steps) * torch.arange(steps - 1, -1, -1)
    else:
        raise ValueError(f"spacing {spacing!r} is unknown: choose trailing, linspace or leading")
    return torch.cat([times.long(), torch.zeros(1, dtype=torch.long)])


def ddim(
    denoise: Denoise,
    schedule: NoiseSchedule,
    x_T: Tensor,
    times: Tensor,
    eta: float = 0.0,
    draw: Draw = torch.randn_like,
) -> Iterator[Step]:
    """Denoise, then put back the noise that was found, less: x_s = a_s x̂_0 + √(σ_s² − d²) ε̂ + d ε.

    ε̂ = (x_t − a_t x̂_0)/σ_t is the noise found; d = η √β̃ is the part replaced by fresh noise. η = 0 is deterministic,
    η = 1 has the variance of ancestral sampling.

    Args:
        denoise: (x_t, t) → x̂_0.
        x_T: data at times[0], N×….
        times: decreasing times in [1, T], whole or real; the last may be 0.
        eta: η in [0, 1].
        draw: where fresh noise comes from, if any is wanted.

    Yields: (t, x_t, x̂_0) for every time.

    Source: Song et al. 2021 (arXiv:2010.02502), Eqs. 12 and 16.
    """
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x), _rates(schedule, s, x)
        x0 = denoise(x, t.expand(len(x)))
        found = (x - a_t * x0) / n_t
        fresh = eta * n_s / n_t * (1 - (a_t / a_s) ** 2).sqrt()
        x = a_s * x0 + (n_s**2 - fresh**2).clamp(min=0).sqrt() * found
        if eta > 0 and s > 0:
            x = x + fresh * draw(x_T)
        yield s.item(), x, x0


def euler(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """Euler's method on the probability-flow ODE, in the variables in which it is shortest.

    With y = x/a and r = σ/a (data plus noise of standard deviation r), the ODE is dy/dr = (y − x̂_0)/r: the noise found.
    One Euler step in r is one step of DDIM with η = 0, up to rounding.

    Args, yields: as `ddim`; a time where a = 0 (zero terminal SNR) has no r: use ddim, heun or dpmpp.

    Source: Karras et al. 2022 (arXiv:2206.00364), Eqs. 1 and 3.
    """
    _refuse_zero_signal(schedule, times)
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x.double()), _rates(schedule, s, x.double())
        y, r, r_next = x.double() / a_t, n_t / a_t, n_s / a_s  # near pure noise r is in the thousands: float64
        x0 = denoise(x, t.expand(len(x)))
        x = (a_s * (y + (r_next - r) * (y - x0) / r)).to(x)
        yield s.item(), x, x0


def heun(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """Heun's method on the probability-flow ODE: step, look again from there, and go by the mean of the two slopes.

    In the angle φ = atan(σ/a), and with u = x/√(a² + σ²) = cos φ x_0 + sin φ ε, the ODE is
    du/dφ = cos φ ε̂ − sin φ x̂_0, the predicted velocity: bounded at both ends, while `euler`'s r = tan φ is not, and a
    mean of slopes over a step that spans thousands of r would be worthless. Second order for two evaluations a step; in
    the step to σ = 0, where ε̂ is 0/0, x = a x̂_0.

    Args, yields: as `ddim`.

    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, in another variable (Salimans & Ho 2022, appendix D).
    """

    def slope(u: Tensor, x0: Tensor, angle: Tensor) -> Tensor:
        return torch.cos(angle) * (u - torch.cos(angle) * x0) / torch.sin(angle) - torch.sin(angle) * x0

    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x), _rates(schedule, s, x)
        angle, angle_next, norm_next = torch.atan2(n_t, a_t), torch.atan2(n_s, a_s), torch.hypot(a_s, n_s)
        x0 = denoise(x, t.expand(len(x)))
        if s > 0:
            u, step = x / torch.hypot(a_t, n_t), angle_next - angle
            first = slope(u, x0, angle)
            u_next = u + step * first
            x0_next = denoise(norm_next * u_next, s.expand(len(x)))
            x = norm_next * (u + step * (first + slope(u_next, x0_next, angle_next)) / 2)
        else:
            x = a_s * x0
        yield s.item(), x, x0


def dpmpp(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """DPM-Solver++(2M): second order with one evaluation a step, by remembering the one before.

    Exact if x̂_0 were linear in λ = log(a/σ) between times: with h = λ_s − λ_t,
    x_s = (σ_s/σ_t) x_t + a_s (1 − e^{−h}) D, where D continues the line through the last two x̂_0 by half a step:
    D = x̂_0 + (h/2h₋) (x̂_0 − x̂_0₋). The first step, and a step to t = 0 where h is infinite, take D = x̂_0.

    Args, yields: as `ddim`.   Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2.
    """
    x, x0, h_before = x_T, None, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        (_, n_t), (a_s, n_s) = _rates(schedule, t, x), _rates(schedule, s, x)
        h = (schedule.log_snr(s) - schedule.log_snr(t)).to(x)
        x0_before, x0 = x0, denoise(x, t.expand(len(x)))
        second_order = h_before is not None and bool(torch.isfinite(h))
        ahead = x0 + h / (2 * h_before) * (x0 - x0_before) if second_order else x0
        x = n_s / n_t * x - a_s * torch.expm1(-h) * ahead
        h_before = h
        yield s.item(), x, x0


SAMPLERS = {"ddpm": ancestral, "ddim": ddim, "euler": euler, "heun": heun, "dpmpp": dpmpp}


def _rates(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return schedule.signal(t).to(like), schedule.noise(t).to(like)


def _refuse_zero_signal(schedule: NoiseSchedule, times: Tensor) -> None:
    if bool((schedule.signal(times) == 0).any()):
        raise ValueError("at zero terminal SNR σ/a is infinite, so euler cannot start there; use ddim, heun or dpmpp")
