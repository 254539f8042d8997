"""Exercises of chapter 13. Check your answers with `pytest exercises/test_ch13_text.py`."""

from collections.abc import Callable

from torch import Tensor


def bits_per_byte(log_probs: Tensor, texts: list[str]) -> float:
    """ch13.1 · difficulty 1 of 5 · 10 minutes

    A model whose tokens are long words has a high perplexity, one whose tokens are bytes a low one, and neither says which is
    better. Divide by something that no tokenizer can change: the bytes of the texts, in UTF-8.

    Args:
        log_probs: log p(w_{i+1} | w_1 … w_i) of every token but the start (the end is one of them), in nats, N×(L−1); 0 in the
            padding.
        texts: the N texts. Count their bytes alone: start and end have none.

    Returns: bits per byte, over all texts together, a Python float, at least 0.

    Hint: what does the whole set of texts cost, in bits? A long text should count for more than a short one.
    """
    raise NotImplementedError("ch13.1 bits_per_byte: see the section 'A model of text'")


def readable(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """ch13.2 · difficulty 2 of 5 · 15 minutes

    Which positions each position may look at, so that no state of the text depends on how far the row was filled: none looks
    at the padding. The first end token is part of the text, and every later one is padding. A causal encoder must also not look
    ahead. Positions in the padding may look at the whole text (their states are of no use, but a softmax over nothing is NaN).

    Args:
        tokens: N×L, each row with at least one end token.
        end: the number of the end token.
        causal: whether position i is forbidden to look at j > i.

    Returns: N×1×L×L, bool, True where row i may look at column j; the 1 is for the heads of chapter 09's `Attention`.

    Hint: whether column j may be seen at all depends on the tokens before j; `cumsum` counts ends.
    """
    raise NotImplementedError("ch13.2 readable: see the sections 'Rows of numbers' and 'Who may look at whom'")


def closest_pair(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """ch13.3 · difficulty 2 of 5 · 15 minutes

    WordPiece (Schuster and Nakajima 2012), the tokenizer of BERT, joins another pair than BPE: the one whose joining raises most,
    per joined pair, how probable the text is, if pieces are drawn independently with their own frequencies. That is
    log p(ab) − log p(a) − log p(b), so the score of a pair is count(ab) / (count(a) · count(b)).

    Args:
        words: for each word, as the tuple of its pieces, how often it occurs; some word has at least two pieces.

    Returns: the neighbours (a, b) with the highest score; among equals the alphabetically first.

    Hint: count pieces and pairs separately, each as often as its word occurs. A piece may stand in a word more than once,
    and every place where two pieces are neighbours counts, overlapping ones too.
    """
    raise NotImplementedError("ch13.3 closest_pair: see the section 'Merging'")


def best_split(word: str, log_prob: dict[str, float]) -> list[str]:
    """ch13.4 · difficulty 3 of 5 · 25 minutes

    A unigram tokenizer (Kudo 2018, arXiv:1804.10959) has no merges. It has pieces with probabilities, and cuts a word so that the
    product of its pieces' probabilities is largest. A word of fifty characters can be cut in 2⁴⁹ ways: do not try them all.

    Args:
        word: at least one character; it can be cut into known pieces.
        log_prob: of each known piece, its log-probability.

    Returns: the pieces of the best cut, in order.

    Hint: the best cut of the first k characters ends in some piece; what stands before that piece is cut in the best way, too.
    """
    raise NotImplementedError("ch13.4 best_split: see the section 'Merging'")


def any_order(guess: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, order: list[int]) -> float:
    """ch13.5 · difficulty 4 of 5 · 25 minutes

    The sum of log p(w_i | all others) is not log p(w). But the chain rule holds in any order, and a masked model can follow it:
    begin with everything hidden, and reveal one position after the other, each time asking for the token that comes next *in
    this order*.

    Args:
        guess: (tokens of shape L, hidden: bool, shape L, True where hidden) → log-probabilities of the token at each position,
            L×V. Under the mask it does not look; ask only about hidden positions.
        tokens: the text, shape L.
        order: every position of 0 … L−1 once.

    Returns: log p(w) in nats, a Python float.

    Hint: what is hidden when position order[k] is guessed? For an exact model every order gives the same number.
    """
    raise NotImplementedError("ch13.5 any_order: see the section 'Hiding words instead'")
