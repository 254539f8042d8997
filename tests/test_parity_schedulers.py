"""Our schedules and samplers are diffusers' ones, step by step, when both compute in float64."""

from collections.abc import Callable, Iterable
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_dpmsolver_multistep
from torch import Tensor

from minildm.ddpm import ancestral, denoiser
from minildm.samplers import ddim, dpmpp, time_grid
from minildm.schedule import NoiseSchedule

T = 200
TOLERANCE = 1e-8
SCHEDULES: dict[str, tuple[Callable[[int], NoiseSchedule], dict]] = {
    "linear": (NoiseSchedule.linear, {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}),
    "scaled_linear": (
        NoiseSchedule.scaled_linear,
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    ),
    "cosine": (NoiseSchedule.cosine, {"beta_schedule": "squaredcos_cap_v2"}),
}
KINDS = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


@pytest.fixture(autouse=True)
def fixed_threads() -> None:
    torch.set_num_threads(1)


class InDouble:
    """A module in which float32 means float64."""

    def __init__(self, module: object) -> None:
        self._module = module

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, "float64" if name == "float32" else name)


@pytest.fixture
def diffusers_in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' schedulers build every table in float32, and DPM-Solver rounds x_t to it at each step: let them use float64.

    So their tables stay their own, and what differs from ours by more than rounding is a mistake.
    """
    for module in (scheduling_ddpm, scheduling_ddim, scheduling_dpmsolver_multistep):
        monkeypatch.setattr(module, "torch", InDouble(torch))
        monkeypatch.setattr(module, "np", InDouble(np))


def network(x_t: Tensor, t: Tensor) -> Tensor:
    """A fixed random network: bounded, not linear, different at each time and place."""
    weight = torch.randn(12, 12, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    mixed = x_t.flatten(1) @ weight / 3 + torch.sin(t.double() / 9)[:, None]
    return torch.tanh(mixed).reshape(x_t.shape)


def start() -> Tensor:
    return torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def noises(seed: int = 11) -> Callable[[Tensor], Tensor]:
    """A source of noise for our samplers; the same seed in diffusers' generator gives the same noise."""
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def assert_same_steps(ours: list, reference: list[tuple[Tensor, Tensor | None]]) -> None:
    """x_t after every step, and x̂_0 where the reference tells it."""
    assert len(ours) == len(reference) + 1
    worst = 0.0
    for (_, x, x0), (expected, expected_x0) in zip(ours[1:], reference, strict=True):
        assert x.dtype == expected.dtype == torch.float64
        worst = max(worst, (x - expected).abs().max().item())
        if expected_x0 is not None:
            worst = max(worst, (x0 - expected_x0).abs().max().item())
    print(f"largest difference over {len(reference)} steps {worst:.1e}")
    assert worst <= TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("times", [list(range(T, -1, -1)), [200, 150, 149, 90, 31, 30, 2, 0]], ids=["every", "some"])
@pytest.mark.usefixtures("diffusers_in_double")
def test_ancestral_equals_ddpm_scheduler(times: list[int], name: str, kind: str) -> None:
    """Ancestral sampling, at every time or leaving some out, with the same noise."""
    make, options = SCHEDULES[name]
    schedule, times = make(T), torch.tensor(times)
    scheduler = DDPMScheduler(T, prediction_type=KINDS[kind], clip_sample=False, **options)
    scheduler.set_timesteps(timesteps=(times[:-1] - 1).tolist())
    generator, x, reference = torch.Generator().manual_seed(11), start(), []
    for t in times[:-1]:
        step = scheduler.step(network(x, t.expand(4)), t - 1, x, generator=generator)
        x = step.prev_sample
        reference.append((x, step.pred_original_sample))
    ours = list(ancestral(denoiser(network, schedule, kind), schedule, start(), times, draw=noises()))
    assert_same_steps(ours, reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.usefixtures("diffusers_in_double")
def test_ddim_equals_ddim_scheduler(spacing: str, eta: float, name: str, kind: str) -> None:
    """DDIM with the same noise. diffusers assumes equal steps, so their number here divides T."""
    make, options = SCHEDULES[name]
    schedule, times = make(T), time_grid(T, 20, spacing)
    scheduler = DDIMScheduler(T, prediction_type=KINDS[kind], clip_sample=False, timestep_spacing=spacing, **options)
    scheduler.set_timesteps(20)
    draw, x, reference = noises(), start(), []
    for t, i in zip(times[:-1], scheduler.timesteps, strict=True):
        step = scheduler.step(network(x, t.expand(4)), i, x, eta=eta, variance_noise=draw(x) if eta else None)
        x = step.prev_sample
        reference.append((x, step.pred_original_sample))
    ours = list(ddim(denoiser(network, schedule, kind), schedule, start(), times, eta=eta, draw=noises()))
    assert_same_steps(ours, reference)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # within diffusers
@pytest.mark.parametrize("times", [[200, 160, 110, 109, 60, 25, 7, 1, 0], [150, 40, 0], [200, 0]], ids=["8", "2", "1"])
@pytest.mark.usefixtures("diffusers_in_double")
def test_dpmpp_equals_multistep_scheduler(times: list[int], name: str, kind: str) -> None:
    """DPM-Solver++(2M) on uneven times, few and one: second order inside, first order on the first and the last step."""
    make, options = SCHEDULES[name]
    schedule, times = make(T), torch.tensor(times)
    scheduler = DPMSolverMultistepScheduler(
        T,
        prediction_type=KINDS[kind],
        solver_order=2,
        algorithm_type="dpmsolver++",
        solver_type="midpoint",
        final_sigmas_type="zero",
        **options,
    )
    scheduler.set_timesteps(timesteps=(times[:-1] - 1).tolist())
    assert scheduler.sigmas.dtype == torch.float64
    x, reference = start(), []
    for t in times[:-1]:
        x = scheduler.step(network(x, t.expand(4)), t - 1, x).prev_sample
        reference.append((x, None))
    assert_same_steps(list(dpmpp(denoiser(network, schedule, kind), schedule, start(), times)), reference)


@pytest.mark.parametrize("zero_snr", [False, True], ids=["as it is", "zero terminal SNR"])
@pytest.mark.parametrize("steps", [10, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.usefixtures("diffusers_in_double")
def test_tables_equal_diffusers_tables(name: str, steps: int, zero_snr: bool) -> None:
    """β_t, ᾱ_t and the two rates are diffusers' at index t − 1; in front stands t = 0, where nothing has happened yet."""
    make, options = SCHEDULES[name]
    schedule, scheduler = make(steps), DDIMScheduler(steps, rescale_betas_zero_snr=zero_snr, **options)
    schedule = schedule.rescaled_to_zero_snr() if zero_snr else schedule
    t = torch.arange(steps + 1)
    clean = torch.ones(1, dtype=torch.float64)
    alpha_bar = torch.cat([clean, scheduler.alphas_cumprod])
    assert (schedule.T, schedule.zero_terminal_snr) == (steps, zero_snr)
    assert schedule.beta[0] == 0 and (schedule.beta[1:] - scheduler.betas).abs().max() < 1e-12
    assert (schedule.alpha_bar - alpha_bar).abs().max() < 1e-12
    assert (schedule.signal(t) ** 2 - alpha_bar).abs().max() < 1e-12
    assert (schedule.noise(t) ** 2 - (1 - alpha_bar)).abs().max() < 1e-12
    assert (schedule.signal(t[-1]) == 0) == zero_snr


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_equals_diffusers_lambda(name: str) -> None:
    """λ_t = log(a/σ) is what DPM-Solver's tables hold, as far as float32 reaches."""
    make, options = SCHEDULES[name]
    scheduler = DPMSolverMultistepScheduler(1000, **options)
    got, expected = make(1000).log_snr(torch.arange(1, 1001)), scheduler.lambda_t.double()
    keeps_digits = 1 - scheduler.alphas_cumprod > 1e-3  # below, 1 − ᾱ in float32 has lost them
    assert keeps_digits.sum() > 900
    assert torch.allclose(got[keeps_digits], expected[keeps_digits], atol=1e-3, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("T", "steps"), [(1000, range(2, 60)), (1000, (100, 250, 333, 500, 999, 1000)), (60, range(2, 61))])
def test_time_grid_equals_diffusers_timesteps(T: int, steps: Iterable[int], spacing: str) -> None:
    """Our times are diffusers' time steps plus one, then 0, for any number of steps (from 2: one step has no spacing).

    Where the exact time ends in ½, either neighbour is right: there diffusers' choice hangs on rounding errors.
    """
    scheduler = DDIMScheduler(T, timestep_spacing=spacing, steps_offset=0)
    for number in steps:
        scheduler.set_timesteps(number)
        expected = (scheduler.timesteps[:number] + 1).tolist()  # an error in the last digit can give trailing one too many
        got = time_grid(T, number, spacing)
        assert got.shape == (number + 1,) and got[-1] == 0 and got.dtype == torch.int64
        for k, (ours, theirs) in enumerate(zip(got[:-1].tolist(), expected, strict=True)):
            exact = {
                "leading": Fraction(1 + (number - 1 - k) * (T // number)),
                "trailing": T - Fraction(k * T, number),
                "linspace": T - Fraction(k * (T - 1), number - 1),
            }[spacing]
            assert abs(ours - exact) <= Fraction(1, 2), f"{number} steps, place {k}: {ours} for {float(exact):.2f}"
            assert ours == theirs or exact.denominator == 2, f"{number} steps, place {k}: {ours}, diffusers {theirs}"
