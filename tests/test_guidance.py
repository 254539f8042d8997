"""Guidance: its notations agree, its ends are plain sampling, thresholds keep images in range."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from minildm.ddpm import Denoise
from minildm.elbo import Mixture
from minildm.engine.presets import PRESETS
from minildm.guidance import (
    class_slope,
    classifier_free,
    classifier_free_batched,
    classifier_guided,
    clipped,
    dynamic_range,
    dynamic_threshold,
    extrapolated,
    flow_variance,
    guided_below,
    guided_score,
    implicit_slope,
    log_sharpened,
    pushed_noise,
    pushed_x0,
    sharpened_variance,
    static_threshold,
    walk_variance,
)
from minildm.objectives import KINDS, expected_x0, from_x0, to_x0
from minildm.posterior import posterior
from minildm.samplers import heun, time_grid
from minildm.schedule import NoiseSchedule, noisy_mixture

SCHEDULE = NoiseSchedule.scaled_linear()
GENERATOR = torch.Generator().manual_seed(0)
X_T = torch.randn(4, 3, 5, 5, generator=GENERATOR, dtype=torch.float64)
T = torch.tensor([3, 250, 600, 999])
EPS_COND, EPS_NULL = torch.randn(2, *X_T.shape, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = [0.0, 0.5, 1.0, 3.0, 7.5]


def x0_of(eps: Tensor) -> Tensor:
    """x̂_0 = (x_t − √(1−ᾱ) ε̂)/√ᾱ, from the table itself."""
    alpha_bar = SCHEDULE.alpha_bar[T].view(-1, 1, 1, 1)
    return (X_T - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def says(x0: Tensor) -> Denoise:
    """A denoiser that gives this answer, and only to the question it was asked."""

    def denoise(x_t: Tensor, t: Tensor) -> Tensor:
        assert torch.equal(x_t, X_T) and torch.equal(t, T)
        return x0

    return denoise


def guided(w: float) -> Tensor:
    return classifier_free(says(x0_of(EPS_COND)), says(x0_of(EPS_NULL)), w)(X_T, T)


def test_one_is_conditional_and_zero_unconditional():
    torch.testing.assert_close(guided(1.0), x0_of(EPS_COND))
    assert torch.equal(guided(0.0), x0_of(EPS_NULL))


def test_guidance_is_linear_in_w():
    for w in WEIGHTS:
        torch.testing.assert_close(guided(w) - guided(0.0), w * (guided(1.0) - guided(0.0)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("w", WEIGHTS)
def test_it_is_guidance_of_the_noise(w):
    torch.testing.assert_close(guided(w), x0_of(EPS_NULL + w * (EPS_COND - EPS_NULL)), rtol=1e-9, atol=1e-9)


@pytest.mark.equation("12.7")
@pytest.mark.parametrize("w", WEIGHTS)
def test_it_is_imagens_and_ho_and_salimans_guidance(w):
    imagen = w * EPS_COND + (1 - w) * EPS_NULL
    s = w - 1  # Ho & Salimans count from conditional sampling
    ho_salimans = (1 + s) * EPS_COND - s * EPS_NULL
    for eps in (imagen, ho_salimans):
        torch.testing.assert_close(guided(w), x0_of(eps), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(extrapolated(EPS_COND, EPS_NULL, w), eps, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("w", WEIGHTS)
def test_it_is_the_same_in_every_prediction(w, kind):
    """ε, x_0, v and u are x̂_0 times a number plus what the condition does not change, and the two weights sum to 1."""
    cond, null = (from_x0(x0_of(eps), X_T, T, SCHEDULE, kind) for eps in (EPS_COND, EPS_NULL))
    x0 = to_x0(extrapolated(cond, null, w), X_T, T, SCHEDULE, kind)
    torch.testing.assert_close(x0, guided(w), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("w", WEIGHTS)
def test_one_call_on_twice_the_batch_is_the_same(w):
    calls = []

    def both(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x_t))
        assert torch.equal(x_t, torch.cat([X_T, X_T])) and torch.equal(t, torch.cat([T, T]))
        return torch.cat([x0_of(EPS_COND), x0_of(EPS_NULL)])

    assert torch.equal(classifier_free_batched(both, w)(X_T, T), guided(w))
    assert calls == [8]


@pytest.mark.parametrize("high", [0.0, 299.5, 300.0, 600.0, 1000.0])
def test_below_a_time_it_is_guided_and_above_plain_and_only_one_is_asked(high):
    asked = []

    def answering(name: str, value: float) -> Denoise:
        return lambda x_t, t: asked.append(name) or torch.full_like(x_t, value)

    chosen = guided_below(answering("guided", 1.0), answering("plain", 2.0), high)
    for t in (1.0, 299.0, 300.0, 301.0, 600.0, 999.5, 1000.0):
        noisy = t > high
        assert torch.equal(chosen(X_T, torch.full((4,), t)), torch.full_like(X_T, 2.0 if noisy else 1.0))
        assert asked.pop() == ("plain" if noisy else "guided") and not asked
    assert torch.equal(guided_below(says(X_T), says(-X_T), 1000.0)(X_T, T), X_T)  # several times, all on one side


def test_what_chapter_12_says_of_the_presets():
    """Only MNIST's guides from a time down, at 0.8 T with w = 1.8."""
    late = {name: settings for name, (_, settings) in PRESETS.items() if settings.guidance_high != 1}
    assert late.keys() == {"mnist"} and (late["mnist"].guidance, late["mnist"].guidance_high) == (1.8, 0.8)


def test_a_share_of_the_times_that_rounds_below_a_time_still_means_it():
    t = torch.full((4,), 29.0, dtype=torch.float64)
    assert 0.58 * 50 < 29
    assert torch.equal(guided_below(lambda x_t, t: x_t + 1, lambda x_t, t: x_t, 0.58 * 50)(X_T, t), X_T + 1)
    assert torch.equal(guided_below(lambda x_t, t: x_t + 1, lambda x_t, t: x_t, 0.58 * 50)(X_T, t + 1e-9), X_T)


def test_a_batch_on_both_sides_of_the_time_is_refused():
    with pytest.raises(ValueError, match="times 3 to 999 lie on both sides of high=500"):
        guided_below(says(X_T), says(X_T), 500.0)(X_T, T)


def test_static_threshold_clips():
    x0 = 2 * X_T
    clipped = static_threshold(says(x0))(X_T, T)
    np.testing.assert_array_equal(clipped.numpy(), np.clip(x0.numpy(), -1, 1))


def thresholded(x0: Tensor, quantile: float) -> Tensor:
    return dynamic_threshold(lambda x_t, t: x0, quantile)(x0, torch.ones(len(x0)))


def test_dynamic_threshold_leaves_images_in_range_alone():
    x0 = 2 * torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(1)) - 1
    for quantile in (0.5, 0.995, 1.0):  # s is at least 1: nothing is brightened
        assert torch.equal(thresholded(x0, quantile), x0)


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_threshold_is_that_of_imagen(quantile):
    """s from numpy's quantile of the absolute values, example by example."""
    x0 = 3 * X_T.float()
    got = thresholded(x0, quantile)
    for one, answer in zip(x0.numpy(), got.numpy(), strict=True):
        s = max(1.0, np.quantile(np.abs(one), quantile))
        np.testing.assert_allclose(answer, np.clip(one, -s, s) / s, rtol=1e-5, atol=1e-6)
    assert got.abs().max() <= 1


def test_dynamic_threshold_at_quantile_one_only_divides():
    x0 = 5 * X_T
    got = thresholded(x0, 1.0)
    assert got.abs().max() <= 1
    torch.testing.assert_close(got, x0 / x0.abs().amax((1, 2, 3), keepdim=True), rtol=1e-6, atol=1e-6)


def test_dynamic_threshold_judges_each_example_by_itself():
    calm = 0.5 * torch.ones(1, 3, 4, 4)
    wild = 10 * torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    together = thresholded(torch.cat([calm, wild]), 0.9)
    assert torch.equal(together[:1], calm) and torch.equal(together[1:], thresholded(wild, 0.9))


def test_dynamic_threshold_sees_dark_pixels_too():
    x0 = -4 * torch.ones(1, 3, 4, 4)
    assert torch.equal(thresholded(x0, 0.995), -torch.ones(1, 3, 4, 4))
    assert torch.equal(thresholded(-x0, 0.995), torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize("quantile", [0.0, -0.1, 1.01, float("nan")])
def test_a_bad_quantile_is_refused(quantile):
    with pytest.raises(ValueError, match=f"quantile={quantile}"):
        dynamic_threshold(says(X_T), quantile)


@pytest.mark.equation("12.13", "12.14")
def test_thresholds_against_numpy():
    """Of both signs, and with s from below 1 to above it."""
    x0 = X_T * torch.tensor([0.1, 1.0, 3.0, 9.0]).view(-1, 1, 1, 1)
    s = dynamic_range(x0, 0.8)
    wanted = np.maximum(1, np.quantile(np.abs(x0.flatten(1).numpy()), 0.8, axis=1))
    np.testing.assert_allclose(s.numpy(), wanted, rtol=1e-5)
    assert s[0] == 1 and s[-1] > 5
    pulled = clipped(x0, s)
    np.testing.assert_allclose(pulled.numpy(), np.clip(x0.numpy() / wanted[:, None, None, None], -1, 1), rtol=1e-5)
    torch.testing.assert_close(clipped(x0, torch.ones(4)), static_threshold(says(x0))(X_T, T))


def test_the_quantile_is_the_papers_by_default():
    x0 = torch.arange(1, 2001, dtype=torch.float64).view(1, -1)  # 0.995 of the way from 1 to 2000
    assert dynamic_range(x0).item() == pytest.approx(1 + 0.995 * 1999, rel=1e-6)
    x0 = 9 * X_T
    assert torch.equal(dynamic_threshold(says(x0))(X_T, T), dynamic_threshold(says(x0), 0.995)(X_T, T))
    assert torch.equal(dynamic_threshold(says(x0), 1.0)(X_T, T), clipped(x0, dynamic_range(x0, 1.0)))


# An exact world: numbers from a mixture, each component a class

WORLD = Mixture(
    torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64),
    torch.tensor([-1.5, 0.2, 1.4], dtype=torch.float64),
    torch.log(torch.tensor([0.3, 0.6, 0.4], dtype=torch.float64) ** 2),
)
NUMBERS = torch.linspace(-2.5, 2.5, 11, dtype=torch.float64)
TIMES = [torch.tensor(t) for t in (5, 200, 600, 990)]
CLASSES = range(3)


def densities(t: Tensor, x: Tensor) -> np.ndarray:
    """π_k N(x; a μ_k, a² s_k² + σ²), N×3, from the schedule's table alone."""
    alpha_bar = SCHEDULE.alpha_bar[t].item()
    mean = math.sqrt(alpha_bar) * WORLD.means.numpy()
    variance = alpha_bar * np.exp(WORLD.log_vars.numpy()) + 1 - alpha_bar
    apart = (x.numpy()[:, None] - mean) ** 2
    return WORLD.weights.numpy() * np.exp(-apart / (2 * variance)) / np.sqrt(2 * math.pi * variance)


def slopes_of(function, x: Tensor, h: float = 1e-5) -> Tensor:
    """The derivative of a function of numpy's, by central differences."""
    return torch.from_numpy((function(x + h) - function(x - h)) / (2 * h))


def log_class(c: int, t: Tensor, x: Tensor) -> np.ndarray:
    each = densities(t, x)
    return np.log(each[:, c] / each.sum(1))


def exact_log_prob(c: int):
    """log p(c | x_t) as a classifier gives it, for `class_slope`."""
    return lambda x, t: noisy_mixture(SCHEDULE, WORLD, t[:1]).log_posterior(x)[:, c]


@pytest.mark.equation("12.1", "12.2")
@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("t", TIMES)
def test_scores_obey_bayes(c, t):
    """The score of one component is that of all plus the gradient of log p(c | x_t); and w counts the latter."""
    slope = slopes_of(lambda x: np.log(densities(t, x).sum(1)), NUMBERS)
    towards = class_slope(exact_log_prob(c), NUMBERS, t.expand(11))
    torch.testing.assert_close(towards, slopes_of(lambda x: log_class(c, t, x), NUMBERS), rtol=1e-6, atol=1e-6)
    of_component = slopes_of(lambda x: np.log(densities(t, x)[:, c]), NUMBERS)
    torch.testing.assert_close(guided_score(slope, towards, 1.0), of_component, rtol=1e-6, atol=1e-6)
    for w in WEIGHTS:
        wanted = slopes_of(lambda x, w=w: np.log(densities(t, x).sum(1)) + w * log_class(c, t, x), NUMBERS)
        torch.testing.assert_close(guided_score(slope, towards, w), wanted, rtol=1e-6, atol=1e-5)


@pytest.mark.equation("12.3", "12.4")
@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("t", TIMES)
def test_the_push_gives_the_guess_of_the_class(c, t):
    """With w = 1 the unconditional E[x_0 | x_t] becomes E[x_0 | x_t, c], which is a line in x_t; in ε and in x_0."""
    times, whole = t.expand(11), expected_x0(SCHEDULE, WORLD, NUMBERS, t)
    towards = slopes_of(lambda x: log_class(c, t, x), NUMBERS)
    alpha_bar, variance = SCHEDULE.alpha_bar[t], torch.exp(WORLD.log_vars[c])
    a, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    of_class = WORLD.means[c] + a * variance / (alpha_bar * variance + noise**2) * (NUMBERS - a * WORLD.means[c])
    pushed = pushed_x0(whole, towards, times, SCHEDULE, 1.0)
    torch.testing.assert_close(pushed, of_class, rtol=1e-5, atol=1e-5)
    eps, eps_of_class = ((NUMBERS - a * x0) / noise for x0 in (whole, of_class))
    torch.testing.assert_close(pushed_noise(eps, towards, times, SCHEDULE, 1.0), eps_of_class, rtol=1e-5, atol=1e-5)
    for w in WEIGHTS:  # beyond 1 both are the same line, through both guesses
        wanted = whole + w * (of_class - whole)
        torch.testing.assert_close(pushed_x0(whole, towards, times, SCHEDULE, w), wanted, rtol=1e-4, atol=1e-4)
        wanted = eps + w * (eps_of_class - eps)
        torch.testing.assert_close(pushed_noise(eps, towards, times, SCHEDULE, w), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.equation("12.6")
@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("t", TIMES)
def test_two_denoisers_are_a_classifier(c, t):
    alone = Mixture(torch.ones(1, dtype=torch.float64), WORLD.means[c : c + 1], WORLD.log_vars[c : c + 1])
    cond, null = (expected_x0(SCHEDULE, world, NUMBERS, t) for world in (alone, WORLD))
    wanted = slopes_of(lambda x: log_class(c, t, x), NUMBERS)
    torch.testing.assert_close(implicit_slope(cond, null, t.expand(11), SCHEDULE), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("w", WEIGHTS)
def test_a_right_classifier_and_two_right_denoisers_guide_alike(w):
    """On pictures N×C×H×W, whose numbers are independent draws: the classifier is that of all of them."""
    c, t = 2, torch.tensor([40, 300, 300, 900])
    alone = Mixture(torch.ones(1, dtype=torch.float64), WORLD.means[c : c + 1], WORLD.log_vars[c : c + 1])

    def guess(world):
        def denoise(x, times):
            each = [expected_x0(SCHEDULE, world, one.flatten(), when).view_as(one) for one, when in zip(x, times, strict=True)]
            return torch.stack(each)

        return denoise

    def log_prob(x, times):
        assert x.requires_grad
        each = [
            noisy_mixture(SCHEDULE, WORLD, when).log_posterior(one.flatten())[:, c] for one, when in zip(x, times, strict=True)
        ]
        return torch.stack(each).sum(1)

    with torch.no_grad():  # as samplers are run
        by_classifier = classifier_guided(guess(WORLD), log_prob, SCHEDULE, w)(X_T, t)
        by_denoisers = classifier_free(guess(alone), guess(WORLD), w)(X_T, t)
    assert not by_classifier.requires_grad
    torch.testing.assert_close(by_classifier, by_denoisers, rtol=1e-6, atol=1e-6)


def test_class_slope_is_each_examples_own_and_leaves_x_alone():
    x = X_T.clone().requires_grad_(True)
    slope = class_slope(lambda x, t: -0.5 * t * x.square().sum((1, 2, 3)), x, T)
    torch.testing.assert_close(slope, -T.view(-1, 1, 1, 1) * X_T)
    assert not slope.requires_grad and x.grad is None


def test_a_classifier_cannot_guide_where_there_is_no_signal():
    schedule = SCHEDULE.rescaled_to_zero_snr()
    guided = classifier_guided(lambda x, t: x, lambda x, t: x.sum((1, 2, 3)), schedule, 2.0)
    assert guided(X_T, T).isfinite().all()
    with pytest.raises(ValueError, match="zero terminal SNR"):
        guided(X_T, torch.tensor([3, 250, 600, 1000]))


@pytest.mark.equation("12.9")
@pytest.mark.parametrize("c", CLASSES)
@pytest.mark.parametrize("w", WEIGHTS)
def test_the_sharpened_density(c, w):
    for t in TIMES:
        each = densities(t, NUMBERS)
        wanted = torch.from_numpy(np.log(each.sum(1)) + w * np.log(each[:, c] / each.sum(1)))
        got = log_sharpened(noisy_mixture(SCHEDULE, WORLD, t), NUMBERS, c, w)
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


# Two Gaussians of mean 0, in which the end of guided sampling is known

PAIRS = [(1.0, 2.0), (0.3, 1.0), (0.5, 0.6)]


@pytest.mark.equation("12.10")
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("w", WEIGHTS)
def test_the_sharpened_variance_by_quadrature(pair, w):
    x = np.linspace(-12, 12, 20001)
    log_cond, log_null = (-0.5 * x**2 / variance for variance in pair)
    density = np.exp((1 - w) * log_null + w * log_cond)
    assert sharpened_variance(*pair, w) == pytest.approx((density * x**2).sum() / density.sum(), rel=1e-6)


@pytest.mark.parametrize("w", [2.0, 3.0])
def test_a_class_wider_than_the_data_cannot_be_sharpened_far(w):
    with pytest.raises(ValueError, match=f"w={w}"):
        sharpened_variance(2.0, 1.0, w)


CASES = torch.tensor([(*pair, w) for pair in PAIRS for w in WEIGHTS], dtype=torch.float64)  # s², S², w


def linear_guess(schedule: NoiseSchedule) -> Denoise:
    """The guided x̂_0 in the worlds of two Gaussians, one case for each row of x_t."""

    def guess(variance: Tensor) -> Denoise:
        def denoise(x, t):
            a, noise = schedule.signal(t[:1]), schedule.noise(t[:1])
            return a * variance / (a**2 * variance + noise**2) * x

        return denoise

    return classifier_free(guess(CASES[:, :1]), guess(CASES[:, 1:2]), CASES[:, 2:])


@pytest.mark.equation("12.11")
def test_where_the_guided_flow_ends():
    """The flow is a line in x_T here, so one path tells the end's deviation: Heun, 1000 steps, from x_T = 1."""
    schedule, start = NoiseSchedule.cosine(1000), torch.ones(len(CASES), 1, dtype=torch.float64)
    *_, (_, end, _) = heun(linear_guess(schedule), schedule, start, time_grid(1000, 1000))
    wanted = torch.tensor([flow_variance(*case) for case in CASES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(end[:, 0] ** 2, wanted, rtol=2e-3, atol=0)


def walked(T: int) -> Tensor:
    """The variance at the end of guided ancestral sampling, by adding up what each of T steps does to it."""
    schedule, one = NoiseSchedule.cosine(T), torch.ones(len(CASES), 1, dtype=torch.float64)
    denoise, variance = linear_guess(schedule), torch.ones(len(CASES), dtype=torch.float64)
    for t, s in itertools.pairwise(time_grid(T, T)):
        step = posterior(schedule, one, denoise(one, t.expand(1)), t, s)
        variance = step.mean[:, 0] ** 2 * variance + torch.exp(step.log_var)
    return variance


@pytest.mark.equation("12.12")
def test_where_the_guided_walk_ends():
    """The error of T steps falls as 1/T, and then as 1/T², so three numbers of steps tell the limit."""
    first, second, third = walked(250), walked(500), walked(1000)
    limit = (8 * third - 6 * second + first) / 3
    wanted = torch.tensor([walk_variance(*case) for case in CASES.tolist()], dtype=torch.float64)
    torch.testing.assert_close(limit, wanted, rtol=3e-3, atol=0)


def test_known_ends():
    for pair in PAIRS:
        for end in (sharpened_variance, flow_variance, walk_variance):
            assert end(*pair, 1.0) == pytest.approx(pair[0]) and end(*pair, 0.0) == pytest.approx(pair[1])
    for w in (2.0, 5.0, 7.5):  # Bradley & Nakkiran's world, in their formulas
        assert flow_variance(1.0, 2.0, w) == pytest.approx(2 ** (1 - w))
        assert walk_variance(1.0, 2.0, w) == pytest.approx((2 - 2 ** (2 - 2 * w)) / (2 * w - 1))
        assert sharpened_variance(1.0, 2.0, w) == pytest.approx(2 / (w + 1))
        assert flow_variance(1.0, 2.0, w) < walk_variance(1.0, 2.0, w) < sharpened_variance(1.0, 2.0, w)
    assert walk_variance(1.0, 2.0, 0.5) == pytest.approx(walk_variance(1.0, 2.0, 0.5 + 1e-7), rel=1e-5)
    assert walk_variance(0.7, 0.7, 3.0) == 0.7 == pytest.approx(walk_variance(0.7, 0.7 + 1e-7, 3.0), rel=1e-5)
