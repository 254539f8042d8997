"""Exercises of chapter 06. Check your answers with `pytest exercises/test_ch06_forward_process.py`."""

from torch import Tensor


def alpha_bar_of(beta: Tensor) -> Tensor:
    """ch06.1 · difficulty 1 of 5 · 5 minutes

    The table of ᾱ, indexed by t itself, from a table of β as other libraries store it: without the entry at 0, and in float32.

    Args:
        beta: β_1 … β_T, float32, shape T.

    Returns: ᾱ_0 … ᾱ_T, float64, shape T+1; the first entry is 1, and everything, 1 − β too, is computed in float64.

    Hint: (06.2) is a running product. Of what, and what is a product of no factors?
    """
    raise NotImplementedError("ch06.1 alpha_bar_of: see the section 'All steps at once'")


def merged(c: Tensor, d: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """ch06.2 · difficulty 2 of 5 · 15 minutes

    A chain with any factors, x_t = c_t x_{t−1} + d_t ε_t: c_t² + d_t² need not be 1. Find the one that visits only some of its
    times, and is distributed there exactly as the long one. Its k-th step goes from times[k−1] to times[k] at once:
    x → C_k x + D_k ε.

    Args:
        c: the factors c_0 … c_T (c_0 = 1), all positive, float64, shape T+1.
        d: the deviations d_0 … d_T (d_0 = 0), float64, shape T+1.
        times: integers, rising, the first of them 0 and the last at most T, shape K+1.

    Returns: C_0 … C_K with C_0 = 1, and D_0 … D_K with D_0 = 0, both float64, shape K+1.

    Hint: start with all mass at one place and go through the steps of one jump. What becomes of the noise that came early?
    """
    raise NotImplementedError("ch06.2 merged: see the section 'All steps at once'")


def time_of_snr(alpha_bar: Tensor, snr: Tensor) -> Tensor:
    """ch06.3 · difficulty 3 of 5 · 20 minutes

    The time at which the signal-to-noise ratio is what is asked for. Between integers λ runs on a straight line (06.7), so
    the answer is a real number. With snr = 1 it is the half-way time, at which signal and noise are equally loud.

    Args:
        alpha_bar: ᾱ_0 … ᾱ_T, falling from 1, all positive, float64, shape T+1.
        snr: the ratios a²/σ² that are wanted, each between those at T and at 1, both included, float64, shape N.

    Returns: t in [1, T], float64, shape N.

    Hint: λ falls as t grows, so −λ is sorted: `torch.searchsorted` finds between which two entries each answer lies.
    """
    raise NotImplementedError("ch06.3 time_of_snr: see the section 'Between two steps'")


def exploding_twin(alpha_bar: Tensor) -> Tensor:
    """ch06.4 · difficulty 3 of 5 · 20 minutes

    The same process in the other convention. Let y_t = x_t/a_t, so that the picture is never shrunk: y_t = x_0 + (noise that
    grows). It too is a chain, y_t = y_{t−1} + g_t ε_t. Find the deviations g_t.

    Args:
        alpha_bar: ᾱ_0 … ᾱ_T, falling from 1, all positive, float64, shape T+1.

    Returns: g_0 … g_T with g_0 = 0, float64, shape T+1.

    Hint: divide (06.1) by a_t. Or: how much noise does y_t hold in all, and what adds up when independent noises are added?
    """
    raise NotImplementedError("ch06.4 exploding_twin: see the sections 'One step' and 'All steps at once'")


def shifted(alpha_bar: Tensor, factor: float) -> Tensor:
    """ch06.5 · difficulty 3 of 5 · 15 minutes

    A schedule for larger pictures. A schedule was made for small ones; yours are `factor` times as large on each side, and
    smooth. Change it so that, at every t, the large picture averaged over blocks of factor × factor pixels has the SNR that
    the small picture had. Signal and noise rates stay such that a² + σ² = 1.

    Args:
        alpha_bar: ᾱ_0 … ᾱ_T of the small pictures' schedule, from 1 down to possibly 0, float64, shape T+1.
        factor: how many times as large a side is, at least 1; not necessarily whole.

    Returns: ᾱ_0 … ᾱ_T of the large pictures' schedule, float64, shape T+1; finite at both ends.

    Hint: averaging multiplies the SNR by a known number, so the SNR per pixel must be divided by it first. Then solve
        SNR = ᾱ/(1 − ᾱ) for ᾱ, without dividing by what may be 0.
    """
    raise NotImplementedError("ch06.5 shifted: see the section 'Larger pictures'")
