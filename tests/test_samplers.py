"""The samplers, given the exact denoiser of a mixture of two Gaussians, draw from that mixture; and what else they owe."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from minildm.ddpm import Denoise, ancestral, denoiser
from minildm.objectives import KINDS, from_x0
from minildm.posterior import posterior
from minildm.samplers import ddim, dpmpp, euler, heun, time_grid
from minildm.schedule import NoiseSchedule, q_sample

# The mixture: weights, means and standard deviations of its two components on the line.
WEIGHT, MEAN, STD = (0.3, 0.7), (-1.2, 0.8), (0.3, 0.5)
MIXTURE_MEAN = sum(w * m for w, m in zip(WEIGHT, MEAN, strict=True))
MIXTURE_VARIANCE = sum(w * (s**2 + (m - MIXTURE_MEAN) ** 2) for w, m, s in zip(WEIGHT, MEAN, STD, strict=True))

SCHEDULES = {"linear": NoiseSchedule.linear(), "scaled_linear": NoiseSchedule.scaled_linear(), "cosine": NoiseSchedule.cosine()}
ZERO_SNR = NoiseSchedule.linear().rescaled_to_zero_snr()
T = 1000


def ddim_fresh(denoise: Denoise, schedule: NoiseSchedule, x_T: Tensor, times: Tensor, **options: Callable):
    return ddim(denoise, schedule, x_T, times, eta=1.0, **options)


SAMPLERS = {"ddpm": ancestral, "ddim": ddim, "ddim, eta 1": ddim_fresh, "euler": euler, "heun": heun, "dpmpp": dpmpp}
RANDOM = {"ddpm", "ddim, eta 1"}  # draw noise on the way
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


@pytest.fixture(autouse=True)
def fixed_threads() -> None:
    torch.set_num_threads(1)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noises(seed: int = 5) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator, dtype=like.dtype)


def no_noise(like: Tensor) -> Tensor:
    raise AssertionError("noise was drawn")


def options(name: str, draw: Callable[[Tensor], Tensor]) -> dict:
    return {"draw": draw} if name in RANDOM else {}


def mixture_denoiser(schedule: NoiseSchedule) -> Denoise:
    """E[x_0 | x_t] when x_0 is from the mixture: each component's Gaussian regression, weighed by its probability given x_t."""
    weight, mean, std = (torch.tensor(values, dtype=torch.float64) for values in (WEIGHT, MEAN, STD))

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        a, s = schedule.signal(t)[:, None], schedule.noise(t)[:, None]
        spread = a**2 * std**2 + s**2  # N×2, the variance of x_t in each component
        log_prob = torch.log(weight) - torch.log(spread) / 2 - (x_t - a * mean) ** 2 / (2 * spread)
        regression = mean + a * std**2 / spread * (x_t - a * mean)
        return (log_prob.softmax(1) * regression).sum(1, keepdim=True)

    return denoise


def mixture_cdf(x: Tensor, a: float, s: float) -> Tensor:
    """P(X_t ≤ x) when the mixture has been through x_t = a x_0 + s ε."""
    spread = [math.sqrt(a**2 * std**2 + s**2) for std in STD]
    return sum(w * torch.special.ndtr((x - a * m) / sd) for w, m, sd in zip(WEIGHT, MEAN, spread, strict=True))


def from_mixture(n: int, schedule: NoiseSchedule) -> Tensor:
    """n draws of x_T when x_0 is from the mixture: N×1."""
    which = (torch.rand(n, generator=torch.Generator().manual_seed(1)) < WEIGHT[1]).long()
    x0 = torch.tensor(MEAN, dtype=torch.float64)[which] + torch.tensor(STD, dtype=torch.float64)[which] * randn(n, seed=2)
    return q_sample(schedule, x0[:, None], torch.full((n,), schedule.T), randn(n, 1, seed=3))


def last(steps: object) -> Tensor:
    *_, (_, x, _) = steps
    return x


def assert_drawn_from_mixture(x: Tensor) -> None:
    """Mean, variance and the probability of the left half, each within three standard errors of the mixture's."""
    n, left = len(x), mixture_cdf(torch.zeros(1, dtype=torch.float64), 1.0, 0.0).item()
    fourth = sum(  # E (x − mean)⁴, component by component
        w * (3 * s**4 + 6 * s**2 * (m - MIXTURE_MEAN) ** 2 + (m - MIXTURE_MEAN) ** 4)
        for w, m, s in zip(WEIGHT, MEAN, STD, strict=True)
    )
    z = {
        "mean": (x.mean().item() - MIXTURE_MEAN) / math.sqrt(MIXTURE_VARIANCE / n),
        "variance": (x.var().item() - MIXTURE_VARIANCE) / math.sqrt((fourth - MIXTURE_VARIANCE**2) / n),
        "left half": ((x < 0).double().mean().item() - left) / math.sqrt(left * (1 - left) / n),
    }
    print("standard errors away:", {what: round(value, 2) for what, value in z.items()})
    assert all(abs(value) < 3 for value in z.values()), z


# First order needs many steps before its own error is below the standard errors (about 1%); second order, few.
STEPS = {"ddpm": 1000, "ddim, eta 1": 1000, "ddim": 500, "euler": 500, "heun": 100, "dpmpp": 100}


@every_sampler
def test_sampler_draws_from_the_data_distribution(name: str) -> None:
    """From x_T ~ q(x_T) with the exact denoiser, x_0 has the data's mean, variance and left half: 8,000 draws."""
    schedule = SCHEDULES["linear"]
    times = time_grid(T, STEPS[name])
    x_T = from_mixture(8000, schedule)
    x = last(SAMPLERS[name](mixture_denoiser(schedule), schedule, x_T, times, **options(name, noises())))
    assert_drawn_from_mixture(x)


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ddim, eta 1", "heun", "dpmpp"])
def test_sampling_from_pure_noise_at_zero_terminal_snr(name: str) -> None:
    """With ᾱ_T = 0, x_T ~ N(0, I) is exact, and v-prediction carries the samplers through the step without signal."""
    exact = mixture_denoiser(ZERO_SNR)

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        """v = a ε̂ − σ x̂_0, written out."""
        a, s, x0 = ZERO_SNR.signal(t)[:, None], ZERO_SNR.noise(t)[:, None], exact(x_t, t)
        return a * (x_t - a * x0) / s - s * x0

    denoise, times = denoiser(network, ZERO_SNR, "v"), time_grid(T, STEPS[name])
    steps = list(SAMPLERS[name](denoise, ZERO_SNR, randn(8000, 1, seed=3), times, **options(name, noises())))
    assert ZERO_SNR.signal(times[0]) == 0
    assert (steps[1][2] - MIXTURE_MEAN).abs().max() < 1e-12  # nothing is known yet, so x̂_0 is the mean of all data
    assert_drawn_from_mixture(steps[-1][1])


def test_euler_refuses_zero_terminal_snr() -> None:
    """σ/a is infinite at T: refused in one line before anything is computed. From T − 1 on they run."""
    exact, x = mixture_denoiser(ZERO_SNR), randn(4, 1, seed=1)
    with pytest.raises(ValueError, match="zero terminal SNR") as error:
        list(euler(exact, ZERO_SNR, x, torch.tensor([T, 500, 0])))
    assert "\n" not in str(error.value)
    assert torch.isfinite(last(euler(exact, ZERO_SNR, x, torch.tensor([T - 1, 500, 0])))).all()


@every_sampler
def test_epsilon_prediction_is_refused_at_zero_terminal_snr(name: str) -> None:
    """Noise predicted from pure noise says nothing of x_0: whatever the sampler, one line says so."""
    denoise = denoiser(lambda x, t: x, ZERO_SNR, "epsilon")
    with pytest.raises(ValueError, match="zero terminal SNR") as error:
        list(SAMPLERS[name](denoise, ZERO_SNR, randn(4, 1, seed=1), time_grid(T, 5)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_euler_is_ddim(schedule: NoiseSchedule) -> None:
    """One Euler step in σ/a is one step of DDIM: the same x_t and x̂_0 all the way, on uneven times."""
    times = torch.tensor([990, 700, 699, 400, 120, 13, 2, 0])
    x_T, exact, worst = from_mixture(50, schedule), mixture_denoiser(schedule), 0.0
    for (t, x, x0), (u, y, y0) in zip(ddim(exact, schedule, x_T, times), euler(exact, schedule, x_T, times), strict=True):
        assert t == u
        worst = max(worst, (x - y).abs().max().item(), 0.0 if x0 is None else (x0 - y0).abs().max().item())
    print(f"largest difference {worst:.1e}")
    assert worst < 1e-10


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), ZERO_SNR], ids=[*SCHEDULES, "zero terminal SNR"])
@pytest.mark.parametrize(("t", "s"), [(T, T - 1), (T, 400), (500, 499), (500, 20), (2, 1), (1, 0), (300, 0)])
def test_ddim_with_eta_1_takes_the_posterior_step(schedule: NoiseSchedule, t: int, s: int) -> None:
    """With η = 1, x_s given x_t and x̂_0 has the mean and the variance of the posterior: DDIM is then ancestral sampling."""
    x_t, x0 = randn(5, 3, seed=1), randn(5, 3, seed=2)

    def step(noise: float) -> Tensor:
        draw = lambda like: torch.full_like(like, noise)  # noqa: E731
        return last(ddim(lambda x, t: x0, schedule, x_t, torch.tensor([t, s]), eta=1.0, draw=draw))

    expected = posterior(schedule, x_t, x0, torch.tensor(t), torch.tensor(s))
    assert (step(0.0) - expected.mean).abs().max() < 1e-10
    assert (step(1.0) - step(0.0) - torch.exp(0.5 * expected.log_var)).abs().max() < 1e-10


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_ddim_keeps_the_marginal_whatever_eta(eta: float) -> None:
    """When x̂_0 is right, x_s ~ N(a_s x_0, σ_s²) follows x_t ~ N(a_t x_0, σ_t²): kept and fresh noise add up to σ_s²."""
    schedule, times = SCHEDULES["linear"], torch.tensor([600, 250])
    a, n = schedule.signal(times), schedule.noise(times)

    def step(noise: float, fresh: float) -> float:
        x_t = (a[0] * 0.7 + n[0] * noise).reshape(1, 1)
        draw = lambda like: torch.full_like(like, fresh)  # noqa: E731
        return last(ddim(lambda x, t: torch.full_like(x, 0.7), schedule, x_t, times, eta=eta, draw=draw)).item()

    kept, replaced = step(1, 0) - step(0, 0), step(0, 1) - step(0, 0)
    assert abs(step(0, 0) - a[1].item() * 0.7) < 1e-12
    assert abs(kept**2 + replaced**2 - n[1].item() ** 2) < 1e-12
    assert (replaced > 0) == (eta > 0)


def time_at(schedule: NoiseSchedule, log_snr: Tensor) -> Tensor:
    """The real times in [1, T] at which λ has these values, by bisection."""
    low, high = torch.ones_like(log_snr), torch.full_like(log_snr, schedule.T)
    for _ in range(60):
        middle = (low + high) / 2
        above = schedule.log_snr(middle) > log_snr
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    return high


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (euler, 1), (heun, 2), (dpmpp, 2)])
def test_order_of_convergence(sampler: Callable, order: int) -> None:
    """Twice the steps divide the error by 2 (first order) or 4 (second), on real times at equal distances in λ.

    The exact answer needs no solver: on the line the probability flow never lets two paths cross, so each x_t keeps the
    share of the mixture to its left, F_t(x_t), all the way down.
    """
    schedule, end = SCHEDULES["linear"], 20.0
    bounds = torch.tensor([float(T), end], dtype=torch.float64)
    (a_T, a_end), (s_T, s_end) = schedule.signal(bounds).tolist(), schedule.noise(bounds).tolist()
    goal = torch.linspace(-2.2, 2.6, 200, dtype=torch.float64)[:, None]  # where paths end, in the data's range
    share, low, high = mixture_cdf(goal, a_end, s_end), torch.full_like(goal, -9), torch.full_like(goal, 9)
    for _ in range(80):  # where they begin
        middle = (low + high) / 2
        before = mixture_cdf(middle, a_T, s_T) < share
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    x_T = (low + high) / 2

    errors, numbers = [], [40, 80, 160, 320]
    for steps in numbers:
        ends = schedule.log_snr(bounds)
        times = time_at(schedule, torch.linspace(ends[0], ends[1], steps + 1, dtype=torch.float64))
        times[0], times[-1] = T, end
        errors.append((last(sampler(mixture_denoiser(schedule), schedule, x_T, times)) - goal).square().mean().sqrt().item())
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    print("errors", [f"{error:.1e}" for error in errors], "slopes", [round(slope, 2) for slope in slopes])
    assert all(abs(slope - order) < 0.15 for slope in slopes), slopes


def bounded_network(x_t: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x_t.flip(1) + torch.cos(t.double() / 50).to(x_t)[:, None])


@every_sampler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_combination_runs(schedule: NoiseSchedule, kind: str, name: str) -> None:
    """Every sampler takes every schedule, every kind of prediction and one or more steps, and ends finite, in float32 too."""
    for dtype in (torch.float32, torch.float64):
        for steps in (1, 2, 6):
            x_T = randn(3, 4, seed=1).to(dtype)
            x = last(SAMPLERS[name](denoiser(bounded_network, schedule, kind), schedule, x_T, time_grid(T, steps)))
            assert x.shape == x_T.shape and x.dtype == dtype and torch.isfinite(x).all()


@every_sampler
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_a_denoiser_that_knows_x0_is_believed(schedule: NoiseSchedule, kind: str, name: str) -> None:
    """A network whose prediction always means the same x̂_0 leads every sampler there."""
    x0 = randn(3, 4, seed=2)
    denoise = denoiser(lambda x, t: from_x0(x0, x, t, schedule, kind), schedule, kind)
    x = last(SAMPLERS[name](denoise, schedule, randn(3, 4, seed=1), time_grid(T, 6), **options(name, noises())))
    assert (x - x0).abs().max() < 1e-8


@every_sampler
def test_no_noise_is_added_on_the_last_step(name: str) -> None:
    """A step to t = 0 gives x̂_0 itself; fresh noise comes once for each step before it, and only if the sampler is random."""
    schedule, draws, times = SCHEDULES["cosine"], [], time_grid(T, 6)

    def draw(like: Tensor) -> Tensor:
        draws.append(like.shape)
        return torch.full_like(like, 3.0)

    x_T, denoise = randn(5, 2, seed=1), denoiser(bounded_network, schedule, "v")
    *_, (_, x, x0) = SAMPLERS[name](denoise, schedule, x_T, times, **options(name, draw))
    assert draws == ([x_T.shape] * 5 if name in RANDOM else [])
    assert (x - x0).abs().max() < 1e-12
    # Already at the last step: nothing is drawn at all.
    last(SAMPLERS[name](denoise, schedule, x_T, torch.tensor([4, 0]), **options(name, no_noise)))
    last(ddim(denoise, schedule, x_T, times, eta=0.0, draw=no_noise))


@every_sampler
@pytest.mark.parametrize("times", [[T, 600, 599, 3, 0], [700, 0], [900, 400, 50, 1]], ids=["to 0", "one step", "to 1"])
def test_what_samplers_yield(name: str, times: list[int]) -> None:
    """One (t, x_t, x̂_0) for each time, in that order: first x_T itself with no x̂_0, then what each step saw and did."""
    schedule, seen = SCHEDULES["linear"], []

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert t.shape == (5,)
        seen.append((t[0].item(), x_t))
        return torch.tanh(x_t)

    x_T = randn(5, 2, seed=1)
    untouched = x_T.clone()
    steps = list(SAMPLERS[name](denoise, schedule, x_T, torch.tensor(times), **options(name, noises())))
    assert [t for t, _, _ in steps] == times
    assert steps[0][1] is x_T and steps[0][2] is None and torch.equal(x_T, untouched)
    for t, x, _ in steps[:-1]:
        assert any(t == u and torch.equal(x, y) for u, y in seen), f"the denoiser was not asked at t = {t}"
    for (t, before, _), (_, x, x0) in itertools.pairwise(steps):
        assert x.shape == x_T.shape
        assert torch.equal(x0, torch.tanh(before)), f"x̂_0 is not what the denoiser said at t = {t}"


@every_sampler
def test_the_same_noise_gives_the_same_sample(name: str) -> None:
    """Samplers take noise from `draw` alone: torch's own stream is left where it was."""
    schedule, before = SCHEDULES["linear"], torch.random.get_rng_state()
    denoise, x_T, times = denoiser(bounded_network, schedule, "v"), randn(5, 2, seed=1), time_grid(T, 6)
    one, two, other = (last(SAMPLERS[name](denoise, schedule, x_T, times, **options(name, noises(seed)))) for seed in (5, 5, 6))
    assert torch.equal(one, two)
    assert torch.equal(one, other) == (name not in RANDOM)
    assert torch.equal(torch.random.get_rng_state(), before)
