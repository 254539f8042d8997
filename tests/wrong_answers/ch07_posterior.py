"""Plausible mistakes in chapter 07's exercises; each docstring is what the check should say."""

import torch
from torch import Tensor

Step = tuple[float, float, float]


def _from_one(values: Tensor, first: float = 0.0) -> Tensor:
    return torch.cat([torch.full_like(values[:1], first), values])


def posterior_variances__forward(beta: Tensor) -> Tensor:
    """that is β_t"""
    return beta.clone()


def posterior_variances__one_late(beta: Tensor) -> Tensor:
    """Is ᾱ_{t−1} one index late?"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    return _from_one(beta[1:] * (1 - alpha_bar[1:]) / (1 - alpha_bar[1:]))


def posterior_variances__filled_with_zero(beta: Tensor) -> Tensor:
    """is filled up with 0"""
    alpha_bar = torch.cumprod(1 - beta[1:], 0)
    before = torch.cat([torch.zeros_like(beta[:1]), alpha_bar[:-1]])
    return _from_one(beta[1:] * (1 - before) / (1 - alpha_bar))


def posterior_variances__turned_over(beta: Tensor) -> Tensor:
    """the fraction is turned over"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    inner = beta[2:] * (1 - alpha_bar[2:]) / (1 - alpha_bar[1:-1])
    return torch.cat([torch.zeros_like(beta[:2]), inner])


def posterior_variances__alpha(beta: Tensor) -> Tensor:
    """that is α where ᾱ is meant"""
    alpha = 1 - beta
    return _from_one(beta[1:] * (1 - alpha[:-1]) / (1 - alpha[1:]))


def posterior_variances__no_entry_0(beta: Tensor) -> Tensor:
    """the shape is (6,)"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    return beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])


def posterior_variances__zero_by_zero(beta: Tensor) -> Tensor:
    """0/0 at t = 0"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    return beta * (1 - _from_one(alpha_bar[:-1], 1.0)) / (1 - alpha_bar)


def posterior_variances__deviation(beta: Tensor) -> Tensor:
    """the variance is asked for"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    return _from_one(beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:])).sqrt()


def two_steps_back__products(later: Step, earlier: Step) -> Step:
    """x_0 speaks twice"""
    return later[0] * earlier[0], later[1] * earlier[1], earlier[2] + earlier[1] ** 2 * later[2]


def two_steps_back__exchanged(later: Step, earlier: Step) -> Step:
    """the steps are exchanged"""
    return later[0] + later[1] * earlier[0], later[1] * earlier[1], later[2] + later[1] ** 2 * earlier[2]


def two_steps_back__sum_of_both(later: Step, earlier: Step) -> Step:
    """reaches x_{t−2} through B"""
    return later[0] + earlier[0], later[1] * earlier[1], earlier[2] + earlier[1] ** 2 * later[2]


def two_steps_back__variances_add(later: Step, earlier: Step) -> Step:
    """is multiplied by B of the second"""
    return earlier[0] + earlier[1] * later[0], later[1] * earlier[1], earlier[2] + later[2]


def two_steps_back__not_squared(later: Step, earlier: Step) -> Step:
    """has its variance multiplied by B²"""
    return earlier[0] + earlier[1] * later[0], later[1] * earlier[1], earlier[2] + earlier[1] * later[2]


def _weights(beta: Tensor, variance: Tensor) -> Tensor:
    alpha_bar = torch.cumprod(1 - beta, 0)
    inner = beta[2:] ** 2 / (2 * variance[2:] * (1 - beta[2:]) * (1 - alpha_bar[2:]))
    return torch.cat([torch.zeros_like(beta[:2]), inner])


def noise_weights__no_half(beta: Tensor, variance: Tensor) -> Tensor:
    """has a factor ½"""
    return 2 * _weights(beta, variance)


def noise_weights__no_alpha(beta: Tensor, variance: Tensor) -> Tensor:
    """√α_t divides the mean"""
    return _weights(beta, variance) * (1 - beta)


def noise_weights__alpha_for_alpha_bar(beta: Tensor, variance: Tensor) -> Tensor:
    """1 − α_t where 1 − ᾱ_t is meant"""
    inner = beta[2:] ** 2 / (2 * variance[2:] * (1 - beta[2:]) * beta[2:])
    return torch.cat([torch.zeros_like(beta[:2]), inner])


def noise_weights__not_squared(beta: Tensor, variance: Tensor) -> Tensor:
    """β_t is squared"""
    return torch.cat([torch.zeros_like(beta[:2]), _weights(beta, variance)[2:] / beta[2:]])


def noise_weights__no_variance(beta: Tensor, variance: Tensor) -> Tensor:
    """divides the squared difference"""
    return _weights(beta, variance) * variance


def noise_weights__at_zero(beta: Tensor, variance: Tensor) -> Tensor:
    """something divides by zero"""
    return beta**2 / (2 * variance * (1 - beta) * (1 - torch.cumprod(1 - beta, 0)))


def _ratio(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    alpha_bar = torch.cumprod(1 - beta, 0)
    r = alpha_bar * v + 1 - alpha_bar
    return beta[1:] * r[:-1] / r[1:] / variance[1:]


def price_of_variance__turned_round(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """the KL is turned round"""
    rho = 1 / _ratio(beta, v, variance)
    return _from_one(0.5 * (rho - 1 - torch.log(rho)))


def price_of_variance__no_half(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """has a factor ½"""
    rho = _ratio(beta, v, variance)
    return _from_one(rho - 1 - torch.log(rho))


def price_of_variance__knowing_the_picture(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """which knows x_0"""
    rho = _ratio(beta, 0.0, variance)[1:]
    return torch.cat([torch.zeros_like(beta[:2]), 0.5 * (rho - 1 - torch.log(rho))])


def price_of_variance__step_forth(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """the true variance is not β_t"""
    rho = beta[1:] / variance[1:]
    return _from_one(0.5 * (rho - 1 - torch.log(rho)))


def price_of_variance__without_the_last_step(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """the step from 1 to 0 has its price too"""
    rho = _ratio(beta, v, variance)[1:]
    return torch.cat([torch.zeros_like(beta[:2]), 0.5 * (rho - 1 - torch.log(rho))])
