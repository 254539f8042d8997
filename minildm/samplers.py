"""Fast samplers: DDIM, Euler, Heun and DPM-Solver++(2M) over one denoiser (chapter 11).

Each is a generator over `denoise(x_t, t) → x̂_0` and a decreasing list of times. Each yields (t, x_t, x̂_0), with x̂_0 as seen from
the time before, so that a picture can be drawn at every step; the last yield is the result.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from minildm.config import Spacing
from minildm.ddpm import Denoise, Draw, Step, ancestral
from minildm.schedule import NoiseSchedule


def time_grid(T: int, steps: int, spacing: Spacing = "trailing", offset: int = 0, end: int = 0, spare: bool = False) -> Tensor:
    """Choose `steps` times out of 1..T, decreasing, and `end` with 0 or 1: shape steps + 1, int64.

    trailing: T first, evenly down.   linspace: T first and 1 last.   leading: 1 last, evenly up (without T, unless steps = T).
    offset: leading times so much later.   spare: choose one more, leave out the last.   No step leads from 1 to 1.
    Raises ValueError for steps outside 1..T.   Source: Lin et al. 2023 (arXiv:2305.08891), table 2.
    """
    chosen = steps + spare
    if steps < 1 or chosen > T:
        raise ValueError(f"steps={steps} must lie in 1..{T - spare}, the number of diffusion steps")
    if spacing == "trailing":
        times = torch.arange(T, 0, -T / chosen, dtype=torch.float64).round()
    elif spacing == "linspace":
        times = 1 + torch.linspace(T - 1, 0, chosen, dtype=torch.float64).round()
    elif spacing == "leading":
        times = 1 + offset + (T // chosen) * torch.arange(chosen - 1, -1, -1)
    else:
        raise ValueError(f"spacing {spacing!r} is unknown: choose trailing, linspace or leading")
    times = times[:steps].long()
    if times[0] > T:
        raise ValueError(f"steps={steps} with offset={offset} would begin at {times[0]}, after T={T}: ask for fewer")
    return torch.cat([times[times > end], torch.tensor([end])])


def time_of_log_snr(schedule: NoiseSchedule, log_snr: Tensor) -> Tensor:
    """The real time at which λ_t has this value, Eq. (11.9): t = k + (λ_k − λ)/(λ_k − λ_{k+1}) where λ_k ≥ λ ≥ λ_{k+1}.

    Args:
        log_snr: λ = log(a/σ), any shape, from that at T (at zero terminal SNR: at T − 1) to that at 1.

    Returns: t in [1, T], float64, shaped like log_snr. Raises ValueError for a λ that the schedule does not reach.
    """
    table = schedule.log_snr(torch.arange(1, schedule.T + 1)).to(log_snr.device)  # λ_1 … λ_T, falling
    least, most = table[torch.isfinite(table)][-1].item(), table[0].item()
    if log_snr.numel() and not bool((log_snr >= least).all() and (log_snr <= most).all()):
        raise ValueError(f"λ lies in {least:g}..{most:g}, but spans {log_snr.min().item():g} to {log_snr.max().item():g}")
    k = torch.searchsorted(-table, -log_snr.double()).clamp(1, schedule.T - 1)  # entry k − 1 belongs to t = k
    return k + (table[k - 1] - log_snr) / (table[k - 1] - table[k])


def karras_levels(most: float, least: float, steps: int, rho: float = 7.0) -> Tensor:
    """Noise levels between two, evenly spaced in their ρ-th root, Eq. (11.8), falling, float64, shape steps.

    r_i = [r_max^{1/ρ} + i/(steps − 1) (r_min^{1/ρ} − r_max^{1/ρ})]^ρ.   ρ = 1 is even in r; a large ρ even in log r.

    Source: Karras et al. 2022 (arXiv:2206.00364), Eq. 5.
    """
    return torch.linspace(most ** (1 / rho), least ** (1 / rho), steps, dtype=torch.float64) ** rho


def karras_times(schedule: NoiseSchedule, steps: int, first: float | None = None, last: float = 1.0, rho: float = 7.0) -> Tensor:
    """Real times whose noise levels r = σ/a are spaced by `karras_levels`, and then 0: float64, shape steps + 1.

    Args: steps: of which the final one goes from `last` to 0.   first, last: T ≥ first > last ≥ 1.

    Raises ValueError for no steps, times out of order, or one where r is infinite (T at zero terminal SNR).
    """
    ends = torch.tensor([schedule.T if first is None else first, last], dtype=torch.float64)
    log_snr = schedule.log_snr(ends)
    if steps < 1 or not ends[0] > ends[1]:
        raise ValueError(f"steps={steps} from t = {ends[0]:g} to {last:g}: there must be a step, and first > last")
    if bool(torch.isinf(log_snr[0])):
        raise ValueError(f"at zero terminal SNR σ/a is infinite at T: begin earlier, with first={schedule.T - 1}")
    levels = karras_levels(*torch.exp(-log_snr).tolist(), steps, rho)
    times = time_of_log_snr(schedule, (-torch.log(levels)).clamp(log_snr[0], log_snr[1]))
    return torch.cat([times.round(decimals=9), torch.zeros(1, dtype=torch.float64)])


def fresh_noise(schedule: NoiseSchedule, t: Tensor, s: Tensor, eta: float, like: Tensor) -> Tensor:
    """The deviation of DDIM's fresh noise in the step from t to s, Eq. (11.2): d = η √β̃ = η (σ_s/σ_t) √(1 − a_t²/a_s²).

    Args:
        t, s: single times, T ≥ t > s ≥ 0, whole or real.
        eta: 0 draws nothing, 1 has the variance of the posterior.   like: the data, for their dtype and device.

    Source: Song et al. 2021 (arXiv:2010.02502), Eq. 16.
    """
    (a_t, n_t), (a_s, n_s) = _rates(schedule, t, like), _rates(schedule, s, like)
    return eta * n_s / n_t * (1 - (a_t / a_s) ** 2).sqrt()


def ddim_step(schedule: NoiseSchedule, x_t: Tensor, x0: Tensor, t: Tensor, s: Tensor, fresh: Tensor) -> Tensor:
    """The mean of x_s given x_t and x_0, Eq. (11.1): a_s x_0 + √(σ_s² − d²) (x_t − a_t x_0)/σ_t.

    With noise of deviation d added, x_s ~ N(a_s x_0, σ_s²) follows from x_t ~ N(a_t x_0, σ_t²), whatever d in [0, σ_s] is.

    Args: x_t, x0: noisy and clean data (or its estimate), N×….   t, s: single times, T ≥ t > s ≥ 0.   fresh: d.

    Source: Song et al. 2021 (arXiv:2010.02502), Eqs. 7 and 12.
    """
    (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x_t), _rates(schedule, s, x_t)
    found = (x_t - a_t * x0) / n_t  # the noise that is in x_t, if x_0 is right
    return a_s * x0 + (n_s**2 - fresh**2).clamp(min=0).sqrt() * found


def ddim(
    denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor, eta: float = 0.0, draw: Draw = torch.randn_like
) -> Iterator[Step]:
    """Denoise, then put back the noise that was found, less: `ddim_step`. η = 0 is deterministic, η = 1 is `ancestral`.

    Args:
        denoise: (x_t, t) → x̂_0.
        x_T: data at times[0], N×….
        times: decreasing times in [1, T], whole or real; the last may be 0.
        eta: η in [0, 1].
        draw: where fresh noise comes from, if any is wanted.

    Yields: (t, x_t, x̂_0) for every time.   Source: Song et al. 2021 (arXiv:2010.02502), Eqs. 12 and 16.
    """
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, t.expand(len(x)))
        fresh = fresh_noise(schedule, t, s, eta, x)
        x = ddim_step(schedule, x, x0, t, s, fresh)
        if eta > 0 and s > 0:
            x = x + fresh * draw(x_T)
        yield s.item(), x, x0


def euler_step(schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """One Euler step on dy/dr = ε̂ = (y − x̂_0)/r, Eq. (11.3), in y = x/a (data plus noise) and r = σ/a (its deviation).

    Args: x, x0: x_t and x̂_0, N×….   t, s: single times with a > 0.

    Returns: x_s = a_s [y + (r_s − r_t)(y − x̂_0)/r_t], up to rounding the step of DDIM with η = 0.
    """
    (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x.double()), _rates(schedule, s, x.double())
    y, r, r_next = x.double() / a_t, n_t / a_t, n_s / a_s  # near pure noise r is in the thousands: float64
    return (a_s * (y + (r_next - r) * (y - x0) / r)).to(x)


def euler(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """Euler's method on the probability-flow ODE, in the variables in which it is shortest: `euler_step`.

    Args, yields: as `ddim`; a time where a = 0 (zero terminal SNR) has no r: use ddim, heun or dpmpp.
    Source: Karras et al. 2022 (arXiv:2206.00364), Eqs. 1 and 3.
    """
    if bool((schedule.signal(times) == 0).any()):
        raise ValueError("at zero terminal SNR σ/a is infinite, so euler cannot start there; use ddim, heun or dpmpp")
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, t.expand(len(x)))
        x = euler_step(schedule, x, x0, t, s)
        yield s.item(), x, x0


def angle_slope(u: Tensor, x0: Tensor, angle: Tensor) -> Tensor:
    """dx/dφ = cos φ ε̂ − sin φ x̂_0 = v̂, Eq. (11.4): the ODE in the angle φ = atan(σ/a), where x = cos φ x_0 + sin φ ε.

    Args: u: x/√(a² + σ²), N×…, which is x itself if a² + σ² = 1.   x0: x̂_0, N×….   angle: φ in (0, π/2], a single number.

    Source: Salimans & Ho 2022 (arXiv:2202.00512), appendix D.
    """
    return torch.cos(angle) * (u - torch.cos(angle) * x0) / torch.sin(angle) - torch.sin(angle) * x0


def heun_step(denoise: Denoise, schedule: NoiseSchedule, x: Tensor, x0: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Step, look again from there, and go by the mean of the two slopes, Eq. (11.5): x_s = x_t + (φ_s − φ_t)(g_t + g_s)/2.

    g_t is `angle_slope` at t; g_s is that at s, seen from where g_t alone would lead: one more call of the denoiser.

    Args: x, x0: x_t and x̂_0 there, N×….   t, s: single times, s > 0: at φ = 0 there is no slope.
    """
    (a_t, n_t), (a_s, n_s) = _rates(schedule, t, x), _rates(schedule, s, x)
    angle, angle_next, norm_next = torch.atan2(n_t, a_t), torch.atan2(n_s, a_s), torch.hypot(a_s, n_s)
    u, step = x / torch.hypot(a_t, n_t), angle_next - angle
    first = angle_slope(u, x0, angle)
    u_next = u + step * first
    x0_next = denoise(norm_next * u_next, s.expand(len(x)))
    return norm_next * (u + step * (first + angle_slope(u_next, x0_next, angle_next)) / 2)


def heun(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """Heun's method on the probability-flow ODE, in the angle: `heun_step`. Second order for two evaluations a step.

    A mean of slopes in r, over a step that spans thousands of r, would be worthless. In the step to 0, where ε̂ is 0/0, x = a x̂_0.

    Args, yields: as `ddim`.   Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 1, in another variable.
    """
    x, x0 = x_T, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        x0 = denoise(x, t.expand(len(x)))
        x = heun_step(denoise, schedule, x, x0, t, s) if s > 0 else _rates(schedule, s, x)[0] * x0
        yield s.item(), x, x0


def dpmpp_step(schedule: NoiseSchedule, x: Tensor, ahead: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """The exact solution of the ODE, Eq. (11.6): x_s = (σ_s/σ_t) x_t + a_s (1 − e^{−h}) D, with h = λ_s − λ_t.

    Exact when D is the mean of x̂_0 over the way, weighed by e^λ. With D = x̂_0(x_t, t) it is one step of DDIM, η = 0.

    Args: x: x_t, N×….   ahead: D, N×….   t, s: single times, T ≥ t > s ≥ 0.

    Source: Lu et al. 2022 (arXiv:2211.01095), section 4.
    """
    (_, n_t), (a_s, n_s) = _rates(schedule, t, x), _rates(schedule, s, x)
    h = (schedule.log_snr(s) - schedule.log_snr(t)).to(x)
    return n_s / n_t * x - a_s * torch.expm1(-h) * ahead


def extrapolate(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """Where x̂_0 will be half a step ahead, if it goes on as it came, Eq. (11.7): D = x̂_0 + (h/2h₋)(x̂_0 − x̂_0₋).

    Args: x0, x0_before: x̂_0 now and one step before, N×….   h, h_before: the coming step in λ, and the last one.
    """
    return x0 + h / (2 * h_before) * (x0 - x0_before)


def dpmpp(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor) -> Iterator[Step]:
    """DPM-Solver++(2M): second order with one evaluation a step, by remembering the one before: `dpmpp_step`, `extrapolate`.

    The first step, and a step to t = 0 where h is infinite, take D = x̂_0.
    Args, yields: as `ddim`.   Source: Lu et al. 2022 (arXiv:2211.01095), algorithm 2.
    """
    x, x0, h_before = x_T, None, None
    yield times[0].item(), x, x0
    for t, s in itertools.pairwise(times):
        h = (schedule.log_snr(s) - schedule.log_snr(t)).to(x)
        x0_before, x0 = x0, denoise(x, t.expand(len(x)))
        second_order = h_before is not None and bool(torch.isfinite(h))
        x = dpmpp_step(schedule, x, extrapolate(x0, x0_before, h, h_before) if second_order else x0, t, s)
        h_before = h
        yield s.item(), x, x0


SAMPLERS = {"ddpm": ancestral, "ddim": ddim, "euler": euler, "heun": heun, "dpmpp": dpmpp}


def _rates(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    return schedule.signal(t).to(like), schedule.noise(t).to(like)
