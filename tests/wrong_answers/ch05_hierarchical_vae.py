"""Plausible mistakes in chapter 05's exercises; each docstring is what the check should say."""

import math

import torch
from torch import Tensor


def _tables(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> tuple[Tensor, Tensor]:
    return up[:, :, None] * higher, seen[:, :, None] * down.T * top


def elbo_of_tables__evidence(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """that is log p(x)"""
    return torch.log(seen @ (top @ down))


def elbo_of_tables__turned_round(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """that is −ELBO"""
    q, p = _tables(top, down, seen, up, higher)
    return (q * torch.log(q / p)).sum((1, 2))


def elbo_of_tables__drawn_apart(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """must come from one climb"""
    q, p = _tables(top, down, seen, up, higher)
    apart = up[:, :, None] * (up @ higher)[:, None, :]
    return (apart * torch.log(p / q)).sum((1, 2))


def elbo_of_tables__without_entropy(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """log q(z_1, z_2 | x) is missing"""
    q, p = _tables(top, down, seen, up, higher)
    return (q * torch.log(p)).sum((1, 2))


def elbo_of_tables__second_link_free(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """q pays for both of its links"""
    q, p = _tables(top, down, seen, up, higher)
    return (q * torch.log(p / up[:, :, None])).sum((1, 2))


def elbo_of_tables__without_prior(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """the prior of the top, is missing"""
    q, p = _tables(torch.ones_like(top), down, seen, up, higher)
    return (q * torch.log(p / q)).sum((1, 2))


def elbo_of_tables__all_in_one(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """the shape is ()"""
    q, p = _tables(top, down, seen, up, higher)
    return (q * torch.log(p / q)).sum()


def split_divergence__rows_for_columns(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """The top is z_2"""
    first, other = q.sum(1), p.sum(1)
    return (first * torch.log(first / other)).sum(), (q * torch.log((q / first[:, None]) / (p / other[:, None]))).sum()


def split_divergence__averaged_over_p(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """over q(z_2), not over p(z_2)"""
    first, other = q.sum(0), p.sum(0)
    each = ((q / first) * torch.log((q / first) / (p / other))).sum(0)
    return (first * torch.log(first / other)).sum(), (other * each).sum()


def split_divergence__added_up(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """not added up"""
    first, other = q.sum(0), p.sum(0)
    return (first * torch.log(first / other)).sum(), ((q / first) * torch.log((q / first) / (p / other))).sum()


def split_divergence__marginals(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """would do if z_1 and z_2 were independent"""
    parts = [(a * torch.log(a / b)).sum() for a, b in ((q.sum(0), p.sum(0)), (q.sum(1), p.sum(1)))]
    return parts[0], parts[1]


def split_divergence__not_conditioned(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """z_1 must be conditioned on z_2"""
    first, other = q.sum(0), p.sum(0)
    return (first * torch.log(first / other)).sum(), (q * torch.log(q / p)).sum()


def split_divergence__turned_round(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """the wrong way round"""
    first, other = q.sum(0), p.sum(0)
    return (other * torch.log(other / first)).sum(), (p * torch.log((p / other) / (q / first))).sum()


def _climb_until(beta: float, x: Tensor, tolerance: float, power: float = 1.0, factor: float = 1.0, width: bool = True) -> int:
    level = 0
    while True:
        level += 1
        k, square = (1 - beta) ** level, (x**2).sum().item()
        spread = -len(x) * (k + math.log(1 - k)) if width else 0.0
        if factor * 0.5 * (k**power * square + spread) <= tolerance:
            return level


def levels_needed__averaged(beta: float, x: Tensor, tolerance: float) -> int:
    """summed over dimensions, not averaged"""
    return _climb_until(beta, x, tolerance, factor=1 / len(x))


def levels_needed__no_half(beta: float, x: Tensor, tolerance: float) -> int:
    """has a factor ½"""
    return _climb_until(beta, x, tolerance, factor=2.0)


def levels_needed__mean_alone(beta: float, x: Tensor, tolerance: float) -> int:
    """the mean is only half of it"""
    return _climb_until(beta, x, tolerance, width=False)


def levels_needed__no_root(beta: float, x: Tensor, tolerance: float) -> int:
    """shrinks by √(1 − β) a link"""
    return _climb_until(beta, x, tolerance, power=2.0)


def levels_needed__one_less(beta: float, x: Tensor, tolerance: float) -> int:
    """Off by one?"""
    return _climb_until(beta, x, tolerance) - 1


def levels_needed__not_whole(beta: float, x: Tensor, tolerance: float) -> float:
    """an int is wanted"""
    return math.log(2 * tolerance / (x**2).sum().item()) / math.log(1 - beta)


def bridge__forgets_x(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """since x is known too"""
    return above, variances[level]


def bridge__forgets_above(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """z_{l+1} is known as well"""
    return x, variances[:level].sum()


def _meet(x: Tensor, below: Tensor, above: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    variance = 1 / (1 / below + 1 / step)
    return variance * (x / below + above / step), variance


def bridge__one_step_below(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """not z_{l−1}"""
    return _meet(x, variances[level - 1], above, variances[level])


def bridge__whole_way_above(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """not the whole way from x"""
    return _meet(x, variances[:level].sum(), above, variances[: level + 1].sum())


def bridge__weights_exchanged(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """are exchanged"""
    return _meet(above, variances[:level].sum(), x, variances[level])


def bridge__deviation(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """that is the standard deviation"""
    mean, variance = _meet(x, variances[:level].sum(), above, variances[level])
    return mean, torch.sqrt(variance)


def bridge__one_level_low(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """one level too low"""
    if level == 1:
        return _meet(x, variances[:1].sum(), above, variances[1])
    return _meet(x, variances[: level - 1].sum(), above, variances[level - 1])


Three, Two = tuple[float, float, float], tuple[float, float]


def _at(x: Tensor, likelihood: Three, first: Two, second: Two, spread: float) -> Tensor:
    centre = (likelihood[0] + likelihood[1] * second[0]) * first[0] * x
    return -0.5 * (math.log(2 * math.pi * likelihood[2]) + ((x - centre) ** 2 + spread) / likelihood[2])


def skip_reconstruction__at_the_mean(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """the price of being unsure is missing"""
    return _at(x, likelihood, first, second, 0.0)


def skip_reconstruction__independent(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """z_1 and z_2 are not independent"""
    (a, c, _), (_, v1), (w, v2) = likelihood, first, second
    return _at(x, likelihood, first, second, a**2 * v1 + c**2 * (w**2 * v1 + v2))


def skip_reconstruction__two_noises(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """the noise of z_1 is in z_2 as well"""
    return _at(x, likelihood, first, second, likelihood[0] ** 2 * first[1] + likelihood[1] ** 2 * second[1])


def skip_reconstruction__second_noise_lost(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """the noise of z_2 itself is missing"""
    return _at(x, likelihood, first, second, (likelihood[0] + likelihood[1] * second[0]) ** 2 * first[1])


def skip_reconstruction__deviations(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """are variances, not standard deviations"""
    (a, c, _), (_, v1), (w, v2) = likelihood, first, second
    return _at(x, likelihood, first, second, (a + c * w) ** 2 * v1**2 + c**2 * v2**2)


def skip_reconstruction__from_the_data(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """z_2 is drawn from z_1, not from x"""
    (a, c, s2), (u, v1), (w, v2) = likelihood, first, second
    square = (x - a * u * x - c * w * x) ** 2 + (a + c * w) ** 2 * v1 + c**2 * v2
    return -0.5 * (math.log(2 * math.pi * s2) + square / s2)


def skip_reconstruction__log_of_the_mean(x: Tensor, likelihood: Three, first: Two, second: Two) -> Tensor:
    """the mean of the logarithm"""
    (a, c, s2), (u, v1), (w, v2) = likelihood, first, second
    total = s2 + (a + c * w) ** 2 * v1 + c**2 * v2
    return -0.5 * (math.log(2 * math.pi * total) + (x - (a + c * w) * u * x) ** 2 / total)
