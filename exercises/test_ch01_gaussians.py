"""Checks of chapter 01's exercises: `pytest exercises/test_ch01_gaussians.py`."""

import math

import torch
from checks import agree, asked, differ_from, number, shaped
from torch import Tensor


def _numbers(*rows: list[float]) -> Tensor:
    return torch.tensor(rows if len(rows) > 1 else rows[0], dtype=torch.float64)


def _log_density(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    return -0.5 * (math.log(2 * math.pi) + log_var + (x - mean) ** 2 / torch.exp(log_var))


def _information(joint: list[list[float]], other_way: bool = False) -> float:
    """Bit by bit, entry by entry."""
    rows, columns = [sum(row) for row in joint], [sum(column) for column in zip(*joint, strict=True)]
    total = 0.0
    for i, row in enumerate(joint):
        for j, chance in enumerate(row):
            apart = rows[i] * columns[j]
            if chance > 0:
                total += apart * math.log2(apart / chance) if other_way else chance * math.log2(chance / apart)
    return total


def test_mutual_information(answer):
    joint = [[0.10, 0.25, 0.05], [0.30, 0.02, 0.28]]
    got = number(asked(answer.mutual_information, _numbers(*joint)), "mutual_information")
    wanted = _information(joint)
    differ_from(got, wanted * math.log(2), "that is in nats; bits are asked for")
    differ_from(got, -wanted, "the sign is wrong: the joint distribution is what is true, and stands in the numerator")
    differ_from(
        got, _information(joint, True), "that is KL(p(x) p(z) ‖ p(x, z)), the other direction: the mean is over the joint"
    )
    everything = -sum(chance * math.log2(chance) for row in joint for chance in row)
    differ_from(got, everything, "that is the entropy of the joint distribution: what would it be if x and z were independent?")
    agree(got, wanted, "mutual_information")


def test_mutual_information__of_independent_variables(answer):
    got = number(
        asked(answer.mutual_information, _numbers([0.12, 0.28], [0.18, 0.42])), "mutual_information of independent variables"
    )
    agree(got, 0.0, "independent variables tell nothing about each other, so there are 0 bits")


def test_mutual_information__of_a_copy(answer):
    """x and z are the same variable: each tells all of the other. The table has zeros."""
    joint = torch.diag(_numbers([0.5, 0.25, 0.125, 0.125]))
    got = asked(answer.mutual_information, joint)
    assert not math.isnan(float(got)), "not a number: entries that are 0 must add nothing (0 log 0 = 0)"
    agree(number(got, "mutual_information of a copy"), 1.75, "of a copy of itself, x has all its entropy in common")


def test_fit_weighted(answer):
    """Whole weights are repetitions."""
    x = _numbers([1.0, -2.0, 0.3], [2.0, 0.5, 0.1], [4.0, 3.0, -0.7], [-1.0, 1.0, 0.2])
    weights = _numbers([3.0, 1.0, 2.0, 4.0])
    mean, log_var = asked(answer.fit_weighted, x, weights)
    mean, log_var = shaped(mean, (3,), "the mean"), shaped(log_var, (3,), "the log-variance")
    seen = x.repeat_interleave(weights.long(), 0)
    differ_from(mean, x.mean(0), "the mean does not look at the weights")
    differ_from(mean, (weights[:, None] * x).mean(0), "divide by the sum of the weights, not by the number of examples")
    agree(mean, seen.mean(0), "the mean")
    right = seen.var(0, correction=0)
    differ_from(log_var, 0.5 * right.log(), "that is log σ; log σ² is asked for")
    differ_from(log_var, right, "that is σ²; its logarithm is asked for")
    differ_from(log_var, seen.var(0).log(), "that is the unbiased variance (N − 1); the likelihood is largest with N itself")
    about = torch.log(((x - seen.mean(0)) ** 2).mean(0))
    differ_from(log_var, about, "the squared distances carry the weights too")
    agree(log_var, right.log(), "log σ²")


def test_fit_weighted__in_another_unit_of_weight(answer):
    x, weights = _numbers([1.0, 5.0], [2.0, 0.0], [4.0, 1.0]), _numbers([0.2, 0.5, 0.1])
    one, ten = asked(answer.fit_weighted, x, weights), asked(answer.fit_weighted, x, 10 * weights)
    for a, b, what in zip(one, ten, ("the mean", "log σ²"), strict=True):
        agree(shaped(b, (2,), what), shaped(a, (2,), what), f"{what} must not change when all weights are multiplied by ten")


def test_kl_gaussians(answer):
    mean1, mean2 = _numbers([0.5, -1.0, 2.0], [0.0, 1.0, 0.2]), _numbers([0.0, -0.4, 1.0], [1.0, 1.0, 0.5])
    log_var1, log_var2 = _numbers([0.2, -0.8, 0.1], [0.9, 0.3, -0.5]), _numbers([0.7, 0.1, -0.3], [0.2, -0.6, 0.4])
    got = shaped(asked(answer.kl_gaussians, mean1, log_var1, mean2, log_var2), (2,), "kl_gaussians")

    def quadrature(m1: Tensor, v1: Tensor, m2: Tensor, v2: Tensor) -> Tensor:
        x = torch.linspace(-30, 30, 6001, dtype=torch.float64)[:, None, None]
        p, q = _log_density(x, m1, v1), _log_density(x, m2, v2)
        return torch.trapezoid(p.exp() * (p - q), x, dim=0)  # N×D

    each = quadrature(mean1, log_var1, mean2, log_var2)
    differ_from(got, each.mean(1), "that is the mean over the dimensions; of independent dimensions the divergences add")
    differ_from(
        got, quadrature(mean2, log_var2, mean1, log_var1).sum(1), "the two directions are exchanged: the mean is over the first"
    )
    differ_from(
        got, quadrature(mean1, 2 * log_var1, mean2, 2 * log_var2).sum(1), "log_var is log σ², not log σ: exp gives σ² at once"
    )
    differ_from(got, each.sum(1) + 1.5, "−1 in the bracket is missing: of a Gaussian from itself the divergence must be 0")
    agree(got, each.sum(1), "kl_gaussians")


def _on_a_grid(mean: float, var: float, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """Bayes' rule by multiplying and dividing."""
    z = torch.linspace(-25, 25, 20001, dtype=torch.float64)
    logs = -((z - mean) ** 2) / (2 * var) - ((x[:, None] - scales[:, None] * z) ** 2 / (2 * noise_vars[:, None])).sum(0)
    p = torch.softmax(logs, 0)
    first = (p * z).sum()
    return first, (p * (z - first) ** 2).sum()


def test_combine(answer):
    prior, x, scales, noise_vars = (1.0, 2.0), _numbers([2.5, -1.0, 4.0]), _numbers([1.0, -0.5, 2.0]), _numbers([0.5, 1.5, 3.0])
    got = asked(answer.combine, *_numbers(list(prior)), x, scales, noise_vars)
    mean, var = (shaped(part, (), what) for part, what in zip(got, ("the mean", "the variance"), strict=True))
    wanted = _on_a_grid(*prior, x, scales, noise_vars)
    differ_from(var, wanted[1].log(), "that is the logarithm of the variance; the variance itself is asked for")
    differ_from(var, wanted[1].sqrt(), "that is the standard deviation; the variance is asked for")
    differ_from(var, 1 / (scales**2 / noise_vars).sum(), "the prior is missing: its precision counts too")
    linear = 1 / (1 / prior[1] + (scales / noise_vars).sum())
    differ_from(var, linear, "an instrument's precision is a²/s², not a/s²: what does a x + e of variance s² say of x?")
    differ_from(var, 1 / (1 / prior[1] + (scales**2 / noise_vars).mean()), "precisions add up; they are not averaged")
    differ_from(
        var, 1 / (1 / prior[1] + (scales**2 / noise_vars**2).sum()), "noise_vars are variances already: do not square them"
    )
    agree(var, wanted[1], "the variance")
    unscaled = var * (prior[0] / prior[1] + (x / noise_vars).sum())
    differ_from(mean, unscaled, "each measurement pulls with a x/s², not with x/s²")
    differ_from(mean, var * (scales * x / noise_vars).sum(), "the prior's mean is missing")
    agree(mean, wanted[0], "the mean")


def test_combine__with_an_instrument_that_sees_nothing(answer):
    mean, var = asked(answer.combine, *_numbers([0.7, 1.3]), _numbers([5.0]), _numbers([0.0]), _numbers([2.0]))
    agree(shaped(mean, (), "the mean"), 0.7, "with a = 0 nothing is learned, and the mean stays")
    agree(shaped(var, (), "the variance"), 1.3, "with a = 0 nothing is learned, and the variance stays")


def test_kl_correlated(answer):
    m1, m2 = _numbers([0.5, -0.3]), _numbers([-0.2, 0.4])
    s1, s2 = _numbers([1.0, 0.6], [0.6, 0.8]), _numbers([1.5, -0.5], [-0.5, 0.9])
    got = number(asked(answer.kl_correlated, m1, s1, m2, s2), "kl_correlated")

    def quadrature(a: Tensor, cov_a: Tensor, b: Tensor, cov_b: Tensor) -> float:
        side = torch.linspace(-9, 9, 361, dtype=torch.float64)
        x = torch.cartesian_prod(side, side)
        logs = [torch.distributions.MultivariateNormal(mean, cov).log_prob(x) for mean, cov in ((a, cov_a), (b, cov_b))]
        return float((logs[0].exp() * (logs[0] - logs[1])).sum() * (side[1] - side[0]) ** 2)

    wanted = quadrature(m1, s1, m2, s2)
    diagonal = quadrature(m1, torch.diag(torch.diag(s1)), m2, torch.diag(torch.diag(s2)))
    differ_from(got, diagonal, "the dimensions depend on each other: the entries off the diagonal count too", 1e-5)
    differ_from(got, quadrature(m2, s2, m1, s1), "the two directions are exchanged", 1e-5)
    volumes = float(torch.logdet(s2) - torch.logdet(s1))
    differ_from(
        got,
        wanted - volumes,
        "the sign of the log-determinants: a wider second Gaussian must cost more through its log det S₂",
        1e-5,
    )
    differ_from(got, wanted - volumes / 2, "the log-determinants are missing", 1e-5)
    differ_from(got, wanted + 0.5, "D is subtracted in the bracket, one for each dimension, not 1", 1e-5)
    differ_from(got, wanted + 1, "−D is missing: of a Gaussian from itself the divergence must be 0", 1e-5)
    agree(got, wanted, "kl_correlated", 1e-5)


def test_kl_correlated__in_three_dimensions_with_a_known_answer(answer):
    """A rotation of both changes nothing, so independent dimensions, rotated, keep the sum of their divergences."""
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    m1, m2, v1, v2 = _numbers([1.0, 0.0, -0.5], [0.2, 0.3, 0.1], [0.5, 1.0, 2.0], [1.5, 0.7, 1.1])
    wanted = sum(0.5 * (math.log(b / a) + (a + (m - n) ** 2) / b - 1) for m, n, a, b in torch.stack((m1, m2, v1, v2), 1).tolist())
    first, second = ((turn @ m, turn @ torch.diag(v) @ turn.T) for m, v in ((m1, v1), (m2, v2)))
    agree(number(asked(answer.kl_correlated, *first, *second), "kl_correlated"), wanted, "kl_correlated of rotated Gaussians")
