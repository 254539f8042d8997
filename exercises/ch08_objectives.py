"""Exercises of chapter 08. Check your answers with `pytest exercises/test_ch08_objectives.py`."""

from torch import Tensor


def from_score(slope: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ch08.1 · difficulty 2 of 5 · 10 minutes

    All the other coordinates from the fifth. A network has said the score; write down the picture, the noise, the velocity
    and the flow that it implies.

    Args:
        slope: the score, N×D.
        x_t: the frames, N×D.
        a, s: signal rates and noise rates, one for each frame, shape N; positive, and a² + s² need not be 1.

    Returns: x̂_0, ε̂, v̂ and û, N×D each, in this order.

    Hint: what is the score as a multiple of the noise? And a rate belongs to a frame, that is, to a row.
    """
    raise NotImplementedError("ch08.1 from_score: see the section 'The fifth coordinate'")


def exchange_weight(a: Tensor, s: Tensor, says: str, weighed: str) -> Tensor:
    """ch08.2 · difficulty 2 of 5 · 15 minutes

    A network says one coordinate, and you want its error to count as if it had been measured in another: find w with
    w · |error in what it says|² = |the same error, measured in the other|². The score is one of the coordinates.

    Args:
        a, s: signal rates and noise rates, shape N; positive, and a² + s² need not be 1.
        says, weighed: each one of "epsilon", "x0", "v", "flow", "score".

    Returns: w, shape N.

    Hint: take both errors to x̂_0, where they are one and the same. How far does an error of 1 in each coordinate move x̂_0?
    """
    raise NotImplementedError("ch08.2 exchange_weight: see the section 'Errors in one coordinate are errors in another'")


def best_skip(a: Tensor, s: Tensor, variance: float) -> tuple[Tensor, Tensor]:
    """ch08.3 · difficulty 3 of 5 · 25 minutes

    A coordinate made to measure. Let x̂_0 = c_skip x_t + c_out F, where F is what the network says: part of the guess is taken
    from the frame, and the network adds the rest. Choose c_skip so that the network has as little to add as possible, that is,
    with the smallest mean square of x_0 − c_skip x_t; and c_out, positive, so that what F should be has the mean square 1.

    Args:
        a, s: signal rates and noise rates, shape N; positive, and a² + s² need not be 1.
        variance: of the data, whose mean is 0; the noise has variance 1, independent of them.

    Returns: c_skip and c_out, shape N each. (For variance 1 and a² + s² = 1 you will find that F is −v.)

    Hint: insert x_t = a x_0 + s ε. The mean square is a parabola in c_skip. (The best guess in one cloud has this slope.)
    """
    raise NotImplementedError("ch08.3 best_skip: see the section 'What a squared error learns'")


def what_is_left(curvature: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """ch08.4 · difficulty 4 of 5 · 30 minutes

    Tweedie's formula gives the mean of x_0 given the frame, from the slope of log q(x_t). The next derivative gives its
    variance: how sure the best guess is. Find the formula.

    Args:
        curvature: the second derivative of log q at numbers x_t, shape N.
        a, s: signal rates and noise rates, shape N; positive, and a² + s² need not be 1.

    Returns: Var[x_0 | x_t], shape N.

    Hint: take the first derivative of E[x_0 | x_t] in x_t, in two ways, and compare. First as it stands in (08.9). Then as the
        integral ∫ x_0 q(x_0) q(x_t | x_0) dx_0 / q(x_t), as the score of all data was found: a covariance appears.
    """
    raise NotImplementedError("ch08.4 what_is_left: see the section 'The score of all data'")


def any_noise(x: Tensor, slope: Tensor, beta: float, h: float) -> tuple[Tensor, float]:
    """ch08.5 · difficulty 4 of 5 · 30 minutes

    Between the reverse SDE and the probability-flow ODE, and beyond. A process runs backwards, dx = drift dt + rate dW with
    dt < 0, and its noise has the rate h √β: none for h = 0, that of (08.12) for h = 1. Which drift gives it, at every time, the
    density of the forward process (08.11)?

    Args:
        x: numbers, shape N.
        slope: ∇ log q(x) at them, shape N.
        beta: β(t), positive.
        h: how much noise, at least 0; it may be above 1.

    Returns: the drift at each of the numbers, shape N, and the rate, one number, since it is the same for all.

    Hint: what the noise does to an average is −½ rate² E[φ' ∇ log q], as if it were a drift. Mind that time runs backwards.
    """
    raise NotImplementedError("ch08.5 any_noise: see the section 'In continuous time'")
