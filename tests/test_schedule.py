"""The forward process: tables indexed by t, the chain composed step by step, real times, refusals."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from minildm.elbo import Mixture
from minildm.gaussian import Gaussian, add, affine
from minildm.schedule import NoiseSchedule, forward_step, noisy_mixture, q_sample

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


# The chapter's equations, each against something that shares no code with it

STEPS = 12


def short() -> NoiseSchedule:
    """A dozen coarse steps, no two alike."""
    return NoiseSchedule(torch.cat([torch.zeros(1), torch.linspace(0.03, 0.6, STEPS) ** 1.3]).double())


def by_hand(schedule: NoiseSchedule) -> tuple[Tensor, Tensor]:
    """Mean of x_t for x_0 = 1, and variance, at every t: chapter 01's moves, step by step, from all mass at 1."""
    at = Gaussian(torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), -math.inf, dtype=torch.float64))
    path = [at]
    for beta in schedule.beta[1:]:
        at = add(affine(at, math.sqrt(1 - beta)), Gaussian(torch.zeros_like(at.mean), torch.log(beta).expand(1, 1)))
        path.append(at)
    return torch.cat([place.mean[0] for place in path]), torch.cat([place.log_var[0] for place in path]).exp()


@pytest.mark.equation("06.1")
def test_one_step_has_the_density_of_its_shrunken_and_noised_start():
    """Against torch.distributions, each example at a time of its own: N×2×3."""
    schedule = short()
    x, after = torch.randn(2, STEPS, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.arange(1, STEPS + 1)
    got = forward_step(schedule, x, t)
    for i, beta in enumerate(schedule.beta[1:].tolist()):
        wanted = torch.distributions.Normal(x[i] * math.sqrt(1 - beta), math.sqrt(beta)).log_prob(after[i]).sum()
        torch.testing.assert_close(got.log_prob(after)[i], wanted)
    assert got.log_var.shape == (STEPS, 1, 1)
    one = forward_step(schedule, x, torch.tensor(3))
    torch.testing.assert_close(one.mean[2], got.mean[2])
    torch.testing.assert_close(one.log_var.reshape(()), got.log_var[2].reshape(()))


def test_a_step_keeps_unit_variance_and_leaves_noise_in_place():
    """E[x_t²] for x_{t−1} ~ N(0, 1), by quadrature over x_{t−1}, and Var ½ + ½β for a start of variance ½."""
    schedule, line = short(), torch.linspace(-9, 9, 3001, dtype=torch.float64)[:, None]
    for start, wanted in ((1.0, lambda beta: 1.0), (0.5, lambda beta: 0.5 + 0.5 * beta)):
        weight = torch.distributions.Normal(line.new_zeros(()), math.sqrt(start)).log_prob(line[:, 0]).exp()
        found = []
        for t in range(1, STEPS + 1):
            step = forward_step(schedule, line, torch.tensor(t))
            found.append(torch.trapezoid(weight * (step.mean**2 + step.log_var.exp())[:, 0], line[:, 0]).item())
        assert found == pytest.approx([wanted(beta) for beta in schedule.beta[1:].tolist()], rel=1e-8)


@pytest.mark.equation("06.2")
def test_the_signal_rate_is_what_the_steps_leave_of_one():
    schedule = short()
    torch.testing.assert_close(schedule.signal(every(schedule)), by_hand(schedule)[0], rtol=1e-12, atol=0)


@pytest.mark.equation("06.3")
def test_the_noise_rate_is_the_deviation_that_the_steps_add_up_to():
    schedule = short()
    torch.testing.assert_close(schedule.noise(every(schedule)), by_hand(schedule)[1].sqrt(), rtol=1e-12, atol=0)


@pytest.mark.equation("06.4")
def test_a_jump_is_distributed_as_the_walk():
    """x_t is affine in ε: its value at ε = 0 is the mean, what ε = 1 adds is the deviation. Every t is an example."""
    schedule = short()
    mean, variance = by_hand(schedule)
    x0 = torch.full((STEPS + 1, 2), 1.7, dtype=torch.float64)
    still = q_sample(schedule, x0, every(schedule), torch.zeros_like(x0))
    pushed = q_sample(schedule, x0, every(schedule), torch.ones_like(x0))
    torch.testing.assert_close(still, 1.7 * mean[:, None].expand(-1, 2))
    torch.testing.assert_close(pushed - still, variance.sqrt()[:, None].expand(-1, 2))


def drawn_rates(schedule: NoiseSchedule, data: Tensor) -> tuple[Tensor, Tensor]:
    """Variance that data and noise contribute to x_t at every t ≥ 1, measured on q_sample: data alone, then noise alone."""
    size = (STEPS, len(data))
    t, nothing = torch.arange(1, STEPS + 1), torch.zeros(size, dtype=torch.float64)
    signal = q_sample(schedule, data.expand(size), t, nothing).var(1, correction=0)
    return signal, q_sample(schedule, nothing, t, data.expand(size)).var(1, correction=0)


@pytest.mark.equation("06.5")
def test_the_snr_is_the_quotient_of_the_variances_of_data_and_noise():
    schedule = short()
    data = torch.randn(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    signal, noise = drawn_rates(schedule, data)
    torch.testing.assert_close(schedule.snr(torch.arange(1, STEPS + 1)), signal / noise)


@pytest.mark.equation("06.6")
def test_the_log_snr_leads_back_to_the_rates_by_a_sigmoid():
    """a² = sigmoid(2λ) and σ² = sigmoid(−2λ), with a and σ of the walk."""
    schedule = short()
    mean, variance = by_hand(schedule)
    log_snr = schedule.log_snr(torch.arange(1, STEPS + 1))
    torch.testing.assert_close(1 / (1 + torch.exp(-2 * log_snr)), mean[1:] ** 2)
    torch.testing.assert_close(1 / (1 + torch.exp(2 * log_snr)), variance[1:])


@pytest.mark.equation("06.7")
def test_between_two_steps_the_rates_quotient_is_a_weighted_geometric_mean():
    """A straight line in λ = log(a/σ) is a geometric mean of a/σ; with a² + σ² = 1 that fixes both rates."""
    schedule = short()
    mean, variance = by_hand(schedule)
    quotient = mean / variance.sqrt()
    for weight in (0.0, 0.25, 0.8):
        t = torch.arange(1, STEPS)
        ratio = quotient[t] ** (1 - weight) * quotient[t + 1] ** weight
        torch.testing.assert_close(schedule.signal(t + weight), ratio / torch.sqrt(1 + ratio**2))
        torch.testing.assert_close(schedule.noise(t + weight), 1 / torch.sqrt(1 + ratio**2))


@pytest.mark.equation("06.8")
def test_the_rescaled_rates_lie_on_a_line_through_zero_at_the_end():
    """Every a'_t by linear interpolation between the two points that are prescribed, (a_T, 0) and (a_1, a_1)."""
    before = short()
    after = before.rescaled_to_zero_snr()
    a = by_hand(before)[0][1:]
    share = (a - a[-1]) / (a[0] - a[-1])  # 1 at t = 1, 0 at T
    torch.testing.assert_close(by_hand(NoiseSchedule(after.beta))[0][1:], torch.lerp(torch.zeros(()).double(), a[0], share))
    assert after.beta[0] == 0 and after.beta[-1] == 1


MIXTURE = Mixture(
    torch.tensor([0.3, 0.6, 0.1]).double(),
    torch.tensor([-1.5, 0.4, 2.0]).double(),
    torch.log(torch.tensor([0.05, 0.3, 0.01]).double()),
)


@pytest.mark.equation("06.9")
def test_a_mixture_at_t_is_its_convolution_with_the_step_from_zero_to_t():
    """q(x_t) = ∫ q(x_0) N(x_t; a x_0, σ²) dx_0, by quadrature, with a and σ of the walk."""
    schedule = short()
    mean, variance = by_hand(schedule)
    line = torch.linspace(-8, 8, 8001, dtype=torch.float64)
    places = torch.tensor([-2.0, -0.7, 0.0, 0.9, 2.1], dtype=torch.float64)
    q0 = MIXTURE.log_evidence(line).exp()
    for t in (1, 4, STEPS):
        kernel = torch.distributions.Normal(mean[t] * line, variance[t].sqrt()).log_prob(places[:, None]).exp()
        wanted = torch.trapezoid(q0 * kernel, line)
        torch.testing.assert_close(noisy_mixture(schedule, MIXTURE, torch.tensor(t)).log_evidence(places).exp(), wanted)


def test_a_mixture_at_zero_is_itself_and_may_consist_of_points():
    schedule = short()
    same = noisy_mixture(schedule, MIXTURE, torch.tensor([0]))
    for name in ("weights", "means", "log_vars"):
        torch.testing.assert_close(getattr(same, name), getattr(MIXTURE, name))
    points = Mixture(torch.ones(2) / 2, torch.tensor([-1.0, 1.0]), torch.full((2,), -math.inf))
    later = noisy_mixture(schedule, points, torch.tensor(5))
    torch.testing.assert_close(
        later.log_vars.exp().double(), torch.full((2,), schedule.noise(torch.tensor(5)).item() ** 2).double()
    )
    last = noisy_mixture(schedule.rescaled_to_zero_snr(), points, torch.tensor(STEPS))
    assert last.means.tolist() == [0, 0] and last.log_vars.tolist() == [0, 0] and last.means.dtype == torch.float32


def test_a_mixture_has_one_time():
    with pytest.raises(ValueError, match="not 2: call this once for each"):
        noisy_mixture(short(), MIXTURE, torch.tensor([1, 2]))


def test_the_divergence_from_noise_falls_by_what_the_ways_back_differ():
    """KL(q_{t−1} ‖ n) − KL(q_t ‖ n) = E[KL(q(x | x') ‖ n(x | x'))], every term on a grid."""
    schedule, grid = short(), torch.linspace(-7, 7, 701, dtype=torch.float64)
    rest = torch.distributions.Normal(grid.new_zeros(()), 1.0).log_prob(grid)
    at = [noisy_mixture(schedule, MIXTURE, t).log_evidence(grid) for t in every(schedule)]
    apart = [torch.trapezoid(log_q.exp() * (log_q - rest), grid).item() for log_q in at]
    for t in range(1, STEPS + 1):
        step = forward_step(schedule, grid[:, None], torch.tensor(t))
        kernel = torch.distributions.Normal(step.mean, step.log_var.mul(0.5).exp()).log_prob(grid)
        back, of_noise = (torch.log_softmax(start[:, None] + kernel, 0) for start in (at[t - 1], rest))
        price = torch.trapezoid(at[t].exp() * (back.exp() * (back - of_noise)).sum(0), grid).item()
        assert apart[t - 1] - apart[t] == pytest.approx(price, abs=1e-6) and price > 0


@pytest.mark.parametrize("t", [torch.tensor(0), torch.tensor(13), torch.tensor([1, 13]), torch.tensor([0, 1]), torch.tensor(1.0)])
def test_a_step_ends_within_the_chain(t):
    with pytest.raises(ValueError, match=r"1\.\.12") as error:
        forward_step(short(), torch.zeros(2, 1), t)
    assert str(t.tolist()) in str(error.value) and "\n" not in str(error.value)


def test_no_examples_are_no_mistake():
    none = torch.zeros(0, 3)
    assert forward_step(short(), none, torch.zeros(0, dtype=torch.long)).mean.shape == (0, 3)
    assert q_sample(short(), none, torch.zeros(0, dtype=torch.long), none).shape == (0, 3)


def test_the_published_ends_of_the_common_schedules():
    """Lin et al. 2023 (arXiv:2305.08891), Table 1: SNR at T, to four digits."""
    for schedule, snr in (
        (NoiseSchedule.linear(), 4.036e-5),
        (NoiseSchedule.scaled_linear(), 0.004682),
        (NoiseSchedule.cosine(), 2.429e-9),
    ):
        assert schedule.snr(torch.tensor(1000)).item() == pytest.approx(snr, rel=3e-4)


@pytest.mark.parametrize("maker", ["linear", "scaled_linear", "cosine"])
def test_the_shortest_schedules_are_allowed(maker):
    assert MAKERS[maker](2).T == 2
    one = NoiseSchedule(torch.tensor([0.0, 0.36]).double())
    assert one.T == 1 and one.noise(torch.tensor(1)).item() == pytest.approx(0.6)
