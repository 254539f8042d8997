"""Exercises of chapter 03. Check your answers with `pytest exercises/test_ch03_elbo.py`."""

from torch import Tensor


def elbo_of_table(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.1 · difficulty 2 of 5 · 10 minutes

    The ELBO in nats, in a world where z has K values, from plain probabilities (not logarithms).

    A belief may rule a value out, q(z) = 0. Such a value adds nothing: q log q goes to 0 with q. The answer must then be
    finite, also where the joint itself is 0 there.

    Args:
        joint: p(x, z) for N data and K values of z, N×K; each at least 0.
        q: q(z) for each datum, N×K; each row sums to 1. Where q is positive, so is the joint.

    Returns: shape N.

    Hint: decide which entries take part before you take a logarithm.
    """
    raise NotImplementedError("ch03.1 elbo_of_table: see the section 'The harmless step'")


def poisson_elbo(x: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """ch03.2 · difficulty 3 of 5 · 20 minutes

    The ELBO in a world that counts: z ~ N(0, 1), then x ~ Poisson with mean exp(z), so p(x | z) = exp(x z − exp(z))/x!.
    Neither evidence nor posterior has a closed form here, but with q(z) = N(m, v) the ELBO has. No sampling, no quadrature.

    Args:
        x: counts 0, 1, 2, …, float64, shape N.
        m, v: mean and variance of q, shape N each; v is positive.

    Returns: nats, shape N.

    Hint: split it into reconstruction and prior matching. You need E_q[z] and E_q[exp(z)]; the second follows by completing
        the square. `torch.lgamma(x + 1)` is log x!.
    """
    raise NotImplementedError("ch03.2 poisson_elbo: see the section 'A world with a hidden number'")


def fit_belief(x: Tensor, steps: int = 200) -> tuple[Tensor, Tensor]:
    """ch03.3 · difficulty 3 of 5 · 20 minutes

    For each count x, the Gaussian belief q(z) = N(m, v) with the highest ELBO in the world of ch03.2.

    Args:
        x: counts, float64, shape N, each at most 50.
        steps: of whatever iteration you choose; 200 are enough for Adam on m and log v at a learning rate of 0.1, started
            at m = 0 and v = 1 (from elsewhere it may take more), and far more than enough for Newton's method.

    Returns: m and v, shape N each; m right to within 0.001, v to within 0.001 · max(v, 0.1).

    Hint: set both derivatives to zero. They give m = x − e and 1/v = 1 + e with the same e = exp(m + v/2); iterate with
        care (plain substitution runs away for large x), or climb the ELBO by gradients in m and log v.
    """
    raise NotImplementedError("ch03.3 fit_belief: see the section 'Climbing'")


def two_draw_bound(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.4 · difficulty 3 of 5 · 15 minutes

    The importance-weighted bound of two draws, L_2 = E[log ½(w(z₁) + w(z₂))] with z₁, z₂ drawn independently from q, exactly:
    as a sum over all pairs of values, not by drawing.

    Args:
        joint: p(x, z), N×K, positive.
        q: q(z), N×K, positive; each row sums to 1.

    Returns: nats, shape N.

    Hint: how probable is it that the two draws are i and j? K×K pairs, i = j among them.
    """
    raise NotImplementedError("ch03.4 two_draw_bound: see the section 'When sums must be sampled'")


def upper_bound(joint: Tensor, q: Tensor) -> Tensor:
    """ch03.5 · difficulty 3 of 5 · 15 minutes

    A bound from above. With w(z) = p(x, z)/q(z), Jensen's inequality for the convex function u ↦ u² says that
    E_q[w²] is at least E_q[w]², and E_q[w] is the evidence. Turn that into an upper bound on log p(x).

    Args:
        joint: p(x, z), N×K, positive.
        q: q(z), N×K, positive; each row sums to 1.

    Returns: nats, shape N: the bound that follows from u²; at least log p(x), and equal to it when q is the posterior.

    Hint: log turns the inequality between squares into one that you can solve for log p(x).
    """
    raise NotImplementedError("ch03.5 upper_bound: see the section 'The same bound by Jensen'")
