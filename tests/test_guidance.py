"""Guidance: its notations agree, its ends are plain sampling, thresholds keep images in range."""

import numpy as np
import pytest
import torch
from torch import Tensor

from minildm.ddpm import Denoise
from minildm.guidance import classifier_free, classifier_free_batched, dynamic_threshold, static_threshold
from minildm.schedule import NoiseSchedule

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


@pytest.mark.parametrize("w", WEIGHTS)
def test_it_is_imagens_and_ho_and_salimans_guidance(w):
    imagen = w * EPS_COND + (1 - w) * EPS_NULL
    s = w - 1  # Ho & Salimans count from conditional sampling
    ho_salimans = (1 + s) * EPS_COND - s * EPS_NULL
    for eps in (imagen, ho_salimans):
        torch.testing.assert_close(guided(w), x0_of(eps), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("w", WEIGHTS)
def test_one_call_on_twice_the_batch_is_the_same(w):
    calls = []

    def both(x_t: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x_t))
        assert torch.equal(x_t, torch.cat([X_T, X_T])) and torch.equal(t, torch.cat([T, T]))
        return torch.cat([x0_of(EPS_COND), x0_of(EPS_NULL)])

    assert torch.equal(classifier_free_batched(both, w)(X_T, T), guided(w))
    assert calls == [8]


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
