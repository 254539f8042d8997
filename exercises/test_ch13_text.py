"""Checks of chapter 13's exercises."""

import itertools
import math
from collections import Counter

import torch
from checks import agree, asked, differ_from, number


def test_bits_per_byte(answer):
    texts = ["a red circle", "đỏ", "naïve café on white"]
    log_probs = -torch.rand(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.1
    for row, count in enumerate((6, 2, 5)):
        log_probs[row, count:] = 0
    got = number(asked(lambda log_probs: answer.bits_per_byte(log_probs, list(texts)), log_probs), "bits_per_byte")
    nats, sizes = -log_probs.sum(1), torch.tensor([len(text.encode()) for text in texts])
    letters = torch.tensor([len(text) for text in texts])
    wanted = (nats.sum() / math.log(2) / sizes.sum()).item()
    differ_from(got, -wanted, "a negative cost: log-probabilities are at most 0, and bits are minus their logarithm")
    differ_from(got, nats.sum() / sizes.sum(), "those are nats; a bit is log 2 of them")
    differ_from(got, nats.sum() * math.log(2) / sizes.sum(), "multiplied by log 2, where nats become bits by dividing")
    differ_from(got, nats.sum() / math.log(2) / letters.sum(), "per character; đ, ỏ, ï and é have two or three bytes each")
    differ_from(got, nats.sum() / math.log(2) / 13, "per token: that depends on the tokenizer, which was to be left out")
    differ_from(got, nats.sum() / math.log(2) / 18, "per entry of the table, the padding among them")
    differ_from(
        got,
        (nats / sizes).mean() / math.log(2),
        "a mean over texts of each text's bits per byte: the short text counts as much as the long one",
    )
    differ_from(got, nats.sum() / math.log(2), "the bits of all texts together; divide by their bytes")
    differ_from(got, 2 ** (nats.sum() / math.log(2) / sizes.sum()), "a perplexity per byte; its base-two logarithm is wanted")
    agree(got, wanted, "bits_per_byte")


def test_readable(answer):
    end = 9
    tokens = torch.tensor([[8, 1, 2, 9, 9, 9], [8, 9, 9, 9, 9, 9], [8, 1, 2, 3, 4, 9]])
    last = [3, 1, 5]  # the first end of each row
    for causal in (False, True):
        got = asked(lambda tokens, causal=causal: answer.readable(tokens, end, causal), tokens)
        assert got is not None, "readable: nothing was returned; is there a `return`?"
        assert isinstance(got, torch.Tensor), f"readable: a tensor is wanted, not {type(got).__name__}"
        assert tuple(got.shape) == (3, 1, 6, 6), f"readable: the shape is {tuple(got.shape)}, wanted is (3, 1, 6, 6)"
        assert got.dtype == torch.bool, f"readable: True and False are wanted, not {got.dtype}"

        def rule(allowed, causal=causal):
            cells = [[[[allowed(e, i, j) for j in range(6)] for i in range(6)]] for e in last]
            mask = torch.tensor(cells)
            return mask & torch.ones(6, 6, dtype=torch.bool).tril() if causal else mask

        wanted = rule(lambda e, i, j: j <= e)
        wrong = {
            "True and False have changed places: True is where to look": ~wanted,
            "the first end is hidden, too; it is part of the text, and where the prompt is pooled": rule(lambda e, i, j: j < e),
            "the padding is still seen": rule(lambda e, i, j: True),
            "rows and columns have changed places: it is what is looked *at*, the column, that must not be padding": rule(
                lambda e, i, j: i <= e
            ),
            "the rows of the padding see nothing, and a softmax over nothing is NaN": rule(lambda e, i, j: max(i, j) <= e),
            "one end too many is seen: the second is padding": rule(lambda e, i, j: j <= e + 1),
            "each row may look at the text of the first row only; every row has its own end": rule(lambda e, i, j: j <= 3),
        }
        for mistake, mask in wrong.items():
            assert not torch.equal(got, mask), mistake
        if causal:
            only = torch.tensor([[[[j <= e for j in range(6)] for _ in range(6)]] for e in last])
            assert not torch.equal(got, only), "a causal encoder must not look ahead"
            assert not torch.equal(got, only & torch.ones(6, 6, dtype=torch.bool).triu()), "that looks ahead and never back"
            strict = only & torch.ones(6, 6, dtype=torch.bool).tril(-1)
            assert not torch.equal(got, strict), "each position may look at itself; the first would see nothing"
        assert torch.equal(got, wanted), f"readable, causal={causal}: {int((got != wanted).sum())} of 108 entries are wrong"


def _scores(words, score):
    pieces, pairs = Counter(), Counter()
    for word, count in words.items():
        for piece in word:
            pieces[piece] += count
        for pair in itertools.pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-score(pairs[pair], pieces[pair[0]], pieces[pair[1]]), pair))


def test_closest_pair(answer):
    words = {
        ("h", "u", "g"): 10,
        ("p", "u", "g"): 5,
        ("p", "u", "n"): 12,
        ("b", "u", "n"): 4,
        ("q", "a", "q", "a"): 2,
        ("n", "o", "x"): 3,
        ("o", "x", "o"): 4,
        ("z", "y"): 1,
        ("v", "w"): 1,
    }
    got = answer.closest_pair(dict(words))
    assert got is not None, "closest_pair: nothing was returned; is there a `return`?"
    assert isinstance(got, tuple) and len(got) == 2, "closest_pair: a pair (a, b) of neighbours is wanted"
    wanted = ("v", "w")  # v and w never stand alone: 1/(1·1), like z and y, and v comes first
    assert _scores(words, lambda ab, a, b: ab / (a * b)) == wanted
    assert got != _scores(words, lambda ab, a, b: ab), (
        "that is the most frequent pair, which BPE joins; how often a pair occurs must not weigh by itself"
    )
    assert got != ("z", "y"), "(v, w) has the same score, and comes first in the alphabet"
    repeats = {"ba": 3, "bbb": 10, "ddcdd": 8, "acaca": 11, "cc": 11, "bccd": 11, "abdcc": 3}  # right is (b, b)
    third = answer.closest_pair({tuple(word): count for word, count in repeats.items()})
    assert third != ("a", "b"), "weighed by how often the pair occurs: the score is per joined pair"
    spelled = {"ebeac": 5, "ggfe": 8, "idbb": 10, "giiic": 3, "ccd": 5, "ggd": 5, "ahde": 4, "hg": 12, "eed": 6, "hfa": 3}
    frequent = {tuple(word): count for word, count in spelled.items()}  # each mistake finds another pair
    second = answer.closest_pair(dict(frequent))

    def types(score):
        """Every word counted once."""
        return _scores(dict.fromkeys(frequent, 1), score)

    right = _scores(frequent, lambda ab, a, b: ab / (a * b))
    wrong = {
        "that is the most frequent pair, which BPE joins": _scores(frequent, lambda ab, a, b: ab),
        "count(ab) is divided by a sum; probabilities of independent pieces multiply": _scores(
            frequent, lambda ab, a, b: ab / (a + b)
        ),
        "divided by the first piece's count alone; both pieces must be rare elsewhere": _scores(
            frequent, lambda ab, a, b: ab / a
        ),
        "divided by the second piece's count alone; both pieces must be rare elsewhere": _scores(
            frequent, lambda ab, a, b: ab / b
        ),
        "each word was counted once, however often it occurs": types(lambda ab, a, b: ab / (a * b)),
        "that is the lowest score": _scores(frequent, lambda ab, a, b: -ab / (a * b)),
        "the root: p(ab) is compared with p(a) p(b), not with its square root": _scores(
            frequent, lambda ab, a, b: ab / math.sqrt(a * b)
        ),
    }
    for mistake, pair in wrong.items():
        assert pair != right
        assert second != pair, mistake
    assert third != ("c", "d"), "a pair that stands in a word twice was counted once, as by a set"
    assert third not in (("a", "c"), ("c", "a")), "a pair has an order: (a, c) and (c, a) are two pairs"
    once = Counter(piece for word, count in frequent.items() for piece in set(word) for _ in range(count))
    pairs = Counter(pair for word, count in frequent.items() for pair in itertools.pairwise(word) for _ in range(count))
    sets = min(pairs, key=lambda pair: (-pairs[pair] / (once[pair[0]] * once[pair[1]]), pair))
    assert sets != right
    assert second != sets, "a piece that stands in a word twice was counted once"
    assert third != ("d", "d"), "overlapping places were counted once: in b b b two pairs are neighbours"
    assert third == ("b", "b"), f"closest_pair: {third} where ('b', 'b') is right"
    assert second == right, f"closest_pair: {second} where {right} is right"
    assert got == wanted, f"closest_pair: {got} where {wanted} is right"


def _cuts(word, known):
    """Every way to cut a word into known pieces."""
    if not word:
        yield []
    for stop in range(1, len(word) + 1):
        if word[:stop] in known:
            for rest in _cuts(word[stop:], known):
                yield [word[:stop], *rest]


def _greedy(word, known, score):
    pieces = []
    while word:
        options = [word[:stop] for stop in range(1, len(word) + 1) if word[:stop] in known]
        pieces.append(max(options, key=score))
        word = word[len(pieces[-1]) :]
    return pieces


class Patient(dict):
    """A dictionary that is looked into a hundred thousand times, and then says so."""

    left = 100_000

    def _count(self):
        self.left -= 1
        assert self.left > 0, "more than 100,000 look-ups for 60 characters: do not try all cuts, keep the best ones"

    def __getitem__(self, piece):
        self._count()
        return super().__getitem__(piece)

    def get(self, piece, default=None):
        self._count()
        return super().get(piece, default)

    def __contains__(self, piece):
        self._count()
        return super().__contains__(piece)

    def __iter__(self):
        for piece in super().__iter__():
            self._count()
            yield piece

    def items(self):
        return [(piece, self[piece]) for piece in self]


def test_best_split(answer):
    log_prob = {letter: -6.0 for letter in "abcdeu"}
    log_prob |= {
        "ab": -3.0,
        "abc": -40.0,
        "de": -3.5,
        "cde": -2.5,
        "cd": -1.0,
        "bc": -2.8,
        "abcd": -8.5,
        "abcde": -9.5,
        "u": -4.0,
    }
    words = ["abcde", "abcdeu", "bcde", "cdecde", "a", "uabcab", "dcbabcd"]

    def total(pieces):
        return sum(log_prob[piece] for piece in pieces)

    found, best = [], [max(_cuts(word, log_prob), key=total) for word in words]
    for word in words:
        got = answer.best_split(word, dict(log_prob))
        assert got is not None, "best_split: nothing was returned; is there a `return`?"
        assert isinstance(got, list), f"best_split: a list of pieces is wanted, not {type(got).__name__}"
        found.append(got)
    assert found != [pieces[::-1] for pieces in best], "the right pieces in the wrong order: from the last to the first"
    for word, got in zip(words, found, strict=True):
        assert "".join(got) == word, f"best_split: the pieces {got} do not make up {word!r}"
        assert all(piece in log_prob for piece in got), f"best_split: {got} has a piece that is not known"
    wrong = {
        "that takes the longest known piece first, again and again; a shorter one may leave a better rest": lambda word: _greedy(
            word, log_prob, len
        ),
        "that takes the most probable piece first, again and again; it may leave a bad rest": lambda word: _greedy(
            word, log_prob, log_prob.get
        ),
        "single characters: every longer piece was left out": list,
        "that is the least probable cut: log-probabilities are negative, and the largest sum is wanted": lambda word: min(
            _cuts(word, log_prob), key=total
        ),
        "that has the fewest pieces; what counts is the product of their probabilities": lambda word: min(
            _cuts(word, log_prob), key=len
        ),
        "the mean of the log-probabilities was made largest; a product wants their sum": lambda word: max(
            _cuts(word, log_prob), key=lambda pieces: total(pieces) / len(pieces)
        ),
        "the cut with the most probable single piece; all pieces of a cut count": lambda word: max(
            _cuts(word, log_prob), key=lambda pieces: max(log_prob[piece] for piece in pieces)
        ),
    }
    for mistake, rule in wrong.items():
        sums = [total(rule(word)) for word in words]
        assert [total(got) for got in found] != sums or sums == [total(pieces) for pieces in best], mistake
    for word, got, pieces in zip(words, found, best, strict=True):
        assert math.isclose(total(got), total(pieces)), f"best_split of {word!r}: {got} where {pieces} is better"
    long = answer.best_split("abcde" * 12, Patient(log_prob))
    assert "".join(long) == "abcde" * 12, "best_split: the pieces of a long word do not make it up"
    assert math.isclose(total(long), 12 * total(answer.best_split("abcde", dict(log_prob)))), (
        "best_split: a long word can be cut better"
    )


JOINT = torch.rand(3, 3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2
JOINT = JOINT / JOINT.sum()


def _exact(tokens, hidden):
    """The conditional log-probabilities of each hidden token of four, given those that are not hidden. L×V, by summing."""
    given = JOINT
    for place in range(4):
        if not hidden[place]:
            given = given.index_select(place, tokens[place : place + 1])
    table = torch.full((4, 3), math.nan, dtype=torch.float64)
    for place in range(4):
        if hidden[place]:
            table[place] = (given.sum([other for other in range(4) if other != place]) / given.sum()).log()
    return table


def test_any_order(answer):
    tokens = torch.tensor([2, 0, 1, 2])
    wanted = JOINT[2, 0, 1, 2].log().item()
    everything = torch.ones(4, dtype=torch.bool)

    def asks(guess, order):
        return number(asked(lambda tokens: answer.any_order(guess, tokens, list(order)), tokens), "any_order")

    def watched(tokens, hidden):
        assert isinstance(hidden, torch.Tensor) and hidden.dtype == torch.bool and hidden.shape == (4,), (
            "hidden should be a bool tensor of shape L"
        )
        seen.append(hidden.tolist())
        return torch.where(_exact(tokens, hidden).isnan(), -50.0, _exact(tokens, hidden))  # a fool about what it is shown

    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]):
        seen = []
        got = asks(watched, order)
        at_once = sum(_exact(tokens, everything)[place, tokens[place]].item() for place in range(4))
        differ_from(got, at_once, "everything was guessed at once: tokens are not independent, and each must see those before it")
        alone = 0.0
        for place in range(4):
            hidden = torch.zeros(4, dtype=torch.bool)
            hidden[place] = True
            alone += _exact(tokens, hidden)[place, tokens[place]].item()
        differ_from(got, alone, "each was guessed from all others: that is the sum that is not log p(w)")
        differ_from(got, -200.0, "a position was asked about after it was revealed: guess first, then reveal")
        differ_from(got, -wanted, "the sign: log p(w) is negative, minus it would be the loss")
        differ_from(got, math.exp(wanted), "that is p(w); its logarithm is wanted")
        differ_from(got, wanted / 4, "a mean over the tokens; the chain rule is a sum")
        first = [hidden.index(True) for hidden in seen if any(hidden)]
        in_order = [[place in order[k:] for place in range(4)] for k in range(4)]
        if order != [0, 1, 2, 3] and seen:
            plain = [[place >= k for place in range(4)] for k in range(4)]
            assert seen != plain, "the order was not followed: from left to right instead"
        assert first and [hidden for hidden in seen if sum(hidden)] == in_order, (
            "hidden should be everything at first, and one position fewer each time, in this order"
        )
        agree(got, wanted, "any_order")
