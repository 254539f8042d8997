"""Solutions of chapter 13. They stand alone: nothing is imported from minildm."""

import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor


def bits_per_byte(log_probs: Tensor, texts: list[str]) -> float:
    """ch13.1: all nats as bits, over all bytes."""
    return -log_probs.double().sum().item() / math.log(2) / sum(len(text.encode()) for text in texts)


def readable(tokens: Tensor, end: int, causal: bool) -> Tensor:
    """ch13.2: columns with no end before them; and, for a causal encoder, none to the right of the row."""
    ends = (tokens == end).int()
    length = tokens.shape[1]
    seen = (ends.cumsum(1) - ends == 0)[:, None, None, :].expand(-1, 1, length, -1)
    return seen & torch.ones(length, length, dtype=torch.bool).tril() if causal else seen.clone()


def closest_pair(words: dict[tuple[str, ...], int]) -> tuple[str, str]:
    """ch13.3: count(ab) over count(a) count(b)."""
    pieces, pairs = Counter(), Counter()
    for word, count in words.items():
        for piece in word:
            pieces[piece] += count
        for pair in pairwise(word):
            pairs[pair] += count
    return min(pairs, key=lambda pair: (-pairs[pair] / (pieces[pair[0]] * pieces[pair[1]]), pair))


def best_split(word: str, log_prob: dict[str, float]) -> list[str]:
    """ch13.4: the best cut of every beginning, shortest first (Viterbi's algorithm)."""
    best: list[tuple[float, list[str]]] = [(0.0, [])]
    for stop in range(1, len(word) + 1):
        ways = [
            (best[start][0] + log_prob[word[start:stop]], [*best[start][1], word[start:stop]])
            for start in range(stop)
            if word[start:stop] in log_prob
        ]
        best.append(max(ways, key=lambda way: way[0], default=(-math.inf, [])))
    return best[-1][1]


def any_order(guess: Callable[[Tensor, Tensor], Tensor], tokens: Tensor, order: list[int]) -> float:
    """ch13.5: guess, then reveal."""
    hidden, total = torch.ones(len(tokens), dtype=torch.bool), 0.0
    for place in order:
        total += guess(tokens, hidden)[place, tokens[place]].item()
        hidden[place] = False
    return total
