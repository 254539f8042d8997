"""Noise, image, velocity and flow are one prediction: conversions, weights, refusals."""

import functools
import itertools
import math

import pytest
import torch
from torch import Tensor

from minildm.objectives import KINDS, convert, from_x0, min_snr_weight, target, to_x0, x0_error_scale
from minildm.schedule import NoiseSchedule, q_sample

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
