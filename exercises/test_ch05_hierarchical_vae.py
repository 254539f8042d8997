"""Checks of chapter 05's exercises."""

import itertools
import math

import torch
from checks import agree, differ_from, number, several, shaped

TOP = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=torch.float64)
DOWN = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.2, 0.1, 0.7]], dtype=torch.float64)
SEEN = torch.tensor([[0.05, 0.30, 0.20], [0.40, 0.02, 0.10]], dtype=torch.float64)
UP = torch.tensor([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]], dtype=torch.float64)
HIGHER = torch.tensor([[0.6, 0.1, 0.2, 0.1], [0.2, 0.5, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
PAIR_Q = torch.tensor([[0.30, 0.05], [0.10, 0.25], [0.02, 0.28]], dtype=torch.float64)
PAIR_P = torch.tensor([[0.10, 0.20], [0.15, 0.05], [0.30, 0.20]], dtype=torch.float64)
POINT = torch.tensor([1.5, -0.5, 2.0], dtype=torch.float64)
VARIANCES = torch.tensor([0.2, 0.5, 0.9, 1.3], dtype=torch.float64)
X = torch.tensor([[0.3, -1.0], [2.0, 0.5], [-1.5, 0.8]], dtype=torch.float64)
ABOVE = torch.tensor([[0.9, -0.2], [1.0, 1.5], [-0.3, 2.0]], dtype=torch.float64)
DATA = torch.tensor([-1.2, 0.4, 2.5], dtype=torch.float64)
WORLD = ((0.7, 0.5, 0.4), (0.8, 0.3), (0.6, 0.9))


def _pairs_by_loops(weight, value):
    """Σ over z_1 and z_2 of weight(n, a, b) · value(n, a, b) for each datum, entry by entry."""
    places = list(itertools.product(range(3), range(4)))
    return torch.tensor([sum(weight(n, a, b) * value(n, a, b) for a, b in places) for n in range(2)], dtype=torch.float64)


def test_elbo_of_tables(answer):
    def q(n, a, b):
        return (UP[n, a] * HIGHER[a, b]).item()

    def log_ratio(n, a, b):
        return math.log((TOP[b] * DOWN[b, a] * SEEN[n, a]).item()) - math.log(q(n, a, b))

    got = shaped(answer.elbo_of_tables(TOP, DOWN, SEEN, UP, HIGHER), (2,), "elbo_of_tables")
    wanted = _pairs_by_loops(q, log_ratio)
    evidence = (SEEN @ (TOP @ DOWN)).log()
    differ_from(got, evidence, "that is log p(x), which q does not enter: the bound should depend on the guess")
    differ_from(got, -wanted, "that is −ELBO: joint over q, not q over joint")
    reconstruction = (UP * SEEN.log()).sum(1)
    differ_from(got, reconstruction, "that is the reconstruction alone: what q costs is missing")
    drawn = UP @ HIGHER  # q(z_2 | x)
    apart = _pairs_by_loops(lambda n, a, b: (UP[n, a] * drawn[n, b]).item(), log_ratio)
    differ_from(
        got, apart, "z_1 and z_2 must come from one climb: weigh a pair by q(z_1 | x) q(z_2 | z_1), not by q(z_1 | x) q(z_2 | x)"
    )
    entropy = _pairs_by_loops(q, lambda n, a, b: math.log(q(n, a, b)))
    differ_from(got, wanted + entropy, "log q(z_1, z_2 | x) is missing")
    one_level = _pairs_by_loops(q, lambda n, a, b: log_ratio(n, a, b) + math.log(HIGHER[a, b].item()))
    differ_from(got, one_level, "log q(z_2 | z_1) is missing: q pays for both of its links")
    without_top = _pairs_by_loops(q, lambda n, a, b: log_ratio(n, a, b) - math.log(TOP[b].item()))
    differ_from(got, without_top, "log p(z_2), the prior of the top, is missing")
    differ_from(got, wanted / 12, "an expectation over q is a weighted sum; do not divide it by the number of pairs as well")
    agree(got, wanted, "elbo_of_tables")
    assert bool((got < evidence).all()), "above log p(x): no lower bound"
    exact_up = SEEN * (TOP @ DOWN) / (SEEN @ (TOP @ DOWN))[:, None]
    exact_higher = (TOP[:, None] * DOWN).T / (TOP @ DOWN)[:, None]
    agree(
        answer.elbo_of_tables(TOP, DOWN, SEEN, exact_up, exact_higher),
        evidence,
        "elbo_of_tables at the posterior, where it is log p(x)",
    )


def test_split_divergence(answer):
    top, below = several(answer.split_divergence(PAIR_Q, PAIR_P), 2, "split_divergence")
    top, below = shaped(top, (), "the KL at the top"), shaped(below, (), "the mean KL below")
    q, p = PAIR_Q.tolist(), PAIR_P.tolist()

    def kl(first, second):
        return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))

    q_top, p_top = [sum(row[b] for row in q) for b in range(2)], [sum(row[b] for row in p) for b in range(2)]
    q_first, p_first = [sum(row) for row in q], [sum(row) for row in p]
    whole, right_top = kl(PAIR_Q.flatten().tolist(), PAIR_P.flatten().tolist()), kl(q_top, p_top)
    columns = [kl([row[b] / q_top[b] for row in q], [row[b] / p_top[b] for row in p]) for b in range(2)]
    right_below = sum(weight * each for weight, each in zip(q_top, columns, strict=True))
    differ_from(top, kl(q_first, p_first), "that is the KL of z_1. The top is z_2: which dimension of the table is summed out?")
    differ_from(top, kl(p_top, q_top), "the KL is the wrong way round: it averages over q")
    agree(top, right_top, "the KL at the top")
    differ_from(
        below,
        sum(w * e for w, e in zip(p_top, columns, strict=True)),
        "the mean of the KLs below is over q(z_2), not over p(z_2)",
    )
    differ_from(below, sum(columns), "the KLs below are averaged over q(z_2), not added up")
    differ_from(below, sum(columns) / 2, "the values of z_2 are not equally likely: weigh their KLs by q(z_2)")
    differ_from(
        below, kl(q_first, p_first), "KL(q(z_1) ‖ p(z_1)) would do if z_1 and z_2 were independent; here z_2 must be given"
    )
    differ_from(below, whole, "that is the KL of the pair. The part at the top is in it: z_1 must be conditioned on z_2")
    agree(below, right_below, "the mean KL below")
    agree(top + below, whole, "the two parts together, which are the KL of the pair")


def _matching(beta, level, x, *, power=1.0, half=0.5, width=1.0):
    """KL(q(z_L | x) ‖ N(0, I)), going link by link; the options make the mistakes."""
    mean, variance = x.clone(), 0.0
    for _ in range(level):
        mean, variance = (1 - beta) ** (power / 2) * mean, (1 - beta) * variance + beta
    return sum(half * (m**2 + width * (variance - 1 - math.log(variance))) for m in mean.tolist())


def _smallest(beta, x, tolerance, **options):
    return next(level for level in itertools.count(1) if _matching(beta, level, x, **options) <= tolerance)


def test_levels_needed(answer):
    cases = [(0.02, POINT, 0.01), (0.05, 0.2 * POINT, 0.02), (0.1, POINT, 1e-3), (0.3, 4 * POINT, 0.05), (0.9, 0.1 * POINT, 5.0)]
    for beta, x, tolerance in cases:
        got = answer.levels_needed(beta, x.clone(), tolerance)
        value = number(got, "levels_needed")
        assert isinstance(got, int) and not isinstance(got, bool), f"levels_needed counts links: an int is wanted, not {got!r}"
        wanted, dimensions = _smallest(beta, x, tolerance), len(x)
        if value != wanted:
            wrong = {
                "the KL is summed over dimensions, not averaged": {"half": 0.5 / dimensions},
                "the KL between Gaussians has a factor ½": {"half": 1.0},
                "the mean is only half of it: q(z_L | x) is narrower than N(0, I) as well, and that costs": {"width": 0.0},
                "the mean shrinks by √(1 − β) a link, not by 1 − β": {"power": 2.0},
            }
            for mistake, options in wrong.items():
                differ_from(value, _smallest(beta, x, tolerance, **options), mistake)
        found = f"β = {beta}, {dimensions} dimensions, at most {tolerance} nats"
        assert value != wanted - 1, f"{found}: at L = {wanted - 1} the KL is still above that. Off by one?"
        assert value != wanted + 1, f"{found}: the KL is there one link earlier. Off by one?"
        agree(value, float(wanted), f"levels_needed for {found}")


def test_bridge(answer):
    for level in (1, 2, 3):
        mean, variance = several(answer.bridge(VARIANCES, level, X, ABOVE), 2, "bridge")
        mean, variance = shaped(mean, (3, 2), "the mean"), shaped(variance, (), "the variance")
        # x, z_l and z_{l+1} as one Gaussian given x: variances of sums of independent steps, then the rule for conditionals
        here = sum(VARIANCES.tolist()[:level])
        there = here + VARIANCES[level].item()
        wanted_mean, wanted_variance = X + here / there * (ABOVE - X), here - here**2 / there
        differ_from(variance, VARIANCES[level], "that is the variance of the step up; z_l is known better, since x is known too")
        differ_from(variance, here, "that is q(z_l | x): z_{l+1} is known as well")
        last = VARIANCES[level - 1].item()
        neighbour = 1 / (1 / last + 1 / VARIANCES[level].item())
        if level > 1:
            differ_from(variance, neighbour, "from below it is x that is known, not z_{l−1}: the variances of all l steps add up")
            early = sum(VARIANCES.tolist()[: level - 1])
            late = 1 / (1 / early + 1 / last)
            differ_from(variance, late, "one level too low: entry i of `variances` belongs to level i + 1")
        whole = 1 / (1 / here + 1 / there)
        differ_from(variance, whole, "from above, only the one step from z_l to z_{l+1} lies between, not the whole way from x")
        differ_from(variance, 1 / wanted_variance, "that is the precision; the variance is its inverse")
        differ_from(variance, math.sqrt(wanted_variance), "that is the standard deviation; the variance is asked for")
        differ_from(
            mean,
            X + (1 - here / there) * (ABOVE - X),
            "the weights of x and z_{l+1} are exchanged: the nearer one counts for more",
        )
        differ_from(mean, (X + ABOVE) / 2, "x and z_{l+1} weigh as their precisions do, not equally")
        agree(variance, wanted_variance, f"the variance at level {level}")
        agree(mean, wanted_mean, f"the mean at level {level}")


def test_skip_reconstruction(answer):
    got = shaped(answer.skip_reconstruction(DATA, *WORLD), (3,), "skip_reconstruction")
    (a, c, s2), (u, v1), (w, v2) = WORLD
    first = u * DATA[:, None, None] + math.sqrt(v1) * torch.tensor([-1.0, 1.0], dtype=torch.float64)[:, None]
    second = w * first + math.sqrt(v2) * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    # coins for noise, (05.8): four climbs have the mean of all
    wanted = (-0.5 * (math.log(2 * math.pi * s2) + (DATA[:, None, None] - a * first - c * second) ** 2 / s2)).mean((1, 2))

    def mistaken(spread):
        centre = (a + c * w) * u * DATA
        return -0.5 * (math.log(2 * math.pi * s2) + ((DATA - centre) ** 2 + spread) / s2)

    differ_from(got, mistaken(0.0), "that is log p(x | mean of z): the price of being unsure is missing, as in (03.6)")
    apart = a**2 * v1 + c**2 * (w**2 * v1 + v2)
    differ_from(
        got, mistaken(apart), "z_1 and z_2 are not independent: z_2 was drawn from z_1, so the noise of z_1 reaches x on two ways"
    )
    differ_from(got, mistaken(a**2 * v1 + c**2 * v2), "the noise of z_1 is in z_2 as well")
    differ_from(got, mistaken((a + c * w) ** 2 * v1), "the noise of z_2 itself is missing")
    differ_from(got, mistaken((a + c * w) ** 2 * v1**2 + c**2 * v2**2), "v_1 and v_2 are variances, not standard deviations")
    centre = a * u * DATA + c * w * DATA
    differ_from(
        got,
        wanted - 0.5 * ((DATA - centre) ** 2 - (DATA - (a + c * w) * u * DATA) ** 2) / s2,
        "z_2 is drawn from z_1, not from x",
    )
    summed = (a + c * w) ** 2 * v1 + c**2 * v2
    marginal = -0.5 * (math.log(2 * math.pi * (s2 + summed)) + (DATA - (a + c * w) * u * DATA) ** 2 / (s2 + summed))
    differ_from(got, marginal, "that is the logarithm of a mean density; wanted is the mean of the logarithm")
    agree(got, wanted, "skip_reconstruction")
