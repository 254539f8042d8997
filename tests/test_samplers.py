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
from minildm.samplers import (
    SAMPLERS as BY_NAME,
)
from minildm.samplers import (
    angle_slope,
    ddim,
    ddim_step,
    dpmpp,
    dpmpp_step,
    euler,
    euler_step,
    extrapolate,
    fresh_noise,
    heun,
    heun_step,
    karras_levels,
    karras_times,
    time_grid,
    time_of_log_snr,
)
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


slowly = [pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "ddim, eta 1")]


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp", *slowly])
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

    errors, numbers = [], [40, 80, 160]
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


ALL_SCHEDULES = {**SCHEDULES, "zero terminal SNR": ZERO_SNR}
every_schedule = pytest.mark.parametrize("schedule", ALL_SCHEDULES.values(), ids=ALL_SCHEDULES)
whole_and_real = pytest.mark.parametrize("real", [False, True], ids=["whole times", "Karras times"])


def times_of(schedule: NoiseSchedule, steps: int, real: bool) -> Tensor:
    """From T, or with Karras's spacing from the first time that has a noise level."""
    return karras_times(schedule, steps, first=T - schedule.zero_terminal_snr) if real else time_grid(T, steps)


def refused(schedule: NoiseSchedule, kind: str, name: str, real: bool) -> bool:
    """Noise predicted from pure noise, and a step in σ/a from where it is infinite: what cannot work."""
    return schedule.zero_terminal_snr and not real and (kind == "epsilon" or name == "euler")


@every_sampler
@pytest.mark.parametrize("kind", KINDS)
@every_schedule
@whole_and_real
def test_every_combination_runs_or_is_refused_by_name(real: bool, schedule: NoiseSchedule, kind: str, name: str) -> None:
    """Every sampler takes every schedule, every kind of prediction, whole and real times, one or more steps, also in float32."""
    for dtype in (torch.float32, torch.float64):
        for steps in (1, 2, 6):
            x_T, times = randn(3, 4, seed=1).to(dtype), times_of(schedule, steps, real)
            draws = SAMPLERS[name](denoiser(bounded_network, schedule, kind), schedule, x_T, times)
            if refused(schedule, kind, name, real):
                with pytest.raises(ValueError, match="zero terminal SNR"):
                    last(draws)
            else:
                x = last(draws)
                assert x.shape == x_T.shape and x.dtype == dtype and torch.isfinite(x).all()


@every_sampler
@every_schedule
@whole_and_real
def test_a_denoiser_that_knows_x0_is_believed(real: bool, schedule: NoiseSchedule, name: str) -> None:
    """A network whose prediction always means the same x̂_0 leads every sampler there."""
    for kind in (kind for kind in KINDS if not refused(schedule, kind, name, real)):
        assert_believed(real, schedule, kind, name)


def assert_believed(real: bool, schedule: NoiseSchedule, kind: str, name: str) -> None:
    x0, times = randn(3, 4, seed=2), times_of(schedule, 6, real)
    denoise = denoiser(lambda x, t: from_x0(x0, x, t, schedule, kind), schedule, kind)
    x = last(SAMPLERS[name](denoise, schedule, randn(3, 4, seed=1), times, **options(name, noises())))
    assert (x - x0).abs().max() < 1e-8


def test_the_command_line_knows_these_samplers() -> None:
    assert {name: SAMPLERS[name] for name in ("ddpm", "ddim", "euler", "heun", "dpmpp")} == BY_NAME


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


# The equations, one step at a time


def density(schedule: NoiseSchedule, x: Tensor, t: Tensor) -> Tensor:
    """The density of x_t, N×1 → N×1, when x_0 is from the mixture."""
    a, s = schedule.signal(t).item(), schedule.noise(t).item()
    parts = ((w, a * m, math.sqrt(a**2 * std**2 + s**2)) for w, m, std in zip(WEIGHT, MEAN, STD, strict=True))
    return sum(w / sd * torch.exp(-((x - m) ** 2) / (2 * sd**2)) for w, m, sd in parts) / math.sqrt(2 * math.pi)


def carried(schedule: NoiseSchedule, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the probability flow takes x_t by the time s: on the line it keeps the share of the distribution to its left."""
    share = mixture_cdf(x, schedule.signal(t).item(), schedule.noise(t).item())
    rates = schedule.signal(s).item(), schedule.noise(s).item()
    low, high = torch.full_like(x, -9), torch.full_like(x, 9)
    for _ in range(60):
        middle = (low + high) / 2
        before = mixture_cdf(middle, *rates) < share
        low, high = torch.where(before, middle, low), torch.where(before, high, middle)
    return (low + high) / 2


def real(*times: float) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(t, dtype=torch.float64) for t in times)


SOME = torch.tensor([-1.7, -0.6, 0.1, 0.9, 1.6], dtype=torch.float64)[:, None]  # places to look at
LINEAR = SCHEDULES["linear"]


@pytest.mark.equation("11.1")
@pytest.mark.parametrize("share", [0.0, 0.4, 0.95, 1.0])
def test_the_marginal_is_kept_for_any_fresh_noise(share: float) -> None:
    """x_t = a_t x_0 + σ_t ε becomes a_s x_0 + (kept ε) + (fresh noise d), with variances that add up to σ_s²; d at most σ_s."""
    (t, s), x0 = real(600, 250.5), SOME
    a, n = LINEAR.signal(s), LINEAR.noise(s)
    fresh = share * n
    at = [ddim_step(LINEAR, LINEAR.signal(t) * x0 + LINEAR.noise(t) * noise, x0, t, s, fresh) for noise in (0, 1)]
    assert (at[0] - a * x0).abs().max() < 1e-12
    kept = at[1] - at[0]
    assert (kept**2 + fresh**2 - n**2).abs().max() < 1e-12 and (kept >= 0).all()


@pytest.mark.equation("11.2")
@pytest.mark.parametrize("schedule", ALL_SCHEDULES.values(), ids=ALL_SCHEDULES)
def test_fresh_noise_is_a_share_of_the_posterior_s(schedule: NoiseSchedule) -> None:
    """η times the deviation that Bayes' rule gives q(x_s | x_t, x_0); none in the step to t = 0."""
    for t, s in ((T, T - 1), (T, 400), (500, 20), (2, 1)):
        t, s = torch.tensor(t), torch.tensor(s)
        deviation = torch.exp(0.5 * posterior(schedule, SOME, SOME, t, s).log_var)
        for eta in (0.3, 1.0):
            assert (fresh_noise(schedule, t, s, eta, SOME) - eta * deviation).abs().max() < 1e-12
    assert fresh_noise(schedule, torch.tensor(7), torch.tensor(0), 1.0, SOME) == 0


@pytest.mark.equation("11.3")
def test_euler_goes_along_the_score() -> None:
    """dy/dr = −r ∇ log p(y; r), the score by automatic differentiation of the mixture's density: no x̂_0 in it."""
    t, s = real(500, 420.7)
    (a, n), x = (LINEAR.signal(t), LINEAR.noise(t)), SOME.clone().requires_grad_()
    score = torch.autograd.grad(density(LINEAR, x, t).log().sum(), x)[0]  # of x_t; that of y = x/a is a times it
    r, r_next = n / a, LINEAR.noise(s) / LINEAR.signal(s)
    wanted = LINEAR.signal(s) * (SOME / a - (r_next - r) * r * a * score)
    got = euler_step(LINEAR, SOME, mixture_denoiser(LINEAR)(SOME, t.expand(5)), t, s)
    assert (got - wanted).abs().max() < 1e-12


@pytest.mark.equation("11.4")
@pytest.mark.parametrize("t", [950.0, 400.0, 60.0])
def test_the_slope_in_the_angle_is_that_of_the_flow(t: float) -> None:
    """du/dφ along the exact path, by differences: where the share to the left is kept."""
    t, earlier, later = real(t, t - 1e-3, t + 1e-3)
    angles = [torch.atan2(LINEAR.noise(time), LINEAR.signal(time)) for time in (earlier, later)]
    moved = carried(LINEAR, SOME, t, later) - carried(LINEAR, SOME, t, earlier)
    angle = torch.atan2(LINEAR.noise(t), LINEAR.signal(t))
    got = angle_slope(SOME, mixture_denoiser(LINEAR)(SOME, t.expand(5)), angle)
    assert (got - moved / (angles[1] - angles[0])).abs().max() < 2e-6


def test_heun_steps_to_time_1_by_its_own_rule_and_only_to_0_by_the_picture() -> None:
    exact, t, s = mixture_denoiser(LINEAR), torch.tensor(5), torch.tensor(1)
    one, last = list(heun(exact, LINEAR, SOME, torch.tensor([5, 1, 0])))[1:]
    torch.testing.assert_close(one[1], heun_step(exact, LINEAR, SOME, exact(SOME, t.expand(5)), t, s))
    torch.testing.assert_close(last[1], exact(one[1], s.expand(5)))
    assert last[0] == 0


@pytest.mark.equation("11.5")
def test_a_step_of_heun_misses_the_flow_by_its_length_cubed() -> None:
    """Half the length, an eighth of the error, which is small already: the law of second order."""
    exact, errors = mixture_denoiser(LINEAR), []
    for length in (16.0, 8.0):
        t, s = real(400, 400 - length)
        got = heun_step(exact, LINEAR, SOME, exact(SOME, t.expand(5)), t, s)
        errors.append((got - carried(LINEAR, SOME, t, s)).norm().item())
    print("errors", errors)
    assert errors[0] < 1e-5 and abs(math.log2(errors[0] / errors[1]) - 3) < 0.15


@pytest.mark.equation("11.6")
@pytest.mark.parametrize(("t", "s"), [(900.0, 500.0), (400.0, 40.0)])
def test_the_solution_is_exact_with_the_weighed_mean_of_x0(t: float, s: float) -> None:
    """D = ∫ e^λ x̂_0 dλ / ∫ e^λ dλ along the exact path, by Simpson's rule, leads to where the flow leads."""
    (t, s), exact, points = real(t, s), mixture_denoiser(LINEAR), 21
    log_snr = torch.linspace(*LINEAR.log_snr(torch.stack([t, s])).tolist(), points, dtype=torch.float64)
    path = [(time, carried(LINEAR, SOME, t, time)) for time in time_at(LINEAR, log_snr)]
    x0 = torch.stack([exact(x, time.expand(5)) for time, x in path])  # points×5×1
    simpson = torch.tensor([1.0, *[4.0, 2.0] * ((points - 3) // 2), 4.0, 1.0], dtype=torch.float64)
    weight = (simpson * torch.exp(log_snr))[:, None, None]
    mean = (weight * x0).sum(0) / weight.sum()
    assert (dpmpp_step(LINEAR, SOME, mean, t, s) - carried(LINEAR, SOME, t, s)).abs().max() < 1e-5


@pytest.mark.equation("11.7")
def test_extrapolation_follows_a_line() -> None:
    """If x̂_0 = p + q λ, what it gives is the line's value in the middle of the coming step, whatever the steps' lengths."""
    p, q = randn(5, 1, seed=1), randn(5, 1, seed=2)
    for now, before, after in ((0.3, -0.4, 1.5), (-2.0, -2.1, -1.9), (1.0, 0.0, 1.5)):
        now, before, after = real(now, before, after)
        got = extrapolate(p + q * now, p + q * before, after - now, now - before)
        assert (got - (p + q * (now + after) / 2)).abs().max() < 1e-12


@pytest.mark.equation("11.8")
def test_karras_levels_are_even_in_their_root() -> None:
    """Ends as asked; the roots' distances all alike; for ρ = 1 even themselves, for a large ρ nearly even in the logarithm."""
    for rho in (1.0, 3.0, 7.0):
        levels = karras_levels(80.0, 0.002, 18, rho)
        assert len(levels) == 18 and abs(levels[0] - 80) < 1e-10 and abs(levels[-1] - 0.002) < 1e-12
        assert torch.allclose(levels.pow(1 / rho).diff(), levels.pow(1 / rho).diff().mean(), atol=1e-12, rtol=0)
    known = [80.0, 57.5860, 40.7856, 28.3748, 19.3524, 12.9101]  # by hand: (80^(1/7) + i/17 (0.002^(1/7) − 80^(1/7)))^7
    assert torch.allclose(karras_levels(80.0, 0.002, 18)[:6], torch.tensor(known, dtype=torch.float64), atol=1e-3)
    logs = karras_levels(80.0, 0.002, 18, 1e5).log().diff()
    assert (logs / logs.mean() - 1).abs().max() < 1e-3
    assert karras_levels(80.0, 0.002, 1).tolist() == pytest.approx([80.0])


@pytest.mark.equation("11.9")
@every_schedule
def test_the_time_of_a_log_snr_is_found_again(schedule: NoiseSchedule) -> None:
    """λ of the time is λ, and the time is what bisection finds; at whole times it is whole."""
    lowest = T - schedule.zero_terminal_snr
    ends = schedule.log_snr(torch.tensor([lowest, 1]))
    log_snr = torch.linspace(ends[0].item(), ends[1].item(), 101, dtype=torch.float64)
    times = time_of_log_snr(schedule, log_snr)
    assert (schedule.log_snr(times.clamp(1, lowest)) - log_snr).abs().max() < 1e-9
    assert (times - time_at(schedule, log_snr)).abs().max() < 1e-6
    whole = torch.arange(1, lowest + 1)
    assert (time_of_log_snr(schedule, schedule.log_snr(whole)) - whole).abs().max() < 1e-9
    assert time_of_log_snr(schedule, log_snr.reshape(1, -1)).shape == (1, 101)
    for wrong in (ends[0] - 0.1, ends[1] + 0.1, torch.tensor(-math.inf)):
        with pytest.raises(ValueError, match="spans"):
            time_of_log_snr(schedule, wrong)


@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 40])
def test_karras_times_have_karras_levels(schedule: NoiseSchedule, steps: int) -> None:
    """Real, falling, from the first time to the last and then 0; their σ/a is spaced as asked."""
    first = T - schedule.zero_terminal_snr
    for last_time, rho in ((1.0, 7.0), (20.5, 3.0)):
        times = karras_times(schedule, steps, first, last_time, rho)
        assert times.dtype == torch.float64 and times.shape == (steps + 1,) and times[-1] == 0 and times[0] == first
        assert (times.diff() < 0).all() and (steps == 1 or times[-2] == last_time)
        levels = (schedule.noise(times[:-1]) / schedule.signal(times[:-1])).pow(1 / rho).diff()
        assert steps == 1 or (levels - levels.mean()).abs().max() < 1e-6
    if not schedule.zero_terminal_snr:
        assert torch.equal(karras_times(schedule, steps), karras_times(schedule, steps, T, 1.0, 7.0))


def test_karras_times_refuses_what_it_cannot_give() -> None:
    for schedule, arguments, words in (
        (LINEAR, (0,), "steps=0"),
        (LINEAR, (5, 300, 300), "first > last"),
        (LINEAR, (5, 300, 0.5), "real times"),
        (LINEAR, (5, T + 1), "must lie in"),
        (ZERO_SNR, (5,), "first=999"),
    ):
        with pytest.raises(ValueError, match=words) as error:
            karras_times(schedule, *arguments)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_first_order_of_dpmpp_is_ddim(schedule: NoiseSchedule) -> None:
    """With D = x̂_0, (11.6) and (11.1) with d = 0 are one step, also to t = 0."""
    x, x0 = randn(5, 3, seed=1), randn(5, 3, seed=2)
    for t, s in ((990, 700), (500, 499), (13, 2), (300, 0)):
        t, s = torch.tensor(t), torch.tensor(s)
        none = torch.zeros((), dtype=torch.float64)
        assert (dpmpp_step(schedule, x, x0, t, s) - ddim_step(schedule, x, x0, t, s, none)).abs().max() < 1e-12


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 7, 20, 300])
def test_a_grid_can_end_at_one_begin_later_and_spare_its_last_time(steps, spacing):
    """end = 1 changes the last entry and leaves out a step from 1 to 1; a spare is a grid of one more, cut."""
    plain = time_grid(1000, steps, spacing).tolist()
    assert time_grid(1000, steps, spacing, end=1).tolist() == [*(t for t in plain if t > 1), 1]
    assert time_grid(1000, steps, spacing, spare=True).tolist() == [*time_grid(1000, steps + 1, spacing).tolist()[:-2], 0]
    later = time_grid(1000, steps, "leading", offset=1).tolist()
    assert later == [*(t + 1 for t in time_grid(1000, steps, "leading").tolist()[:-1]), 0]


def test_a_grid_that_would_begin_after_the_end_is_refused():
    with pytest.raises(ValueError, match="steps=1000 with offset=1 would begin at 1001"):
        time_grid(1000, 1000, "leading", offset=1)
    with pytest.raises(ValueError, match=r"1\.\.999"):
        time_grid(1000, 1000, "leading", spare=True)
