"""Plausible mistakes in chapter 11's exercises; each docstring is what the check should say."""

from itertools import pairwise

import torch
from torch import Tensor


def _deviation(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    return ((1 - alpha_bar[s]) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / alpha_bar[s])).sqrt()


def largest_eta__one(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """η = 1 is DDPM, not the end"""
    return torch.ones(len(t), dtype=torch.float64)


def largest_eta__upside_down(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """upside down"""
    return _deviation(alpha_bar, t, s) / (1 - alpha_bar[s]).sqrt()


def largest_eta__variance(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """a variance"""
    return (1 - alpha_bar[t]) / (1 - alpha_bar[t] / alpha_bar[s])


def largest_eta__forward(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """the forward step's β"""
    return ((1 - alpha_bar[s]) / (1 - alpha_bar[t] / alpha_bar[s])).sqrt()


def largest_eta__largest_d(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """that is σ_s, the largest d"""
    return (1 - alpha_bar[s]).sqrt()


def largest_eta__not_divided_into(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """σ_s was left out"""
    return 1 / _deviation(alpha_bar, t, s)


def largest_eta__float32(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """float64 is wanted, not torch.float32"""
    return ((1 - alpha_bar[t]) / (1 - alpha_bar[t] / alpha_bar[s])).sqrt().float()


def largest_eta__neighbour(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """need not be t − 1"""
    return ((1 - alpha_bar[t]) / (1 - alpha_bar[t] / alpha_bar[t - 1])).sqrt()


def encode__asked_ahead(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """asked at the time where the step ends"""
    a, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    for now, later in pairwise(times.tolist()):
        x0 = denoise(x, torch.full((len(x),), later))
        x = a[later] * x0 + sigma[later] * (x - a[now] * x0) / sigma[now]
    return x


def encode__not_scaled(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """moved as if it were y"""
    a, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    for now, later in pairwise(times.tolist()):
        found = (x - a[now] * denoise(x, torch.full((len(x),), now))) / sigma[now]
        x = x + (sigma[later] / a[later] - sigma[now] / a[now]) * found
    return x


def encode__picture_as_noise(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """put in as the noise"""
    a, sigma, picture = alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), x
    for now, later in pairwise(times.tolist()):
        x = a[later] * denoise(x, torch.full((len(x),), now)) + sigma[later] * picture
    return x


def _walk(denoise, alpha_bar: Tensor, x: Tensor, times: list[int]) -> Tensor:
    a, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    for now, later in pairwise(times):
        x0 = denoise(x, torch.full((len(x),), now))
        x = a[later] * x0 + sigma[later] * (x - a[now] * x0) / sigma[now]
    return x


def encode__downhill(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """that is the way down"""
    return _walk(denoise, alpha_bar, x, times.tolist()[::-1])


def encode__one_early(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """stopped one time early"""
    return _walk(denoise, alpha_bar, x, times.tolist()[:-1])


def encode__asked_once(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """the denoiser was asked once"""
    x0 = denoise(x, times[0].expand(len(x)))
    return _walk(lambda x, t: x0, alpha_bar, x, times.tolist())


def encode__one_time(denoise, alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """one time for each example"""
    return denoise(x, times[0])


def _multistep(slope, y: Tensor, r: Tensor, weights) -> Tensor:
    before, h_before = None, None
    for now, after in pairwise(r):
        h, here = after - now, slope(y, now)
        last, earlier = (1, 0) if before is None else weights(h, h_before)
        y, before, h_before = y + h * (last * here + earlier * (here if before is None else before)), here, h
    return y


def adams_bashforth__euler(slope, y: Tensor, r: Tensor) -> Tensor:
    """that is Euler's method"""
    return _multistep(slope, y, r, lambda h, b: (1, 0))


def adams_bashforth__equal_steps(slope, y: Tensor, r: Tensor) -> Tensor:
    """for steps of equal length"""
    return _multistep(slope, y, r, lambda h, b: (1.5, -0.5))


def adams_bashforth__upside_down(slope, y: Tensor, r: Tensor) -> Tensor:
    """h/h₋ is upside down"""
    return _multistep(slope, y, r, lambda h, b: (1 + b / (2 * h), -b / (2 * h)))


def adams_bashforth__to_the_end(slope, y: Tensor, r: Tensor) -> Tensor:
    """the middle is its mean"""
    return _multistep(slope, y, r, lambda h, b: (1 + h / b, -h / b))


def adams_bashforth__mean(slope, y: Tensor, r: Tensor) -> Tensor:
    """looks back, not ahead"""
    return _multistep(slope, y, r, lambda h, b: (0.5, 0.5))


def adams_bashforth__backwards(slope, y: Tensor, r: Tensor) -> Tensor:
    """continues the line backwards"""
    return _multistep(slope, y, r, lambda h, b: (1 - h / (2 * b), h / (2 * b)))


def adams_bashforth__unsigned(slope, y: Tensor, r: Tensor) -> Tensor:
    """steps have a sign"""
    before, h_before = None, None
    for now, after in pairwise(r):
        h, here = (after - now).abs(), slope(y, now)
        middle = here if before is None else here + h / (2 * h_before) * (here - before)
        y, before, h_before = y + h * middle, here, h
    return y


def adams_bashforth__frozen(slope, y: Tensor, r: Tensor) -> Tensor:
    """not the first of all"""
    first, h_before = None, None
    for now, after in pairwise(r):
        h, here = after - now, slope(y, now)
        middle = here if first is None else here + h / (2 * h_before) * (here - first)
        y, first, h_before = y + h * middle, here if first is None else first, h
    return y


def adams_bashforth__heun(slope, y: Tensor, r: Tensor) -> Tensor:
    """calls of slope for 5 steps"""
    for now, after in pairwise(r):
        first = slope(y, now)
        y = y + (after - now) * (first + slope(y + (after - now) * first, after)) / 2
    return y


def churn__nothing_added(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """nothing was added"""
    return y + (r_next - r) * (y - denoise(y, r)) / r


def churn__deviations(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """deviations were subtracted"""
    higher = r * (1 + gamma)
    y = y + (higher - r) * noise
    return y + (r_next - higher) * (y - denoise(y, higher)) / higher


def churn__variance(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """take the root"""
    higher = r * (1 + gamma)
    y = y + (higher**2 - r**2) * noise
    return y + (r_next - higher) * (y - denoise(y, higher)) / higher


def churn__old_level(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """all of it begins at r(1 + γ)"""
    y = y + ((r * (1 + gamma)) ** 2 - r**2) ** 0.5 * noise
    return y + (r_next - r) * (y - denoise(y, r)) / r


def churn__told_the_old_level(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """the denoiser was told the old level"""
    higher = r * (1 + gamma)
    y = y + (higher**2 - r**2) ** 0.5 * noise
    return y + (r_next - higher) * (y - denoise(y, r)) / higher


def churn__from_the_old_point(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """goes on from the old point"""
    higher = r * (1 + gamma)
    up = y + (higher**2 - r**2) ** 0.5 * noise
    return y + (r_next - higher) * (up - denoise(up, higher)) / higher


def churn__length_from_r(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """length is counted from r(1 + γ)"""
    higher = r * (1 + gamma)
    up = y + (higher**2 - r**2) ** 0.5 * noise
    return up + (r_next - r) * (up - denoise(up, higher)) / higher


def churn__old_slope(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """the slope is that of the old point"""
    higher = r * (1 + gamma)
    up = y + (higher**2 - r**2) ** 0.5 * noise
    return up + (r_next - higher) * (y - denoise(up, higher)) / r


def churn__old_slope_and_guess(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """the slope is that of the old point"""
    higher = r * (1 + gamma)
    return y + (higher**2 - r**2) ** 0.5 * noise + (r_next - higher) * (y - denoise(y, r)) / r


def churn__after_the_step(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """added after the step"""
    y = y + (r_next - r) * (y - denoise(y, r)) / r
    return y + ((r_next * (1 + gamma)) ** 2 - r_next**2) ** 0.5 * noise


def churn__after_the_step_from_r(denoise, y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """added after the step"""
    return y + (r_next - r) * (y - denoise(y, r)) / r + ((r * (1 + gamma)) ** 2 - r**2) ** 0.5 * noise


def line_mean__middle(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """the middle of the step, as in (11.7)"""
    return x0 + h / (2 * h_before) * (x0 - x0_before)


def line_mean__end(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """at the end of the step"""
    return x0 + h / h_before * (x0 - x0_before)


def line_mean__falling_weights(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """here they fall"""
    return x0 + (1 - h / torch.expm1(h)) / h_before * (x0 - x0_before)


def line_mean__not_divided(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """was not divided by that of the weights"""
    return x0 + ((h - 1) * torch.exp(h) + 1) / h_before * (x0 - x0_before)


def line_mean__backwards(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """continued backwards"""
    return x0 - (h / -torch.expm1(-h) - 1) / h_before * (x0 - x0_before)


def line_mean__overflows(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """divide by e^h first"""
    mean = ((h - 1) * torch.exp(2 * h) + torch.exp(h)) / (torch.exp(2 * h) - torch.exp(h))
    return x0 + mean / h_before * (x0 - x0_before)


def line_mean__overflows_without_squares(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """divide by e^h first"""
    mean = (h * torch.exp(h) - torch.exp(h) + 1) / (torch.exp(h) - 1)
    return x0 + mean / h_before * (x0 - x0_before)


def line_mean__half_divided(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """was divided by e^h"""
    return x0 + (h + torch.expm1(-h)) / h_before * (x0 - x0_before)
