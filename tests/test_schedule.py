"""The forward process: tables indexed by t, the chain composed step by step, real times, refusals."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from minildm.schedule import NoiseSchedule, q_sample

MAKERS = {
    "linear": NoiseSchedule.linear,
    "scaled_linear": NoiseSchedule.scaled_linear,
    "cosine": NoiseSchedule.cosine,
    "zero": lambda T=1000: NoiseSchedule.scaled_linear(T).rescaled_to_zero_snr(),
}


@pytest.fixture(params=[(name, T) for name in MAKERS for T in (1000, 37)], ids=lambda case: f"{case[0]}-{case[1]}")
def schedule(request) -> NoiseSchedule:
    name, T = request.param
    return MAKERS[name](T)


def every(schedule: NoiseSchedule) -> Tensor:
    return torch.arange(schedule.T + 1)


def test_tables_are_indexed_by_t(schedule):
    assert schedule.beta.shape == schedule.alpha_bar.shape == (schedule.T + 1,)
    assert schedule.beta.dtype == schedule.alpha_bar.dtype == torch.float64
    assert schedule.beta[0] == 0 and schedule.alpha_bar[0] == 1
    assert (schedule.alpha_bar.diff() < 0).all()
    assert schedule.signal(torch.tensor(0)) == 1 and schedule.noise(torch.tensor(0)) == 0


def test_alpha_bar_is_the_product(schedule):
    product = 1.0
    for t, beta in enumerate(schedule.beta.tolist()):
        product *= 1 - beta
        assert schedule.alpha_bar[t].item() == pytest.approx(product, rel=1e-12, abs=1e-300)


def test_the_chain_of_single_steps_composes_to_signal_and_noise(schedule):
    """x_t = √(1−β_t) x_{t−1} + √β_t ε scales the mean by √(1−β_t) and maps the variance v to (1−β_t) v + β_t."""
    mean, variance = 1.0, 0.0
    for t in range(1, schedule.T + 1):
        beta = schedule.beta[t].item()
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert schedule.signal(torch.tensor(t)).item() == pytest.approx(mean, rel=1e-10, abs=1e-15)
        assert schedule.noise(torch.tensor(t)).item() == pytest.approx(math.sqrt(variance), rel=1e-10)


def test_the_simulated_chain_has_the_closed_form_mean_and_variance():
    schedule, count, x0 = NoiseSchedule.linear(10, 0.02, 0.3), 100_000, 1.5
    generator = torch.Generator().manual_seed(0)
    x = torch.full((count,), x0, dtype=torch.float64)
    for beta in schedule.beta[1:]:
        x = (1 - beta).sqrt() * x + beta.sqrt() * torch.randn(count, generator=generator, dtype=torch.float64)
    t = torch.tensor(10)
    mean, variance = x0 * schedule.signal(t).item(), schedule.noise(t).item() ** 2
    error_of_mean, error_of_variance = math.sqrt(variance / count), variance * math.sqrt(2 / count)
    print(f"mean {x.mean():.4f} for {mean:.4f} ± {error_of_mean:.4f}; variance {x.var():.4f} ± {error_of_variance:.4f}")
    assert abs(x.mean().item() - mean) < 4 * error_of_mean
    assert abs(x.var().item() - variance) < 4 * error_of_variance


def test_q_sample_has_the_rates_of_each_example(schedule):
    generator = torch.Generator().manual_seed(1)
    t = torch.randint(0, schedule.T + 1, (6,), generator=generator)
    x0, noise = torch.randn(2, 6, 3, 2, 2, generator=generator, dtype=torch.float64)
    together = q_sample(schedule, x0, t, noise)
    for i, time in enumerate(t.tolist()):
        alpha_bar = math.prod((1 - schedule.beta[: time + 1]).tolist())
        torch.testing.assert_close(together[i], alpha_bar**0.5 * x0[i] + (1 - alpha_bar) ** 0.5 * noise[i], rtol=1e-9, atol=1e-9)


def test_q_sample_at_zero_is_the_data_and_keeps_their_type(schedule):
    x0 = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    got = q_sample(schedule, x0, torch.zeros(4, dtype=torch.long), torch.full_like(x0, 1e6))
    assert torch.equal(got, x0)
    assert q_sample(schedule, x0, torch.full((4,), schedule.T), x0).dtype == torch.float32


def test_the_linear_schedule_is_that_of_ddpm():
    beta = NoiseSchedule.linear(1000).beta
    for t in (1, 2, 500, 1000):
        assert beta[t].item() == pytest.approx(1e-4 + (0.02 - 1e-4) * (t - 1) / 999, rel=1e-12)


def test_the_scaled_linear_schedule_is_linear_in_the_root():
    root = NoiseSchedule.scaled_linear(1000).beta[1:].sqrt()
    assert root[0].item() ** 2 == pytest.approx(0.00085) and root[-1].item() ** 2 == pytest.approx(0.012)
    torch.testing.assert_close(root.diff(), torch.full((999,), (math.sqrt(0.012) - math.sqrt(0.00085)) / 999).double())


@pytest.mark.parametrize("T", [1000, 50])
def test_the_cosine_schedule_is_that_of_nichol_and_dhariwal(T):
    """ᾱ_t = f(t)/f(0) with f = cos², written as (1 + cos 2θ)/2, wherever no β was clipped."""
    schedule = NoiseSchedule.cosine(T)

    def f(t: int) -> float:
        return (1 + math.cos(math.pi * (t / T + 0.008) / 1.008)) / 2

    clipped = [t for t in range(1, T + 1) if 1 - f(t) / f(t - 1) > 0.999]
    assert clipped == [T] and schedule.beta.max() == pytest.approx(0.999)
    for t in range(T):
        assert schedule.alpha_bar[t].item() == pytest.approx(f(t) / f(0), rel=1e-9)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_rescaling_removes_the_last_signal_and_keeps_the_first(name):
    before = MAKERS[name]()
    after = before.rescaled_to_zero_snr()
    assert after.alpha_bar[-1] == 0 and after.zero_terminal_snr and not before.zero_terminal_snr
    assert after.signal(torch.tensor(after.T)) == 0 and after.noise(torch.tensor(after.T)) == 1
    assert after.alpha_bar[1].item() == pytest.approx(before.alpha_bar[1].item(), rel=1e-14)
    old, new = before.alpha_bar[1:].sqrt(), after.alpha_bar[1:].sqrt()  # an affine map keeps the ratio of differences
    torch.testing.assert_close((new - new[-1]) / (new[0] - new[-1]), (old - old[-1]) / (old[0] - old[-1]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(after.rescaled_to_zero_snr().alpha_bar, after.alpha_bar)


def test_snr_and_log_snr_are_what_they_are_called(schedule):
    t = every(schedule)
    alpha_bar = schedule.alpha_bar
    torch.testing.assert_close(schedule.snr(t), alpha_bar / (1 - alpha_bar))
    torch.testing.assert_close(schedule.log_snr(t), 0.5 * torch.log(alpha_bar / (1 - alpha_bar)))
    assert schedule.snr(t)[0] == math.inf and (schedule.snr(t).diff()[1:] < 0).all()


def test_whole_numbers_as_real_times_are_the_table(schedule):
    t = every(schedule)
    for real in (t.float(), t.double()):
        assert torch.equal(schedule.signal(real), schedule.alpha_bar.sqrt())
        assert torch.equal(schedule.noise(real), (1 - schedule.alpha_bar).sqrt())


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "cosine"])
def test_between_integers_the_log_snr_is_linear(name):
    schedule = MAKERS[name](100)
    for weight in (0.25, 0.5, 0.9):
        t = torch.arange(1, 100)
        between = t.double() + weight
        wanted = (1 - weight) * schedule.log_snr(t) + weight * schedule.log_snr(t + 1)
        torch.testing.assert_close(schedule.log_snr(between), wanted, rtol=1e-9, atol=1e-9)
        a, s = schedule.signal(between), schedule.noise(between)
        torch.testing.assert_close(a**2 + s**2, torch.ones_like(a))
        assert ((schedule.signal(t + 1) < a) & (a < schedule.signal(t))).all()


def test_whole_and_real_times_mix_in_one_batch():
    schedule = NoiseSchedule.linear(100)
    t = torch.tensor([0.0, 1.0, 41.5, 100.0], dtype=torch.float64)
    for rate in (schedule.signal, schedule.noise):
        torch.testing.assert_close(rate(t), torch.stack([rate(one) for one in t]), rtol=0, atol=0)
        assert rate(t).isfinite().all()


@pytest.mark.parametrize("t", [-1, 101, -0.5, 100.5, math.nan, math.inf])
def test_times_out_of_range_are_refused(t):
    schedule = NoiseSchedule.linear(100)
    for times in (torch.tensor(t), torch.tensor([5, t])):
        with pytest.raises(ValueError, match=r"0\.\.100") as error:
            schedule.signal(times)
        assert f"{t:g}" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("t", [0.5, 1e-6, 0.999])
def test_real_times_between_zero_and_one_are_refused(t):
    for times in (torch.tensor(t), torch.tensor([2.5, t])):
        with pytest.raises(ValueError, match=r"\[1, T\]"):
            NoiseSchedule.linear(100).noise(times)


@pytest.mark.parametrize(
    ("beta", "named"),
    [
        ([0.1, 0.1, 0.2], "0.1"),  # no clean data at t = 0
        ([0.0], "(1,)"),
        ([], "(0,)"),
        ([[0.0, 0.1]], "(1, 2)"),
        ([0.0, 0.0, 0.1], "0 to 0.1"),  # a step that adds nothing
        ([0.0, 0.1, 1.5], "1.5"),
        ([0.0, -0.1, 0.5], "-0.1"),
        ([0.0, math.nan, 0.5], "nan"),
    ],
)
def test_bad_betas_are_refused(beta, named):
    with pytest.raises(ValueError) as error:
        NoiseSchedule(torch.tensor(beta, dtype=torch.float64))
    assert named in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("maker", ["linear", "scaled_linear", "cosine"])
@pytest.mark.parametrize("T", [1, 0, -3, 2.5, math.inf, math.nan])
def test_a_bad_number_of_steps_is_refused(maker, T):
    with pytest.raises(ValueError, match=f"T={T}") as error:
        MAKERS[maker](T)
    assert "\n" not in str(error.value)


def test_noise_shaped_unlike_the_data_is_refused():
    x0 = torch.zeros(2, 3, 4, 4)
    for shape in [(3, 4, 4), (2, 1, 4, 4), (1, 3, 4, 4)]:  # all of them would broadcast in silence
        with pytest.raises(ValueError, match="noise of shape"):
            q_sample(NoiseSchedule.linear(10), x0, torch.tensor([1, 2]), torch.zeros(shape))
    with pytest.raises(ValueError, match="one value per example"):
        q_sample(NoiseSchedule.linear(10), x0, torch.tensor([1, 2, 3]), x0)


def test_a_schedule_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        NoiseSchedule.linear(10).beta = torch.zeros(3)
