"""Checks of chapter 11's exercises."""

import itertools
import math

import torch
from checks import agree, asked, differ_from, doubles, shaped

BETA = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.08, 0.2, 0.3, 0.25, 0.4, 0.6, 0.7], dtype=torch.float64)  # ten coarse steps
ALPHA_BAR = torch.cumprod(1 - BETA, 0)
A, SIGMA = ALPHA_BAR.sqrt(), (1 - ALPHA_BAR).sqrt()


def _randn(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_largest_eta(answer):
    alpha_bar = torch.cat([ALPHA_BAR, torch.zeros(1, dtype=torch.float64)])  # zero terminal SNR
    t, s = torch.tensor([2, 5, 10, 10, 7, 11]), torch.tensor([1, 4, 9, 1, 3, 6])
    got = doubles(asked(answer.largest_eta, alpha_bar, t, s), (6,), "largest_eta")
    beta, n_s = 1 - alpha_bar[t] / alpha_bar[s], 1 - alpha_bar[s]
    precision = (1 - beta) / beta + 1 / n_s  # of the posterior, by Bayes' rule: precisions add
    wanted = (n_s * precision).sqrt()  # σ_s over the posterior's deviation
    differ_from(got, torch.ones(6), "η = 1 is DDPM, not the end: d is then smaller than σ_s")
    differ_from(got, 1 / wanted, "upside down: η times the posterior's deviation is σ_s")
    differ_from(got, wanted**2, "a variance: η is a ratio of deviations, so take the root")
    differ_from(got, (n_s / beta).sqrt(), "the forward step's β for the posterior's β̃")
    differ_from(got, precision.sqrt(), "σ_s was left out: that is one over the posterior's deviation")
    differ_from(got, n_s.sqrt(), "that is σ_s, the largest d; η is counted in the posterior's deviations")
    differ_from(got, (n_s / (1 - (alpha_bar[t] / alpha_bar[s]).sqrt())).sqrt(), "1 − a_t²/a_s² has squares: ᾱ, not its root")
    differ_from(
        got, ((1 - alpha_bar[t]) / (1 - alpha_bar[t] / alpha_bar[t - 1])).sqrt(), "the step goes to s, which need not be t − 1"
    )
    agree(got, wanted, "largest_eta")


def _guess(x, t):
    """A denoiser that is bounded, and different at each time."""
    assert t.shape == (len(x),), f"denoise wants one time for each example, shape ({len(x)},), not {tuple(t.shape)}"
    return torch.tanh(1.5 * x + torch.cos(t.double())[:, None])


def _upward(x, times, ask, back=False):
    """Euler in (y, r), and not the formula of the exercise. `ask` says at which of a step's two times the denoiser is asked."""
    for now, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        here, there = (later, now) if back else (now, later)
        x0 = _guess(x, torch.full((len(x),), (here, there)[ask]))
        y, r, r_next = x / A[here], SIGMA[here] / A[here], SIGMA[there] / A[there]
        x = A[there] * (y + (r_next - r) * (y - x0) / r)
    return x


def test_encode(answer):
    x, times = _randn(4, 3, seed=1), torch.tensor([1, 2, 4, 7, 10])
    got = shaped(asked(lambda x, times: answer.encode(_guess, ALPHA_BAR.clone(), x, times), x, times), (4, 3), "encode").double()
    differ_from(
        got, _upward(x, times, 1), "the denoiser is asked at the time where the step ends, with an x that is not there yet"
    )
    wrong = x
    for now, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x0 = _guess(wrong, torch.full((4,), now))
        wrong = wrong + (SIGMA[later] / A[later] - SIGMA[now] / A[now]) * (wrong - A[now] * x0) / SIGMA[now]
    differ_from(got, wrong, "x was moved as if it were y: a DDIM step is Euler's in y = x/a")
    q_sample = x
    for now, later in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        q_sample = A[later] * _guess(q_sample, torch.full((4,), now)) + SIGMA[later] * x
    differ_from(got, q_sample, "the picture itself was put in as the noise")
    differ_from(got, _upward(x, times.flip(0), 0), "that is the way down: x is the picture at times[0], and the times are rising")
    differ_from(got, _upward(x, times[:-1], 0), "stopped one time early: x at times[-1] is wanted")
    once = _guess(x, torch.full((4,), 1))
    wrong = A[10] * once + SIGMA[10] * (x - A[1] * once) / SIGMA[1]
    differ_from(got, wrong, "the denoiser was asked once, and every step needs its own answer")
    agree(got, _upward(x, times, 0), "encode")
    one = answer.encode(lambda x, t: torch.full_like(x, 0.7), ALPHA_BAR.clone(), 0.7 * A[1] + SIGMA[1] * x, times)
    agree(one, 0.7 * A[10] + SIGMA[10] * x, "encode, when the picture is known: its noise is kept, and grows")


def test_adams_bashforth(answer):
    calls = []

    def slope(y, r):
        calls.append(float(r))
        return torch.sin(3 * r) - y * r

    y, r = _randn(3, 2, seed=2), torch.tensor([2.0, 1.7, 1.2, 1.0, 0.3, 0.2], dtype=torch.float64)
    got = answer.adams_bashforth(slope, y.clone(), r.clone())
    assert len(calls) == 5, f"{len(calls)} calls of slope for 5 steps: one a step, and the last is remembered"
    got = shaped(got, (3, 2), "adams_bashforth").double()

    def by(weights, length=lambda h: h, frozen=False):
        """With weights (h, h₋) → those of the last slope and of the one before."""
        x, before, h_before = y, None, None
        for now, after in itertools.pairwise(r):
            h, here = length(after - now), torch.sin(3 * now) - x * now
            if before is None:
                x = x + h * here
            else:
                last, earlier = weights(h, h_before)
                x = x + h * (last * here + earlier * before)
            before, h_before = before if frozen and before is not None else here, h
        return x

    def integral(h, h_before):
        """Weights of a line's integral over [0, h], by Simpson's rule on its two basis functions."""
        basis = ((lambda u: 1 + u / h_before), (lambda u: -u / h_before))
        return tuple((f(0) + 4 * f(h / 2) + f(h)) / 6 for f in basis)

    differ_from(got, by(lambda h, b: (1, 0)), "that is Euler's method: the slope before is not used")
    differ_from(got, by(lambda h, b: (1.5, -0.5)), "3/2 and −1/2 are for steps of equal length")
    differ_from(got, by(lambda h, b: (1 + b / (2 * h), -b / (2 * h))), "h/h₋ is upside down: a long step goes further ahead")
    differ_from(got, by(lambda h, b: (1 + h / b, -h / b)), "the line's value at the end of the step; the middle is its mean")
    differ_from(got, by(lambda h, b: (0.5, 0.5)), "the mean of the last two slopes looks back, not ahead")
    differ_from(
        got, by(lambda h, b: (1 - h / (2 * b), h / (2 * b))), "the sign of the difference: that continues the line backwards"
    )
    differ_from(got, by(integral, torch.abs), "steps have a sign: where r falls, h is negative")
    differ_from(got, by(integral, frozen=True), "the slope before is that of one step before, not the first of all")
    agree(got, by(integral), "adams_bashforth")


def test_churn(answer):
    y, noise, r, r_next, gamma = _randn(5, 2, seed=3), _randn(5, 2, seed=4), 1.3, 0.8, 0.25

    def denoise(y, r):
        return torch.tanh(y) / (1 + float(r) ** 2)

    got = answer.churn(denoise, y.clone(), r, r_next, gamma, noise.clone())
    got = shaped(got, (5, 2), "churn").double()
    higher = r * (1 + gamma)

    def step(added, start=None, level=None, told=None):
        up = y + added * noise
        level, told = level or higher, told or higher
        x0 = denoise(up, told)
        return (up if start is None else start) + (r_next - level) * (up - x0) / level

    right = math.sqrt(higher**2 - r**2)
    differ_from(got, step(0.0, level=r, told=r), "nothing was added: that is Euler's step")
    differ_from(got, step(higher - r), "deviations were subtracted; of independent noises the variances add")
    differ_from(got, step(higher**2 - r**2), "that is the variance of what is to be added: take the root")
    differ_from(got, step(gamma * r), "deviations were subtracted; of independent noises the variances add")
    differ_from(got, step(higher), "noise of the whole new level was added; part of it is there already")
    differ_from(got, step(right, told=r), "the denoiser was told the old level; the point is at r(1 + γ) now")
    differ_from(got, step(right, level=r), "the step begins at r(1 + γ), not at r")
    differ_from(got, step(right, level=r, told=r), "the noise was raised, but the level was not: all of it begins at r(1 + γ)")
    differ_from(got, step(right, start=y), "the step goes on from the old point; the noise was added to be walked from")
    up, x0 = y + right * noise, denoise(y + right * noise, higher)
    differ_from(got, up + (r_next - r) * (up - x0) / higher, "the step's length is counted from r(1 + γ), not from r")
    for told in (x0, denoise(y, r)):
        differ_from(
            got,
            up + (r_next - higher) * (y - told) / r,
            "the slope is that of the old point and level; take it where you are now",
        )
    late = y + (r_next - r) * (y - denoise(y, r)) / r + r_next * math.sqrt((1 + gamma) ** 2 - 1) * noise
    differ_from(got, late, "the noise was added after the step; raise it first")
    differ_from(
        got,
        late + (right - r_next * math.sqrt((1 + gamma) ** 2 - 1)) * noise,
        "the noise was added after the step; raise it first",
    )
    agree(got, step(right), "churn")
    agree(answer.churn(denoise, y.clone(), r, 0.0, 0.0, noise), denoise(y, r), "churn with γ = 0 to r = 0, which is x̂_0")


def test_line_mean(answer):
    x0, before = _randn(4, 2, seed=5), _randn(4, 2, seed=6)
    for h, h_before in ((0.8, 0.5), (2.5, 0.7), (0.1, 0.4)):
        given = torch.tensor(h, dtype=torch.float64), torch.tensor(h_before, dtype=torch.float64)
        got = shaped(asked(answer.line_mean, x0, before, *given), (4, 2), "line_mean").double()
        u = torch.linspace(0, h, 20001, dtype=torch.float64)

        def ahead(mean, h_before=h_before):
            return x0 + mean / h_before * (x0 - before)

        def mean_with(weight, u=u):
            return (torch.trapezoid(weight * u, u) / torch.trapezoid(weight, u)).item()

        differ_from(got, ahead(h / 2), "the middle of the step, as in (11.7): the weights grow, so the mean lies later")
        differ_from(got, ahead(h), "the line's value at the end of the step")
        differ_from(got, x0, "x̂_0 itself: that is the first order")
        differ_from(got, ahead(mean_with(torch.exp(-u))), "the weights are e^λ, and grow towards the data; here they fall")
        differ_from(got, ahead(-mean_with(torch.exp(u))), "the line is continued backwards: the sign of the difference")
        undivided = torch.trapezoid(torch.exp(u) * u, u).item()
        differ_from(got, ahead(undivided), "the integral was not divided by that of the weights", 1e-5)
        half_divided = "the integral was divided by e^h; the weights' integral is e^h − 1"
        differ_from(got, ahead(h + math.expm1(-h)), half_divided)
        agree(got, ahead(mean_with(torch.exp(u))), "line_mean")


def test_line_mean__of_a_very_long_step(answer):
    x0, before, h = _randn(2, 1, seed=5), _randn(2, 1, seed=6), torch.tensor(1000.0, dtype=torch.float64)
    got = answer.line_mean(x0.clone(), before.clone(), h, torch.tensor(2.0, dtype=torch.float64))
    assert got is None or bool(torch.as_tensor(got).isfinite().all()), "e^1000 is too large for float64: divide by e^h first"
    agree(shaped(got, (2, 1), "line_mean"), x0 + 999 / 2 * (x0 - before), "line_mean of a step of 1000")
