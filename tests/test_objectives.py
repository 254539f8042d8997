"""Noise, image, velocity, flow and score are one prediction: conversions, weights, refusals; what a squared error learns."""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from minildm.elbo import Mixture
from minildm.objectives import (
    KINDS,
    bound_weight,
    convert,
    denoising_score_loss,
    expected_x0,
    forward_sde,
    from_x0,
    min_snr_weight,
    probability_flow,
    reverse_sde,
    score,
    target,
    to_x0,
    tweedie,
    x0_error_scale,
)
from minildm.posterior import matched, posterior, reverse_mixture, step_term
from minildm.schedule import NoiseSchedule, forward_step, noisy_mixture, q_sample

SCHEDULES = {
    "linear": NoiseSchedule.linear(),
    "scaled_linear": NoiseSchedule.scaled_linear(),
    "cosine": NoiseSchedule.cosine(),
    "zero": NoiseSchedule.scaled_linear().rescaled_to_zero_snr(),
}
PAIRS = list(itertools.permutations(KINDS, 2))


@functools.cache
def world(name: str, dtype: torch.dtype) -> tuple[NoiseSchedule, Tensor, Tensor, Tensor, Tensor]:
    """Data and noise at every time at which every kind says something."""
    schedule = SCHEDULES[name]
    t = torch.arange(1, schedule.T + (0 if schedule.zero_terminal_snr else 1))
    x0, noise = torch.randn(2, len(t), 6, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return schedule, t, x0, noise, q_sample(schedule, x0, t, noise)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("kind", "wanted"), PAIRS)
def test_conversions_round_trip_in_double_precision(name, kind, wanted):
    schedule, t, x0, noise, x_t = world(name, torch.float64)
    prediction = target(x0, noise, t, schedule, kind)
    other = convert(prediction, x_t, t, schedule, kind, wanted)
    torch.testing.assert_close(other, target(x0, noise, t, schedule, wanted), rtol=0, atol=1e-10)
    torch.testing.assert_close(convert(other, x_t, t, schedule, wanted, kind), prediction, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("kind", "wanted"), PAIRS)
def test_conversions_round_trip_in_single_precision(name, kind, wanted):
    """One rounding, magnified by at most a/σ or σ/a. The prediction is any number of order 1, not just a true one."""
    schedule, t, x0, _, x_t = world(name, torch.float32)
    prediction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    there = convert(prediction, x_t, t, schedule, kind, wanted)
    error = (convert(there, x_t, t, schedule, wanted, kind) - prediction).abs().amax(1).double()
    size = torch.maximum(prediction.abs(), x_t.abs()).amax(1).double()
    alpha_bar = schedule.alpha_bar[t]
    ratio = (alpha_bar / (1 - alpha_bar)).sqrt()
    magnified = torch.maximum(ratio, 1 / ratio).clamp(min=1)
    units = error / (torch.finfo(torch.float32).eps * size * magnified)
    print(f"{kind} → {wanted} → {kind}: at most {units.max():.2f} of 8 units")
    assert units.max() <= 8


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_gives_back_the_data(name, kind):
    schedule, t, x0, noise, x_t = world(name, torch.float64)
    said = target(x0, noise, t, schedule, kind)
    torch.testing.assert_close(to_x0(said, x_t, t, schedule, kind), x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(from_x0(x0, x_t, t, schedule, kind), said, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_those_of_the_papers(kind):
    """With x_t = cos φ x_0 + sin φ ε the velocity is dx_t/dφ; the flow is the straight line from data to noise."""
    schedule, t, x0, noise, x_t = world("cosine", torch.float64)
    phi = torch.atan2((1 - schedule.alpha_bar[t]).sqrt(), schedule.alpha_bar[t].sqrt())[:, None]
    h = 1e-5
    slope = ((torch.cos(phi + h) - torch.cos(phi - h)) * x0 + (torch.sin(phi + h) - torch.sin(phi - h)) * noise) / (2 * h)
    wanted = {"epsilon": noise, "x0": x0, "v": slope, "flow": noise - x0}[kind]
    torch.testing.assert_close(target(x0, noise, t, schedule, kind), wanted, rtol=0, atol=1e-8)
    if kind == "v":  # Salimans & Ho 2022, appendix D: on this circle x̂_0 = cos φ x_t − sin φ v
        torch.testing.assert_close(
            to_x0(wanted, x_t, t, schedule, kind), torch.cos(phi) * x_t - torch.sin(phi) * wanted, atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gamma", [5.0, 1.0, 0.3])
def test_min_snr_weighs_the_error_of_x0(name, kind, gamma):
    """The squared error of the prediction, weighted, is min(SNR, γ) times the squared error of x̂_0 it causes."""
    schedule, t, x0, noise, x_t = world(name, torch.float64)
    said = target(x0, noise, t, schedule, kind)
    error = torch.randn(said.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    moved = to_x0(said + error, x_t, t, schedule, kind) - to_x0(said, x_t, t, schedule, kind)
    snr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    ratio = moved.square().sum(1) / error.square().sum(1)
    torch.testing.assert_close(x0_error_scale(t, schedule, kind) ** 2, ratio, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        min_snr_weight(t, schedule, kind, gamma), torch.minimum(snr, torch.tensor(gamma)) * ratio, rtol=1e-6, atol=0
    )


@pytest.mark.equation("08.7")
@pytest.mark.parametrize("gamma", [5.0, 1.0])
def test_min_snr_has_the_published_forms(gamma):
    """Hang et al. 2023, section 3.4: min(SNR, γ)/SNR for noise, min(SNR, γ) for images, min(SNR, γ)/(SNR + 1) for v."""
    schedule, t, *_ = world("scaled_linear", torch.float64)
    snr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
    least = torch.minimum(snr, torch.tensor(gamma))
    for kind, wanted in {"epsilon": least / snr, "x0": least, "v": least / (snr + 1)}.items():
        got = min_snr_weight(t, schedule, kind, gamma)
        assert got.shape == t.shape
        torch.testing.assert_close(got, wanted)


def test_min_snr_is_cut_at_five_unless_told_otherwise():
    """The papers' choice: the SNR itself where it is below 5, and 5 above."""
    schedule, t, *_ = world("linear", torch.float64)
    weight = min_snr_weight(t, schedule, "x0")
    assert weight.max() == 5 and (weight < 5).any()
    torch.testing.assert_close(weight[weight < 5], schedule.snr(t)[schedule.snr(t) < 5])


def test_times_are_those_of_each_example():
    schedule, t, _x0, noise, x_t = world("linear", torch.float64)
    for kind in KINDS:
        together = to_x0(noise, x_t, t, schedule, kind)
        for i in (0, 17, 998):
            one = slice(i, i + 1)
            torch.testing.assert_close(together[one], to_x0(noise[one], x_t[one], t[one], schedule, kind))


def test_an_unknown_kind_is_refused_by_name():
    schedule, t, x0, noise, x_t = world("linear", torch.float32)
    for ask in (
        lambda: target(x0, noise, t, schedule, "noise"),
        lambda: to_x0(noise, x_t, t, schedule, "noise"),
        lambda: from_x0(x0, x_t, t, schedule, "noise"),
        lambda: x0_error_scale(t, schedule, "noise"),
        lambda: min_snr_weight(t, schedule, "noise"),
    ):
        with pytest.raises(ValueError, match="'noise' is unknown") as error:
            ask()
        assert all(kind in str(error.value) for kind in KINDS) and "\n" not in str(error.value)


def test_epsilon_at_zero_terminal_snr_is_refused_by_name():
    schedule = SCHEDULES["zero"]
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    for last in (torch.tensor([5, schedule.T]), torch.tensor([5.0, schedule.T])):
        with pytest.raises(ValueError, match="zero terminal SNR"):
            to_x0(x, x, last, schedule, "epsilon")
        for kind in ("x0", "v", "flow"):
            assert to_x0(x, x, last, schedule, kind).isfinite().all()
    assert to_x0(x, x, torch.tensor([5, schedule.T - 1]), schedule, "epsilon").isfinite().all()
    at_end = torch.tensor([schedule.T])
    assert torch.equal(to_x0(x[:1], x[:1], at_end, SCHEDULES["linear"], "epsilon").isfinite(), torch.ones(1, 3, dtype=torch.bool))


def test_epsilon_between_the_last_times_is_never_silently_infinite():
    """Just before T the interpolated log-SNR is −∞ too, so there epsilon says nothing either."""
    schedule = SCHEDULES["zero"]
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(3))
    with pytest.raises(ValueError, match="zero terminal SNR"):
        to_x0(x, x, torch.tensor([schedule.T - 0.5]), schedule, "epsilon")


def test_min_snr_is_never_nan():
    """At zero terminal SNR the weight has a limit, min(SNR, γ)/SNR → 1, or is refused; it is not silently NaN."""
    schedule = SCHEDULES["zero"]
    t = torch.arange(1, schedule.T + 1)
    for kind in ("x0", "v", "flow"):
        assert min_snr_weight(t, schedule, kind).isfinite().all()
    try:
        weight = min_snr_weight(t, schedule, "epsilon")
    except ValueError as error:
        assert "zero terminal SNR" in str(error)
    else:
        assert weight[-1] == 1 and weight.isfinite().all()


def test_the_noise_of_clean_data_is_refused():
    schedule, x = SCHEDULES["linear"], torch.zeros(2, 3)
    t = torch.tensor([3, 0])
    for kind in ("epsilon", "v", "flow"):
        with pytest.raises(ValueError, match="t = 0"):
            from_x0(x, x, t, schedule, kind)
    assert torch.equal(from_x0(x + 1, x, t, schedule, "x0"), x + 1)


def test_at_zero_every_kind_but_x0_returns_the_data():
    schedule, t = SCHEDULES["linear"], torch.zeros(2, dtype=torch.long)
    x0, anything = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(4))
    for kind in ("epsilon", "v", "flow"):
        assert torch.equal(to_x0(anything, x0, t, schedule, kind), x0)
    assert math.isinf(schedule.snr(t)[0])


# Chapter 08: the equations, each against something that does not know it


MIXTURE = Mixture(torch.tensor([0.3, 0.7]).double(), torch.tensor([-1.5, 0.6]).double(), torch.tensor([0.04, 0.1]).double().log())
SMALL = NoiseSchedule.linear(10, 0.05, 0.5)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slope_of(log_density, x: Tensor) -> Tensor:
    """The gradient of a log-density at each of N numbers, by automatic differentiation."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(log_density(x).sum(), x)
    return gradient


def guess_by_quadrature(x_t: Tensor, t: Tensor, power: int = 1, schedule: NoiseSchedule = SMALL) -> Tensor:
    """E[x_0^power | x_t] by Bayes' rule on a grid of x_0, from the product of the steps' β alone."""
    grid = torch.linspace(-4, 4, 2001, dtype=torch.float64)
    left = math.prod((1 - schedule.beta[1 : int(t) + 1]).tolist())
    log_joint = MIXTURE.log_evidence(grid) + Normal(math.sqrt(left) * grid, math.sqrt(1 - left)).log_prob(x_t[:, None])
    return (torch.softmax(log_joint, 1) * grid**power).sum(1)


@pytest.mark.equation("08.1")
def test_with_the_target_the_data_and_the_noise_come_back():
    """Two equations for two unknowns: x_t and the target, as numbers, are solved for x_0 and ε by elimination."""
    t = torch.tensor([1, 4, 7, 10])
    a, s = SMALL.alpha_bar[t].sqrt(), (1 - SMALL.alpha_bar[t]).sqrt()
    x0, noise = randn(2, 4)
    x_t = a * x0 + s * noise
    rows = {"epsilon": (torch.zeros(4), torch.ones(4)), "x0": (torch.ones(4), torch.zeros(4)), "v": (-s, a), "flow": (-1, 1)}
    for kind, (of_x0, of_noise) in rows.items():
        left = torch.stack([torch.stack([a, s], 1), torch.stack([of_x0 + 0 * a, of_noise + 0 * a], 1)], 1)  # 4×2×2
        right = torch.stack([x_t, target(x0, noise, t, SMALL, kind)], 1)
        torch.testing.assert_close(torch.linalg.solve(left, right), torch.stack([x0, noise], 1), rtol=0, atol=1e-10)


@pytest.mark.equation("08.1")
@pytest.mark.parametrize("kind", ["v", "flow"])
def test_velocity_and_flow_are_slopes(kind):
    """v is the slope of x in the angle on the circle a = cos φ, s = sin φ; u in the share of noise on a = 1 − τ, s = τ."""
    t = torch.tensor([1, 4, 7, 10])
    x0, noise = randn(2, 4, 3)
    phi = torch.atan2((1 - SMALL.alpha_bar[t]).sqrt(), SMALL.alpha_bar[t].sqrt())[:, None]
    if kind == "v":
        ahead, behind = (torch.cos(phi + h) * x0 + torch.sin(phi + h) * noise for h in (1e-5, -1e-5))
    else:
        ahead, behind = ((0.4 - h) * x0 + (0.6 + h) * noise for h in (1e-5, -1e-5))
    torch.testing.assert_close(target(x0, noise, t, SMALL, kind), (ahead - behind) / 2e-5, rtol=0, atol=1e-8)


@pytest.mark.equation("08.2")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_back_the_data(kind):
    t = torch.tensor([1, 4, 7, 10])
    x0, noise = randn(2, 4, 3)
    a, s = (1 - SMALL.beta).cumprod(0)[t].sqrt()[:, None], (1 - (1 - SMALL.beta).cumprod(0)[t]).sqrt()[:, None]
    said = {"epsilon": noise, "x0": x0, "v": a * noise - s * x0, "flow": noise - x0}[kind]
    torch.testing.assert_close(to_x0(said, a * x0 + s * noise, t, SMALL, kind), x0, rtol=0, atol=1e-12)


@pytest.mark.equation("08.3")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_told_from_the_data(kind):
    t = torch.tensor([1, 4, 7, 10])
    x0, noise = randn(2, 4, 3)
    a, s = (1 - SMALL.beta).cumprod(0)[t].sqrt()[:, None], (1 - (1 - SMALL.beta).cumprod(0)[t]).sqrt()[:, None]
    said = {"epsilon": noise, "x0": x0, "v": a * noise - s * x0, "flow": noise - x0}[kind]
    torch.testing.assert_close(from_x0(x0, a * x0 + s * noise, t, SMALL, kind), said, rtol=0, atol=1e-12)


class Straight:
    """A flow's rates, a = 1 − t/T and σ = t/T, whose squares do not sum to 1."""

    T, zero_terminal_snr = 10, True

    def signal(self, t: Tensor) -> Tensor:
        return 1 - t.double() / self.T

    def noise(self, t: Tensor) -> Tensor:
        return t.double() / self.T


@pytest.mark.parametrize("kind", KINDS)
def test_no_conversion_assumes_that_the_squares_sum_to_one(kind):
    t, line = torch.tensor([1, 4, 7, 9]), Straight()
    x0, noise = randn(2, 4, 3)
    x_t = (1 - t.double()[:, None] / 10) * x0 + t.double()[:, None] / 10 * noise
    said = target(x0, noise, t, line, kind)
    torch.testing.assert_close(to_x0(said, x_t, t, line, kind), x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(from_x0(x0, x_t, t, line, kind), said, rtol=0, atol=1e-12)
    moved = to_x0(said + 1, x_t, t, line, kind) - x0
    torch.testing.assert_close(moved.abs(), x0_error_scale(t, line, kind)[:, None].expand(4, 3), rtol=0, atol=1e-12)
    torch.testing.assert_close(tweedie(score(x0, x_t, t, line), x_t, t, line), x0, rtol=0, atol=1e-12)


@pytest.mark.equation("08.4")
def test_with_the_data_the_score_is_that_of_a_gaussian():
    t = torch.tensor([1, 4, 7, 10])
    x0, x_t = randn(2, 4, 3)
    left = (1 - SMALL.beta).cumprod(0)[t][:, None]
    wanted = slope_of(Normal(left.sqrt() * x0, (1 - left).sqrt()).log_prob, x_t)
    torch.testing.assert_close(score(x0, x_t, t, SMALL), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.equation("08.4")
@pytest.mark.parametrize("t", [1, 4, 10])
def test_with_the_best_guess_the_score_is_that_of_all_data(t):
    t, x = torch.tensor([t]), torch.linspace(-3, 3, 41, dtype=torch.float64)
    wanted = slope_of(noisy_mixture(SMALL, MIXTURE, t).log_evidence, x)
    got = score(guess_by_quadrature(x, t)[:, None], x[:, None], t.expand(41), SMALL)[:, 0]
    torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.equation("08.9")
@pytest.mark.parametrize("t", [1, 4, 10])
def test_tweedie_finds_the_best_guess_from_the_slope_of_the_density(t):
    t, x = torch.tensor([t]), torch.linspace(-3, 3, 41, dtype=torch.float64)
    slope = slope_of(noisy_mixture(SMALL, MIXTURE, t).log_evidence, x)
    got = tweedie(slope[:, None], x[:, None], t.expand(41), SMALL)[:, 0]
    torch.testing.assert_close(got, guess_by_quadrature(x, t), rtol=1e-8, atol=1e-8)


@pytest.mark.equation("08.8")
@pytest.mark.parametrize("t", [1, 4, 10])
def test_the_best_guess_in_a_mixture_is_bayes_rule_on_a_grid(t):
    t, x = torch.tensor(t), torch.linspace(-3, 3, 41, dtype=torch.float64)
    torch.testing.assert_close(expected_x0(SMALL, MIXTURE, x, t), guess_by_quadrature(x, t), rtol=1e-8, atol=1e-8)


def test_the_best_guess_has_the_right_ends():
    """At t = 0 the data are seen; from pure noise nothing is, and the guess is the mean of all data."""
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    to_noise = SMALL.rescaled_to_zero_snr()
    torch.testing.assert_close(expected_x0(to_noise, MIXTURE, x, torch.tensor(0)), x)
    mean = (MIXTURE.weights * MIXTURE.means).sum()
    torch.testing.assert_close(expected_x0(to_noise, MIXTURE, x, torch.tensor([10])), mean.expand(41))


@pytest.mark.equation("08.5")
def test_an_error_in_the_prediction_moves_the_data_by_its_scale():
    t = torch.tensor([1, 4, 7, 10])
    said, x_t = randn(2, 4)
    for kind in KINDS:
        slope = slope_of(lambda prediction, kind=kind: to_x0(prediction, x_t, t, SMALL, kind), said)
        torch.testing.assert_close(x0_error_scale(t, SMALL, kind), slope.abs(), rtol=1e-12, atol=0)


def test_effective_weights_of_l_simple_in_terms_of_the_snr():
    """1, SNR, SNR + 1 and (1 + √SNR)² on the squared error of x_0."""
    t = torch.arange(1, 11)
    snr = SMALL.alpha_bar[t] / (1 - SMALL.alpha_bar[t])
    for kind, wanted in {"x0": torch.ones(10).double(), "epsilon": snr, "v": snr + 1, "flow": (1 + snr.sqrt()) ** 2}.items():
        torch.testing.assert_close(x0_error_scale(t, SMALL, kind) ** -2, wanted)


@pytest.mark.equation("08.6")
@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_pays_this_for_an_error(kind):
    """The term of the bound itself (07.11), where the model is the posterior with x̂_0 from a prediction that is wrong."""
    t = torch.arange(2, 11)
    x0, noise, error = randn(3, 9, 5)
    said = target(x0, noise, t, SMALL, kind) + error

    def reverse(x_t, t):
        return posterior(SMALL, x_t, to_x0(said, x_t, t, SMALL, kind), t)

    cost = step_term(SMALL, reverse, x0, t, noise)
    torch.testing.assert_close(bound_weight(t, SMALL, kind) * error.square().sum(1), cost, rtol=1e-9, atol=0)


@pytest.mark.equation("08.6")
def test_the_bounds_weight_of_the_noise_has_the_published_form():
    """Ho et al. 2020, Eq. 12: β²/(2 σ² α (1 − ᾱ)), with β̃ for their σ²."""
    t, schedule = torch.arange(2, 1001), SCHEDULES["linear"]
    beta, alpha_bar, before = schedule.beta[t], schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    tilde = beta * (1 - before) / (1 - alpha_bar)
    wanted = beta**2 / (2 * tilde * (1 - beta) * (1 - alpha_bar))
    torch.testing.assert_close(bound_weight(t, schedule, "epsilon"), wanted, rtol=1e-8, atol=0)


def test_the_bound_has_no_finite_weight_at_the_ends():
    zero = SCHEDULES["zero"]
    assert bound_weight(torch.tensor([1]), zero, "v").isinf().all()
    assert bound_weight(torch.tensor([zero.T]), zero, "v").isfinite().all()
    with pytest.raises(ValueError, match="zero terminal SNR"):
        bound_weight(torch.tensor([zero.T]), zero, "epsilon")


def test_clean_data_have_no_score_and_pure_noise_no_tweedie():
    zero, x = SCHEDULES["zero"], torch.zeros(2, 3)
    for ask in (lambda t: score(x, x, t, zero), lambda t: denoising_score_loss(x, x, t, zero)):
        with pytest.raises(ValueError, match="t = 0"):
            ask(torch.tensor([3, 0]))
        assert ask(torch.tensor([3, zero.T])).isfinite().all()
    with pytest.raises(ValueError, match="zero terminal SNR"):
        tweedie(x, x, torch.tensor([3, zero.T]), zero)


@pytest.mark.equation("08.10")
@pytest.mark.parametrize("t", [1, 4, 10])
def test_both_ways_of_matching_the_score_differ_by_a_constant(t):
    """Integrated over x_0 and ε: for any estimate, the two losses differ by 1/σ² − E[(∇ log q)²], the same for all."""
    left = math.prod((1 - SMALL.beta[1 : t + 1]).tolist())
    x0, noise = torch.linspace(-3.5, 3.5, 281, dtype=torch.float64), torch.linspace(-7, 7, 141, dtype=torch.float64)
    mass = torch.outer(MIXTURE.log_evidence(x0).exp() * 0.025, Normal(0.0, 1.0).log_prob(noise).exp() * 0.1).flatten()
    x_t = (math.sqrt(left) * x0[:, None] + math.sqrt(1 - left) * noise).flatten()
    true = slope_of(noisy_mixture(SMALL, MIXTURE, torch.tensor(t)).log_evidence, x_t)
    constant = 1 / (1 - left) - (mass * true**2).sum()
    each_noise, each_t = noise.repeat(281)[:, None], torch.full((len(x_t),), t)
    for estimate in (true, -x_t, torch.sin(3 * x_t)):
        denoising = (mass * denoising_score_loss(estimate[:, None], each_noise, each_t, SMALL)).sum()
        explicit = (mass * (estimate - true) ** 2).sum()
        torch.testing.assert_close(denoising - explicit, constant, rtol=1e-6, atol=1e-6)


@pytest.mark.equation("08.10")
def test_the_denoising_loss_is_that_of_the_noise_over_its_variance():
    """With the estimate −ε̂/σ it is |ε − ε̂|²/σ², L_simple before it is averaged over dimensions."""
    t, (noise, guess) = torch.tensor([1, 4, 7, 10]), randn(2, 4, 3)
    s = SMALL.noise(t)
    got = denoising_score_loss(-guess / s[:, None], noise, t, SMALL)
    torch.testing.assert_close(got, (noise - guess).square().sum(1) / s**2)


BETAS = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()  # variance per unit of time
SHORT = 1e-6  # a unit of time
BRIEF = [NoiseSchedule(torch.tensor([0.0, 0.3, SHORT * beta], dtype=torch.float64)) for beta in BETAS.tolist()]


@pytest.mark.equation("08.11")
def test_the_forward_sde_is_the_limit_of_short_steps():
    x = randn(4, 1) + 2
    links = [forward_step(schedule, x[i : i + 1], torch.tensor([2])) for i, schedule in enumerate(BRIEF)]
    drift, rate = forward_sde(x, BETAS[:, None])
    moved = torch.cat([link.mean for link in links]) - x
    torch.testing.assert_close(drift, moved / SHORT, rtol=1e-5, atol=0)
    torch.testing.assert_close(rate, torch.cat([link.log_var for link in links]).exp().div(SHORT).sqrt(), rtol=1e-5, atol=0)


@pytest.mark.equation("08.12")
def test_the_reverse_sde_is_the_limit_of_short_steps_back():
    """Chapter 07's exact q(x_{t−1} | x_t) of a mixture, for steps so short that it is a Gaussian."""
    places = [-1.2, -0.3, 0.2, 0.9]
    exact = [matched(reverse_mixture(schedule, MIXTURE, place, 2)) for schedule, place in zip(BRIEF, places, strict=True)]
    x = torch.tensor(places, dtype=torch.float64)
    slope = slope_of(noisy_mixture(BRIEF[0], MIXTURE, torch.tensor(1)).log_evidence, x)
    drift, rate = reverse_sde(x[:, None], slope[:, None], BETAS[:, None])
    moved = torch.cat([step.mean for step in exact]) - x[:, None]
    torch.testing.assert_close(-drift, moved / SHORT, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rate, torch.cat([step.log_var for step in exact]).exp().div(SHORT).sqrt(), rtol=1e-4, atol=0)


@pytest.mark.equation("08.13")
def test_the_probability_flow_carries_the_quantiles():
    """In one dimension a flow that keeps all densities keeps each quantile: dx/dt = −(∂F/∂t)/q, by differences in time."""
    x = torch.tensor([-1.2, -0.3, 0.2, 0.9], dtype=torch.float64)

    def below(a: Tensor) -> Tensor:
        """F(x), the probability of less than x, at a signal rate a for each x."""
        deviation = (a[:, None] ** 2 * MIXTURE.log_vars.exp() + 1 - a[:, None] ** 2).sqrt()
        return (MIXTURE.weights * Normal(a[:, None] * MIXTURE.means, deviation).cdf(x[:, None])).sum(1)

    later, earlier = (below(math.sqrt(0.7) * torch.exp(-0.5 * BETAS * h)) for h in (1e-5, -1e-5))
    now = noisy_mixture(BRIEF[0], MIXTURE, torch.tensor(1))
    wanted = -(later - earlier) / 2e-5 / now.log_evidence(x).exp()
    got = probability_flow(x[:, None], slope_of(now.log_evidence, x)[:, None], BETAS[:, None])[:, 0]
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6)


def test_a_number_does_for_beta():
    x, slope = randn(2, 4, 3)
    for got, wanted in zip(reverse_sde(x, slope, 0.3), reverse_sde(x, slope, torch.full((4, 1), 0.3).double()), strict=True):
        torch.testing.assert_close(got.expand(4, 1) if got.ndim == 0 else got, wanted)
    torch.testing.assert_close(
        probability_flow(x.float(), slope.float(), 0.3).double(), -0.15 * (x + slope), rtol=1e-5, atol=1e-6
    )
