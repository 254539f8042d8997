"""Checks of chapter 10's exercises."""

import math

import torch
from checks import agree, asked, differ_from, doubles, several, shaped

BETA = torch.tensor([0.0, 0.02, 0.05, 0.1, 0.08, 0.2, 0.3, 0.25], dtype=torch.float64)
T = len(BETA) - 1
KEPT = [math.prod((1 - BETA[: t + 1]).tolist()) for t in range(T + 1)]  # ᾱ


def _randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ancestral_step(answer):
    x_t, noise_hat, z = _randn(3, 2, 2), _randn(3, 2, 2, seed=1), _randn(3, 2, 2, seed=2)
    for t in (5, 2):
        got = shaped(asked(answer.ancestral_step, BETA, t, x_t, noise_hat, z), (3, 2, 2), "ancestral_step").double()
        b, now, before = BETA[t].item(), KEPT[t], KEPT[t - 1]
        small = b * (1 - before) / (1 - now)
        guess = (x_t - math.sqrt(1 - now) * noise_hat) / math.sqrt(now)  # the mean by (07.3)
        mean = math.sqrt(before) * b / (1 - now) * guess + math.sqrt(1 - b) * (1 - before) / (1 - now) * x_t
        differ_from(got, mean, "the mean alone: where is the noise z?")
        differ_from(got, mean + math.sqrt(b) * z, "that is the variance β_t; asked is β̃_t, which is smaller")
        differ_from(got, mean + small * z, "a variance multiplies noise by its root")
        differ_from(got, mean + math.log(small) * z, "a logarithm of the variance multiplies nothing")

        def step(share, sign=-1, a=1 - b, small=small):
            return (x_t + sign * share * noise_hat) / math.sqrt(a) + math.sqrt(small) * z

        differ_from(got, step(b / math.sqrt(1 - now), 1), "noise was put in, not taken out: mind the sign of ε̂")
        differ_from(got, step(b / math.sqrt(b)), "β_t/√(1 − α_t): under the root stands ᾱ_t, all the noise in x_t")
        differ_from(got, step(b / (1 - now)), "β_t/σ_t, with σ_t = √(1 − ᾱ_t): a root is missing")
        differ_from(got, step(b / math.sqrt(1 - now), a=now), "the whole is divided by √α_t, of one step, not by √ᾱ_t")
        upside = b * (1 - now) / (1 - before)
        differ_from(got, step(b / math.sqrt(1 - now), small=upside), "β̃_t upside down: it is smaller than β_t, not larger")
        differ_from(got, step(math.sqrt(1 - now), a=now), "all of the noise was taken out at once: that jumps to x̂_0")
        if t > 1:
            differ_from(got, step(b / math.sqrt(1 - before)), "ᾱ_{t−1} where ᾱ_t belongs: one place off")
        agree(got, mean + math.sqrt(small) * z, f"ancestral_step at t = {t}", 1e-9)


def test_ancestral_step__last(answer):
    x_t, noise_hat, z = _randn(3, 2), _randn(3, 2, seed=1), _randn(3, 2, seed=2)
    got = shaped(asked(answer.ancestral_step, BETA, 1, x_t, noise_hat, z), (3, 2), "ancestral_step at t = 1").double()
    wanted = (x_t - math.sqrt(1 - KEPT[1]) * noise_hat) / math.sqrt(KEPT[1])
    assert torch.allclose(got, asked(answer.ancestral_step, BETA, 1, x_t, noise_hat, 0 * z)), (
        "noise on the last step: at t = 1, β̃_1 = 0 and nothing is added"
    )
    agree(got, wanted, "ancestral_step at t = 1, where it is x̂_0", 1e-9)


def test_average_shares(answer):
    for decay, updates in ((0.9, 40), (0.999, 50), (0.0, 4), (0.5, 1)):
        what = f"average_shares({decay}, {updates})"
        got = asked(answer.average_shares, decay, updates)
        assert got is None or tuple(got.shape) != (updates + 1,), "one share for each update; the first copy has none left"
        got = doubles(got, (updates,), what)
        average, plain, early = (torch.zeros(updates, dtype=torch.float64) for _ in range(3))
        for n in range(updates):  # each θ_n as a coordinate of its own
            one = torch.zeros(updates, dtype=torch.float64)
            one[n] = 1
            d, d_early = min(decay, n / (10 + n)), min(decay, (n + 1) / (11 + n))
            average, plain, early = (
                d * average + (1 - d) * one,
                decay * plain + (1 - decay) * one,
                d_early * early + (1 - d_early) * one,
            )
        if decay and updates > 1:
            differ_from(got, plain, "the same d at every update: early on it is n/(10 + n), which is smaller")
            differ_from(got, average.flip(0), "the other way round: the latest weights have the largest share")
            differ_from(got, early, "d_0 is 0: the first update is n = 0, not 1")
            d = (torch.arange(updates).double() / (10 + torch.arange(updates).double())).clamp(max=decay)
            d_other = ((1 + torch.arange(updates).double()) / (10 + torch.arange(updates).double())).clamp(max=decay)
            for wrong, mistake in (
                (d_other, "d_n is n/(10 + n), not (1 + n)/(10 + n): at n = 0 nothing of the copy is kept"),
                (
                    torch.full_like(d, decay).index_fill(0, torch.tensor([0]), 0.0),
                    "d_n grows from 0 to its limit bit by bit, not at once",
                ),
            ):
                after = torch.cat([wrong[1:], wrong.new_ones(1)]).flip(0).cumprod(0).flip(0)
                differ_from(got, (1 - wrong) * after, mistake)
            differ_from(got, 1 - d, "that is the factor with which θ_n comes in; later updates shrink it")
            differ_from(
                got, (1 - d) * d ** (updates - 1 - torch.arange(updates).double()), "later updates have later d's, not d_n again"
            )
            differ_from(
                got,
                (1 - d) * d.flip(0).cumprod(0).flip(0),
                "θ_n is not shrunk by its own update: the product begins with d_{n+1}",
            )
        agree(got, average, what, 1e-9)


def test_best_share(answer):
    error = torch.tensor([0.0, 0.001, 0.01, 0.03, 0.06, 0.1, 1.5, 0.4], dtype=torch.float64)  # at t = 6 larger than σ_t²
    got = shaped(asked(answer.best_share, BETA, error), (T + 1,), "best_share").double()
    assert bool((got[:2] == 0).all()), "the entries at t = 0 and 1 are 0: where β̃_t is 0 there is no such ρ"

    def of(variance):
        found = [0.0, 0.0]
        for t in range(2, T + 1):
            small = BETA[t].item() * (1 - KEPT[t - 1]) / (1 - KEPT[t])
            found.append(variance(t, small))
        return torch.tensor(found, dtype=torch.float64)

    def mixed(t, small, extra):
        return math.log((small + extra) / small) / math.log(BETA[t].item() / small)

    def extra(t):
        return KEPT[t - 1] * (BETA[t].item() / (1 - KEPT[t])) ** 2 * error[t].item()

    right = of(lambda t, small: mixed(t, small, extra(t)))
    assert right[6] > 1
    differ_from(got, right.clamp(0, 1), "cut at 1: a guess that is wrong by more than σ_t² wants a variance above β_t")
    differ_from(got[2:], 1 - right[2:], "turned round: ρ = 0 is β̃ and ρ = 1 is β")
    straight = of(lambda t, small: extra(t) / (BETA[t].item() - small))
    differ_from(got, straight, "a straight line in the variance; (10.6) has one in its logarithm")
    unsquared = of(lambda t, small: mixed(t, small, math.sqrt(KEPT[t - 1]) * BETA[t].item() / (1 - KEPT[t]) * error[t].item()))
    differ_from(got, unsquared, "an error is multiplied by the share of x̂_0 in the mean, its square by that share's square")
    whole = of(lambda t, small: mixed(t, small, (BETA[t].item() / (1 - KEPT[t])) ** 2 * error[t].item()))
    differ_from(got, whole, "the share of x̂_0 in the mean is a_{t−1}β_t/σ_t²: a_{t−1} was forgotten")
    late = of(lambda t, small: mixed(t, small, KEPT[t] * (BETA[t].item() / (1 - KEPT[t])) ** 2 * error[t].item()))
    differ_from(got, late, "x̂_0 stands in the mean with a_{t−1}, not with a_t")
    alone = of(lambda t, small: math.log(extra(t) / small) / math.log(BETA[t].item() / small))
    differ_from(got, alone, "the best variance is β̃_t *plus* what the error of x̂_0 adds")
    agree(got, right, "best_share", 1e-8)
    line = torch.linspace(-0.05, 0.05, 101, dtype=torch.float64)
    for t in (2, 5):  # and by brute force: the cost of a step along a fine grid of v
        small = BETA[t].item() * (1 - KEPT[t - 1]) / (1 - KEPT[t])
        log_var = (got[t] + line) * math.log(BETA[t].item()) + (1 - got[t] - line) * math.log(small)
        cost = 0.5 * (log_var + (small + extra(t)) * torch.exp(-log_var))
        assert int(cost.argmin()) == 50, f"at t = {t} another ρ costs less"


def test_logistic_levels(answer):
    mean, scale, levels = torch.tensor([0.1, -0.9, 1.3, 0.0]).double(), torch.tensor([0.1, 0.02, 0.3, 5.0]).double(), 16
    got = shaped(asked(answer.logistic_levels, mean, scale, levels), (4, levels), "logistic_levels").double()

    def table(edges_of):
        rows = []
        for m, s in zip(mean.tolist(), scale.tolist(), strict=True):
            rows.append([(math.tanh((b - m) / s / 2) - math.tanh((a - m) / s / 2)) / 2 for a, b in map(edges_of, range(levels))])
        return torch.tensor(rows, dtype=torch.float64)

    step, half = 2 / (levels - 1), 1 / (levels - 1)

    def open_edges(k, half=half):
        x = -1 + k * step
        return (-2000.0 if k == 0 else x - half), (2000.0 if k == levels - 1 else x + half)

    closed = table(lambda k: (-1 + k * step - half, -1 + k * step + half))
    differ_from(got, closed, "what lies beyond black and white is lost: the outer intervals reach to infinity")
    differ_from(
        got, closed / closed.sum(1, keepdim=True), "divided by the sum: the mass beyond belongs to the outer levels alone"
    )
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    u = (x - mean[:, None]) / scale[:, None]
    density = torch.sigmoid(u) * torch.sigmoid(-u) / scale[:, None]
    differ_from(got, density * step, "a density times a width is not the integral")
    differ_from(got, density / density.sum(1, keepdim=True), "a density, made to sum to 1, is not the integral")
    bytes_ = table(lambda k: open_edges(k, 1 / 255))
    differ_from(got, bytes_, "half a level is 1/255 for 256 levels only; here it is 1/(levels − 1)")
    lines = [-2000.0, *x.tolist()[1:], 2000.0]
    differ_from(got, table(lambda k: (lines[k], lines[k + 1])), "the edges lie half-way between the levels, not on them")
    lines = [-2000.0, *x.tolist()[:-1], 2000.0]
    differ_from(got, table(lambda k: (lines[k], lines[k + 1])), "the edges lie half-way between the levels, not on them")
    edges = torch.cat([torch.tensor([-2000.0]), (x[1:] + x[:-1]) / 2, torch.tensor([2000.0])]).double()
    normal = torch.special.ndtr((edges - mean[:, None]) / scale[:, None]).diff()
    differ_from(got, normal, "that is the Gaussian's distribution function; asked is the logistic one")
    wide = table(lambda k: open_edges(k, 1 / levels))
    differ_from(got, wide, "levels from −1 to 1, both included, are 2/(levels − 1) apart, not 2/levels")
    wanted = table(open_edges)
    differ_from(got, wanted.flip(1), "the other way round: darkest first")
    agree(got, wanted, "logistic_levels", 1e-9)
    two = asked(answer.logistic_levels, mean, scale, 2)
    agree(shaped(two, (4, 2), "logistic_levels with 2 levels").sum(1), torch.ones(4), "the sum over 2 levels", 1e-9)
    mean, scale = torch.tensor([-1.0], dtype=torch.float64), torch.tensor([0.02], dtype=torch.float64)
    far = shaped(asked(answer.logistic_levels, mean, scale, levels), (1, levels), "a far tail")
    assert abs(far[0, -1].item() / math.exp(-(2 - half) / 0.02) - 1) < 1e-6, (
        "far above the mean two values near 1 are subtracted, and no digits are left: take the lower tail there"
    )


def test_importance_times(answer):
    generator = torch.Generator().manual_seed(3)
    size = torch.tensor([0.0, 9.0, 4.0, 1.0, 0.5, 0.2], dtype=torch.float64)
    losses = size[:, None] * torch.rand(6, 40, generator=generator, dtype=torch.float64) ** torch.tensor(
        [[1.0], [4], [1], [1], [2], [1]]
    )
    losses[0] = 7.0  # of no use, and it should not be used
    p, w = several(asked(answer.importance_times, losses), 2, "importance_times")
    p, w = shaped(p, (6,), "p").double(), shaped(w, (6,), "w").double()
    assert p[0] == 0 and w[0] == 0, "t = 0 is never drawn: the entries at 0 are 0"
    means, squares = losses[1:].mean(1), losses[1:].square().mean(1)

    def shares(value):
        return torch.cat([torch.zeros(1).double(), value / value.sum()])

    differ_from(p, shares(torch.ones(5)), "uniform: nothing is gained")
    differ_from(p, shares(means), "in proportion to E[L]: best would be that if L did not vary at fixed t; it is √E[L²]")
    spread = losses[1:].var(1, correction=0)
    for correction in (0, 1):
        wrong = shares(losses[1:].std(1, correction=correction))
        differ_from(p, wrong, "in proportion to the deviation of L: its mean counts too; it is √E[L²]")
    differ_from(p, shares(spread), "in proportion to the variance of L: its mean counts too; it is √E[L²]")
    differ_from(p, shares(squares), "in proportion to E[L²]: a root is missing")
    differ_from(p, shares(1 / squares.sqrt()), "the wrong way: large losses should be drawn often")
    whole = shares(losses.square().mean(1).sqrt())[1:]
    differ_from(p, whole, "row 0 was used: there is no t = 0 to draw")
    right = shares(squares.sqrt())
    agree(p, right, "p", 1e-9)
    unweighted = torch.ones(5).double()
    differ_from(w[1:], unweighted, "weights of 1: the mean would be that of the large losses")
    differ_from(w[1:], 1 / p[1:], "1/p_t makes it the sum over t; for the mean there is a T too")
    differ_from(w[1:], 1 / (6 * p[1:]), "there are T times to draw, not T + 1")
    differ_from(
        w[1:], 1 / p[1:] / (1 / p[1:]).sum(), "weights that sum to 1 do not keep the mean; what does Σ p_t w_t L_t have to be?"
    )
    differ_from(
        w[1:], 1 / p[1:] / (1 / p[1:]).mean(), "weights of mean 1 do not keep the mean; what does Σ p_t w_t L_t have to be?"
    )
    agree((p * w * torch.cat([torch.zeros(1).double(), means])).sum(), means.mean(), "Σ p_t w_t E[L_t], the mean over t", 1e-9)
    agree(w[1:], 1 / (5 * right[1:]), "w", 1e-9)
