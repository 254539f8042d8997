"""Exercises of chapter 14. Check your answers with `pytest exercises/test_ch14_clip.py`."""

from torch import Tensor


def symmetric_loss(pictures: Tensor, captions: Tensor, log_scale: Tensor) -> Tensor:
    """ch14.1 · difficulty 2 of 5 · 15 minutes

    From what the two towers say to the contrastive loss (14.2), one number for each pair.

    Args:
        pictures: the image tower's vectors, of any length, N×D, float64.
        captions: the text tower's vectors, of any length, N×D, float64; caption i belongs to picture i.
        log_scale: log s, a single number.

    Returns: nats, shape N. The scale is not stopped at 100 here: logits may pass 1000, and no exponential of them may overflow.

    Hint: (14.1) first. Then every pair has a row and a column, and `torch.logsumexp` is safe.
    """
    raise NotImplementedError("ch14.1 symmetric_loss: see the section 'The game as a classification'")


def expected_floor(frequencies: Tensor, count: int) -> Tensor:
    """ch14.2 · difficulty 3 of 5 · 20 minutes

    What repeated captions cost on average. A batch holds `count` pairs, drawn one independently of the other; caption k is drawn
    with probability f_k. Find the mean, over batches and pairs, of log(1 + B), where B is how many *other* pairs of the
    batch have the same caption. The chapter has the case of equal frequencies.

    Args:
        frequencies: f, positive, summing to 1, float64, shape K.
        count: N ≥ 1.

    Returns: nats, a single number, float64.

    Hint: first suppose that your pair has caption k. How is B distributed then, and how often are you that pair?
    """
    raise NotImplementedError("ch14.2 expected_floor: see the section 'The ceiling'")


def sigmoid_loss(cosines: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """ch14.3 · difficulty 2 of 5 · 15 minutes

    Another game: of every cell of the table it is asked, by itself, whether picture i and caption j belong together. The answer
    is yes with probability sigmoid(s u_i·w_j + b), and the loss is the surprise at the right answer: yes on the diagonal, no
    elsewhere. Picture i is charged for its whole row, N cells.

    Args:
        cosines: u_i·w_j, N×N, float64, the pairs on the diagonal.
        log_scale: log s, a single number.
        bias: b, a single number; negative, since most answers are no.

    Returns: nats, the sum over each row, shape N. Logits may be ±1000.

    Hint: the probability of no is a sigmoid too. `torch.nn.functional.logsigmoid` is safe.
    Source: Zhai et al. 2023 (arXiv:2303.15343), algorithm 1.
    """
    raise NotImplementedError("ch14.3 sigmoid_loss: see the section 'The game as a classification'")


def best_scale(cosines: Tensor) -> Tensor:
    """ch14.4 · difficulty 3 of 5 · 25 minutes

    The towers are trained, and the cosines of N pairs that they have not seen are given. At which scale s, between 0.01 and 100,
    is the mean loss (14.2) of this batch least? Right to six digits.

    Args:
        cosines: u_i·w_j, N×N, float64, the pairs on the diagonal.

    Returns: s, a single number; 0.01 if the loss only rises from there on, 100 if it still falls there.

    Hint: (14.9), and a sign: the loss is a convex function of s, so its slope changes its sign once.
        Where pairs are perfectly told apart the slope is negative at every scale, but from some scale on it rounds to 0: count
        0 as still falling.
    """
    raise NotImplementedError("ch14.4 best_scale: see the section 'The scale'")


def image_gradient(u: Tensor, w: Tensor, scale: float, start: int, stop: int) -> Tensor:
    """ch14.5 · difficulty 4 of 5 · 30 minutes

    A batch too large for the memory: encode it piece by piece without keeping graphs, compute the loss from the vectors, and hand
    every piece its gradient afterwards. Derive the gradient of the *mean* of (14.2) over the batch with respect to the
    unit vectors u_start … u_{stop−1} of one piece, as if they were free vectors. No autograd.

    Args:
        u, w: unit vectors of all N pictures and captions, N×D, float64.
        scale: s.
        start, stop: the piece.

    Returns: (stop − start)×D.

    Hint: a softmax's surprise has the slope (belief − target) in its logits. How many softmaxes does u_i occur in? Also the
        columns of the other captions hold it.
    Source: Gao et al. 2021 (arXiv:2101.06983), who cut batches in this way.
    """
    raise NotImplementedError("ch14.5 image_gradient: see the section 'The scale'")
