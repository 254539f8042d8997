"""Information, entropy and divergence of finite distributions, in bits; Jensen's gap (chapter 01)."""

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 2.0**-13  # how far the sum of float32 probabilities may be from 1: about 1e-4


def information(p: Tensor) -> Tensor:
    """The surprise of an outcome that has probability p, Eq. (01.5): −log₂ p, in bits.

    Args:
        p: probabilities, any shape; they need not belong to one distribution.

    Returns: bits, same shape as p; 0 for what is certain, ∞ for what cannot happen.

    Raises:
        ValueError: a probability outside [0, 1].

    Source: Shannon 1948 (A Mathematical Theory of Communication), section 6.
    """
    if not bool(((p >= 0) & (p <= 1 + TOLERANCE)).all()):
        raise ValueError(f"a probability lies in [0, 1], here they reach from {p.min():.4g} to {p.max():.4g}: is that a density?")
    return -torch.log2(p)


def expectation(p: Tensor, values: Tensor) -> Tensor:
    """The mean of f over a finite distribution, Eq. (01.4): E_p[f] = Σ_k p_k f_k.

    Args:
        p: probabilities, …×K, that sum to 1 over the last dimension.
        values: f of each outcome, …×K, any unit. What cannot happen does not count, even where f is infinite.

    Returns: in the unit of f, shape ….

    Raises:
        ValueError: negative probabilities, a sum other than 1, or another number of values than of probabilities.
    """
    if values.shape[-1:] != p.shape[-1:]:
        raise ValueError(f"one value per outcome is needed: {tuple(values.shape)} values for probabilities {tuple(p.shape)}")
    total = p.sum(-1)
    if not bool((p >= 0).all() and ((total - 1).abs() <= TOLERANCE).all()):
        raise ValueError(
            f"probabilities are at least 0 and sum to 1; here the least is {p.min():.4g} and the sums reach from "
            f"{total.min():.4g} to {total.max():.4g}: divide by the sum"
        )
    return torch.where(p > 0, p * values, 0).sum(-1)


def entropy(p: Tensor) -> Tensor:
    """The mean surprise, Eq. (01.6): H(p) = E_p[−log₂ p], in bits, with 0 log 0 = 0.

    Args:
        p: probabilities, …×K.

    Returns: bits, shape …; between 0 and log₂ K.

    Source: Shannon 1948 (A Mathematical Theory of Communication), section 6.
    """
    return expectation(p, information(p))


def cross_entropy(p: Tensor, q: Tensor) -> Tensor:
    """The mean surprise of one who believes q where p is true, Eq. (01.7): H(p, q) = E_p[−log₂ q], in bits.

    Args:
        p: the true probabilities, …×K.
        q: the believed ones, …×K.

    Returns: bits, shape …; ∞ where something happens that q holds to be impossible.

    Source: Cover and Thomas 2006 (Elements of Information Theory), Theorem 5.4.3.
    """
    return expectation(p, information(q))


def kl_divergence(p: Tensor, q: Tensor) -> Tensor:
    """The price of the wrong belief, Eq. (01.8): KL(p ‖ q) = H(p, q) − H(p) = E_p[log₂ p − log₂ q], in bits.

    Args:
        p: the true probabilities, …×K.
        q: the believed ones, …×K.

    Returns: bits, shape …; never negative, 0 where p = q, ∞ where something happens that q holds to be impossible.

    Source: Kullback and Leibler 1951 (On Information and Sufficiency); Cover and Thomas 2006, section 2.3.
    """
    return expectation(p, information(q) - information(p))


def jensen_gap(function: Callable[[Tensor], Tensor], p: Tensor, values: Tensor) -> Tensor:
    """What is lost when a function and a mean change places, Eq. (01.9): E[f(X)] − f(E[X]).

    Args:
        function: f, number by number; at least 0 is the gap of a convex one, at most 0 that of a concave one like log.
        p: probabilities, …×K.
        values: X of each outcome, …×K.

    Returns: in the unit of f, shape ….

    Source: Cover and Thomas 2006 (Elements of Information Theory), Theorem 2.6.2.
    """
    return expectation(p, function(values)) - function(expectation(p, values))
