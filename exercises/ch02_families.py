"""Exercises of chapter 02. Check your answers with `pytest exercises/test_ch02_families.py`."""

from torch import Tensor


def discriminator_for_shares(log_p_data: Tensor, log_p_model: Tensor, share: float) -> Tensor:
    """ch02.1 · difficulty 2 of 5 · 10 minutes

    The best discriminator when the points that it is shown are not half real and half generated: a point is real with the
    probability `share`. It maximises share · E_data[log D(x)] + (1 − share) · E_G[log(1 − D(x))].

    Args:
        log_p_data, log_p_model: log-densities of the data and of the generator at N points, in nats, float64, shape N each.
            They may be as low as −5000.
        share: of real points, between 0 and 1, both excluded.

    Returns: D*(x), a probability, shape N.

    Hint: maximise pointwise, as for (02.4). Then look for a form that never leaves the logarithms until its last step.
    """
    raise NotImplementedError("ch02.1 discriminator_for_shares: see the section 'What the discriminator learns'")


def hinge_value(log_p_data: Tensor, log_p_model: Tensor, cell: float) -> Tensor:
    """ch02.2 · difficulty 3 of 5 · 20 minutes

    Another game: D(x) may be any real number, and climbs V = E_data[min(0, D(x) − 1)] + E_G[min(0, −1 − D(x))], the hinge.
    How large is V at the best D?

    Args:
        log_p_data, log_p_model: log-densities in nats at the centres of the cells of a grid, float64, shape N each.
        cell: a cell's length; an integral is a sum over the cells.

    Returns: a single number: −2 where the two agree, and its largest value, 0, where they do not overlap.

    Hint: pointwise again. At one x, draw a·min(0, D − 1) + b·min(0, −1 − D) as a function of D: three straight pieces.
    """
    raise NotImplementedError("ch02.2 hinge_value: see the section 'Which divergence the generator descends'")


def folded_log_prob(x: Tensor, c: float) -> Tensor:
    """ch02.3 · difficulty 3 of 5 · 15 minutes

    A generator that is not invertible: z ~ N(0, 1), one number, and x = (z − c)². Its log-density.

    Args:
        x: positive numbers, float64, shape N. They may be in the thousands, where the density itself rounds to 0.
        c: any number.

    Returns: log p(x) in nats, shape N.

    Hint: which z lead into the small interval from x to x + h? There are two such intervals, and their probabilities add.
    """
    raise NotImplementedError("ch02.3 folded_log_prob: see the section 'Change of variables'")


def triangular_log_prob(x: Tensor, lower: Tensor, shift: Tensor) -> Tensor:
    """ch02.4 · difficulty 2 of 5 · 10 minutes

    A linear flow in D dimensions, given in the direction in which it draws: x = L z + b with z ~ N(0, I), and L lower
    triangular. Its log-density, exact, and without computing a determinant from scratch.

    Args:
        x: N×D, float64.
        lower: L, D×D, zero above the diagonal. Its diagonal has no zero, but it may have negative numbers.
        shift: b, shape D.

    Returns: log p(x) in nats, shape N.

    Hint: (02.9) wants the map from data to noise. `torch.linalg.solve_triangular` applies the inverse of L without forming it.
    """
    raise NotImplementedError("ch02.4 triangular_log_prob: see the section 'A map with an easy determinant'")


def planar(x: Tensor, w: Tensor, u: Tensor, b: float) -> tuple[Tensor, Tensor]:
    """ch02.5 · difficulty 3 of 5 · 20 minutes

    The planar flow: y = x + u tanh(w·x + b), where w·x is a dot product. It moves all coordinates at once, along one
    direction. Its Jacobian is the identity plus a matrix of rank one, whose determinant is a single number for each x. The map
    can be inverted only if w·u ≥ −1; the logarithm is wanted for any w and u.

    Args:
        x: N×D, float64.
        w, u: shape D each.  b: a number.

    Returns: y, N×D, and log |det ∂y/∂x|, shape N. No D×D matrix is needed.

    Hint: a change of x that does not change w·x is passed on unchanged. So all but one of the matrix's eigenvalues are 1,
        and their product is the determinant. For the last, see what the matrix does to u.
    """
    raise NotImplementedError("ch02.5 planar: see the section 'A map with an easy determinant'")
