"""One step back, known x_0 or not, by Bayes' rule on a grid; the bound against exact evidence; what must hold in use."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from minildm import hvae
from minildm.elbo import Mixture
from minildm.gaussian import Gaussian
from minildm.posterior import (
    bound_terms,
    bridge,
    matched,
    mean_from_noise,
    negentropy,
    posterior,
    prior_term,
    reverse_mixture,
    reverse_step,
    step_term,
    x0_weight,
)
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


# The step back in its other forms, against the joint distribution of a film


def film(schedule: NoiseSchedule, mean: float, variance: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance of (x_0, …, x_T) for x_0 ~ N(mean, variance), grown step by step: x_t = √(1 − β) x_{t−1} + √β ε."""
    means, covariance = [mean], torch.full((1, 1), variance, dtype=torch.float64)
    for beta in schedule.beta.tolist()[1:]:
        kept = math.sqrt(1 - beta)
        means.append(kept * means[-1])
        row = kept * covariance[-1:]
        corner = (1 - beta) * covariance[-1:, -1:] + beta
        covariance = torch.cat([torch.cat([covariance, row.T], 1), torch.cat([row, corner], 1)])
    return torch.tensor(means, dtype=torch.float64), covariance


def conditioned(schedule: NoiseSchedule, mean: float, variance: float, x_t: float, t: int, s: int) -> tuple[float, float]:
    """Mean and variance of x_s when x_t is known, from the joint Gaussian of the two."""
    means, covariance = film(schedule, mean, variance)
    slope = (covariance[s, t] / covariance[t, t]).item()
    return (means[s] + slope * (x_t - means[t])).item(), (covariance[s, s] - slope * covariance[s, t]).item()


SMALL = NoiseSchedule(double(0.0, 0.05, 0.1, 0.2, 0.35, 0.3))
LATE, EARLY = torch.tensor([2, 3, 5, 5]), torch.tensor([1, 1, 4, 2])
X_0, X_T, NOISE = randn(4, 2), randn(4, 2, seed=1), randn(4, 2, seed=2)


def assert_steps(got: Gaussian, wanted: list[list[tuple[float, float]]], tolerance: float = 1e-11) -> None:
    """Mean and variance of every example and dimension."""
    table = torch.tensor(wanted, dtype=torch.float64)  # N×D×2
    torch.testing.assert_close(got.mean, table[..., 0], rtol=0, atol=tolerance)
    torch.testing.assert_close(got.log_var.exp().expand_as(got.mean), table[..., 1], rtol=0, atol=tolerance)


def by_joint(variance: float = 0.0, x_t: Tensor = X_T) -> list[list[tuple[float, float]]]:
    """The step back for each example, data N(x_0, variance), read off the film's joint distribution."""
    return [
        [conditioned(SMALL, m, variance, x, t, s) for m, x in zip(ms, xs, strict=True)]
        for ms, xs, t, s in zip(X_0.tolist(), x_t.tolist(), LATE.tolist(), EARLY.tolist(), strict=True)
    ]


@pytest.mark.equation("07.1")
def test_the_posterior_is_the_ratio_of_three_known_densities() -> None:
    t, s = LATE, LATE - 1
    x, q = randn(4, 2, seed=3), posterior(SMALL, X_T, X_0, LATE)
    kept = torch.cumprod(1 - SMALL.beta, 0)[:, None]
    step = Normal((1 - SMALL.beta[t, None]).sqrt() * x, SMALL.beta[t, None].sqrt()).log_prob(X_T)
    early = Normal(kept[s].sqrt() * X_0, (1 - kept[s]).sqrt()).log_prob(x)
    late = Normal(kept[t].sqrt() * X_0, (1 - kept[t]).sqrt()).log_prob(X_T)
    torch.testing.assert_close(q.log_prob(x), (step + early - late).sum(1), rtol=0, atol=1e-11)


@pytest.mark.equation("07.2", "07.3")
def test_the_posterior_is_a_conditional_of_the_films_joint_distribution() -> None:
    assert_steps(posterior(SMALL, X_T, X_0, LATE, EARLY), by_joint())


@pytest.mark.equation("07.4")
def test_the_mean_from_the_noise_is_that_of_the_joint_distribution() -> None:
    x_t = q_sample(SMALL, X_0, LATE, NOISE)
    wanted = torch.tensor(by_joint(x_t=x_t), dtype=torch.float64)[..., 0]
    torch.testing.assert_close(mean_from_noise(SMALL, x_t, NOISE, LATE, EARLY), wanted, rtol=0, atol=1e-11)
    neighbour = posterior(SMALL, x_t, X_0, LATE).mean
    torch.testing.assert_close(mean_from_noise(SMALL, x_t, NOISE, LATE), neighbour, rtol=0, atol=1e-11)


def test_noise_says_nothing_where_there_is_no_signal() -> None:
    schedule = SCHEDULES["zero terminal SNR"]
    for t in (torch.tensor([T]), torch.tensor([3, T])):
        with pytest.raises(ValueError, match="needs x_0"):
            mean_from_noise(schedule, randn(len(t), 2), randn(len(t), 2), t)
    mean_from_noise(schedule, randn(1, 2), randn(1, 2), torch.tensor([T - 1]))


@pytest.mark.equation("07.5")
def test_the_bridge_is_a_conditional_of_the_films_joint_distribution() -> None:
    assert_steps(bridge(SMALL, X_T, X_0, LATE, EARLY), by_joint())


@everywhere
def test_the_bridge_is_the_posterior_everywhere(schedule: NoiseSchedule) -> None:
    """Also at the ends: s = 0, where its variance is 0, and ᾱ_T = 0, where x_T tells nothing."""
    t, s = torch.tensor([1, 2, 50, T, T, T]), torch.tensor([0, 1, 10, T - 1, 1, 0])
    x_t, x0 = randn(6, 3), randn(6, 3, seed=1)
    a, b = posterior(schedule, x_t, x0, t, s), bridge(schedule, x_t, x0, t, s)
    torch.testing.assert_close(a.mean, b.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(a.log_var.exp(), b.log_var.exp(), rtol=1e-9, atol=1e-14)
    by_default = bridge(schedule, x_t, x0, t)
    torch.testing.assert_close(by_default.mean, posterior(schedule, x_t, x0, t).mean, rtol=0, atol=1e-11)


@pytest.mark.equation("07.6")
def test_the_step_back_for_gaussian_data_is_a_conditional_of_the_joint_distribution() -> None:
    data = Gaussian(X_0, torch.full_like(X_0, math.log(0.6)))
    assert_steps(reverse_step(SMALL, data, X_T, LATE, EARLY), by_joint(0.6))


@everywhere
def test_the_step_back_lies_between_its_two_extremes(schedule: NoiseSchedule) -> None:
    """One point: the posterior, variance β̃. Unit variance: β. Down to t = 1, and at ᾱ_T = 0."""
    t = torch.tensor([1, 2, 40, T])
    x_t, m = randn(4, 2), randn(1, 2, seed=1)
    point = reverse_step(schedule, Gaussian(m, torch.full_like(m, -math.inf)), x_t, t)
    known = posterior(schedule, x_t, m.expand(4, 2), t)
    torch.testing.assert_close(point.mean, known.mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(point.log_var.exp(), known.log_var.exp().expand(4, 2), rtol=1e-9, atol=1e-14)
    unit = reverse_step(schedule, Gaussian(m, torch.zeros_like(m)), x_t, t)
    torch.testing.assert_close(unit.log_var.exp(), schedule.beta[t, None].expand(4, 2), rtol=1e-9, atol=1e-14)


# Mixtures, and how far from Gaussian they are

CLOUDS = Mixture(double(0.3, 0.7), double(-1.0, 0.8), double(0.04, 0.15).log())
GRID = torch.linspace(-7, 7, 2001, dtype=torch.float64)


@pytest.mark.equation("07.7")
@pytest.mark.parametrize(("t", "s"), [(2, None), (5, None), (4, 1)])
def test_the_step_back_for_a_mixture_is_bayes_rule_on_a_grid(t: int, s: int | None) -> None:
    """q(x_s) by an integral over x_0, times q(x_t | x_s), over its sum."""
    early = t - 1 if s is None else s
    kept = torch.cumprod(1 - SMALL.beta, 0).tolist()
    data = sum(w * normal(GRID, m, v) for w, m, v in zip((0.3, 0.7), (-1.0, 0.8), (0.04, 0.15), strict=True))
    marginal = (normal(GRID[:, None], math.sqrt(kept[early]) * GRID, 1 - kept[early]) * data).sum(1)
    alpha, x_t = kept[t] / kept[early], 0.25
    product = marginal * normal(x_t, math.sqrt(alpha) * GRID, 1 - alpha)
    wanted = product / (product.sum() * (GRID[1] - GRID[0]))
    step = reverse_mixture(SMALL, CLOUDS, x_t, t, s)
    assert (step.log_evidence(GRID).exp() - wanted).abs().max() < 1e-10
    chance = (normal(double(x_t), math.sqrt(kept[t]) * -1.0, kept[t] * 0.04 + 1 - kept[t]) * 0.3).item()
    other = (normal(double(x_t), math.sqrt(kept[t]) * 0.8, kept[t] * 0.15 + 1 - kept[t]) * 0.7).item()
    assert step.weights.tolist() == pytest.approx([chance / (chance + other), other / (chance + other)], rel=1e-10)


def test_a_mixture_far_away_has_still_a_step_back() -> None:
    """One component's chance underflows to nothing; the other is certain."""
    step = reverse_mixture(SMALL, Mixture(CLOUDS.weights, double(-1.0, 200.0), CLOUDS.log_vars), -1.0, 1)
    assert step.weights[0] == pytest.approx(1) and 0 < step.weights[1] < 1e-200


def gaussian_moments(p: Mixture) -> tuple[float, float, float]:
    """Mean, variance and entropy by quadrature."""
    density, h = p.log_evidence(GRID).exp(), (GRID[1] - GRID[0]).item()
    mean = (density * GRID).sum().item() * h
    variance = (density * (GRID - mean) ** 2).sum().item() * h
    return mean, variance, -(density * p.log_evidence(GRID).clamp(min=-1e4)).sum().item() * h


@pytest.mark.equation("07.8")
def test_the_matched_gaussian_has_the_moments_of_the_mixture() -> None:
    mean, variance, _ = gaussian_moments(CLOUDS)
    g = matched(CLOUDS)
    assert g.mean.shape == g.log_var.shape == (1, 1)
    assert g.mean.item() == pytest.approx(mean, abs=1e-10) and g.log_var.exp().item() == pytest.approx(variance, rel=1e-10)


def test_no_gaussian_is_nearer_than_the_matched_one() -> None:
    """The gradient of KL(p ‖ N(m, v)) in m and log v is 0 there, by automatic differentiation of a sum over the grid."""
    density, g = CLOUDS.log_evidence(GRID).exp(), matched(CLOUDS)
    m, log_v = g.mean.clone().requires_grad_(), g.log_var.clone().requires_grad_()
    cross = -(density * Gaussian(m.expand(len(GRID), 1), log_v).log_prob(GRID[:, None])).sum() * (GRID[1] - GRID[0])
    assert all(gradient.abs() < 1e-9 for gradient in torch.autograd.grad(cross, (m, log_v)))


@pytest.mark.equation("07.9")
def test_negentropy_is_what_a_gaussian_of_equal_variance_has_more_entropy() -> None:
    _, variance, entropy = gaussian_moments(CLOUDS)
    wanted = 0.5 * math.log(2 * math.pi * math.e * variance) - entropy
    assert wanted > 0.01
    assert negentropy(CLOUDS).item() == pytest.approx(wanted, rel=1e-8)
    assert negentropy(CLOUDS, points=401).item() == pytest.approx(wanted, rel=1e-5)


def test_negentropy_of_a_gaussian_is_zero_and_a_tiny_one_is_exact() -> None:
    """For N(±d, 1) with small d the fourth cumulant is −2 d⁴, and J → κ₄²/48; a difference of entropies would see only noise."""
    alone = Mixture(double(0.4, 0.6), double(0.3, 0.3), double(-1.0, -1.0))
    assert 0 <= negentropy(alone).item() + 1e-20 < 1e-18
    for d in (0.03, 0.015):
        pair = Mixture(double(0.5, 0.5), double(-d, d), double(0.0, 0.0))
        assert negentropy(pair).item() == pytest.approx((2 * d**4) ** 2 / 48, rel=0.02, abs=0)


def test_small_steps_back_are_gaussian_to_the_third_power() -> None:
    """J → f‴² β³/12, f = log q(x_{t−1}), as the chapter derives; the derivatives by automatic differentiation."""
    x = torch.tensor([-0.5], dtype=torch.float64, requires_grad=True)
    value = CLOUDS.log_evidence(x)  # of x_0: the step from t = 1 to 0
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    beta = 1e-5
    got = negentropy(reverse_mixture(NoiseSchedule(double(0.0, beta)), CLOUDS, -0.5 * math.sqrt(1 - beta), 1))
    assert got.item() == pytest.approx(value.item() ** 2 * beta**3 / 12, rel=0.01, abs=0)


# The bound, term by term


@pytest.mark.equation("07.10")
def test_the_prior_term_is_the_divergence_of_the_last_frame_from_noise() -> None:
    for schedule in (SMALL, SCHEDULES["linear"]):
        kept = math.prod(1 - beta for beta in schedule.beta.tolist())
        last = Normal(math.sqrt(kept) * X_0, math.sqrt(1 - kept))
        wanted = kl_divergence(last, Normal(torch.zeros_like(X_0), torch.ones_like(X_0))).sum(1)
        torch.testing.assert_close(prior_term(schedule, X_0), wanted, rtol=1e-9, atol=0)


def test_the_prior_term_keeps_its_digits_in_single_precision() -> None:
    """ᾱ_T = 4e-5 for the usual schedule: a KL computed in float32 would be mostly rounding."""
    schedule, x0 = NoiseSchedule.linear(1000), randn(3, 3, 8, 8)
    single = prior_term(schedule, x0.float())
    assert single.dtype == torch.float32 and single.shape == (3,)
    torch.testing.assert_close(single.double(), prior_term(schedule, x0), rtol=1e-5, atol=0)
    assert (prior_term(SCHEDULES["zero terminal SNR"], x0) == 0).all()


def model(x_t: Tensor, t: Tensor) -> Gaussian:
    """Some p(x_{t−1} | x_t), linear in x_t, each time and dimension with numbers of its own."""
    slope = 0.9 - 0.03 * t.double()[:, None] + torch.tensor([0.0, 0.05])
    return Gaussian(slope * x_t + 0.1, -1.5 + 0.2 * t.double()[:, None] + torch.tensor([0.1, -0.3]))


@pytest.mark.equation("07.11")
def test_a_step_costs_its_divergence_and_the_last_step_its_log_density() -> None:
    """Times mixed in one batch, t = 1 among them."""
    t = torch.tensor([1, 3, 5, 2])
    x_t = q_sample(SMALL, X_0, t, NOISE)
    wanted = []
    for n, time in enumerate(t.tolist()):
        p = model(x_t[n : n + 1], t[n : n + 1])
        p = Normal(p.mean[0], (p.log_var[0] / 2).exp())
        moments = [conditioned(SMALL, m, 0.0, x, time, time - 1) for m, x in zip(X_0[n].tolist(), x_t[n].tolist(), strict=True)]
        if time == 1:
            wanted.append(-p.log_prob(X_0[n]).sum())
        else:
            mean, variance = torch.tensor(moments, dtype=torch.float64).T
            wanted.append(kl_divergence(Normal(mean, variance.sqrt()), p).sum())
    torch.testing.assert_close(step_term(SMALL, model, X_0, t, NOISE), torch.stack(wanted), rtol=0, atol=1e-9)


def test_a_step_is_a_mean_of_log_ratios() -> None:
    """E over x_{t−1} ~ q(·|x_t, x_0) of log q − log p, by draws; gradients reach the model."""
    n, t = 200_000, torch.tensor([4])
    x0, noise = X_0[:1], NOISE[:1]
    x_t = q_sample(SMALL, x0, t, noise)
    q, p = posterior(SMALL, x_t, x0, t), model(x_t, t)
    draws = Gaussian(q.mean.expand(n, 2), q.log_var).sample(randn(n, 2, seed=5))
    ratios = Gaussian(q.mean.expand(n, 2), q.log_var).log_prob(draws) - Gaussian(p.mean.expand(n, 2), p.log_var).log_prob(draws)
    z = (ratios.mean() - step_term(SMALL, model, x0, t, noise)[0]) / (ratios.std() / math.sqrt(n))
    print(f"standard errors away: {z.item():.2f}")
    assert abs(z.item()) < 3.5
    shift = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    for time in (1, 3):
        cost = step_term(SMALL, lambda x, t: Gaussian(x + shift, torch.zeros_like(x)), x0, torch.tensor([time]), noise)
        (gradient,) = torch.autograd.grad(cost.sum(), shift)
        assert gradient.isfinite().all() and gradient != 0


def exact_terms(schedule: NoiseSchedule, reverse, x0: Tensor) -> Tensor:
    """The mean of `bound_terms` over the noise, for terms that are quadratic in it."""
    return (
        bound_terms(schedule, reverse, x0, torch.ones_like) + bound_terms(schedule, reverse, x0, lambda x: -torch.ones_like(x))
    ) / 2


@pytest.mark.equation("07.12")
def test_the_bound_is_the_evidence_when_the_model_is_the_film_run_backwards() -> None:
    schedule = SMALL.rescaled_to_zero_snr()
    data = Gaussian(double(0.7, -0.3)[None], double(0.3, 1.8).log()[None])
    terms = exact_terms(schedule, lambda x, t: reverse_step(schedule, data, x, t), X_0)
    assert terms.shape == (4, 6)
    torch.testing.assert_close(terms.sum(1), -data.log_prob(X_0), rtol=0, atol=1e-10)


@pytest.mark.equation("07.12")
def test_the_bound_misses_by_the_divergence_of_the_films() -> None:
    """For a wrong model: log p(x_0) and KL(q(x_{1:T} | x_0) ‖ p(x_{1:T} | x_0)) from joint Gaussians, no term of the bound."""
    wrong = 5

    def linear(t: int) -> tuple[float, float, float]:
        return 0.9 - 0.1 * t, 0.1 * t, 0.3 + 0.1 * t  # slope, intercept, variance of p(x_{t−1} | x_t)

    def reverse(x: Tensor, t: Tensor) -> Gaussian:
        slope, intercept, variance = linear(int(t[0]))
        return Gaussian(slope * x + intercept, torch.full_like(x, math.log(variance)))

    # p's joint distribution of (x_5, …, x_0), grown downwards
    means, covariance = double(0.0), torch.eye(1, dtype=torch.float64)
    for t in range(wrong, 0, -1):
        slope, intercept, variance = linear(t)
        row = slope * covariance[-1:]
        corner = slope**2 * covariance[-1:, -1:] + variance
        means = torch.cat([means, slope * means[-1:] + intercept])
        covariance = torch.cat([torch.cat([covariance, row.T], 1), torch.cat([row, corner], 1)])
    means, covariance = means.flip(0), covariance.flip(0, 1)  # x_0 first
    for x0 in (-1.3, 0.4):
        log_p = Normal(means[0], covariance[0, 0].sqrt()).log_prob(double(x0)).item()
        gain = covariance[1:, 0] / covariance[0, 0]
        own = MultivariateNormal(means[1:] + gain * (x0 - means[0]), covariance[1:, 1:] - gain[:, None] * covariance[0, 1:])
        q_means, q_covariance = film(SMALL, x0, 0.0)
        divergence = kl_divergence(MultivariateNormal(q_means[1:], q_covariance[1:, 1:]), own).item()
        bound = exact_terms(SMALL, reverse, double(x0)[:, None]).sum().item()
        assert divergence > 0.1 and bound == pytest.approx(-log_p + divergence, abs=1e-9)


@pytest.mark.equation("07.12")
def test_the_bound_is_that_of_a_hierarchy_with_a_fixed_encoder() -> None:
    """Column by column the function of chapter 05, with the frames of one film; `draw` is asked for t = 1, 2, … in this order."""
    upward = hvae.noising(SMALL.beta[1:])
    z = hvae.climb(upward, X_0, [randn(4, 2, seed=10 + t) for t in range(5)])
    top, links = hvae.given_data(upward, X_0)
    downward = [lambda x, t=t: model(x, torch.full((len(x),), t)) for t in range(1, 6)]
    noises = iter([(z[t] - SMALL.signal(torch.tensor(t)) * X_0) / SMALL.noise(torch.tensor(t)) for t in range(1, 6)])
    here = bound_terms(SMALL, model, X_0, lambda like: next(noises))
    torch.testing.assert_close(here, -hvae.backward_terms(downward, top, links, z), rtol=0, atol=1e-9)


def test_a_chain_of_one_step_is_a_vae() -> None:
    schedule = NoiseSchedule(double(0.0, 0.4))
    terms = bound_terms(schedule, model, X_0, lambda like: NOISE)
    x_1 = math.sqrt(0.6) * X_0 + math.sqrt(0.4) * NOISE
    assert terms.shape == (4, 2)
    torch.testing.assert_close(terms[:, 0], -model(x_1, torch.ones(4).long()).log_prob(X_0), rtol=0, atol=1e-12)


def test_the_draws_are_noise_by_default_and_pictures_are_summed_over() -> None:
    torch.manual_seed(0)
    x0 = torch.randn(6, 1, 4, 4)
    calls = []

    def reverse(x: Tensor, t: Tensor) -> Gaussian:
        calls.append((t.tolist(), x.dtype))
        return Gaussian(x, torch.zeros(len(x), 1, 1, 1))

    once, again = bound_terms(SMALL, reverse, x0), bound_terms(SMALL, reverse, x0)
    assert once.shape == (6, 6) and once.dtype == torch.float32 and not torch.equal(once[:, :5], again[:, :5])
    assert calls[:5] == [([t] * 6, torch.float32) for t in range(1, 6)]


@pytest.mark.equation("07.13")
def test_a_wrong_guess_costs_what_its_weight_says() -> None:
    guess = X_0 + randn(4, 2, seed=8)
    right, wrong = posterior(SMALL, X_T, X_0, LATE, EARLY), posterior(SMALL, X_T, guess, LATE, EARLY)
    spread = (right.log_var / 2).exp().expand_as(X_0)
    wanted = kl_divergence(Normal(right.mean, spread), Normal(wrong.mean, spread)).sum(1)
    got = x0_weight(SMALL, LATE, EARLY) * ((X_0 - guess) ** 2).sum(1)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(x0_weight(SMALL, LATE), x0_weight(SMALL, LATE, LATE - 1), rtol=0, atol=0)
    assert x0_weight(SMALL, torch.tensor(1)) == math.inf


@pytest.mark.parametrize("of", [mean_from_noise, bridge])
def test_every_form_of_the_step_goes_back(of) -> None:
    with pytest.raises(ValueError, match="s < t"):
        of(SMALL, X_T, X_0, LATE, LATE)
    data = Gaussian(X_0, torch.zeros_like(X_0))
    with pytest.raises(ValueError, match="s < t"):
        reverse_step(SMALL, data, X_T, LATE, LATE)
    with pytest.raises(ValueError, match="s < t"):
        x0_weight(SMALL, LATE, LATE)
