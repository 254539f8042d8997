"""Exercises of chapter 05. Check your answers with `pytest exercises/test_ch05_hierarchical_vae.py`."""

from torch import Tensor


def elbo_of_tables(top: Tensor, down: Tensor, seen: Tensor, up: Tensor, higher: Tensor) -> Tensor:
    """ch05.1 · difficulty 2 of 5 · 15 minutes

    The ELBO in nats of a two-level hierarchy of choices: z_2 has B values, z_1 has A. All from plain probabilities, exactly.

    Args:
        top: p(z_2), shape B.
        down: p(z_1 | z_2), B×A; row b is the distribution of z_1 when z_2 = b.
        seen: p(x | z_1) of each observed x, N×A.
        up: q(z_1 | x), N×A.
        higher: q(z_2 | z_1), A×B; row a is the distribution of z_2 when z_1 = a.
            All probabilities are positive.

    Returns: shape N.

    Hint: an N×A×B table holds log p(x, z_1, z_2) − log q(z_1, z_2 | x) for every pair; another one, how often q draws it.
    """
    raise NotImplementedError("ch05.1 elbo_of_tables: see the section 'The bound, unchanged'")


def split_divergence(q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """ch05.2 · difficulty 2 of 5 · 15 minutes

    The chain rule of the KL divergence: KL(q(z_1, z_2) ‖ p(z_1, z_2)) is a KL at the top plus a mean KL below,

        KL(q(z_2) ‖ p(z_2))  and  E_{q(z_2)}[KL(q(z_1 | z_2) ‖ p(z_1 | z_2))].

    Args:
        q, p: joint tables, A×B, positive, each with the sum 1; the entry at (a, b) belongs to z_1 = a, z_2 = b.

    Returns: the two parts in nats, a number each (shape ()).

    Hint: log q(z_1, z_2) = log q(z_2) + log q(z_1 | z_2). Which distribution is the second KL averaged over?
    """
    raise NotImplementedError("ch05.2 split_divergence: see the section 'Level by level, from above'")


def levels_needed(beta: float, x: Tensor, tolerance: float) -> int:
    """ch05.3 · difficulty 3 of 5 · 20 minutes

    How many links of noising, q(z_l | z_{l−1}) = N(√(1 − β) z_{l−1}, β I) with the same β in each, does it take until
    prior matching KL(q(z_L | x) ‖ N(0, I)) is at most `tolerance`?

    Args:
        beta: β, in (0, 1).
        x: one data point, shape D.
        tolerance: in nats, for all D dimensions together; positive.

    Returns: the smallest such L, at least 1, as an int.

    Hint: what are mean and variance of q(z_L | x), as functions of (1 − β)^L? Sum the KL over dimensions.
    """
    raise NotImplementedError("ch05.3 levels_needed: see the section 'An encoder that learns nothing'")


def bridge(variances: Tensor, level: int, x: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """ch05.4 · difficulty 3 of 5 · 20 minutes

    q(z_l | z_{l+1}, x) for a chain that only adds noise and shrinks nothing: q(z_l | z_{l−1}) = N(z_{l−1}, s_l² I), z_0 = x.
    (Such chains are called variance exploding.)

    Args:
        variances: s_1² … s_L², shape L; entry i belongs to level i + 1.
        level: l, from 1 to L − 1.
        x: N×D.
        above: z_{l+1}, N×D.

    Returns: the mean, N×D, and the variance, a number (shape ()).

    Hint: what is q(z_l | x)? Then two Gaussians in z_l meet, one from below and one from above, and precisions add.
    """
    raise NotImplementedError("ch05.4 bridge: see the section 'A link, turned about'")


def skip_reconstruction(
    x: Tensor, likelihood: tuple[float, float, float], first: tuple[float, float], second: tuple[float, float]
) -> Tensor:
    """ch05.5 · difficulty 4 of 5 · 25 minutes

    In many hierarchies the data look at all levels, not only at the lowest: here x ~ N(a z_1 + c z_2, s²). What is the mean
    reconstruction E_q[log p(x | z_1, z_2)] when q climbs, z_1 ~ N(u x, v_1), then z_2 ~ N(w z_1, v_2)? In closed form.

    Args:
        x: data, one number each, shape N.
        likelihood: a, c and the variance s².
        first: u and the variance v_1.
        second: w and the variance v_2.

    Returns: nats, shape N.

    Hint: write z_1 and then a z_1 + c z_2 with the two independent noises of the climb. z_1 and z_2 are not independent.
    """
    raise NotImplementedError("ch05.5 skip_reconstruction: see the section 'Worlds of lines: everything exact'")
