"""Exercises of chapter 11. Check your answers with `pytest exercises/test_ch11_samplers.py`."""

from collections.abc import Callable

from torch import Tensor


def largest_eta(alpha_bar: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """ch11.1 · difficulty 2 of 5 · 15 minutes

    (11.1) keeps the marginals for every d up to σ_s, and η = 1 is not the end: find the η at which d = σ_s. There the step
    forgets x_t altogether, and draws x_s = a_s x̂_0 + σ_s ε with noise that is all new.

    Args:
        alpha_bar: ᾱ_0 … ᾱ_T, falling from 1, float64, shape T+1; the last may be 0.
        t, s: integer times with T ≥ t > s ≥ 1, shape N.

    Returns: η, float64, shape N.

    Hint: (11.2) says what d is for η = 1. How many of those fit into σ_s?
    """
    raise NotImplementedError("ch11.1 largest_eta: see the section 'One loss, many processes'")


def encode(denoise: Callable[[Tensor, Tensor], Tensor], alpha_bar: Tensor, x: Tensor, times: Tensor) -> Tensor:
    """ch11.2 · difficulty 3 of 5 · 20 minutes

    The way up: DDIM's step without noise, from each time to the next *later* one, until the noise of this picture is found.

    Args:
        denoise: (x_t, t) → x̂_0, with t of shape N.
        alpha_bar: ᾱ_0 … ᾱ_T, falling from 1, all positive, float64, shape T+1.
        x: the picture at times[0], N×…, float64.
        times: integers, rising, the first at least 1.

    Returns: x at times[-1], N×….

    Hint: (11.1) with d = 0 never asks which of the two times is the earlier one. Where does a step stand when it asks the
        denoiser?
    """
    raise NotImplementedError("ch11.2 encode: see the section 'The same road, uphill'")


def adams_bashforth(slope: Callable[[Tensor, Tensor], Tensor], y: Tensor, r: Tensor) -> Tensor:
    """ch11.3 · difficulty 3 of 5 · 25 minutes

    Second order with one call a step, for any dy/dr = slope(y, r). A step goes from r_k to r_{k+1} by the integral of a straight
    line in r: the one through the last slope and the one before. The first step has no slope before it, and is Euler's.
    The steps may be of any lengths.

    Args:
        slope: (y, r) → dy/dr, N×…; r is a single number. It may be called once a step.
        y: the start, at r[0], N×….
        r: where to stand, rising or falling, shape K+1.

    Returns: y at r[K], N×….

    Hint: a line's integral over a step is the step's length times the line's value in the middle. (11.7) is the same thought.
    """
    raise NotImplementedError("ch11.3 adams_bashforth: see the sections 'Look again' and 'Solve what can be solved'")


def churn(denoise: Callable[[Tensor, Tensor], Tensor], y: Tensor, r: float, r_next: float, gamma: float, noise: Tensor) -> Tensor:
    """ch11.4 · difficulty 3 of 5 · 20 minutes

    A random step that is almost deterministic. First raise the noise: from y = x_0 + r ε make a point that is distributed as
    at the level r(1 + γ), by adding fresh noise. Then go from *there* down to r_next with one Euler step of (11.3).

    Args:
        denoise: (y, r) → x̂_0, r a single number.
        y: N×….
        r, r_next: noise levels σ/a now and after the step, r > r_next ≥ 0.
        gamma: γ ≥ 0; with 0 nothing is added.
        noise: standard normal, N×….

    Returns: y at r_next, N×….

    Hint: variances add. After the noise is raised, you are at another point and another level: everything starts from them.
    Source: Karras et al. 2022 (arXiv:2206.00364), algorithm 2, first order.
    """
    raise NotImplementedError("ch11.4 churn: see the section 'A straight line'")


def line_mean(x0: Tensor, x0_before: Tensor, h: Tensor, h_before: Tensor) -> Tensor:
    """ch11.5 · difficulty 4 of 5 · 30 minutes

    (11.6) asks for the mean of x̂_0 over the step, weighed by e^λ. (11.7) takes the value in the middle. Suppose that x̂_0 *is*
    a line in λ, the one through the last two, and find the weighed mean exactly.

    Args:
        x0, x0_before: x̂_0 at the start of the step, and one step before, N×….
        h, h_before: the lengths in λ of the coming step and of the last one, positive single numbers. h may be 1000.

    Returns: D, N×….

    Hint: one integral, ∫ u e^u du from 0 to h, by parts. Then divide numerator and denominator by e^h.
    """
    raise NotImplementedError("ch11.5 line_mean: see the section 'Solve what can be solved'")
