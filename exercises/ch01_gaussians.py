"""Exercises of chapter 01. Fill them in, then run `pytest exercises/test_ch01_gaussians.py`."""

from torch import Tensor


def mutual_information(joint: Tensor) -> Tensor:
    """ch01.1 · difficulty 2 of 5 · 15 minutes

    How much one of two variables tells about the other, in bits: the divergence of their joint distribution from what it would
    be if they were independent, KL(p(x, z) ‖ p(x) p(z)).

    Args:
        joint: p(x, z) as a table, K×L, float64: one row per x, one column per z. Its entries sum to 1; some may be 0, and those
            add nothing (0 log 0 = 0).

    Returns: one number, in bits (a Python float or a tensor with one element).

    Hint: the marginals are the sums of the rows and of the columns; a table of all their products has the joint's shape.
    """
    raise NotImplementedError("ch01.1 mutual_information: see the section 'Surprise, in bits'")


def fit_weighted(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """ch01.2 · difficulty 2 of 5 · 15 minutes

    The Gaussian that makes weighted examples most probable: it maximises Σ_n w_n log N(x_n; μ, σ²), each dimension by itself.
    A weight of 2 counts like the same example seen twice.

    Args:
        x: N examples of D dimensions, N×D.
        weights: w_n ≥ 0, shape N; they need not sum to 1.

    Returns: the mean μ, shape D, and log σ², shape D.

    Hint: repeat the two derivatives of section 'Learning a distribution' with w_n in front of every term, and watch what takes
    the place of N.
    """
    raise NotImplementedError("ch01.2 fit_weighted: see the section 'Learning a distribution'")


def kl_gaussians(mean1: Tensor, log_var1: Tensor, mean2: Tensor, log_var2: Tensor) -> Tensor:
    """ch01.3 · difficulty 2 of 5 · 10 minutes

    KL(N(μ₁, σ₁²) ‖ N(μ₂, σ₂²)) in nats, for each of N pairs of Gaussians with D independent dimensions: Eq. 01.11 with 01.17.

    Args:
        mean1, log_var1: μ₁ and log σ₁² of the first argument of KL, N×D both.
        mean2, log_var2: μ₂ and log σ₂² of the second, N×D both.

    Returns: one number per pair, summed over the dimensions, shape N.

    Hint: try to derive the formula once more without looking; only one expectation in it is not immediate.
    """
    raise NotImplementedError("ch01.3 kl_gaussians: see the section 'How far apart two Gaussians are'")


def combine(mean: Tensor, var: Tensor, x: Tensor, scales: Tensor, noise_vars: Tensor) -> tuple[Tensor, Tensor]:
    """ch01.4 · difficulty 3 of 5 · 20 minutes

    One hidden number z ~ N(mean, var) is measured M times, each time by another instrument: x_i = a_i z + e_i with noise
    e_i ~ N(0, s_i²), independent of z and of the other noises. What is known of z after all M measurements?

    Args:
        mean, var: of the prior (a variance, not its logarithm), tensors with no dimension.
        x: the measurements, shape M.
        scales: a_1 … a_M, shape M; they may be negative or 0.
        noise_vars: s_1² … s_M² (variances), shape M.

    Returns: the mean and the variance of p(z | x_1, …, x_M), two tensors with no dimension.

    Hint: the posterior after one measurement is the prior of the next. What happens to the precision each time?
    """
    raise NotImplementedError("ch01.4 combine: see the section 'Bayes with Gaussians'")


def kl_correlated(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> Tensor:
    """ch01.5 · difficulty 4 of 5 · 30 minutes

    KL(N(m₁, S₁) ‖ N(m₂, S₂)) in nats for Gaussians whose dimensions depend on each other. The log-density of such a Gaussian is
    −½ [D log 2π + log det S + (x − m)ᵀ S⁻¹ (x − m)], where the covariance S has the entries E[(x_i − m_i)(x_j − m_j)].

    Args:
        mean1, mean2: m₁ and m₂, shape D.
        covariance1, covariance2: S₁ and S₂, D×D, symmetric and positive definite.

    Returns: one number, in nats (a Python float or a tensor with one element).

    Hint: only E[(x − m₂)ᵀ A (x − m₂)] with A = S₂⁻¹ is new. Write it as a double sum over i and j, exchange sum and
        expectation, and use Σ_ij A_ij S_ji = trace(A S). For matrices there are torch.linalg.inv, torch.logdet, torch.trace.
    """
    raise NotImplementedError("ch01.5 kl_correlated: see the sections 'How far apart two Gaussians are' and 'Many dimensions'")
