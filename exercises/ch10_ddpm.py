"""Exercises of chapter 10. Check your answers with `pytest exercises/test_ch10_ddpm.py`."""

from torch import Tensor


def ancestral_step(beta: Tensor, t: int, x_t: Tensor, noise_hat: Tensor, z: Tensor) -> Tensor:
    """ch10.1 · difficulty 2 of 5 · 10 minutes

    One line of algorithm 2, as it is printed in the paper: x_{t−1} from x_t and the noise that a network sees in it, with the
    variance β̃_t. One formula for every t: at t = 1 nothing is added.

    Args:
        beta: β_0 … β_T (β_0 = 0), float64, shape T+1.
        t: one whole number in 1..T.
        x_t, noise_hat: the picture at t and the predicted ε, N×….
        z: standard normal noise, N×….

    Returns: x_{t−1}, N×….

    Hint: chapter 07 wrote the posterior's mean in three ways, one of them with ε.
    """
    raise NotImplementedError("ch10.1 ancestral_step: see the section 'Two algorithms on one page'")


def average_shares(decay: float, updates: int) -> Tensor:
    """ch10.2 · difficulty 2 of 5 · 15 minutes

    What an average of weights consists of. It starts as a copy of the first weights and takes in the weights θ_n at the
    updates n = 0, 1, …: average ← d_n · average + (1 − d_n) · θ_n with d_n = min(decay, n/(10 + n)). After all updates it
    is Σ_n s_n θ_n. Find the shares s_n.

    Args:
        decay: the limit of d, in [0, 1).
        updates: how many, at least 1.

    Returns: s_0, s_1, …, float64, shape `updates`; they sum to 1. Why is nothing left of the copy?

    Hint: θ_n comes in with the factor 1 − d_n, and every later update multiplies what is there.
    """
    raise NotImplementedError("ch10.2 average_shares: see the section 'Averaged weights'")


def best_share(beta: Tensor, error: Tensor) -> Tensor:
    """ch10.3 · difficulty 3 of 5 · 20 minutes

    How far from β̃ towards β the best variance lies: the place ρ of (10.6) at which V_t is that of (10.5).

    Args:
        beta: β_0 … β_T (β_0 = 0), float64, shape T+1.
        error: the mean squared error of x̂_0 per dimension at t = 0 … T, shape T+1.

    Returns: ρ_0 … ρ_T, float64, shape T+1; it may leave [0, 1]. At 0 and 1, where β̃ is 0, there is none: put 0 there.

    Hint: (10.6) is a straight line in ρ. Of which quantity?
    """
    raise NotImplementedError("ch10.3 best_share: see the section 'How wide is a step?'")


def logistic_levels(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """ch10.4 · difficulty 3 of 5 · 15 minutes

    The decoder of grey levels with another density: the logistic distribution, whose distribution function is
    1/(1 + exp(−(x − mean)/scale)). Each level, from −1 to 1, has the integral over its interval; the outermost two reach to
    infinity.

    Args:
        mean, scale: of N distributions, float64, shape N.
        levels: how many grey levels, at least 2.

    Returns: the probability of each level, darkest first, float64, N×levels; each row sums to 1.

    Hint: neighbours share an edge. How many edges are there, and where are they? A probability of 1e-40 is to have its digits
        too: of two tails, take the lower one.
    """
    raise NotImplementedError("ch10.4 logistic_levels: see the section 'Bits'")


def importance_times(losses: Tensor) -> tuple[Tensor, Tensor]:
    """ch10.5 · difficulty 4 of 5 · 25 minutes

    The bound's terms differ by orders of magnitude from time to time, so a uniform t wastes most of its draws. Draw t with
    probability p_t instead, and multiply the loss by a weight w_t, so that the mean of w_t L_t is still the plain mean of L
    over t = 1 … T, and its variance is as small as it can be. You are given some losses that were met at each t.

    Args:
        losses: H losses at each t, float64, (T+1)×H; row 0 is not used.

    Returns: p and w, each of shape T+1 with entry 0 equal to 0.

    Hint: write down E[(w_t L_t)²] and make it small under Σ p_t = 1, by a Lagrange multiplier or by Cauchy and Schwarz. It
        contains E[L_t²], which you can estimate.
    """
    raise NotImplementedError("ch10.5 importance_times: see the section 'When is a batch lucky?'")
