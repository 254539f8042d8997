"""The loss and its times, the step back and its variances, the bits of grey levels; each against another computation."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from minildm.ddpm import (
    ancestral,
    best_variance,
    bits_per_dimension,
    coded_step_term,
    ddpm_loss,
    denoiser,
    discretized_log_prob,
    hybrid_loss,
    learned_log_var,
    model_step,
    respaced,
    reverse_of,
    spread_times,
    train_ddpm,
)
from minildm.gaussian import Gaussian
from minildm.objectives import KINDS, min_snr_weight
from minildm.posterior import bound_terms, posterior, step_term
from minildm.samplers import ddim
from minildm.schedule import NoiseSchedule, forward_step, q_sample

SMALL = NoiseSchedule.linear(6, 0.05, 0.5)
BETA = SMALL.beta.tolist()
KEPT = [math.prod(1 - beta for beta in BETA[: t + 1]) for t in range(7)]  # ᾱ, by hand
TILDE = [math.nan, math.nan, *(BETA[t] * (1 - KEPT[t - 1]) / (1 - KEPT[t]) for t in range(2, 7))]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grey(*shape: int, levels: int = 256, seed: int = 0) -> Tensor:
    places = torch.randint(levels, shape, generator=torch.Generator().manual_seed(seed))
    return places.double() * 2 / (levels - 1) - 1


def network(x_t: Tensor, t: Tensor) -> Tensor:
    """Some prediction that depends on all it is given."""
    return torch.tanh(x_t) * (0.3 + 0.1 * t.double().reshape(-1, *[1] * (x_t.ndim - 1)))


def wide(x_t: Tensor, t: Tensor) -> Tensor:
    """A prediction, and beside it something that says the variance."""
    return torch.cat([network(x_t, t), torch.sin(3 * x_t)], 1)


# The loss


def expected(kind: str, x0: Tensor, noise: Tensor, kept: float) -> Tensor:
    """What the network should say, in numbers of one example."""
    a, s = math.sqrt(kept), math.sqrt(1 - kept)
    return {"epsilon": noise, "x0": x0, "v": a * noise - s * x0, "flow": noise - x0}[kind]


@pytest.mark.equation("10.1")
@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_a_mean_over_dimensions_for_each_example(kind: str) -> None:
    x0, noise, t = randn(4, 2, 3), randn(4, 2, 3, seed=1), torch.tensor([1, 6, 3, 2])
    got = ddpm_loss(network, x0, t, noise, SMALL, kind)
    for n, time in enumerate(t.tolist()):
        x_t = math.sqrt(KEPT[time]) * x0[n] + math.sqrt(1 - KEPT[time]) * noise[n]
        said = torch.tanh(x_t) * (0.3 + 0.1 * time)
        squares = [
            (a - b) ** 2 for a, b in zip(said.flatten(), expected(kind, x0[n], noise[n], KEPT[time]).flatten(), strict=True)
        ]
        assert got[n].item() == pytest.approx(sum(squares).item() / 6, rel=1e-6)


def test_weights_multiply_the_loss_of_each_example() -> None:
    x0, noise, t = randn(4, 5), randn(4, 5, seed=1), torch.tensor([1, 6, 3, 2])
    plain, weighted = ddpm_loss(network, x0, t, noise, SMALL, "v"), ddpm_loss(network, x0, t, noise, SMALL, "v", min_snr=1.5)
    torch.testing.assert_close(weighted, plain * min_snr_weight(t, SMALL, "v", 1.5).to(plain))
    assert not torch.allclose(weighted, plain)


# The times


def draws(count: int, T: int, repeats: int, power: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([spread_times(count, T, generator, power) for _ in range(repeats)])


@pytest.mark.parametrize("power", [1.0, 0.75, 0.4, 2.0])
def test_every_example_has_times_of_the_stated_distribution(power):
    """Each count of each time, in each place of the batch, within four standard errors; no time outside 1..T."""
    T, repeats = 20, 8000
    times = draws(3, T, repeats, power)
    share = torch.diff((torch.arange(T + 1).double() / T) ** (1 / power))  # P(t ≤ s) = (s/T)^(1/power)
    assert times.min() >= 1 and times.max() == T
    error = (repeats * share * (1 - share)) ** 0.5
    for place in range(3):
        counts = torch.bincount(times[:, place], minlength=T + 1)[1:]
        print(place, counts.tolist(), error.tolist())
        assert ((counts - repeats * share).abs() < 4 * error + 1).all()


@pytest.mark.parametrize("count", [1, 2, 5, 50])
def test_a_batch_covers_the_times_evenly(count):
    """Any two neighbours, around the circle 1..T, are T/N apart, up to rounding."""
    T = 1000
    for times in draws(count, T, 50):
        ordered = times.sort().values
        gaps = torch.cat([ordered[1:], ordered[:1] + T]) - ordered
        assert gaps.sum() == T and (gaps - T / count).abs().max() <= 1


def test_no_time_lies_beyond_the_last_however_near_to_one_the_draw_is(monkeypatch) -> None:
    """The largest number below 1 has a root that is 1 to the last digit."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert spread_times(1, 1000, torch.Generator(), 0.5).tolist() == [1000]


def test_the_mean_of_what_depends_on_time_is_unbiased_and_far_less_noisy():
    T, count, repeats = 1000, 16, 2000
    loss = (1 - torch.arange(T + 1).double() / T) ** 3  # of any shape
    truth = loss[1:].mean()
    spread = loss[draws(count, T, repeats)].mean(1)
    independent = loss[torch.randint(1, T + 1, (repeats, count), generator=torch.Generator().manual_seed(1))].mean(1)
    error = spread.std() / repeats**0.5
    print(f"bias {spread.mean() - truth:.2e}, standard error {error:.2e}; noise {spread.std():.2e} and {independent.std():.2e}")
    assert (spread.mean() - truth).abs() < 4 * error
    assert spread.std() < 0.4 * independent.std()


# Training


class Affine(nn.Module):
    """ε̂ = w_t x_t: for data N(0, v) the best is known."""

    def __init__(self, T: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.zeros(T + 1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.slope[t, None] * x_t


def test_training_finds_the_conditional_mean_of_gaussian_data() -> None:
    """E[ε | x_t] = σ_t x_t/(ᾱ_t v + σ_t²), whatever the global seed: all chance is the generator's."""
    schedule, v = NoiseSchedule.linear(4, 0.1, 0.5), 0.25
    images = math.sqrt(v) * randn(5000, 8).float()
    found, losses = {}, {}
    for seed in (0, 0, 1):
        model = Affine(4)
        torch.manual_seed(99 + len(found))
        average, losses[seed] = train_ddpm(
            model, images, schedule, "epsilon", 400, torch.Generator().manual_seed(seed), batch=64, lr=0.05
        )
        if seed in found:
            assert torch.equal(found[seed], average.slope)
        found[seed] = average.slope
    assert not torch.equal(found[0], found[1]) and len(losses[0]) == 400
    t = torch.arange(1, 5)
    a, s = schedule.signal(t), schedule.noise(t)
    wanted = (s / (a**2 * v + s**2)).float()
    assert (found[0][1:] - wanted).abs().max() < 0.03 and found[0][0] == 0
    assert not average.slope.requires_grad and not average.training and model.slope.requires_grad
    least = (1 - (s**2 / (a**2 * v + s**2))).mean()  # what is left of ε when x_t is known
    assert sum(losses[0][-100:]) / 100 == pytest.approx(least.item(), abs=0.02) and losses[0][0] > 0.9


def test_training_asks_the_loss_for_pictures_of_the_set_at_times_of_the_schedule() -> None:
    images, seen = randn(20, 3).float(), []

    def loss(network, x0, t, noise, schedule, kind):
        seen.append((x0, t, noise))
        assert all(bool((images == one).all(1).any()) for one in x0) and kind == "x0" and schedule is SMALL
        return (network(x0, t) - noise) ** 2

    _, losses = train_ddpm(Affine(6), images, SMALL, "x0", 3, torch.Generator().manual_seed(0), batch=12, loss=loss)
    assert len(losses) == len(seen) == 3 and seen[0][0].shape == (12, 3)
    assert not torch.equal(seen[0][2], seen[1][2]) and seen[0][1].unique().tolist() == [1, 2, 3, 4, 5, 6]


class Number(nn.Module):
    """One weight, of which the network of these tests consists."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("steps", [120, 30])
def test_the_learning_rate_rises_over_fifty_steps_falls_to_nothing_and_a_twentieth_is_averaged(steps: int) -> None:
    """Under a slope of 1 Adam goes down by its learning rate in every step, so the weight's way tells all of them."""
    way, sizes = [], []

    def loss(network: Number, x0: Tensor, *_) -> Tensor:
        way.append(network.weight.item())
        sizes.append(len(x0))
        return network.weight.expand(len(x0))

    network = Number()
    average, losses = train_ddpm(network, randn(9, 2), SMALL, "v", steps, torch.Generator().manual_seed(0), loss=loss)
    way.append(network.weight.item())
    rates = [0.002 * min(step + 1, 50) / 50 * (steps - step) / steps for step in range(steps)]
    taken = [before - after for before, after in itertools.pairwise(way)]
    assert taken == pytest.approx(rates, rel=1e-6)
    assert sizes == [32] * steps and losses == pytest.approx(way[:-1])
    decay, trail = (1 - 20 / 120, 0.0) if steps == 120 else (0.5, 0.0)  # of 30 steps two are remembered, not one and a half
    for n, weight in enumerate(way[1:]):
        d = min(decay, n / (10 + n))
        trail = d * trail + (1 - d) * weight
    assert average.weight.item() == pytest.approx(trail, rel=1e-9)


# Sampling


def test_ancestral_samples_follow_the_chain_that_the_bound_is_about() -> None:
    """For Gaussian data and the exact x̂_0 every x_t has a mean and a variance on paper: those of p's own chain."""
    schedule, data, count = NoiseSchedule.cosine(40), Gaussian(randn(1, 1) * 0, torch.full((1, 1), math.log(0.3))), 40_000

    def exact(x_t: Tensor, t: Tensor) -> Tensor:
        a, s = schedule.signal(t)[:, None], schedule.noise(t)[:, None]
        return a * 0.3 / (a**2 * 0.3 + s**2) * x_t

    generator = torch.Generator().manual_seed(0)
    times = torch.tensor([40, 30, 20, 12, 6, 2, 0])
    chain = list(
        ancestral(
            exact, schedule, randn(count, 1), times, lambda x: torch.randn(x.shape, generator=generator, dtype=torch.float64)
        )
    )
    assert [t for t, _, _ in chain] == times.tolist() and chain[0][2] is None
    variance = 1.0
    for (t, s), (_, x, x0_hat), (_, before, _) in zip(
        zip(times[:-1].tolist(), times[1:].tolist(), strict=True), chain[1:], chain[:-1], strict=True
    ):
        torch.testing.assert_close(x0_hat, exact(before, torch.full((count,), t)))
        kept_t, kept_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        alpha, gain = kept_t / kept_s, math.sqrt(kept_t) * 0.3 / (kept_t * 0.3 + 1 - kept_t)
        slope = math.sqrt(kept_s) * (1 - alpha) / (1 - kept_t) * gain + math.sqrt(alpha) * (1 - kept_s) / (1 - kept_t)
        variance = slope**2 * variance + (1 - alpha) * (1 - kept_s) / (1 - kept_t)
        print(f"t = {s}: variance {x.var().item():.4f}, on paper {variance:.4f}")
        assert abs(x.mean()) < 4.5 * math.sqrt(variance / count)
        assert x.var().item() == pytest.approx(variance, rel=4.5 * math.sqrt(2 / count))
    assert data.log_var.exp().item() > variance  # too narrow: β̃ forgets that x̂_0 is a guess


def test_the_last_step_adds_no_noise() -> None:
    calls = []

    def draw(x: Tensor) -> Tensor:
        calls.append(1)
        return torch.ones_like(x)

    *_, (t, x, x0) = ancestral(lambda x, t: 0.5 * x, SMALL, randn(3, 2), torch.tensor([6, 3, 1, 0]), draw)
    assert t == 0 and len(calls) == 2 and torch.allclose(x, x0)
    *_, (_, by_ddim, _) = ddim(lambda x, t: 0.5 * x, SMALL, randn(3, 2), torch.tensor([6, 0]))
    *_, (_, one_step, _) = ancestral(lambda x, t: 0.5 * x, SMALL, randn(3, 2), torch.tensor([6, 0]), draw)
    torch.testing.assert_close(one_step, by_ddim)


def test_a_denoiser_turns_every_prediction_into_the_picture() -> None:
    x0, noise, t = randn(4, 3), randn(4, 3, seed=1), torch.tensor([1, 3, 5, 6])
    x_t = q_sample(SMALL, x0, t, noise)
    for kind in KINDS:
        right = torch.stack([expected(kind, x0[n], noise[n], KEPT[time]) for n, time in enumerate(t.tolist())])
        torch.testing.assert_close(denoiser(lambda x, t, right=right: right, SMALL, kind)(x_t, t), x0)


# The step back, and its variance


@pytest.mark.equation("10.2")
def test_the_models_step_is_bayes_rule_with_the_guess_in_the_pictures_place() -> None:
    """Mean: a product of two densities on a grid. Variance: that of the definition."""
    x_t, guess, t, v = randn(5, 2), randn(5, 2, seed=1), torch.tensor([2, 3, 6, 4, 5]), torch.rand(5, 2, dtype=torch.float64)
    step = model_step(SMALL, x_t, guess, t, v)
    line = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    for n, time in enumerate(t.tolist()):
        for d in range(2):
            by_picture = Normal(math.sqrt(KEPT[time - 1]) * guess[n, d], math.sqrt(1 - KEPT[time - 1])).log_prob(line)
            by_frame = Normal(math.sqrt(1 - BETA[time]) * line, math.sqrt(BETA[time])).log_prob(x_t[n, d])
            weights = torch.softmax(by_picture + by_frame, 0)
            assert step.mean[n, d].item() == pytest.approx((weights * line).sum().item(), abs=1e-8)
            share = v[n, d].item()
            assert step.log_var[n, d].exp().item() == pytest.approx(BETA[time] ** share * TILDE[time] ** (1 - share), rel=1e-9)


@pytest.mark.equation("10.6")
def test_the_learned_variance_runs_between_the_fixed_ones_on_a_logarithmic_line() -> None:
    t = torch.tensor([2, 6, 3, 5])
    for v in (0.0, 1.0, 0.4, -0.5, 1.3):
        got = learned_log_var(SMALL, torch.full((4, 1), v, dtype=torch.float64), t).exp()[:, 0]
        wanted = [BETA[time] ** v * TILDE[time] ** (1 - v) for time in t.tolist()]
        assert got.tolist() == pytest.approx(wanted, rel=1e-9)
    share = torch.rand(4, 3, 2, dtype=torch.float64)
    got = learned_log_var(SMALL, share, t)
    assert got.shape == share.shape and got[1, 2, 0].exp().item() == pytest.approx(
        BETA[6] ** share[1, 2, 0].item() * TILDE[6] ** (1 - share[1, 2, 0].item()), rel=1e-9
    )


def test_at_the_last_step_the_small_variance_is_that_of_the_step_before() -> None:
    one, zero = torch.tensor([1]), torch.zeros(1, 1, dtype=torch.float64)
    assert learned_log_var(SMALL, zero, one).exp().item() == pytest.approx(TILDE[2], rel=1e-12)
    assert learned_log_var(SMALL, zero + 1, one).exp().item() == pytest.approx(BETA[1], rel=1e-12)
    assert learned_log_var(SMALL, zero + 0.5, one).exp().item() == pytest.approx(math.sqrt(BETA[1] * TILDE[2]), rel=1e-12)
    step = model_step(SMALL, randn(1, 1), randn(1, 1, seed=1), one, zero)
    torch.testing.assert_close(step.mean, randn(1, 1, seed=1))  # μ̃_1 is x̂_0 itself


@pytest.mark.equation("10.5")
def test_no_variance_costs_less_than_the_best_one() -> None:
    """The mean of KL(posterior ‖ N(mean at x̂_0, σ²)) over errors of x̂_0, smallest along a fine grid of σ²."""
    t = torch.tensor([2, 4, 6])
    errors = 0.7 * randn(4000, 1) + 0.2
    error = (errors**2).mean().expand(3)
    got = best_variance(SMALL, error * torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64), t)
    for place, (time, shrink) in enumerate(((2, 1.0), (4, 0.5), (6, 0.1))):
        x_t, zero = torch.zeros(4000, 1, dtype=torch.float64), torch.zeros(4000, 1, dtype=torch.float64)
        q, p = (posterior(SMALL, x_t, x0, torch.full((4000,), time)) for x0 in (zero, math.sqrt(shrink) * errors))
        log_var = torch.log(got[place]) + torch.linspace(-0.02, 0.02, 41, dtype=torch.float64)
        q, means = Normal(q.mean, torch.exp(0.5 * q.log_var)), p.mean
        costs = torch.stack([kl_divergence(q, Normal(means, torch.exp(0.5 * each).expand(4000, 1))).mean() for each in log_var])
        assert costs.argmin() == 20


# Grey levels


@pytest.mark.equation("10.3")
def test_a_grey_level_has_the_integral_over_its_interval() -> None:
    """By differences of the distribution function, by quadrature of the density; the two outer ones reach to infinity."""
    levels = 8
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    for mean, deviation in ((0.1, 0.3), (-0.95, 0.1), (0.6, 2.0)):
        p = Gaussian(
            torch.full((levels, 1), mean, dtype=torch.float64), torch.full((levels, 1), 2 * math.log(deviation)).double()
        )
        got = discretized_log_prob(p, x[:, None], levels).exp()
        edges = torch.cat([torch.tensor([-math.inf]), (x[1:] + x[:-1]) / 2, torch.tensor([math.inf])]).double()
        wanted = Normal(mean, deviation).cdf(edges.clamp(-1e9, 1e9)).diff()
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-12)
        fine = torch.linspace(edges[3].item(), edges[4].item(), 2001, dtype=torch.float64)
        by_density = torch.trapezoid(Normal(mean, deviation).log_prob(fine).exp(), fine)
        assert got[3].item() == pytest.approx(by_density.item(), rel=1e-5)
    pair = Gaussian(randn(3, 4), randn(3, 4, seed=1))
    some = grey(3, 4, levels=levels)
    each = discretized_log_prob(Gaussian(pair.mean.reshape(12, 1), pair.log_var.reshape(12, 1)), some.reshape(12, 1), levels)
    torch.testing.assert_close(discretized_log_prob(pair, some, levels), each.view(3, 4).sum(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("deviation", [1e-3, 0.02, 0.5, 30.0])
def test_the_probabilities_of_all_levels_sum_to_one(deviation: float, dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 1, 256, dtype=torch.float64).to(dtype)[:, None]
    for mean in (-1.7, -1.0, -0.3, 0.0, 0.999, 1.2):
        p = Gaussian(torch.full((256, 1), mean, dtype=dtype), torch.full((256, 1), 2 * math.log(deviation), dtype=dtype))
        got = discretized_log_prob(p, x)
        assert got.dtype == dtype and not got.isnan().any() and (got <= 0).all()
        assert got.double().exp().sum().item() == pytest.approx(1, abs=1e-4 if dtype == torch.float32 else 1e-10)


def test_improbable_levels_keep_their_digits_and_gradients_are_finite() -> None:
    """Forty deviations away on either side: a difference of distribution functions would be 0 there, or 1 − 1."""
    offset = torch.tensor([[-0.4], [0.4]], dtype=torch.float64)
    mean = offset.clone().requires_grad_()
    log_var = torch.full((2, 1), 2 * math.log(0.01), dtype=torch.float64, requires_grad=True)
    x = torch.full((2, 1), 1 / 255, dtype=torch.float64)
    got = discretized_log_prob(Gaussian(mean, log_var), x)
    wanted = [Normal(0.0, 1.0).log_prob(torch.tensor(z)).item() - math.log(z) for z in ((0.4) / 0.01, (0.4 - 2 / 255) / 0.01)]
    assert got.tolist() == pytest.approx(wanted, abs=0.01)
    ends = discretized_log_prob(
        Gaussian(torch.cat([mean, mean]), log_var[0]), torch.tensor([[-1.0], [1.0], [1.0], [-1.0]]).double()
    )
    gradients = torch.autograd.grad(got.sum() + ends.sum(), (mean, log_var))
    assert all(gradient.isfinite().all() and (gradient != 0).all() for gradient in gradients)


def test_many_fine_levels_are_a_density_times_their_width() -> None:
    x = grey(5, 3, levels=4097) * 1.0
    inside = x.clamp(-0.99, 0.99).mul(2048).round() / 2048  # on the grid, away from its ends
    p = Gaussian(randn(5, 3) * 0.3, torch.full((5, 3), -1.0).double())
    wanted = p.log_prob(inside) + 3 * math.log(2 / 4096)
    torch.testing.assert_close(discretized_log_prob(p, inside, 4097), wanted, rtol=0, atol=1e-5)


def test_a_step_is_coded_as_in_chapter_07_but_for_the_last() -> None:
    x0, noise, t = grey(4, 3), randn(4, 3, seed=1), torch.tensor([1, 2, 6, 1])

    def reverse(x: Tensor, t: Tensor) -> Gaussian:
        return Gaussian(0.8 * x, torch.full_like(x, -2.0))

    got, density = coded_step_term(SMALL, reverse, x0, t, noise), step_term(SMALL, reverse, x0, t, noise)
    torch.testing.assert_close(got[1:3], density[1:3])
    p = reverse(q_sample(SMALL, x0, t, noise), t)
    torch.testing.assert_close(got, torch.where(t == 1, -discretized_log_prob(p, x0), density))
    assert (got[[0, 3]] > density[[0, 3]] + 3).all()  # 256 levels: log(255/2) nats a dimension, or more at the ends


@pytest.mark.equation("10.4")
def test_bits_are_nats_over_dimensions_and_a_half_of_each_level_more_costs_one() -> None:
    """Column by column against `bound_terms` and a closed form; for a model that knows nothing, 8 bits for 256 levels."""
    x0 = grey(3, 2, 2)

    def reverse(x: Tensor, t: Tensor) -> Gaussian:
        return Gaussian(0.9 * x, -1.0 - 0.1 * t.double().reshape(-1, 1, 1))

    fixed = [randn(3, 2, 2, seed=7 + t) for t in range(6)]
    noises, again = iter(fixed), iter(fixed)
    got = bits_per_dimension(SMALL, reverse, x0, lambda like: next(noises))
    nats = bound_terms(SMALL, reverse, x0, lambda like: next(again))
    assert got.shape == (3, 7)
    torch.testing.assert_close(got[:, 1:], nats[:, 1:] / (4 * math.log(2)))
    x_1 = math.sqrt(KEPT[1]) * x0 + math.sqrt(1 - KEPT[1]) * fixed[0]
    normal = Normal(0.9 * x_1, math.exp(-0.55))
    upper, lower = (x0 + 1 / 255).where(x0 < 0.999, torch.tensor(1e3)), (x0 - 1 / 255).where(x0 > -0.999, torch.tensor(-1e3))
    probability = normal.cdf(upper.double()) - normal.cdf(lower.double())
    torch.testing.assert_close(got[:, 0], -probability.log2().flatten(1).mean(1), rtol=1e-6, atol=0)


def test_a_bound_of_one_flat_step_is_eight_bits() -> None:
    """As wide a Gaussian as you like, cut into 256 equal parts: the levels inside cost log2 of one over their share."""
    schedule = NoiseSchedule(torch.tensor([0.0, 1.0], dtype=torch.float64))
    flat = bits_per_dimension(
        schedule, lambda x, t: Gaussian(torch.zeros_like(x), torch.zeros_like(x)), grey(50, 40).clamp(-0.5, 0.5)
    )
    density = 0.5 * math.log2(2 * math.pi) + (grey(50, 40).clamp(-0.5, 0.5) ** 2).mean().item() / (2 * math.log(2))
    assert flat.mean(0).tolist() == pytest.approx([density + math.log2(255 / 2), 0.0], abs=1e-3)


# The hybrid loss


@pytest.mark.equation("10.7")
def test_the_hybrid_loss_is_the_sum_of_its_parts() -> None:
    x0, noise, t = grey(4, 2, 2), randn(4, 2, 2, seed=1), torch.tensor([1, 2, 6, 4])
    got = hybrid_loss(wide, x0, t, noise, SMALL, "epsilon", weight=0.05)
    for n, time in enumerate(t.tolist()):
        a, s = math.sqrt(KEPT[time]), math.sqrt(1 - KEPT[time])
        x_t = a * x0[n] + s * noise[n]
        said, v = torch.tanh(x_t) * (0.3 + 0.1 * time), (1 + torch.sin(3 * x_t)) / 2
        guess = (x_t - s * said) / a
        before, alpha = KEPT[time - 1], 1 - BETA[time]
        mean = math.sqrt(before) * BETA[time] / s**2 * guess + math.sqrt(alpha) * (1 - before) / s**2 * x_t
        p = Normal(mean, (BETA[time] ** v * TILDE[max(time, 2)] ** (1 - v)).sqrt())
        if time == 1:
            upper, lower = (x0[n] + 1 / 255).where(x0[n] < 0.999, 1e3), (x0[n] - 1 / 255).where(x0[n] > -0.999, -1e3)
            cost = -(p.cdf(upper) - p.cdf(lower)).log().sum()
        else:
            right = math.sqrt(before) * BETA[time] / s**2 * x0[n] + math.sqrt(alpha) * (1 - before) / s**2 * x_t
            cost = kl_divergence(Normal(right, math.sqrt(TILDE[time])), p).sum()
        wanted = ((said - noise[n]) ** 2).mean() + 0.05 * 6 * cost / 4
        assert got[n].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_batch_of_one_is_as_good_as_any() -> None:
    """The losses and bits of an example are those that it has among others; the bound weighs a thousandth if nobody says more."""
    x0, noise, t = grey(4, 3, 5), randn(4, 3, 5, seed=1), torch.tensor([1, 2, 6, 4])
    simple, hybrid = ddpm_loss(network, x0, t, noise, SMALL, "v"), hybrid_loss(wide, x0, t, noise, SMALL, "v")
    bound = hybrid_loss(wide, x0, t, noise, SMALL, "v", weight=1.0) - simple
    torch.testing.assert_close(hybrid, simple + bound / 1000)
    fixed = [randn(4, 3, 5, seed=7 + t) for t in range(6)]
    reverse = reverse_of(wide, SMALL, "v", torch.arange(7))

    def bits_of(which: slice) -> Tensor:
        noises = iter(fixed)
        return bits_per_dimension(SMALL, reverse, x0[which], lambda like: next(noises)[which])

    together = bits_of(slice(4))
    for alone in (slice(n, n + 1) for n in range(4)):
        given = x0[alone], t[alone], noise[alone], SMALL, "v"
        torch.testing.assert_close(ddpm_loss(network, *given), simple[alone])
        torch.testing.assert_close(hybrid_loss(wide, *given), hybrid[alone])
        torch.testing.assert_close(bits_of(alone), together[alone])


def test_the_bound_teaches_the_variance_and_the_squared_error_the_mean() -> None:
    x0, noise, t = grey(6, 2, 2), randn(6, 2, 2, seed=1), torch.arange(1, 7)
    answer = randn(6, 4, 2, seed=2).requires_grad_()
    (both,) = torch.autograd.grad(hybrid_loss(lambda *_: answer, x0, t, noise, SMALL, "v", weight=0.7).sum(), answer)
    (simple,) = torch.autograd.grad(ddpm_loss(lambda *_: answer[:, :2], x0, t, noise, SMALL, "v").sum(), answer)
    torch.testing.assert_close(both[:, :2], simple[:, :2].to(both))
    assert (simple[:, 2:] == 0).all() and (both[:, 2:] != 0).all() and both.isfinite().all()


# Fewer steps


@pytest.mark.equation("10.8")
def test_a_shortened_chain_is_the_long_one_where_it_stops() -> None:
    """Walked: a point through all steps of the long chain, and through those of the short one, has the same distribution."""
    times = torch.tensor([0, 1, 3, 6])
    short = respaced(SMALL, times)
    assert short.T == 3 and short.beta[0] == 0
    alpha_bar, mean, variance = [], 1.0, 0.0
    for t in range(1, 7):
        mean, variance = math.sqrt(1 - BETA[t]) * mean, (1 - BETA[t]) * variance + BETA[t]
        alpha_bar.append(mean**2)
    assert short.alpha_bar[1:].tolist() == pytest.approx([alpha_bar[t - 1] for t in (1, 3, 6)], rel=1e-12)
    step = forward_step(short, torch.ones(1, 1, dtype=torch.float64), torch.tensor([2]))  # from 1 to 3 at once
    assert step.mean.item() == pytest.approx(math.sqrt((1 - BETA[2]) * (1 - BETA[3])), rel=1e-12)
    assert step.log_var.exp().item() == pytest.approx(BETA[2] * (1 - BETA[3]) + BETA[3], rel=1e-12)
    torch.testing.assert_close(respaced(SMALL, torch.arange(7)).beta, SMALL.beta, rtol=1e-12, atol=1e-15)


def test_a_trained_network_on_a_shortened_chain_is_told_the_long_chains_time() -> None:
    times, x, k = torch.tensor([0, 2, 5, 6]), randn(3, 2, 2), torch.tensor([3, 1, 2])
    asked = []

    def spy(x_t: Tensor, t: Tensor) -> Tensor:
        asked.append(t.tolist())
        return wide(x_t, t)

    for v, share in ((0.0, torch.zeros(3, 1, 2)), (1.0, torch.ones(3, 1, 2)), (None, (1 + torch.sin(3 * x)) / 2)):
        step = reverse_of(spy, SMALL, "v", times, v)(x, k)
        x0 = denoiser(network, SMALL, "v")(x, times[k])
        wanted = posterior(SMALL, x, x0, times[k], times[k - 1])
        torch.testing.assert_close(step.mean, wanted.mean)
        log_beta = torch.log(respaced(SMALL, times).beta[k])[:, None, None]
        small = torch.where((k == 1)[:, None, None], step.log_var, wanted.log_var)  # at k = 1 the posterior's is −∞
        got = step.log_var.expand(3, share.shape[1], 2)
        torch.testing.assert_close(got[[0, 2]], (share * log_beta + (1 - share) * small)[[0, 2]].expand_as(got[[0, 2]]))
    assert asked == [[6, 2, 5]] * 3
    clipped = reverse_of(lambda x, t: 9 * x, SMALL, "x0", times, 0.0, limit=1.0)(x, k)
    torch.testing.assert_close(clipped.mean, posterior(SMALL, x, (9 * x).clamp(-1, 1), times[k], times[k - 1]).mean)
