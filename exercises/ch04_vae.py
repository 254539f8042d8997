"""Exercises of chapter 04, the variational autoencoder. Check your answers with `pytest exercises/test_ch04_vae.py`.

Import what you need (`math`, `torch`).
"""

from collections.abc import Callable

from torch import Tensor


def bernoulli_score_gradient(f: Callable[[Tensor], Tensor], logit: float, coins: Tensor, baseline: float = 0.0) -> Tensor:
    """ch04.1 · difficulty 2 of 5 · 15 minutes

    The score-function estimator for a coin: the derivative of E[f(b)] with respect to the logit ℓ, when b is 1 with
    probability π = sigmoid(ℓ) and 0 otherwise. A coin jumps, so there is no path to differentiate along.

    Args:
        f: from N coins to N numbers. It need not be differentiable.
        logit: ℓ, a Python float.
        coins: N draws of b, each 0 or 1, floating point.
        baseline: subtracted from f, as in (04.2).

    Returns: one estimate for each draw, shape N; do not average.

    Hint: log q(b) = b log π + (1 − b) log(1 − π). Its derivative in ℓ is shorter than it looks; sigmoid′ = π (1 − π).
    """
    raise NotImplementedError("ch04.1 bernoulli_score_gradient: see 'First way: the score function'")


def best_baseline(values: Tensor, scores: Tensor) -> Tensor:
    """ch04.2 · difficulty 3 of 5 · 20 minutes

    The constant baseline b that makes the variance of (f − b) s as small as possible, estimated from draws.

    Args:
        values: f(z) at N draws, shape N.
        scores: s = ∂ log q(z)/∂θ at the same draws, shape N. Their expectation is 0; take that as known.

    Returns: b, one number: a Python float, or a tensor without dimensions. Replace each expectation in your formula by the
    mean over the draws.

    Hint: the mean of (f − b) s does not depend on b, so only E[(f − b)² s²] needs to be small. It is a parabola in b.
    """
    raise NotImplementedError("ch04.2 best_baseline: see 'The same with a baseline'")


def exponential_pathwise_gradient(slope: Callable[[Tensor], Tensor], rate: Tensor, uniform: Tensor) -> Tensor:
    """ch04.3 · difficulty 2 of 5 · 15 minutes

    The pathwise estimator for another distribution: the derivative of E[f(z)] with respect to the rate r, when z has the
    exponential density r e^(−r z), z > 0. From u, uniform on (0, 1), a draw is z = −log(1 − u)/r.

    Args:
        slope: f′, from N numbers to N numbers.
        rate: r > 0, one for each draw, shape N.
        uniform: u, shape N.

    Returns: one estimate for each draw, shape N.

    Hint: u plays the part of ε: it knows nothing of r. What is ∂z/∂r while u is held still?
    """
    raise NotImplementedError("ch04.3 exponential_pathwise_gradient: see 'Second way: along the path'")


def kl_to_wide_prior(mean: Tensor, log_var: Tensor, prior_variance: float) -> Tensor:
    """ch04.4 · difficulty 2 of 5 · 15 minutes

    KL(q(z | x) ‖ p(z)) in closed form when the prior is N(0, s² I), with a variance s² that need not be 1.

    Args:
        mean: μ, shape N×L.
        log_var: log σ², shape N×L.
        prior_variance: s² > 0, a Python float.

    Returns: nats, one number for each example, shape N.

    Hint: repeat the three lines that lead to (04.5), with s² in log p(z). Or scale z so that the prior becomes N(0, 1).
    """
    raise NotImplementedError("ch04.4 kl_to_wide_prior: see 'The two terms of the ELBO'")


def calibrated_log_likelihood(x: Tensor, mean: Tensor) -> Tensor:
    """ch04.5 · difficulty 3 of 5 · 20 minutes

    log p(x | z) under the Gaussian likelihood (04.7), with the one variance σ² that makes the whole batch most probable,
    instead of one that somebody chose. The same σ² serves all examples and all dimensions.

    Args:
        x: data, N×D or N×C×H×W or any other shape N×….
        mean: what the decoder gives, same shape.

    Returns: nats, with all constants of (04.7), one number for each example, shape N.

    Hint: set the derivative of the batch's summed log-likelihood in σ² to zero.
    """
    raise NotImplementedError("ch04.5 calibrated_log_likelihood: see 'What the decoder says: two likelihoods'")


def true_beta(dimensions: int, latents: int, reconstruction: str, kl: str, weight: float = 1.0) -> float:
    """ch04.6 · difficulty 1 of 5 · 5 minutes

    A program minimises a reconstruction loss plus `weight` times a KL, and takes a sum or a mean over the dimensions of
    either. Which β does it really use, if β is the KL's weight beside this same reconstruction loss with both of them summed?
    (A ½ or a σ² inside the reconstruction loss stays there, and does not enter.)

    Args:
        dimensions: D, of x.
        latents: L, of z.
        reconstruction: "sum" or "mean": over the D dimensions of x.
        kl: "sum" or "mean": over the L dimensions of z.
        weight: what the program multiplies its KL with.

    Returns: β, a Python float.

    Hint: write both as sums with a factor in front, then divide the loss by the reconstruction's factor.
    """
    raise NotImplementedError("ch04.6 true_beta: see 'What averaging the KL does, silently'")
