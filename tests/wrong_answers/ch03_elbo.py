"""Plausible mistakes in chapter 03's exercises; each docstring is what the check should say."""

import torch
from torch import Tensor


def elbo_of_table__without_entropy(joint: Tensor, q: Tensor) -> Tensor:
    """the entropy of q is missing"""
    return (q * torch.log(joint)).sum(1)


def elbo_of_table__turned_round(joint: Tensor, q: Tensor) -> Tensor:
    """that is −ELBO"""
    return (q * torch.log(q / joint)).sum(1)


def elbo_of_table__over_the_joint(joint: Tensor, q: Tensor) -> Tensor:
    """the average is over q"""
    return (joint * torch.log(joint / q)).sum(1)


def elbo_of_table__mean(joint: Tensor, q: Tensor) -> Tensor:
    """do not divide it by K"""
    return (q * torch.log(joint / q)).mean(1)


def elbo_of_table__zero_times_infinity(joint: Tensor, q: Tensor) -> Tensor:
    """a logarithm of 0 got through"""
    return (q * torch.log(joint / q)).sum(1)


def elbo_of_table__nudged(joint: Tensor, q: Tensor) -> Tensor:
    """and a tiny p(x, z)"""
    return (q * torch.log((joint + 1e-9) / (q + 1e-9))).sum(1)


def elbo_of_table__all_in_one(joint: Tensor, q: Tensor) -> Tensor:
    """the shape is ()"""
    return (q * torch.log(joint / q)).sum()


def _matching(m: Tensor, v: Tensor) -> Tensor:
    return 0.5 * (m**2 + v - 1 - torch.log(v))


def poisson_elbo__exp_of_the_mean(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """E_q[exp(z)] is not exp(E_q[z])"""
    return x * m - torch.exp(m) - torch.lgamma(x + 1) - _matching(m, v)


def poisson_elbo__whole_variance(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """the variance is halved"""
    return x * m - torch.exp(m + v) - torch.lgamma(x + 1) - _matching(m, v)


def poisson_elbo__no_half(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """has a factor ½"""
    return x * m - torch.exp(m + v / 2) - torch.lgamma(x + 1) - 2 * _matching(m, v)


def poisson_elbo__matching_added(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """prior matching is subtracted"""
    return x * m - torch.exp(m + v / 2) - torch.lgamma(x + 1) + _matching(m, v)


def poisson_elbo__no_factorial(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """log x! is missing"""
    return x * m - torch.exp(m + v / 2) - _matching(m, v)


def poisson_elbo__deviation(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """not its standard deviation"""
    return x * m - torch.exp(m + v**2 / 2) - torch.lgamma(x + 1) - _matching(m, v**2)


def poisson_elbo__gamma_of_x(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """is it lgamma(x + 1)?"""
    return x * m - torch.exp(m + v / 2) - torch.lgamma(x) - _matching(m, v)


def fit_belief__laplace(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """that is Laplace's fit"""
    mode = torch.zeros_like(x)
    for _ in range(500):
        mode = mode - 0.3 * (mode - x + torch.exp(mode)) / (1 + torch.exp(mode))
    return mode, 1 / (1 + torch.exp(mode))


def _right(x: Tensor) -> tuple[Tensor, Tensor]:
    m, log_v = torch.zeros_like(x, requires_grad=True), torch.zeros_like(x, requires_grad=True)
    optimizer = torch.optim.Adam([m, log_v], lr=0.1)
    for step in range(1000):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 1000)
        optimizer.zero_grad()
        bound = x * m - torch.exp(m + torch.exp(log_v) / 2) - _matching(m, torch.exp(log_v))
        (-bound.sum()).backward()
        optimizer.step()
    return m.detach(), torch.exp(log_v.detach())


def fit_belief__log_variance(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Did you return log v?"""
    m, v = _right(x)
    return m, torch.log(v)


def fit_belief__deviation(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Did you return its root?"""
    m, v = _right(x)
    return m, torch.sqrt(v)


def fit_belief__swapped(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """m comes first"""
    m, v = _right(x)
    return v, m


def fit_belief__centre_alone(x: Tensor, steps: int = 200) -> Tensor:
    """2 things are to be returned"""
    return _right(x)[0]


def fit_belief__too_few_steps(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """Climb on"""
    m, log_v = torch.zeros_like(x), torch.zeros_like(x)
    for _ in range(5):
        e = torch.exp(m + torch.exp(log_v) / 2)
        m, log_v = m + 0.05 * (x - e - m), log_v + 0.05 * (1 - torch.exp(log_v) * (1 + e))
    return m, torch.exp(log_v)


def two_draw_bound__mean_of_logs(joint: Tensor, q: Tensor) -> Tensor:
    """that is L_1"""
    w = torch.log(joint / q)
    return (q[:, :, None] * q[:, None, :] * (w[:, :, None] + w[:, None, :]) / 2).sum((1, 2))


def two_draw_bound__sum(joint: Tensor, q: Tensor) -> Tensor:
    """½ is missing"""
    w = joint / q
    return (q[:, :, None] * q[:, None, :] * torch.log(w[:, :, None] + w[:, None, :])).sum((1, 2))


def two_draw_bound__different_draws(joint: Tensor, q: Tensor) -> Tensor:
    """pairs with i = j count too"""
    w = joint / q
    pairs = q[:, :, None] * q[:, None, :] * torch.log((w[:, :, None] + w[:, None, :]) / 2)
    return (pairs * (1 - torch.eye(joint.shape[1]))).sum((1, 2))


def two_draw_bound__one_order(joint: Tensor, q: Tensor) -> Tensor:
    """count both"""
    w = joint / q
    pairs = q[:, :, None] * q[:, None, :] * torch.log((w[:, :, None] + w[:, None, :]) / 2)
    return pairs.tril().sum((1, 2))


def two_draw_bound__log_last(joint: Tensor, q: Tensor) -> Tensor:
    """the logarithm must be taken inside"""
    w = joint / q
    return torch.log((q[:, :, None] * q[:, None, :] * (w[:, :, None] + w[:, None, :]) / 2).sum((1, 2)))


def upper_bound__mirrored(joint: Tensor, q: Tensor) -> Tensor:
    """not the one that follows from u²"""
    evidence = torch.log(joint.sum(1))
    return 2 * evidence - (q * torch.log(joint / q)).sum(1)


def upper_bound__not_halved(joint: Tensor, q: Tensor) -> Tensor:
    """halve it"""
    return torch.log((joint**2 / q).sum(1))


def upper_bound__q_multiplies(joint: Tensor, q: Tensor) -> Tensor:
    """the square of q divides"""
    return 0.5 * torch.log((q * joint**2).sum(1))


def upper_bound__log_inside(joint: Tensor, q: Tensor) -> Tensor:
    """a bound from below"""
    return 0.5 * (q * torch.log((joint / q) ** 2)).sum(1)
