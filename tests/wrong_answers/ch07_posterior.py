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


def posterior_variances__alpha_below(beta: Tensor) -> Tensor:
    """1 − α_t stands below the line"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    return _from_one(beta[1:] * (1 - alpha_bar[:-1]) / beta[1:])


def posterior_variances__float32_inside(beta: Tensor) -> Tensor:
    """somewhere inside it is float32"""
    alpha_bar = torch.cumprod(1 - beta.float(), 0)
    return _from_one(beta[1:] * (1 - alpha_bar[:-1]) / (1 - alpha_bar[1:]))


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


def noise_weights__variance_of_the_posterior(beta: Tensor, variance: Tensor) -> Tensor:
    """β̃_t stands where V_t is meant"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    tilde = beta[2:] * (1 - alpha_bar[1:-1]) / (1 - alpha_bar[2:])
    return torch.cat([torch.zeros_like(beta[:2]), _weights(beta, variance)[2:] * variance[2:] / tilde])


def noise_weights__one_early(beta: Tensor, variance: Tensor) -> Tensor:
    """1 − ᾱ_{t−1} stands where 1 − ᾱ_t is meant"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    inner = beta[2:] ** 2 / (2 * variance[2:] * (1 - beta[2:]) * (1 - alpha_bar[1:-1]))
    return torch.cat([torch.zeros_like(beta[:2]), inner])


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


def price_of_variance__knowing_the_picture_to_the_end(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """that compares with β̃_t, which knows x_0 and is 0 at t = 1"""
    rho = _ratio(beta, 0.0, variance)
    return _from_one(0.5 * (rho - 1 - torch.log(rho)))


def price_of_variance__step_forth(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """the true variance is not β_t"""
    rho = beta[1:] / variance[1:]
    return _from_one(0.5 * (rho - 1 - torch.log(rho)))


def price_of_variance__without_the_last_step(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """the step from 1 to 0 has its price too"""
    rho = _ratio(beta, v, variance)[1:]
    return torch.cat([torch.zeros_like(beta[:2]), 0.5 * (rho - 1 - torch.log(rho))])


def _parts(beta: Tensor, slope: Tensor) -> tuple[Tensor, ...]:
    """β̃_t, a_{t−1}β_t/σ_t², σ_t², a_t and the slope, for t ≥ 1."""
    alpha_bar = torch.cumprod(1 - beta, 0)
    noise = 1 - alpha_bar
    c = alpha_bar[:-1].sqrt() * beta[1:] / noise[1:]
    return beta[1:] * noise[:-1] / noise[1:], c, noise[1:], alpha_bar[1:].sqrt(), slope[1:]


def best_variances__knowing_the_picture(beta: Tensor, slope: Tensor) -> Tensor:
    """that is β̃_t"""
    return _from_one(_parts(beta, slope)[0])


def best_variances__only_what_is_open(beta: Tensor, slope: Tensor) -> Tensor:
    """the step adds its own noise"""
    _, c, noise, a, slope = _parts(beta, slope)
    return _from_one(c**2 * noise / a * slope)


def best_variances__not_multiplied(beta: Tensor, slope: Tensor) -> Tensor:
    """moves by less than x_0 does"""
    tilde, _, noise, a, slope = _parts(beta, slope)
    return _from_one(tilde + noise / a * slope)


def best_variances__not_squared(beta: Tensor, slope: Tensor) -> Tensor:
    """by the square of that"""
    tilde, c, noise, a, slope = _parts(beta, slope)
    return _from_one(tilde + c * noise / a * slope)


def best_variances__slope_for_variance(beta: Tensor, slope: Tensor) -> Tensor:
    """the slope is not yet Var(x_0 | x_t)"""
    tilde, c, _, _, slope = _parts(beta, slope)
    return _from_one(tilde + c**2 * slope)


def best_variances__no_signal_rate(beta: Tensor, slope: Tensor) -> Tensor:
    """√ᾱ_t is missing"""
    tilde, c, noise, _, slope = _parts(beta, slope)
    return _from_one(tilde + c**2 * noise * slope)


def best_variances__deviation_of_the_noise(beta: Tensor, slope: Tensor) -> Tensor:
    """σ_t² is meant, not σ_t"""
    tilde, c, noise, a, slope = _parts(beta, slope)
    return _from_one(tilde + c**2 * noise.sqrt() / a * slope)


def best_variances__no_root(beta: Tensor, slope: Tensor) -> Tensor:
    """a root is missing"""
    tilde, c, noise, a, slope = _parts(beta, slope)
    return _from_one(tilde + c**2 * noise / a**2 * slope)


def best_variances__zero_by_zero(beta: Tensor, slope: Tensor) -> Tensor:
    """0/0 at t = 0"""
    alpha_bar = torch.cumprod(1 - beta, 0)
    before = _from_one(alpha_bar[:-1], 1.0)
    noise = 1 - alpha_bar
    return beta * (1 - before) / noise + before * (beta / noise) ** 2 * noise / alpha_bar.sqrt() * slope
