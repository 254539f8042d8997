"""Checks of the exercises of chapter 04. Run `pytest exercises/test_ch04_vae.py`."""

import math

import torch
from checks import agree, asked, close, differ_from, number, shaped
from torch import Tensor
from torch.distributions import Normal


def _payoff(b: Tensor) -> Tensor:
    return 3 + 4 * b


def test_bernoulli_score_gradient(answer):
    logit, coins = 0.4, torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    pi = 1 / (1 + math.exp(-logit))
    got = shaped(asked(answer.bernoulli_score_gradient, _payoff, logit, coins), (5,), "one estimate for each draw")
    wrong_way = _payoff(coins) * (coins - logit)
    differ_from(got, wrong_way, "the logit stands where its sigmoid, the probability π, belongs")
    differ_from(got, coins - pi, "that is the score alone: it still has to be multiplied by f(b)")
    differ_from(
        got, -_payoff(coins) * (coins - pi), "the sign is turned round: heads (b = 1) become likelier when the logit grows"
    )
    differ_from(
        got,
        _payoff(coins) * (coins / pi - (1 - coins) / (1 - pi)),
        "that is the derivative in π; one in the logit has the factor π (1 − π) as well",
    )
    ell = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    for place, coin in enumerate(coins):
        (score,) = torch.autograd.grad(torch.log(torch.sigmoid(ell) if coin else 1 - torch.sigmoid(ell)), ell)
        agree(got[place].item(), (_payoff(coin) * score).item(), f"the estimate for a coin that shows {int(coin)}")


def test_bernoulli_score_gradient__is_right_on_average(answer):
    """Both sides of the coin, weighted by their probabilities: (E f)′ = (f(1) − f(0)) π (1 − π)."""
    for logit, baseline in ((0.4, 0.0), (-1.2, 5.0)):
        pi = 1 / (1 + math.exp(-logit))
        sides = torch.tensor([0.0, 1.0], dtype=torch.float64)
        got = shaped(asked(answer.bernoulli_score_gradient, _payoff, logit, sides, baseline), (2,), "one estimate for each draw")
        if baseline:
            outside = _payoff(sides) * (sides - pi) - baseline
            differ_from(
                got, outside, "subtract the baseline from f, before the score multiplies it; you took it from the product"
            )
            added = (_payoff(sides) + baseline) * (sides - pi)
            differ_from(got, added, "the baseline is added to f: subtract it")
            differ_from(got, _payoff(sides) * (sides - pi), "the baseline changes nothing in your answer: subtract it from f")
        agree((1 - pi) * got[0].item() + pi * got[1].item(), 4 * pi * (1 - pi), "the average over both sides of the coin")
        agree(got, (_payoff(sides) - baseline) * (sides - pi), "the two sides of the coin")


def test_best_baseline(answer):
    torch.manual_seed(0)
    scores = torch.randn(400, dtype=torch.float64)
    values = (scores - 3) ** 2
    got = asked(answer.best_baseline, values, scores)
    assert not isinstance(got, Tensor) or got.ndim == 0, f"one baseline for all draws is wanted, not the shape {tuple(got.shape)}"
    got = number(got, "the baseline")
    differ_from(got, values.mean().item(), "that is the mean of f: a good baseline, but not the best, for s² weighs the draws")
    covariance = (values * scores).mean() / (scores**2).mean()
    differ_from(got, covariance.item(), "one s is missing above: the parabola's middle term is E[f s²], not E[f s]")
    differ_from(
        got,
        2 * (values * scores**2).mean().item() / (scores**2).mean().item(),
        "a factor 2 too much: the parabola is A − 2 b B + b² C",
    )
    weights = (scores - scores.mean()) ** 2
    centred = (values * weights).mean().item() / weights.mean().item()
    differ_from(got, centred, "the scores' mean is known to be 0: do not subtract it")
    differ_from(got, (values * scores**2).mean().item(), "divide by E[s²] too: these scores do not have mean square 1")

    def spread(b: float) -> float:
        return (((values - b) * scores) ** 2).mean().item()

    low, high = 0.0, 100.0  # the least point of a parabola, by ternary search
    for _ in range(200):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if spread(left) < spread(right) else (left, high)
    agree(got, low, "the baseline with the least E[(f − b)² s²]", 1e-5)


def test_exponential_pathwise_gradient(answer):
    uniform = torch.tensor([0.1, 0.5, 0.9, 0.3, 0.999], dtype=torch.float64)
    rate = torch.tensor([0.5, 1.0, 2.0, 4.0, 1.5], dtype=torch.float64, requires_grad=True)

    def slope(z: Tensor) -> Tensor:
        return torch.cos(z) + 2 * z

    z = -torch.log(1 - uniform) / rate
    (exact,) = torch.autograd.grad((torch.sin(z) + z**2).sum(), rate)
    z, known = z.detach(), rate.detach()
    got = shaped(asked(answer.exponential_pathwise_gradient, slope, known, uniform), (5,), "one estimate for each draw")
    other = -torch.log(uniform) / known
    differ_from(got, -slope(other) * other / known, "u and 1 − u are exchanged: the exercise fixes z = −log(1 − u)/r")
    differ_from(got, -exact, "the sign is turned round: a higher rate makes z smaller")
    differ_from(got, slope(z), "the slope f′(z) alone: the chain rule also wants ∂z/∂r")
    differ_from(got, -slope(z) * z, "∂z/∂r is −z/r, not −z: z is something over r, so its derivative has r²")
    agree(got, exact, "the derivative along the path")


def test_kl_to_wide_prior(answer):
    mean = torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.0, -0.7]], dtype=torch.float64)
    log_var = torch.tensor([[0.3, -2.0, 0.0], [1.0, 0.5, -1.0]], dtype=torch.float64)
    variance = 2.5
    z = torch.linspace(-20, 20, 40001, dtype=torch.float64)[:, None, None]
    log_q = Normal(mean, torch.exp(log_var / 2)).log_prob(z)
    log_p = Normal(0.0, math.sqrt(variance)).log_prob(z)
    each = torch.trapezoid(log_q.exp() * (log_q - log_p), z, dim=0)
    got = asked(answer.kl_to_wide_prior, mean, log_var, variance)
    assert not (isinstance(got, Tensor) and got.shape == (2, 3)), "one number for each example: sum over the L dimensions"
    got = shaped(got, (2,), "one KL for each example")
    differ_from(got, each.mean(1), "averaged over dimensions; independent dimensions add, so sum", 1e-5)
    differ_from(got, 2 * each.sum(1), "twice the KL: a ½ is missing", 1e-5)
    narrow = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum(1)
    differ_from(got, narrow, "that is the KL to N(0, I): the prior's variance s² does not enter")
    differ_from(
        got,
        0.5 * ((log_var.exp() + mean**2) / variance - 1 - log_var).sum(1),
        "log s² is missing: a wide prior has a low density everywhere, and that costs",
    )
    squared = 0.5 * ((log_var.exp() + mean**2) / variance**2 - 1 + 2 * math.log(variance) - log_var).sum(1)
    differ_from(got, squared, "prior_variance is s² already; you squared it")
    turned = 0.5 * (variance / log_var.exp() + mean**2 / log_var.exp() - 1 + log_var - math.log(variance)).sum(1)
    differ_from(got, turned, "that is KL(p ‖ q): the mean is to be taken over q")
    agree(got, each.sum(1), "the KL, against the integral on a grid", 1e-6)


def test_kl_to_wide_prior__is_zero_where_q_is_the_prior(answer):
    got = shaped(
        asked(answer.kl_to_wide_prior, torch.zeros(3, 2).double(), torch.full((3, 2), math.log(0.3)).double(), 0.3),
        (3,),
        "one KL each",
    )
    agree(got, torch.zeros(3), "where q is the prior itself (μ = 0, σ² = s² = 0.3) the KL is 0, but")


def test_calibrated_log_likelihood(answer):
    for shape in ((5, 2, 3), (5, 4), (5, 1, 3, 2)):
        torch.manual_seed(0)
        mean, noise = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
        spread = torch.linspace(0.1, 0.9, 5, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))
        _calibrated(answer, mean + 0.2 + spread * noise, mean)  # with 0.2, the mean error is not 0


def _calibrated(answer, x: Tensor, mean: Tensor) -> None:
    """The checks of ch04.5 on one batch of five."""
    error, count = (x - mean).square().flatten(1), x[0].numel()

    def at(variance: Tensor | float) -> Tensor:
        scale = torch.as_tensor(variance, dtype=torch.float64).sqrt()
        return Normal(mean.flatten(1), scale).log_prob(x.flatten(1)).sum(1)

    right = at(error.mean())
    got = asked(answer.calibrated_log_likelihood, x, mean)
    assert not (isinstance(got, Tensor) and got.ndim == 0), "one number for each example, not one for the batch"
    got = shaped(got, (5,), f"the log-likelihood of each example, for data of shape {tuple(x.shape)}")
    own = at(error.mean(1, keepdim=True))
    differ_from(got, own, "each example has its own variance there; one σ² is to serve the whole batch")
    differ_from(got, at(error.mean(0)), "each dimension has its own variance there; one σ² is to serve them all")
    differ_from(got, at(error.sum(1).mean()), "that variance is a sum over dimensions: σ² is of one number, so average over them")
    centred = (x - mean).var(correction=0)
    differ_from(got, at(centred), "you subtracted the errors' own mean; σ² is the mean of (x − m)²")
    differ_from(got, at((x - mean).var()), "that is `var()`, which subtracts a mean; σ² is the mean of (x − m)²")
    differ_from(got, at(error.mean().sqrt()), "that is the standard deviation where the variance belongs")
    differ_from(got, at(0.5), "that is σ² = ½, the squared error's silent choice: let the batch choose")
    differ_from(got, right / count, "averaged over dimensions; log-densities of independent numbers add")
    differ_from(got, right + count / 2 * math.log(2 * math.pi), "2π is missing: give all constants of (04.7)")
    bare = -0.5 * error.sum(1) / error.mean()
    differ_from(got, bare, "−(D/2) log 2πσ² is missing: give all constants of (04.7)")
    differ_from(got, -right, "the sign is turned round")
    best = right.sum().item()
    total = got.sum().item()
    too_high = (
        f"the batch's log-likelihood is {total:.6g}, more than any one σ² allows ({best:.6g}): is a term of (04.7) missing?"
    )
    assert total < best + 1e-6 * abs(best), too_high
    agree(got, right, "the log-likelihood of each example")


def test_true_beta(answer):
    cases = {("sum", "sum"): 3.0, ("sum", "mean"): 3.0 / 20, ("mean", "sum"): 3.0 * 784, ("mean", "mean"): 3.0 * 784 / 20}
    for (reconstruction, kl), wanted in cases.items():
        what = f"β with the reconstruction's {reconstruction} and the KL's {kl}"
        got = number(asked(answer.true_beta, 784, 20, reconstruction, kl, 3.0), what)
        if reconstruction != kl:
            differ_from(got, 9.0 / wanted, "upside down: a mean makes its own term smaller, and the other one weigh more")
        differ_from(got, wanted / 3.0, "the program's own weight belongs into β")
        differ_from(got, wanted / 9.0, "the weight multiplies the KL, so it multiplies β")
        if (reconstruction, kl) == ("mean", "mean"):
            assert not close(got, 3.0), "two means do not cancel: one is over D dimensions, the other over L"
        agree(got, wanted, what)
    agree(number(asked(answer.true_beta, 1024, 16, "sum", "mean"), "β"), 1 / 16, "β at weight 1")
