"""From text to whole numbers: a byte-pair tokenizer, shaped like CLIP's, and what its tokens cost in bits (chapter 13)."""

import functools
import itertools
import json
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from minildm.files import read_json, read_text, write_text
from minildm.information import entropy

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"  # a mark on the last piece of a word
CONTRACTIONS = ("'re", "'ve", "'ll", "'s", "'t", "'m", "'d")
Pair = tuple[str, str]


def byte_symbols() -> dict[int, str]:
    """A printable character for each of the 256 bytes: itself where it has one, otherwise one from U+0100 on.

    Source: Radford et al. 2019 (GPT-2), so that vocab.json and merges.txt are readable text.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


SYMBOL_OF = byte_symbols()
BYTE_OF = {symbol: byte for byte, symbol in SYMBOL_OF.items()}


def split_words(text: str) -> list[str]:
    """Cut lower-cased text into runs of letters, single digits, contractions ('s) and runs of anything else.

    White space separates and is dropped, as in CLIP. Accents are composed first (Unicode's NFC), so that é is the same
    word whether it was typed as one character or as two.
    """
    words = []
    for chunk in unicodedata.normalize("NFC", text).lower().split():
        kinds = [unicodedata.category(character)[0] for character in chunk]
        start = 0
        while start < len(chunk):
            stop = start + 1
            ending = next((ending for ending in CONTRACTIONS if chunk.startswith(ending, start)), None)
            if ending is not None:
                stop = start + len(ending)
            elif kinds[start] != "N":
                alike = "L" if kinds[start] == "L" else "PMSCZ"  # punctuation, marks and symbols run together
                while stop < len(chunk) and kinds[stop] in alike:
                    stop += 1
            words.append(chunk[start:stop])
            start = stop
    return words


def pieces_of(word: str) -> tuple[str, ...]:
    """The word's bytes as symbols, the last one marked: where every merge begins."""
    symbols = [SYMBOL_OF[byte] for byte in word.encode("utf-8", "surrogatepass")]
    return (*symbols[:-1], symbols[-1] + WORD_END)


def merge(pieces: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    """Join every occurrence of the pair, from the left."""
    merged, place = [], 0
    while place < len(pieces):
        step = 2 if pieces[place : place + 2] == pair else 1
        merged.append("".join(pieces[place : place + step]))
        place += step
    return tuple(merged)


class Tokenizer:
    """Byte-level byte-pair encoding: any text becomes whole numbers, frequent words a single one.

    Args:
        merges: the pairs to join, the most important first.

    Numbers are given in CLIP's order: the 256 bytes, the 256 bytes that end a word, one per merge, start, end.
    Source: Sennrich et al. 2016 (arXiv:1508.07909), algorithm 1.
    """

    def __init__(self, merges: list[Pair], vocabulary: dict[str, int] | None = None) -> None:
        symbols = list(SYMBOL_OF.values())
        names = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), START, END]
        self.merges = merges
        self.vocabulary = vocabulary or {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.rank = {pair: rank for rank, pair in enumerate(merges)}
        self.names = {number: name for name, number in self.vocabulary.items()}
        missing = [name for name in names if name not in self.vocabulary]
        if missing:
            raise ValueError(f"the vocabulary lacks {missing[0]!r}: vocab.json and merges.txt do not belong together")
        self._pieces = functools.lru_cache(100_000)(self._apply_merges)

    @classmethod
    def train(cls, captions: Iterable[str], size: int) -> "Tokenizer":
        """Join the most frequent pair of neighbours, again and again, until there are `size` tokens or no pair repeats.

        Ties go to the alphabetically first pair, so the result depends on the captions alone.

        Raises:
            ValueError: a size too small for the bytes and the two special tokens.
        """
        if size < 2 * 256 + 2:
            raise ValueError(f"size={size}: the bytes alone need {2 * 256 + 2} tokens")
        counts = Counter(word for caption in captions for word in split_words(caption))
        words = {word: pieces_of(word) for word in counts}
        pairs: Counter[Pair] = Counter()
        where: defaultdict[Pair, set[str]] = defaultdict(set)  # the words that hold a pair

        def count(word: str, sign: int) -> None:
            for pair in itertools.pairwise(words[word]):
                pairs[pair] += sign * counts[word]
                where[pair].add(word)

        for word in words:
            count(word, 1)
        merges: list[Pair] = []
        while len(merges) < size - 2 * 256 - 2 and pairs:
            best = min(pairs, key=lambda pair: (-pairs[pair], pair))
            if pairs[best] < 2:
                break
            merges.append(best)
            for word in where.pop(best):
                count(word, -1)
                words[word] = merge(words[word], best)
                count(word, 1)
            del pairs[best]
        return cls(merges)

    def encode(self, text: str) -> list[int]:
        """The text's tokens, without start and end."""
        return [self.vocabulary[piece] for word in split_words(text) for piece in self._pieces(word)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text, a space after every word; the special tokens are left out. Bytes that are no UTF-8 show as �."""
        joined = "".join(self.names[int(token)] for token in tokens if self.names[int(token)] not in (START, END))
        words = joined.split(WORD_END)
        return " ".join(bytes(BYTE_OF[symbol] for symbol in word).decode("utf-8", "replace") for word in words).strip()

    def batch(self, texts: list[str], length: int, pad: int | None = None) -> Tensor:
        """Texts as rows of `length` tokens: start, the text (cut if too long), end, and more ends to fill. N×length, int64.

        pad: the token to fill with instead, as Stable Diffusion 2 does.
        """
        start, end = self.vocabulary[START], self.vocabulary[END]
        pad = end if pad is None else pad
        rows = [[start, *self.encode(text)[: length - 2], end] for text in texts]
        return torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.long).reshape(-1, length)

    def save(self, folder: Path) -> None:
        """Write vocab.json and merges.txt."""
        write_text(folder / "vocab.json", json.dumps(self.vocabulary, ensure_ascii=False))
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        write_text(folder / "merges.txt", "\n".join(lines) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read vocab.json and merges.txt, ours or CLIP's own. Raises ValueError when they are missing, broken or of two minds."""
        return cls.read(folder / "vocab.json", folder / "merges.txt")

    @classmethod
    def read(cls, vocabulary_file: Path, merges_file: Path) -> "Tokenizer":
        """The same, with the files named one by one."""
        lines = read_text(merges_file).split("\n")
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        return cls.checked(pairs, read_json(vocabulary_file), vocabulary_file, merges_file)

    @classmethod
    def checked(cls, merges: list[Pair], vocabulary: dict[str, int], vocabulary_file: Path, merges_file: Path) -> "Tokenizer":
        """A tokenizer of what these files held. Raises ValueError, with the file's name, when that makes no sense."""
        if any(len(pair) != 2 for pair in merges):
            raise ValueError(f"{merges_file}: each line must hold two pieces")
        numbers = vocabulary.values()
        if not all(type(number) is int and number >= 0 for number in numbers) or len({*numbers}) < len(numbers):
            raise ValueError(f"{vocabulary_file}: each token needs a whole number of its own, at least 0")
        return cls(merges, vocabulary)

    def _apply_merges(self, word: str) -> tuple[str, ...]:
        pieces = pieces_of(word)
        while len(pieces) > 1:
            best = min(itertools.pairwise(pieces), key=lambda pair: self.rank.get(pair, len(self.rank)))
            if best not in self.rank:
                break
            pieces = merge(pieces, best)
        return pieces


def code_bits(tokens: int, vocabulary: int) -> float:
    """What a stream costs when every token is written as its number, Eq. (13.1): n log₂ V, in bits.

    Args:
        tokens: n, how many there are.
        vocabulary: V, how many different ones there could be.
    """
    return tokens * math.log2(vocabulary)


def merge_gain(pairs: int, tokens: int, vocabulary: int) -> float:
    """The bits that one more merge saves, Eq. (13.2): n log₂ V − (n − c) log₂(V + 1) − 2 log₂ V.

    c tokens fewer, each of them a little dearer; and the merge itself, two old tokens, is written down once.

    Args:
        pairs: c, how often the pair is joined.
        tokens, vocabulary: n and V before the merge.

    Returns: bits; negative when the merge does not pay.
    """
    return code_bits(tokens, vocabulary) - code_bits(tokens - pairs, vocabulary + 1) - code_bits(2, vocabulary)


def stream_bits(tokens: Tensor) -> float:
    """What a stream costs when frequent tokens get short codes, Eq. (13.3): n H(p̂), with p̂ the tokens' own frequencies.

    Args:
        tokens: whole numbers, at least 0, shape n ≥ 1.

    Returns: bits; no code that looks at one token at a time can do better.

    Source: Shannon 1948 (A Mathematical Theory of Communication), theorem 9.
    """
    counts = torch.bincount(tokens).double()
    return len(tokens) * entropy(counts / len(tokens)).item()
