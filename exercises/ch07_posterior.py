"""Exercises of chapter 07. Check your answers with `pytest exercises/test_ch07_posterior.py`."""

from torch import Tensor


def posterior_variances(beta: Tensor) -> Tensor:
    """ch07.1 · difficulty 2 of 5 · 10 minutes

    The variances β̃_0, β̃_1, …, β̃_T of the steps back q(x_{t−1} | x_t, x_0), from the steps forth alone.

    Args:
        beta: β_0, β_1, …, β_T, float64, shape T+1; β_0 = 0, the others in (0, 1).

    Returns: shape T+1. Entry t belongs to the step from t to t − 1. Entry 0 is 0, since there is no step from 0; entry 1 is 0
        as well.

    Hint: make the table of ᾱ first, with ᾱ_0 = 1. What stands one place before ᾱ_t in it? And mind 0/0.
    """
    raise NotImplementedError("ch07.1 posterior_variances: see the section 'One step back, with the answer in hand'")


def two_steps_back(later: tuple[float, float, float], earlier: tuple[float, float, float]) -> tuple[float, float, float]:
    """ch07.2 · difficulty 3 of 5 · 15 minutes

    Two steps back, chained into one. A step is given by three numbers A, B and V: x_{t−1} ~ N(A x_0 + B x_t, V).

    Args:
        later: A, B and V of the step from t to t − 1, which is taken first.
        earlier: A, B and V of the step from t − 1 to t − 2.

    Returns: A, B and V of the step from t to t − 2, with x_{t−1} averaged over.

    Hint: write both steps as "mean plus deviation times ε" and insert one into the other.
    """
    raise NotImplementedError("ch07.2 two_steps_back: see the section 'Skipping frames'")


def noise_weights(beta: Tensor, variance: Tensor) -> Tensor:
    """ch07.3 · difficulty 3 of 5 · 20 minutes

    A model predicts the noise: its step back has the mean (x_t − β_t/σ_t ε̂)/√α_t and a fixed variance V_t. The part of L_{t−1}
    that depends on the prediction is a weight times |ε − ε̂|². Which weight?

    Args:
        beta: β_0, β_1, …, β_T, float64, shape T+1; β_0 = 0.
        variance: V_0, V_1, …, V_T, shape T+1; positive from t = 2 on.

    Returns: shape T+1. Entries 0 and 1 are 0: L_0 is no KL.

    Hint: the KL between Gaussians in which only the means differ by what was guessed. The variance of the posterior itself
        does not matter here: it adds something that ε̂ cannot change.
    """
    raise NotImplementedError("ch07.3 noise_weights: see the section 'What a network has to guess'")


def price_of_variance(beta: Tensor, v: float, variance: Tensor) -> Tensor:
    """ch07.4 · difficulty 4 of 5 · 30 minutes

    The data are N(0, v) in one dimension. A model's steps back have the right mean, that of q(x_{t−1} | x_t), but a fixed
    variance V_t. How much does each step add to the mean of the bound over the data, compared with a model that is right in both?

    Args:
        beta: β_0, β_1, …, β_T, float64, shape T+1; β_0 = 0, the others in (0, 1).
        v: variance of the data, positive.
        variance: V_0, V_1, …, V_T, shape T+1; positive from t = 1 on.

    Returns: nats, shape T+1; entry t belongs to the step from t to t − 1, and t = 1 has one as well. Entry 0 is 0.

    Hint: the bound is averaged over the data here, so compare with q(x_{t−1} | x_t), without x_0. What is its variance?
    """
    raise NotImplementedError("ch07.4 price_of_variance: see the sections 'Gaussian data' and 'What the steps cost together'")


def best_variances(beta: Tensor, slope: Tensor) -> Tensor:
    """ch07.5 · difficulty 5 of 5 · 40 minutes

    The data may be anything, in one dimension. All you are given of them is a guess, x̂_0(x_t) = E[x_0 | x_t], and its slope
    dx̂_0/dx_t at the x_t that was seen. Derive the variance of q(x_{t−1} | x_t) from it: the best one for a Gaussian step.

    Args:
        beta: β_0, β_1, …, β_T, float64, shape T+1; β_0 = 0, the others in (0, 1).
        slope: dx̂_0/dx_t at each t, float64, shape T+1; entry 0 means nothing.

    Returns: shape T+1. Entry t belongs to the step from t to t − 1. Entry 0 is 0.

    Hint: E[x_0 | x_t] is a fraction of two integrals over x_0 in which x_t stands only in a Gaussian. Differentiate the fraction;
        the slope turns out to be a variance. How sure is a guess that does not move when x_t does?
    """
    raise NotImplementedError("ch07.5 best_variances: see the section 'Why many small steps'")
