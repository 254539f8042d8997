"""Two models stacked: in worlds where log p(x) is known, the bound is it; the rate's parts are what quadrature says."""

import functools
import itertools
import math
from collections.abc import Iterator

import pytest
import torch

from minildm.elbo import LinearGaussian, Mixture, elbo_terms
from minildm.gaussian import Gaussian, affine, condition
from minildm.latent import aggregate, break_even, elbo_parts, latent_bound, least_noise_error, rate_terms
from minildm.posterior import reverse_step
from minildm.schedule import NoiseSchedule, q_sample


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def signs(like: torch.Tensor) -> torch.Tensor:
    """Two draws, +1 and −1: the mean over them of anything quadratic in the noise is exact."""
    return torch.stack([torch.ones_like(like), -torch.ones_like(like)])


def quantiles(count: int) -> torch.Tensor:
    """A standard normal as `count` points of equal probability, count×1×1."""
    return torch.special.ndtri((torch.arange(count) + 0.5) / count)[:, None, None]


@pytest.mark.equation("16.1")
@pytest.mark.parametrize("dimensions", [1, 3])
def test_the_three_parts_are_chapter_threes_two(dimensions):
    """Reconstruction is reconstruction, and entropy and prior together are minus the KL, which is known in closed form."""
    world = LinearGaussian(0.7, -0.3, math.log(0.4))
    x = randn(4, dimensions, seed=0)
    q = Gaussian(randn(4, dimensions, seed=1), 0.5 * randn(4, dimensions, seed=2))
    first, entropy, last = elbo_parts(
        q, lambda z: world.likelihood(z).log_prob(x), lambda z: world.prior(z).log_prob(z), signs(q.mean)
    )
    reconstruction, kl = elbo_terms(world, q, x)
    assert torch.allclose(first, reconstruction, atol=1e-10)
    assert torch.allclose(entropy + last, -kl, atol=1e-10)
    by_hand = -0.5 * (math.log(2 * math.pi) + q.mean**2 + torch.exp(q.log_var)).sum(1)  # E_q[log N(z; 0, 1)]
    assert torch.allclose(last, by_hand, atol=1e-10) and first.shape == entropy.shape == last.shape == (4,)


def encoder() -> Gaussian:
    """Five pictures' latents, single numbers."""
    return Gaussian(
        torch.tensor([[-2.0], [-0.7], [0.1], [0.8], [2.5]]), torch.log(torch.tensor([[0.1], [0.5], [0.3], [0.9], [0.2]]))
    )


@pytest.mark.equation("16.2")
def test_the_aggregate_is_a_mixture_of_all_latents():
    q, z = encoder(), torch.linspace(-4, 4, 17)
    mixture = Mixture(torch.full((5,), 0.2), q.mean[:, 0], q.log_var[:, 0])
    assert torch.allclose(aggregate(q, z[:, None]), mixture.log_evidence(z), atol=1e-12)
    everywhere = torch.linspace(-12, 12, 4001)
    assert torch.trapezoid(aggregate(q, everywhere[:, None]).exp(), everywhere).item() == pytest.approx(1, abs=1e-6)


def test_the_aggregate_of_maps_sums_over_all_of_their_dimensions():
    q, z = Gaussian(randn(3, 2, 4, 4, seed=3), torch.zeros(1)), randn(6, 2, 4, 4, seed=4)
    one_by_one = torch.stack([Gaussian(mean[None], torch.zeros(())).log_prob(z) for mean in q.mean])
    assert torch.allclose(aggregate(q, z), one_by_one.exp().mean(0).log(), atol=1e-9)


@pytest.mark.equation("16.3")
def test_information_and_mismatch_are_what_quadrature_gives():
    q, prior = encoder(), Gaussian(torch.tensor([[0.4]]), torch.log(torch.tensor([[1.7]])))
    points = torch.linspace(-14, 14, 20_001)
    log_each = torch.stack([Gaussian(m[None], v[None]).log_prob(points[:, None]) for m, v in zip(q.mean, q.log_var, strict=True)])
    log_together, log_p = log_each.exp().mean(0).log(), prior.log_prob(points[:, None])
    information = torch.trapezoid(log_each.exp() * (log_each - log_together), points).mean().item()
    mismatch = torch.trapezoid(log_together.exp() * (log_together - log_p), points).item()
    got = rate_terms(q, prior.log_prob, quantiles(1000).expand(-1, 5, 1))
    assert got[0].item() == pytest.approx(information, rel=1e-3) and got[1].item() == pytest.approx(mismatch, rel=2e-3)
    assert sum(got).item() == pytest.approx(q.kl(Gaussian(prior.mean.expand(5, 1), prior.log_var)).mean().item(), rel=1e-3)
    assert 0 < information < math.log(5), "five pictures cannot tell more than which of them it is"


def test_the_mismatch_is_zero_when_the_prior_is_the_aggregate():
    q = encoder()
    information, mismatch = rate_terms(q, lambda z: aggregate(q, z), quantiles(50).expand(-1, 5, 1))
    assert abs(mismatch.item()) < 1e-12 and information > 0


SCHEDULE = NoiseSchedule.linear(60, 1e-3, 0.4)  # ᾱ_T is about 1e-6
PRIOR, SLOPE, SHIFT, LOG_VAR = Gaussian(torch.tensor([[0.3]]), torch.log(torch.tensor([[0.8]]))), 1.3, -0.2, math.log(0.15)


def full_of(signs_in_turn: Iterator[float], like: torch.Tensor) -> torch.Tensor:
    return torch.full_like(like, next(signs_in_turn))


def bound_of(q: Gaussian, x: torch.Tensor) -> torch.Tensor:
    """The mean of the bound over z and over the noise of every step: both enter as squares, so ±1 are enough."""

    def reverse(z_t, t):
        return reverse_step(SCHEDULE, PRIOR, z_t, t)

    def log_likelihood(z):
        return Gaussian(SLOPE * z + SHIFT, torch.tensor(LOG_VAR)).log_prob(x)

    total = torch.zeros(len(x))
    for first in (1.0, -1.0):
        for later in (1.0, -1.0):
            signs_in_turn = itertools.chain([first], itertools.repeat(later))
            total += latent_bound(log_likelihood, q, SCHEDULE, reverse, functools.partial(full_of, signs_in_turn)) / 4
    return total


@pytest.mark.equation("16.4")
def test_the_bound_of_both_models_is_minus_log_p_and_the_gap_is_a_divergence():
    """z ~ N(m, v) by a diffusion model that is exact, x a linear function of z with noise: log p(x) is a Gaussian's."""
    x = torch.tensor([[-1.0], [0.4], [2.0]])
    prior = Gaussian(PRIOR.mean.expand(3, 1), PRIOR.log_var.expand(3, 1))
    evidence = affine(prior, SLOPE, SHIFT)
    evidence = Gaussian(evidence.mean, torch.log(torch.exp(evidence.log_var) + math.exp(LOG_VAR)))
    exact = condition(prior, x, SLOPE, SHIFT, LOG_VAR)
    assert torch.allclose(bound_of(exact, x), -evidence.log_prob(x), atol=1e-4)
    other = Gaussian(exact.mean + 0.2, exact.log_var + 0.5)
    assert torch.allclose(bound_of(other, x) + evidence.log_prob(x), other.kl(exact), atol=1e-4)


@pytest.mark.equation("16.5")
@pytest.mark.parametrize("deviation", [0.1, 1.0, 5.0])
def test_the_least_noise_error_is_the_variance_of_the_noise_given_the_frame(deviation):
    """By Bayes' rule for ε, seen through z_t = σ ε + a z with z of that deviation."""
    schedule, t = NoiseSchedule.cosine(100), torch.tensor([1, 20, 60, 99])
    a, s = schedule.signal(t)[:, None], schedule.noise(t)[:, None]
    given = condition(Gaussian(torch.zeros(4, 1), torch.zeros(4, 1)), torch.zeros(4, 1), s, 0.0, torch.log((a * deviation) ** 2))
    assert torch.allclose(least_noise_error(schedule, deviation, t), torch.exp(given.log_var)[:, 0], rtol=1e-9)
    z, noise = deviation * randn(200_000, 1, seed=5), randn(200_000, 1, seed=6)
    for place, time in enumerate(t):
        frame = q_sample(schedule, z, time.expand(len(z)), noise)
        slope = (frame * noise).mean() / frame.square().mean()  # the best line through the origin
        left = (noise - slope * frame).square().mean().item()
        assert left == pytest.approx(least_noise_error(schedule, deviation, t)[place].item(), rel=0.03)


def test_another_deviation_is_another_schedule():
    """log s is added to λ, and nothing else is changed."""
    schedule, t = NoiseSchedule.linear(1000), torch.arange(1, 1001)
    for deviation in (0.2, 3.0):
        moved = 2 * (schedule.log_snr(t) + math.log(deviation))
        assert torch.allclose(least_noise_error(schedule, deviation, t), torch.sigmoid(moved), rtol=1e-9)


@pytest.mark.equation("16.6")
def test_break_even_is_where_two_running_sums_meet():
    for pixel, latent, before in ((5.0, 2.0, 31.0), (1.0, 0.999, 2.0), (7.5, 0.1, 1000.0)):
        pixels, latents, steps = 0.0, before, 0
        while latents > pixels:
            pixels, latents, steps = pixels + pixel, latents + latent, steps + 1
        assert steps - 1 - 1e-6 <= break_even(pixel, latent, before) <= steps + 1e-6
    assert break_even(2.0, 0.5, 30.0) == 20.0 and break_even(1.0, 1.0, 5.0) == break_even(1.0, 2.0, 5.0) == math.inf
