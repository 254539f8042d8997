"""Plausible mistakes in chapter 13's exercises; each docstring is what the check should say."""

import math
from collections import Counter
from itertools import pairwise

import torch
from torch import Tensor


def _bits(log_probs: Tensor) -> float:
    return -log_probs.sum().item() / math.log(2)


def _bytes(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def bits_per_byte__negative(log_probs: Tensor, texts: list[str]) -> float:
    """a negative cost"""
    return -_bits(log_probs) / _bytes(texts)


def bits_per_byte__nats(log_probs: Tensor, texts: list[str]) -> float:
    """those are nats"""
    return -log_probs.sum().item() / _bytes(texts)


def bits_per_byte__wrong_way(log_probs: Tensor, texts: list[str]) -> float:
    """multiplied by log 2"""
    return -log_probs.sum().item() * math.log(2) / _bytes(texts)


def bits_per_byte__characters(log_probs: Tensor, texts: list[str]) -> float:
    """per character"""
    return _bits(log_probs) / sum(map(len, texts))


def bits_per_byte__tokens(log_probs: Tensor, texts: list[str]) -> float:
    """per token"""
    return _bits(log_probs) / int((log_probs != 0).sum())


def bits_per_byte__padding(log_probs: Tensor, texts: list[str]) -> float:
    """per entry of the table"""
    return -log_probs.mean().item() / math.log(2)


def bits_per_byte__mean_of_texts(log_probs: Tensor, texts: list[str]) -> float:
    """a mean over texts"""
    sizes = torch.tensor([len(text.encode()) for text in texts])
    return (-log_probs.sum(1) / sizes).mean().item() / math.log(2)


def bits_per_byte__total(log_probs: Tensor, texts: list[str]) -> float:
    """divide by their bytes"""
    return _bits(log_probs)


def bits_per_byte__perplexity(log_probs: Tensor, texts: list[str]) -> float:
    """a perplexity per byte"""
    return 2 ** (_bits(log_probs) / _bytes(texts))


def _columns(seen: Tensor, causal: bool) -> Tensor:
    length = seen.shape[1]
    mask = seen[:, None, None, :].expand(-1, 1, length, -1)
    return mask & torch.ones(length, length, dtype=torch.bool).tril() if causal else mask.clone()


def _before_end(tokens: Tensor, end: int) -> Tensor:
    ends = (tokens == end).int()
    return ends.cumsum(1) - ends == 0


def readable__inverted(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """changed places: True is where to look"""
    return ~_columns(_before_end(tokens, end), causal)


def readable__end_hidden(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """the first end is hidden, too"""
    return _columns(tokens != end, causal)


def readable__padding_seen(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """the padding is still seen"""
    return _columns(torch.ones_like(tokens, dtype=torch.bool), causal)


def readable__rows(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """rows and columns have changed places"""
    mask = _before_end(tokens, end)[:, None, :, None].expand(-1, 1, -1, tokens.shape[1])
    return mask & torch.ones(mask.shape[-2:], dtype=torch.bool).tril() if causal else mask.clone()


def readable__nothing_seen(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """a softmax over nothing is NaN"""
    seen = _before_end(tokens, end)
    return _columns(seen, causal) & seen[:, None, :, None]


def readable__one_more(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """one end too many"""
    return _columns((tokens == end).int().cumsum(1) <= 1, causal) | _columns(
        (tokens == end).int().cumsum(1) - (tokens == end).int() <= 1, causal
    )


def readable__ahead(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """must not look ahead"""
    return _columns(_before_end(tokens, end), False)


def readable__upside_down(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """looks ahead and never back"""
    mask = _columns(_before_end(tokens, end), False)
    return mask & torch.ones(mask.shape[-2:], dtype=torch.bool).triu() if causal else mask


def readable__not_itself(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """each position may look at itself"""
    mask = _columns(_before_end(tokens, end), False)
    return mask & torch.ones(mask.shape[-2:], dtype=torch.bool).tril(-1) if causal else mask


def readable__numbers(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """True and False are wanted"""
    return _columns(_before_end(tokens, end), causal).float()


def readable__no_heads(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """wanted is (3, 1, 6, 6)"""
    return _columns(_before_end(tokens, end), causal)[:, 0]


def readable__first_row(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """the text of the first row only"""
    return _columns(_before_end(tokens, end)[:1].expand(len(tokens), -1), causal)


def _likely(ab: int, a: int, b: int) -> float:
    return ab / (a * b)


def _best(words: dict, score=_likely, weigh=True, distinct=False, places=pairwise, named=lambda pair: pair) -> tuple[str, str]:
    pieces, pairs = Counter(), Counter()
    for word, count in words.items():
        count = count if weigh else 1
        for piece in set(word) if distinct else word:
            pieces[piece] += count
        for pair in places(word):
            pairs[named(pair)] += count
    return min(pairs, key=lambda pair: (-score(pairs[pair], pieces[pair[0]], pieces[pair[1]]), pair))


def closest_pair__frequent(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """the most frequent pair"""
    return _best(words, lambda ab, a, b: ab)


def closest_pair__sum(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """divided by a sum"""
    return _best(words, lambda ab, a, b: ab / (a + b))


def closest_pair__first(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """the first piece's count alone"""
    return _best(words, lambda ab, a, b: ab / a)


def closest_pair__second(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """the second piece's count alone"""
    return _best(words, lambda ab, a, b: ab / b)


def closest_pair__unweighed(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """each word was counted once"""
    return _best(words, weigh=False)


def closest_pair__lowest(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """the lowest score"""
    return _best(words, lambda ab, a, b: -ab / (a * b))


def closest_pair__distinct(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """a piece that stands in a word twice"""
    return _best(words, distinct=True)


def closest_pair__set(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """a pair that stands in a word twice was counted once"""
    return _best(words, places=lambda word: set(pairwise(word)))


def closest_pair__without_order(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """a pair has an order"""
    return _best(words, named=lambda pair: tuple(sorted(pair)))


def closest_pair__overlaps(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """overlapping places were counted once"""

    def places(word: tuple[str, ...]) -> list[tuple[str, str]]:
        found = []
        for pair in set(pairwise(word)):
            place = 0
            while place < len(word) - 1:
                here = word[place : place + 2] == pair
                found += [pair] * here
                place += 1 + here
        return found

    return _best(words, places=places)


def closest_pair__information(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """weighed by how often the pair occurs"""
    return _best(words, lambda ab, a, b: ab * math.log(ab / (a * b)))


def closest_pair__information_of_shares(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """how often a pair occurs must not weigh by itself"""
    pieces = sum(count * len(word) for word, count in words.items())
    pairs = sum(count * (len(word) - 1) for word, count in words.items())
    return _best(words, lambda ab, a, b: ab / pairs * math.log(ab / pairs * pieces**2 / (a * b)))


def closest_pair__last_of_equals(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """comes first in the alphabet"""
    pieces, pairs = Counter(), Counter()
    for word, count in words.items():
        for piece in word:
            pieces[piece] += count
        for pair in pairwise(word):
            pairs[pair] += count
    return max(pairs, key=lambda pair: (pairs[pair] / (pieces[pair[0]] * pieces[pair[1]]), pair))


def closest_pair__joined(words: dict[tuple[str, ...], int]) -> str:
    """a pair (a, b) of neighbours is wanted"""
    return "".join(_best(words))


def _steps(word: str, log_prob: dict[str, float], score) -> list[str]:
    pieces = []
    while word:
        pieces.append(max((word[:stop] for stop in range(1, len(word) + 1) if word[:stop] in log_prob), key=score))
        word = word[len(pieces[-1]) :]
    return pieces


def _viterbi(word: str, log_prob: dict[str, float], score) -> list[str]:
    best = [(0.0, [])]
    for stop in range(1, len(word) + 1):
        starts = [start for start in range(stop) if word[start:stop] in log_prob]
        ways = [(best[start][0] + score(word[start:stop]), [*best[start][1], word[start:stop]]) for start in starts]
        best.append(max(ways, key=lambda way: way[0]))
    return best[-1][1]


def best_split__longest(word: str, log_prob: dict[str, float]) -> list[str]:
    """the longest known piece first"""
    return _steps(word, log_prob, len)


def best_split__likeliest(word: str, log_prob: dict[str, float]) -> list[str]:
    """the most probable piece first"""
    return _steps(word, log_prob, log_prob.get)


def best_split__least(word: str, log_prob: dict[str, float]) -> list[str]:
    """the least probable cut"""
    return _viterbi(word, log_prob, lambda piece: -log_prob[piece])


def best_split__fewest(word: str, log_prob: dict[str, float]) -> list[str]:
    """the fewest pieces"""
    return _viterbi(word, log_prob, lambda piece: -1)


def best_split__characters(word: str, log_prob: dict[str, float]) -> list[str]:
    """single characters"""
    return list(word)


def best_split__backwards(word: str, log_prob: dict[str, float]) -> list[str]:
    """the wrong order"""
    return _viterbi(word, log_prob, lambda piece: log_prob[piece])[::-1]


def best_split__all_cuts(word: str, log_prob: dict[str, float]) -> list[str]:
    """do not try all cuts"""

    def cuts(rest: str) -> list[list[str]]:
        if not rest:
            return [[]]
        stops = [stop for stop in range(1, len(rest) + 1) if rest[:stop] in log_prob]
        return [[rest[:stop], *others] for stop in stops for others in cuts(rest[stop:])]

    return max(cuts(word), key=lambda pieces: sum(log_prob[piece] for piece in pieces))


def best_split__all_prefixes(word: str, log_prob: dict[str, float]) -> list[str]:
    """do not try all cuts"""

    def best(rest: str) -> tuple[float, list[str]]:
        ways = [(0.0, [])] if not rest else []
        for piece, value in log_prob.items():
            if rest.startswith(piece):
                total, pieces = best(rest[len(piece) :])
                ways.append((value + total, [piece, *pieces]))
        return max(ways, key=lambda way: way[0])

    return best(word)[1]


def best_split__text(word: str, log_prob: dict[str, float]) -> str:
    """a list of pieces is wanted"""
    return " ".join(_viterbi(word, log_prob, lambda piece: log_prob[piece]))


def _hidden(tokens: Tensor) -> Tensor:
    return torch.ones(len(tokens), dtype=torch.bool)


def any_order__at_once(guess, tokens: Tensor, order: list[int]) -> float:
    """everything was guessed at once"""
    return guess(tokens, _hidden(tokens)).gather(1, tokens[:, None]).sum().item()


def any_order__pseudo(guess, tokens: Tensor, order: list[int]) -> float:
    """from all others"""
    total = 0.0
    for place in order:
        hidden = torch.zeros(len(tokens), dtype=torch.bool)
        hidden[place] = True
        total += guess(tokens, hidden)[place, tokens[place]].item()
    return total


def any_order__revealed_first(guess, tokens: Tensor, order: list[int]) -> float:
    """guess first, then reveal"""
    hidden, total = _hidden(tokens), 0.0
    for place in order:
        hidden[place] = False
        total += guess(tokens, hidden)[place, tokens[place]].item()
    return total


def _chain(guess, tokens: Tensor, order: list[int]) -> float:
    hidden, total = _hidden(tokens), 0.0
    for place in order:
        total += guess(tokens, hidden)[place, tokens[place]].item()
        hidden[place] = False
    return total


def any_order__left_to_right(guess, tokens: Tensor, order: list[int]) -> float:
    """the order was not followed"""
    return _chain(guess, tokens, sorted(order))


def any_order__backwards(guess, tokens: Tensor, order: list[int]) -> float:
    """one position fewer each time, in this order"""
    return _chain(guess, tokens, order[::-1])


def any_order__loss(guess, tokens: Tensor, order: list[int]) -> float:
    """the sign"""
    return -_chain(guess, tokens, order)


def any_order__probability(guess, tokens: Tensor, order: list[int]) -> float:
    """that is p(w)"""
    return math.exp(_chain(guess, tokens, order))


def any_order__mean(guess, tokens: Tensor, order: list[int]) -> float:
    """the chain rule is a sum"""
    return _chain(guess, tokens, order) / len(tokens)
