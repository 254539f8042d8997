"""Checks of chapter 07's exercises."""

import math

import torch
from checks import agree, asked, close, differ_from, number, several, shaped

BETA = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.25, 0.4, 0.6], dtype=torch.float64)
GRID = torch.linspace(-12, 12, 24001, dtype=torch.float64)


def _normal(x, mean, variance):
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def _moments(density):
    """Mean and variance of what a table over GRID is proportional to."""
    density = density / density.sum()
    mean = (GRID * density).sum()
    return mean.item(), ((GRID - mean) ** 2 * density).sum().item()


def _kept(t):
    """ᾱ_t, multiplied up step by step."""
    return math.prod(1 - beta for beta in BETA.tolist()[: t + 1])


def _marginal(v, t):
    """The variance of x_t for data of variance v, by walking the chain: shrink, add."""
    for beta in BETA.tolist()[1 : t + 1]:
        v = (1 - beta) * v + beta
    return v


def _by_bayes(v, t):
    """The variance of q(x_{t-1} | x_t) for data N(0, v): prior times likelihood on a grid. v = 0 is the posterior at x_0 = 0."""
    beta = BETA[t].item()
    return _moments(_normal(GRID, 0, _marginal(v, t - 1)) * _normal(0.3, math.sqrt(1 - beta) * GRID, beta))[1]


def test_posterior_variances(answer):
    kept = BETA.clone()
    got = answer.posterior_variances(BETA)
    assert torch.equal(BETA, kept), "the argument itself was changed: work on a copy"
    assert got is None or not bool(got.isnan().any()), "0/0 at t = 0: there is no step from there, its entry is 0"
    got = shaped(got, (7,), "one variance for each t = 0..T, posterior_variances")
    alpha_bar = torch.cumprod(1 - BETA, 0)
    wanted = torch.tensor([0.0, 0.0, *(_by_bayes(0.0, t) for t in range(2, 7))], dtype=torch.float64)
    differ_from(
        got, BETA, "that is β_t, the variance of the step forth; the posterior also knows x_0. Is ᾱ_{t−1} one index late?"
    )
    assert not close(got[1], 1.0), "the table before ᾱ_0 is filled up with 0: ᾱ_0 is 1, nothing has been lost yet"
    turned = BETA[2:] * (1 - alpha_bar[2:]) / (1 - alpha_bar[1:-1])
    differ_from(got[2:], turned, "the fraction is turned over: a step back is surer than a step forth, β̃_t < β_t")
    differ_from(got[2:], BETA[1:-1], "that is α where ᾱ is meant: the product of all steps so far")
    differ_from(got[2:], 1 - alpha_bar[1:-1], "1 − α_t stands below the line where 1 − ᾱ_t is meant, and cancels β_t")
    differ_from(got, wanted.sqrt(), "that is the standard deviation: the variance is asked for")
    assert abs(got[1].item()) < 1e-15, f"entry 1 is {got[1].item():.3g}: at t = 1 the posterior is certain, since x_0 is known"
    agree(got, wanted, "posterior_variances")
    exact = got.dtype == torch.float64 and close(got[2:] / wanted[2:], torch.ones(5), 1e-9)
    assert exact, "right to seven digits only: somewhere inside it is float32; stay in the float64 of β"


def test_two_steps_back(answer):
    later, earlier = (0.35, 0.7, 0.2), (0.6, 0.45, 0.1)
    got = [
        number(each, name)
        for each, name in zip(several(answer.two_steps_back(later, earlier), 3, "A, B and V"), "ABV", strict=True)
    ]
    noise = torch.randn(2, 400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def twice(x0, x_t):
        between = later[0] * x0 + later[1] * x_t + math.sqrt(later[2]) * noise[0]
        return earlier[0] * x0 + earlier[1] * between + math.sqrt(earlier[2]) * noise[1]

    origin = twice(0.0, 0.0).mean()
    A, B, V = (twice(1.0, 0.0).mean() - origin).item(), (twice(0.0, 1.0).mean() - origin).item(), twice(0.0, 0.0).var().item()
    differ_from(got[0], later[0] * earlier[0], "A: x_0 speaks twice, in the earlier step itself and through x_{t−1}")
    differ_from(got[0], later[0] + later[1] * earlier[0], "A: the steps are exchanged: from t to t − 1 comes first")
    differ_from(got[0], later[0] + earlier[0], "A: what x_0 says of x_{t−1} reaches x_{t−2} through B of the earlier step")
    differ_from(got[2], later[2] + earlier[2], "V: the noise of the first step is multiplied by B of the second")
    differ_from(got[2], earlier[2] + earlier[1] * later[2], "V: noise that is multiplied by B has its variance multiplied by B²")
    differ_from(got[2], later[2] + later[1] ** 2 * earlier[2], "V: the steps are exchanged: from t to t − 1 comes first")
    agree(got[0], A, "A, of x_0")
    agree(got[1], B, "B, of x_t")
    agree(got[2], V, "V, against 400,000 draws", 0.003)
    exact = earlier[2] + (earlier[1] * later[1]) ** 2 * later[2] / later[1] ** 2
    agree(got[2], exact, "V")


def _kl(mean, variance, other_mean, other_variance):
    """KL between Gaussians, as a sum over a grid."""
    p = _normal(GRID, mean, variance)
    log_ratio = -((GRID - mean) ** 2) / (2 * variance) + (GRID - other_mean) ** 2 / (2 * other_variance)
    log_ratio = log_ratio + 0.5 * math.log(other_variance / variance)
    return ((p * log_ratio).sum() * (GRID[1] - GRID[0])).item()


def test_noise_weights(answer):
    variance = torch.tensor([0.0, 0.0, 0.03, 0.08, 0.2, 0.35, 0.5], dtype=torch.float64)
    got = answer.noise_weights(BETA, variance)
    assert got is None or bool(got.isfinite().all()), "something divides by zero at t = 0 or 1: those entries are 0"
    got, wanted = shaped(got, (7,), "noise_weights"), torch.zeros(7, dtype=torch.float64)
    for t in range(2, 7):
        x_t, noise, guess, beta = 0.8, 0.5, -0.2, BETA[t].item()
        means = [(x_t - beta / math.sqrt(1 - _kept(t)) * e) / math.sqrt(1 - beta) for e in (noise, guess)]
        own = 0.7 * beta  # of the posterior; any
        difference = _kl(means[0], own, means[1], variance[t].item()) - _kl(means[0], own, means[0], variance[t].item())
        wanted[t] = difference / (noise - guess) ** 2
    differ_from(got, 2 * wanted, "a Gaussian's exponent has a factor ½")
    differ_from(got[2:], (wanted * (1 - BETA))[2:], "√α_t divides the mean, so α_t divides the weight")
    differ_from(got[2:], (wanted * (1 - torch.cumprod(1 - BETA, 0)) / BETA.clamp(min=1e-9))[2:], "1 − α_t where 1 − ᾱ_t is meant")
    early = (wanted[2:] * (1 - torch.cumprod(1 - BETA, 0))[2:]) / (1 - torch.cumprod(1 - BETA, 0))[1:-1]
    differ_from(got[2:], early, "1 − ᾱ_{t−1} stands where 1 − ᾱ_t is meant: ε is the noise in x_t")
    tilde = torch.tensor([_by_bayes(0.0, t) for t in range(2, 7)], dtype=torch.float64)
    differ_from(got[2:], wanted[2:] * variance[2:] / tilde, "β̃_t stands where V_t is meant: the model has a variance of its own")
    differ_from(got[2:], (wanted / BETA)[2:], "the step takes out β_t/σ_t of the noise: β_t is squared")
    differ_from(got[2:], (wanted * variance)[2:], "the variance V_t of the model divides the squared difference of the means")
    assert got[0] == 0 and got[1] == 0, "entries 0 and 1 are 0: L_0 is no KL between Gaussians"
    agree(got, wanted, "noise_weights, against KLs on a grid")


def test_price_of_variance(answer):
    for v in (0.2, 3.0):
        variance = 1.3 * BETA
        got = answer.price_of_variance(BETA, v, variance)
        infinite = isinstance(got, torch.Tensor) and got.shape == BETA.shape and bool(got[1].isinf())
        assert not infinite, "entry 1 is infinite: that compares with β̃_t, which knows x_0 and is 0 at t = 1; see the hint"
        got = shaped(got, (7,), "price_of_variance")
        true = torch.tensor([1.0, *(_by_bayes(v, t) for t in range(1, 7))], dtype=torch.float64)
        used = torch.cat([true[:1], variance[1:]])
        wanted = torch.tensor(
            [_kl(0.0, a, 0.0, b) for a, b in zip(true.tolist(), used.tolist(), strict=True)], dtype=torch.float64
        )
        rho = used / true
        differ_from(
            got,
            0.5 * (rho - 1 - rho.log()),
            "the KL is turned round: the mean is over q, so the true variance stands above",
            1e-4,
        )
        differ_from(got, 2 * wanted, "the KL between Gaussians has a factor ½", 1e-4)
        differ_from(
            got[2:],
            _with_posterior(variance)[2:],
            "that compares with β̃_t, which knows x_0; on average over the data q counts",
            1e-4,
        )
        differ_from(got, torch.full_like(got, wanted.sum().item()), "one number for each step is asked for, not their sum", 1e-4)
        step = BETA[1:] / variance[1:]
        differ_from(got[1:], 0.5 * (step - 1 - step.log()), "the true variance is not β_t, unless the data have variance 1", 1e-4)
        assert got[1] > 0, "the step from 1 to 0 has its price too"
        agree(got, wanted, f"price_of_variance for v = {v}, against KLs on a grid", 1e-5)
    free = answer.price_of_variance(BETA, 1.0, BETA)
    assert bool(free.abs().max() < 1e-12), "data of variance 1 with V_t = β_t: that is the true variance, and costs nothing"


def _with_posterior(variance):
    """What the price would be if the true variance were β̃_t."""
    alpha_bar = torch.cumprod(1 - BETA, 0)
    rho = torch.ones_like(BETA)
    rho[2:] = BETA[2:] * (1 - alpha_bar[1:-1]) / (1 - alpha_bar[2:]) / variance[2:]
    return 0.5 * (rho - 1 - rho.log())


def _pair(v, t, places):
    """The density of x_t at some places, for data near −1 (a third of them) and near 1.5, each with variance v."""
    kept = _kept(t)
    return sum(w * _normal(places, math.sqrt(kept) * m, kept * v + 1 - kept) for w, m in ((1 / 3, -1.0), (2 / 3, 1.5)))


def _guess(v, t, x_t):
    """E[x_0 | x_t], the data times the noise on a grid."""
    return _moments(_pair(v, 0, GRID) * _normal(x_t, math.sqrt(_kept(t)) * GRID, 1 - _kept(t)))[0]


def test_best_variances(answer):
    alpha_bar = torch.cumprod(1 - BETA, 0)
    a, noise = alpha_bar.sqrt(), 1 - alpha_bar
    for v, x_t in ((0.05, 0.4), (0.3, -0.2)):
        slope, wanted = torch.zeros(7, dtype=torch.float64), torch.zeros(7, dtype=torch.float64)
        for t in range(1, 7):
            slope[t] = (_guess(v, t, x_t + 1e-4) - _guess(v, t, x_t - 1e-4)) / 2e-4
            wanted[t] = _moments(_pair(v, t - 1, GRID) * _normal(x_t, math.sqrt(1 - BETA[t].item()) * GRID, BETA[t].item()))[1]
        got = asked(answer.best_variances, BETA, slope)
        nothing = isinstance(got, torch.Tensor) and bool(got.isnan().any())
        assert not nothing, "0/0 at t = 0: there is no step from there, its entry is 0"
        got = shaped(got, (7,), "best_variances")
        tilde, c = BETA[1:] * noise[:-1] / noise[1:], a[:-1] * BETA[1:] / noise[1:]
        spread = noise[1:] / a[1:] * slope[1:]  # Var(x_0 | x_t)
        for mistake, message in (
            (tilde, "that is β̃_t, the variance when x_0 is known; the guess leaves something open"),
            (c**2 * spread, "that is what the guess leaves open; the step adds its own noise, β̃_t, to it"),
            (tilde + spread, "Var(x_0 | x_t) is added as it is; the mean of the step moves by less than x_0 does"),
            (tilde + c * spread, "x_0 is multiplied by a_{t−1}β_t/σ_t² in the mean: its variance by the square of that"),
            (tilde + c**2 * slope[1:], "the slope is not yet Var(x_0 | x_t): a factor σ_t²/a_t is missing"),
            (
                tilde + c**2 * noise[1:] * slope[1:],
                "√ᾱ_t is missing: x_0 stands in x_t as a_t x_0, so the slope is a_t/σ_t² Var(x_0 | x_t)",
            ),
            (tilde + c**2 * noise[1:].sqrt() / a[1:] * slope[1:], "σ_t² is meant, not σ_t"),
            (
                tilde + c**2 * noise[1:] / alpha_bar[1:] * slope[1:],
                "a root is missing: a_t = √ᾱ_t, not ᾱ_t, multiplies x_0 in x_t",
            ),
        ):
            differ_from(got[1:], mistake, message)
        assert got[0] == 0, "entry 0 is 0: there is no step from t = 0"
        agree(got, wanted, "best_variances, against Bayes' rule on a grid", 1e-5)
