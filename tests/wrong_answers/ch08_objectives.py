"""Plausible mistakes in chapter 08's exercises; each docstring is what the check should say."""

import torch
from torch import Tensor

Four = tuple[Tensor, Tensor, Tensor, Tensor]


def _all_of(noise: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    x0 = (x_t - s * noise) / a
    return x0, noise, a * noise - s * x0, noise - x0


def from_score__wrong_sign(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """the noise has the wrong sign"""
    return _all_of(s[:, None] * slope, x_t, a[:, None], s[:, None])


def from_score__sigma_left(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """the σ is still in it"""
    return _all_of(-slope, x_t, a[:, None], s[:, None])


def from_score__variance(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """with σ and not its square"""
    return _all_of(-(s[:, None] ** 2) * slope, x_t, a[:, None], s[:, None])


def from_score__columns(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """they belong to the frames"""
    return _all_of(-s * slope, x_t, a, s)


def from_score__not_divided(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """Tweedie's formula divides by a"""
    x0, noise, *_ = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return a[:, None] * x0, noise, a[:, None] * noise - s[:, None] * x0, noise - x0


def from_score__downhill(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """Tweedie's step goes with the score"""
    _, *others = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return (x_t - s[:, None] ** 2 * slope) / a[:, None], *others


def from_score__short_step(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """not σ times"""
    _, *others = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return (x_t + s[:, None] * slope) / a[:, None], *others


def from_score__velocity_swapped(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """the two changed places"""
    x0, noise, _, flow = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return x0, noise, a[:, None] * x0 - s[:, None] * noise, flow


def from_score__flow_turned(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """from the data to the noise"""
    x0, noise, v, flow = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return x0, noise, v, -flow


def from_score__another_order(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """in another order than"""
    x0, noise, v, flow = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return noise, x0, v, flow


def from_score__squares_sum_to_one(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """a² + σ² was taken to be 1"""
    x0, noise, _, flow = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return x0, noise, (a[:, None] * x_t - x0) / s[:, None], flow


def from_score__squares_sum_to_one_by_noise(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Four:
    """a² + σ² was taken to be 1"""
    x0, noise, _, flow = _all_of(-s[:, None] * slope, x_t, a[:, None], s[:, None])
    return x0, noise, (noise - s[:, None] * x_t) / a[:, None], flow


def from_score__only_the_picture(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """4 things are to be returned"""
    return (x_t + s[:, None] ** 2 * slope) / a[:, None]


def _scales(a: Tensor, s: Tensor) -> dict[str, Tensor]:
    return {"epsilon": s / a, "x0": torch.ones_like(a), "v": s / (a**2 + s**2), "flow": s / (a + s), "score": s**2 / a}


def exchange_weight__upside_down(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """upside down"""
    return (_scales(a, s)[weighed] / _scales(a, s)[says]) ** 2


def exchange_weight__not_squared(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """the ratio of the scales is squared"""
    return _scales(a, s)[says] / _scales(a, s)[weighed]


def exchange_weight__squares_sum_to_one(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """a² + σ² was taken to be 1"""
    scales = {**_scales(a, s), "v": s}
    return (scales[says] / scales[weighed]) ** 2


def exchange_weight__score_as_noise(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """the score was treated like the noise"""
    scales = {**_scales(a, s), "score": s / a}
    return (scales[says] / scales[weighed]) ** 2


def exchange_weight__score_times_sigma(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """the score was taken to be −σ ε"""
    scales = {**_scales(a, s), "score": 1 / a}
    return (scales[says] / scales[weighed]) ** 2


def best_skip__of_the_noise(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """the way of noise prediction"""
    return 1 / a, s / a


def best_skip__none(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """asks for the picture itself"""
    return torch.zeros_like(a), torch.full_like(a, variance**0.5)


def best_skip__of_the_velocity(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """c_skip = a is the velocity's"""
    return a, s


def best_skip__for_variance_one(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """the variance of the data counts"""
    return a / (a**2 + s**2), s * (variance / (a**2 * variance + s**2)) ** 0.5


def best_skip__variance_forgotten_below(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """forgotten below"""
    total = a**2 + s**2
    return a * variance / total, torch.sqrt(variance * s**2 / total)


def best_skip__no_root(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """the root of that mean square"""
    total = a**2 * variance + s**2
    return a * variance / total, variance * s**2 / total


def best_skip__divided(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """F is divided by c_out"""
    total = a**2 * variance + s**2
    return a * variance / total, torch.sqrt(total / (variance * s**2))


def best_skip__total_of_one(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """a² V + σ² was taken to be 1"""
    return a * variance / (a**2 * variance + s**2), s * variance**0.5


def best_skip__negative(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """a positive c_out"""
    total = a**2 * variance + s**2
    return a * variance / total, -torch.sqrt(variance * s**2 / total)


def what_is_left__wrong_sign(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """the sign before the curvature"""
    return s**2 / a**2 * (1 - s**2 * curvature)


def what_is_left__laplace(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """x_0 given x_t is asked for"""
    return -1 / curvature


def what_is_left__no_one(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """the 1 is missing"""
    return -(s**4) / a**2 * curvature


def what_is_left__of_the_frame(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """the variance of a x_0"""
    return s**2 * (1 + s**2 * curvature)


def what_is_left__one_a(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """a comes out squared"""
    return s**2 / a * (1 + s**2 * curvature)


def what_is_left__deviation(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """that is the deviation"""
    return torch.sqrt(s**2 / a**2 * (1 + s**2 * curvature))


def what_is_left__slope_of_the_guess(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """the slope of the best guess"""
    return (1 + s**2 * curvature) / a


def what_is_left__units(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """the curvature has a unit"""
    return s**2 / a**2 * (1 + curvature)


def _drift(x: Tensor, slope: Tensor, beta: float, factor: float) -> Tensor:
    return -0.5 * beta * x - factor * beta * slope


def _rate(beta: float, h: float) -> float:
    return h * beta**0.5


def any_noise__no_half(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """the ½ before g² is missing"""
    return _drift(x, slope, beta, 1 + h**2), _rate(beta, h)


def any_noise__less(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """noise calls for more of the score"""
    return _drift(x, slope, beta, 0.5 * (1 - h**2)), _rate(beta, h)


def any_noise__linear(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """which grows with h²"""
    return _drift(x, slope, beta, 0.5 * (1 + h)), _rate(beta, h)


def any_noise__sde_scaled(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """with h = 0 the drift is that of the ODE"""
    return _drift(x, slope, beta, h**2), _rate(beta, h)


def any_noise__turned(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """the drift is not turned"""
    return -_drift(x, slope, beta, 0.5 * (1 + h**2)), _rate(beta, h)


def any_noise__rate_without_root(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """h times the root of β"""
    return _drift(x, slope, beta, 0.5 * (1 + h**2)), h * beta


def any_noise__rate_squared(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """its square has h²"""
    return _drift(x, slope, beta, 0.5 * (1 + h**2)), h**2 * beta**0.5


def any_noise__rate_for_each(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, Tensor]:
    """one number is wanted"""
    return _drift(x, slope, beta, 0.5 * (1 + h**2)), torch.full_like(x, h * beta**0.5)


def any_noise__no_shrinking(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """so it has no h"""
    return -0.5 * h**2 * beta * x - 0.5 * (1 + h**2) * beta * slope, _rate(beta, h)


def any_noise__all_scaled(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """so it has no h"""
    return h**2 * _drift(x, slope, beta, 1), _rate(beta, h)
