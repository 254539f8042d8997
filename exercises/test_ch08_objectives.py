"""Checks of chapter 08's exercises."""

import itertools
import math

import torch
from checks import agree, asked, close, differ_from, number, several, shaped

KINDS = ("epsilon", "x0", "v", "flow", "score")
A = torch.tensor([0.95, 0.7, 0.4, 0.05], dtype=torch.float64)  # rates whose squares do not sum to 1
S = torch.tensor([0.2, 0.3, 0.9, 1.1], dtype=torch.float64)
MEANS, SPREADS, SHARES = (torch.tensor(values, dtype=torch.float64) for values in ([-1.2, 0.8], [0.3, 0.5], [0.4, 0.6]))


def _randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_from_score(answer):
    x0, noise = _randn(2, 4, 4)  # as many dimensions as frames, so that rows and columns can be mistaken for each other
    a, s = A[:, None], S[:, None]
    x_t, slope = a * x0 + s * noise, -noise / s
    got = several(asked(answer.from_score, slope, x_t, A, S), 4, "from_score")
    got_x0, got_noise, got_v, got_u = (
        shaped(each, (4, 4), f"from_score: {name}") for each, name in zip(got, "x̂_0 ε̂ v̂ û".split(), strict=True)
    )
    right = (x0, noise, a * noise - s * x0, noise - x0)
    for order in list(itertools.permutations(range(4)))[1:]:  # the first leaves everything in its place
        moved = all(close(each, right[place]) for each, place in zip(got, order, strict=True))
        assert not moved, "all four are right, and in another order than x̂_0, ε̂, v̂, û"
    differ_from(got_noise, -noise, "the noise has the wrong sign: the score points away from the noise")
    differ_from(got_noise, -slope, "the score is −ε/σ: the σ is still in it")
    differ_from(got_noise, noise * s, "the noise is σ times too small: the score is −ε/σ, with σ and not its square")
    columns = -S * slope
    differ_from(got_noise, columns, "the rates were laid along the columns; they belong to the frames, that is, to the rows")
    differ_from(got_x0, a * x0, "that is a x̂_0: Tweedie's formula divides by a")
    differ_from(got_x0, (x_t - s**2 * slope) / a, "downhill: Tweedie's step goes with the score")
    differ_from(got_x0, (x_t + s * slope) / a, "Tweedie's step has the length σ² times the score, not σ times")
    differ_from(got_v, a * x0 - s * noise, "v is a ε − σ x_0: the two changed places")
    by_one = "v̂: a² + σ² was taken to be 1; a ε̂ − σ x̂_0 needs no such thing"
    differ_from(got_v, (a * x_t - x0) / s, by_one)
    differ_from(got_v, (noise - s * x_t) / a, by_one)
    differ_from(got_u, x0 - noise, "u points from the data to the noise: ε − x_0")
    agree(got_x0, x0, "from_score, x̂_0")
    agree(got_noise, noise, "from_score, ε̂")
    agree(got_v, a * noise - s * x0, "from_score, v̂")
    agree(got_u, noise - x0, "from_score, û")


def _coordinates(x0, x_t):
    noise = (x_t - A * x0) / S
    return {"epsilon": noise, "x0": x0, "v": A * noise - S * x0, "flow": noise - x0, "score": -noise / S}


def test_exchange_weight(answer):
    x_t, x0, other = _randn(3, 4)
    one, two = _coordinates(x0, x_t), _coordinates(other, x_t)  # the same frame, two guesses: the error in each coordinate
    off = {kind: (one[kind] - two[kind]) ** 2 for kind in KINDS}
    for says, weighed in itertools.product(KINDS, KINDS):
        got = shaped(asked(answer.exchange_weight, A, S, says, weighed), (4,), f"exchange_weight, {says} weighed as {weighed}")
        wanted = off[weighed] / off[says]
        if "score" in (says, weighed) and says != weighed:
            for of_score, mistake in (
                (off["epsilon"], "the score was treated like the noise; it is −ε/σ"),
                (
                    off["epsilon"] * S**2,
                    "the score was taken to be −σ ε; it is −ε/σ, an error in it is one σ times as large in ε",
                ),
            ):
                spoiled = {**off, "score": of_score}
                differ_from(got, spoiled[weighed] / spoiled[says], mistake)
        if says != weighed:
            differ_from(got, 1 / wanted, "upside down: an error in what is said is to be turned into one in the other")
            differ_from(got, wanted.sqrt(), "the errors are squared, so the ratio of the scales is squared as well")
        if "v" in (says, weighed) and says != weighed:
            by_one = off[weighed] / off[says] * (A**2 + S**2) ** (2 if says == "v" else -2)
            differ_from(got, by_one, "a² + σ² was taken to be 1")
        agree(got, wanted, f"exchange_weight, {says} weighed as {weighed}")


def test_best_skip(answer):
    for variance in (1.0, 0.25, 4.0):
        got = several(asked(answer.best_skip, A, S, variance), 2, "best_skip")
        skip, out = (shaped(each, (4,), f"best_skip: {name}") for each, name in zip(got, ("c_skip", "c_out"), strict=True))

        def to_add(c, variance=variance):
            return (1 - c * A) ** 2 * variance + c**2 * S**2

        low, high = torch.full_like(A, -50.0), torch.full_like(A, 50.0)
        for _ in range(200):  # the lowest point of a valley, without its formula
            third = (high - low) / 3
            left = to_add(low + third) < to_add(high - third)
            low, high = torch.where(left, low, low + third), torch.where(left, high - third, high)
        wanted = (low + high) / 2
        differ_from(skip, 1 / A, "c_skip = 1/a is the way of noise prediction, which has most to add where a is small")
        differ_from(skip, torch.zeros_like(A), "c_skip = 0 asks for the picture itself; the frame knows part of it")
        if variance != 1:
            differ_from(skip, A / (A**2 + S**2), "right for data of variance 1; the variance of the data counts")
            forgot = "the variance of the data was forgotten below: the frame's mean square is a² V + σ²"
            differ_from(skip, A * variance / (A**2 + S**2), forgot)
        differ_from(skip, A, "c_skip = a is the velocity's, for variance 1 and a² + σ² = 1 only")
        agree(skip, wanted, f"best_skip, c_skip for variance {variance:g}", 1e-5)
        differ_from(out, to_add(wanted), "c_out is a deviation: the root of that mean square", 1e-5)
        differ_from(out, 1 / to_add(wanted).sqrt(), "F is divided by c_out, not multiplied, to have the mean square 1", 1e-5)
        differ_from(out, -to_add(wanted).sqrt(), "a positive c_out is wanted", 1e-5)
        differ_from(out, S * math.sqrt(variance), "that is σ times the data's deviation: a² V + σ² was taken to be 1", 1e-5)
        agree(out, to_add(wanted).sqrt(), f"best_skip, c_out for variance {variance:g}", 1e-5)


def _log_density(x, a, s):
    """log q(x_t) of a mixture at rates a and s, N each."""
    variance = a[:, None] ** 2 * SPREADS**2 + s[:, None] ** 2
    square = (x[:, None] - a[:, None] * MEANS) ** 2 / variance
    return torch.logsumexp(torch.log(SHARES) - 0.5 * (square + torch.log(2 * math.pi * variance)), 1)


def _derivatives(x, a, s):
    """First and second derivative of log q at each number, by automatic differentiation."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(_log_density(x, a, s).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    return first.detach(), second


def test_what_is_left(answer):
    x = torch.tensor([-0.4, 0.1, 0.3, 1.2], dtype=torch.float64)
    _, curvature = _derivatives(x, A, S)
    grid = torch.linspace(-5, 5, 20001, dtype=torch.float64)
    prior = torch.logsumexp(torch.log(SHARES / SPREADS) - 0.5 * ((grid[:, None] - MEANS) / SPREADS) ** 2, 1)
    belief = torch.softmax(prior - 0.5 * ((x[:, None] - A[:, None] * grid) / S[:, None]) ** 2, 1)  # Bayes' rule on a grid
    mean = (belief * grid).sum(1)
    wanted = (belief * (grid - mean[:, None]) ** 2).sum(1)
    got = shaped(asked(answer.what_is_left, curvature, A, S), (4,), "what_is_left")
    differ_from(
        got, S**2 / A**2 * (1 - S**2 * curvature), "the sign before the curvature: where log q is most curved, least is left"
    )
    differ_from(got, -1 / curvature, "so wide is a Gaussian in x_t with this curvature; x_0 given x_t is asked for")
    differ_from(got, -(S**4) / A**2 * curvature, "without the curvature σ²/a² would be left: the 1 is missing")
    differ_from(got, S**4 / A**2 * curvature, "without the curvature σ²/a² would be left: the 1 is missing")
    differ_from(got, wanted * A**2, "that is the variance of a x_0")
    differ_from(got, wanted * A, "a comes out squared: once from Tweedie's formula, once from the covariance")
    differ_from(got, wanted.sqrt(), "that is the deviation: the variance is asked for")
    differ_from(
        got, (1 + S**2 * curvature) / A, "that is the slope of the best guess in x_t; what has it to do with the variance?"
    )
    differ_from(got, S**2 / A**2 * (1 + curvature), "the curvature has a unit, 1/x², and needs σ² before it is added to 1")
    agree(got, wanted, "what_is_left")


def _below(x, signal):
    """P(x_t < x) when the signal rate of a variance-preserving process is this."""
    deviation = torch.sqrt(signal**2 * SPREADS**2 + 1 - signal**2)
    return (SHARES * 0.5 * (1 + torch.erf((x[:, None] - signal * MEANS) / deviation / math.sqrt(2)))).sum(1)


def test_any_noise(answer):
    beta, x = 1.3, torch.linspace(-2, 2, 9, dtype=torch.float64)
    a, s = torch.full_like(x, 0.8), torch.full_like(x, 0.6)
    slope, q = _derivatives(x, a, s)[0], torch.exp(_log_density(x, a, s))
    later, earlier = (_below(x, 0.8 * math.exp(-0.5 * beta * step)) for step in (1e-5, -1e-5))
    for h in (0.0, 1.0, 0.5, 2.0):
        got = several(asked(answer.any_noise, x, slope, beta, h), 2, "any_noise")
        drift, rate = shaped(got[0], (9,), "any_noise: the drift"), number(got[1], "any_noise: the rate")
        for wrong, mistake in (
            (h * beta, "the rate is h times the root of β"),
            (h**2 * beta, "that is the rate's square"),
            (h**2 * math.sqrt(beta), "the rate is h √β, as it was given; its square has h²"),
            (math.sqrt(h * beta), "the rate is h √β: h is outside the root"),
        ):
            if abs(wrong - h * math.sqrt(beta)) > 1e-9:
                differ_from(rate, wrong, mistake)
        agree(rate, h * math.sqrt(beta), "any_noise, the rate")
        for factor, mistake in (
            (1 + h**2, "twice as much score as needed: the ½ before g² is missing"),
            (0.5 * (1 - h**2), "time runs backwards: noise calls for more of the score, not less"),
            (0.5 * (1 + h), "the score must make up for the noise's variance, which grows with h²"),
            (0.5 * h**2, "with h = 0 the drift is that of the ODE: half of g² times the score stays"),
            (h**2, "with h = 0 the drift is that of the ODE: half of g² times the score stays"),
        ):
            if abs(factor - 0.5 * (1 + h**2)) > 1e-9:
                differ_from(drift, -0.5 * beta * x - factor * beta * slope, mistake)
        if h != 1:
            forth = "−½ β x is the forward drift; it is there whatever the noise on the way back, so it has no h"
            for factor in (0.5 * (1 + h**2), h**2):
                differ_from(drift, -0.5 * h**2 * beta * x - factor * beta * slope, forth)
        differ_from(drift, 0.5 * beta * x + 0.5 * (1 + h**2) * beta * slope, "the sign: dt is negative, the drift is not turned")
        # what flows through each place must make the density go back as it came: −drift q − ½ rate² q' = ∂P(x_t < x)/∂t
        wanted = -(later - earlier) / 2e-5 / q - 0.5 * h**2 * beta * slope
        agree(drift, wanted, f"any_noise with h = {h:g}, the drift", 1e-5)
