"""The posterior q(x_s | x_t, x_0): Bayes' rule done on a grid, and what must hold when it is put to use."""

import math

import pytest
import torch
from torch import Tensor

from minildm.posterior import posterior
from minildm.schedule import NoiseSchedule, q_sample

T = 100
SCHEDULES = {
    "linear": NoiseSchedule.linear(T, 1e-3, 0.1),
    "cosine": NoiseSchedule.cosine(T),
    "zero terminal SNR": NoiseSchedule.linear(T, 1e-3, 0.1).rescaled_to_zero_snr(),
}
everywhere = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


@pytest.fixture(autouse=True)
def fixed_threads() -> None:
    torch.set_num_threads(1)


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normal(x: Tensor, mean: Tensor | float, variance: float) -> Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


@everywhere
@pytest.mark.parametrize(("t", "s"), [(2, 1), (3, 2), (50, 49), (T, T - 1), (50, 10), (T - 1, 1), (T, 60)])
def test_posterior_is_bayes_rule_on_a_grid(schedule: NoiseSchedule, t: int, s: int) -> None:
    """q(x_s | x_t, x_0) ∝ q(x_t | x_s) q(x_s | x_0), each factor made of its steps √(1 − β) x + √β ε alone."""
    beta = schedule.beta.tolist()
    kept_until_s = math.prod(1 - beta[r] for r in range(1, s + 1))  # of the variance of x_0
    kept_from_s = math.prod(1 - beta[r] for r in range(s + 1, t + 1))
    x0 = 0.7
    x_t = math.sqrt(kept_until_s * kept_from_s) * x0 - 1.5 * math.sqrt(1 - kept_until_s * kept_from_s)  # not far from likely
    prior_mean, prior_std = math.sqrt(kept_until_s) * x0, math.sqrt(1 - kept_until_s)
    grid = prior_mean + prior_std * torch.linspace(-12, 12, 40001, dtype=torch.float64)
    joint = normal(x_t, math.sqrt(kept_from_s) * grid, 1 - kept_from_s) * normal(grid, prior_mean, prior_std**2)
    density = joint / (joint.sum() * (grid[1] - grid[0]))
    mean = (grid * density).sum() * (grid[1] - grid[0])
    variance = ((grid - mean) ** 2 * density).sum() * (grid[1] - grid[0])

    got = posterior(schedule, double(x_t)[:, None], double(x0)[:, None], torch.tensor([t]), torch.tensor([s]))
    assert abs(got.mean.item() - mean.item()) < 1e-9
    assert abs(got.log_var.exp().item() / variance.item() - 1) < 1e-9
    likely = density > density.max() * 1e-6
    assert likely.sum() > 100
    assert (got.log_prob(grid[likely, None]) - density[likely].log()).abs().max() < 1e-8
    if s == t - 1:
        by_default = posterior(schedule, double(x_t)[:, None], double(x0)[:, None], torch.tensor([t]))
        assert torch.equal(by_default.mean, got.mean) and torch.equal(by_default.log_var, got.log_var)


@everywhere
@pytest.mark.parametrize("back", [1, 7, T], ids=["one step", "seven steps", "as far as possible"])
def test_noising_then_stepping_back_leaves_the_marginal(schedule: NoiseSchedule, back: int) -> None:
    """x_t ~ q(·|x_0), then x_s ~ q(·|x_t, x_0), is x_s ~ q(·|x_0): the same mean √ᾱ_s x_0 and variance 1 − ᾱ_s, for every t.

    The posterior's mean is A x_0 + B x_t, so the mean is (A + B √ᾱ_t) x_0, the variance B² (1 − ᾱ_t) + its own.
    """
    t = torch.arange(1, T + 1)
    s = (t - back).clamp(min=0)
    one, nothing = torch.ones(T, 1, dtype=torch.float64), torch.zeros(T, 1, dtype=torch.float64)
    of_x0, of_x_t = posterior(schedule, nothing, one, t, s), posterior(schedule, one, nothing, t, s)
    alpha_bar = torch.cumprod(1 - schedule.beta, 0)[:, None]
    mean = of_x0.mean + of_x_t.mean * alpha_bar[t].sqrt()
    variance = of_x_t.mean**2 * (1 - alpha_bar[t]) + of_x0.log_var.exp()
    assert (mean - alpha_bar[s].sqrt()).abs().max() < 1e-12
    assert (variance - (1 - alpha_bar[s])).abs().max() < 1e-12


def test_drawn_steps_back_have_the_marginal_moments() -> None:
    """The same law with draws in place of algebra: `sample` spreads by the standard deviation, not the variance."""
    schedule, n = SCHEDULES["linear"], 200_000
    x0 = torch.full((n, 1), 0.8, dtype=torch.float64)
    t = torch.full((n,), 30)
    x_t = q_sample(schedule, x0, t, randn(n, 1, seed=1))
    x_s = posterior(schedule, x_t, x0, t, t - 12).sample(randn(n, 1, seed=2))
    a, variance = schedule.signal(t[:1] - 12).item(), schedule.noise(t[:1] - 12).item() ** 2
    z_mean = (x_s.mean().item() - 0.8 * a) / math.sqrt(variance / n)
    z_variance = (x_s.var().item() - variance) / (variance * math.sqrt(2 / n))
    print(f"standard errors away: mean {z_mean:.2f}, variance {z_variance:.2f}")
    assert abs(z_mean) < 3 and abs(z_variance) < 3


@everywhere
def test_the_last_step_is_certain(schedule: NoiseSchedule) -> None:
    """At s = 0 the posterior is a point mass at x_0: variance 0, sample = mean = x_0, and no density to ask for."""
    x0, x_t = randn(4, 3, 2), randn(4, 3, 2, seed=1)
    proper = posterior(schedule, x_t, x0, torch.full((4,), 2))
    for t in (torch.full((4,), 1), torch.tensor([1, 5, 50, T])):
        last = posterior(schedule, x_t, x0, t, torch.zeros_like(t))
        assert (last.log_var.exp() == 0).all()
        assert torch.equal(last.sample(randn(4, 3, 2, seed=2)), last.mean)
        assert (last.mean - x0).abs().max() < 1e-12
        for ask in (last.entropy, last.kl, lambda last=last: last.log_prob(x0), lambda last=last: last.kl(proper)):
            with pytest.raises(ValueError, match="variance 0"):
                ask()
        with pytest.raises(ValueError, match="variance 0"):
            proper.kl(last)


def test_pure_noise_tells_nothing() -> None:
    """With ᾱ_T = 0, x_T holds no news: the posterior from T is q(x_s | x_0), whatever x_T is."""
    schedule, x0, s = SCHEDULES["zero terminal SNR"], randn(3, 2), torch.tensor([1, 40, T - 1])
    got = posterior(schedule, 100 * randn(3, 2, seed=1), x0, torch.full((3,), T), s)
    assert (got.mean - schedule.signal(s)[:, None] * x0).abs().max() < 1e-12
    assert (got.log_var.exp() - schedule.noise(s)[:, None] ** 2).abs().max() < 1e-12


def test_each_example_has_its_own_times() -> None:
    """A batch with times of its own is the examples one by one; a single time serves all; the dtype stays the data's."""
    schedule, x_t, x0 = SCHEDULES["linear"], randn(3, 2, 4, 4), randn(3, 2, 4, 4, seed=1)
    t, s = torch.tensor([2, 60, T]), torch.tensor([1, 20, 99])
    together = posterior(schedule, x_t, x0, t, s)
    assert together.mean.shape == x_t.shape and together.log_var.shape == (3, 1, 1, 1)
    for i in range(3):
        alone = posterior(schedule, x_t[i : i + 1], x0[i : i + 1], t[i], s[i])
        assert (together.mean[i] - alone.mean[0]).abs().max() < 1e-14
        assert (together.log_var[i] - alone.log_var).abs().max() < 1e-14
    single = posterior(schedule, x_t.float(), x0.float(), t, s)
    assert single.mean.dtype == single.log_var.dtype == torch.float32
    assert (single.mean - together.mean).abs().max() < 1e-5


@pytest.mark.parametrize(("t", "s"), [([5], [5]), ([5], [6]), ([5, 5], [4, 5]), ([T], [-1]), ([0], None), ([T + 1], [3])])
def test_only_steps_back_within_the_chain_are_taken(t: list[int], s: list[int] | None) -> None:
    """s ≥ t for any example, or a time outside 0..T, is refused."""
    x = torch.zeros(len(t), 1)
    with pytest.raises(ValueError, match="s < t|must lie in"):
        posterior(SCHEDULES["linear"], x, x, torch.tensor(t), None if s is None else torch.tensor(s))
