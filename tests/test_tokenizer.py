"""The tokenizer against its definition and against CLIP's own."""

import itertools
import json
import math
import random
import string
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minildm.tokenizer import (
    END,
    START,
    WORD_END,
    Tokenizer,
    byte_symbols,
    code_bits,
    merge,
    merge_gain,
    pieces_of,
    split_words,
    stream_bits,
)

CAPTIONS = [
    "a small red circle at the top left on a white background",
    "a large blue square at the centre on a grey background",
    "on black: a yellow triangle above a purple cross",
    "red circle left of green square, white background",
    "it's the dog's bone, isn't it? they've got 42 of them, we'll see; I'd say I'm sure you're right",
    "naïve café, über straße, ñandú; привет мир; γεια",
] * 3
TOKENIZER = Tokenizer.train(CAPTIONS, 640)


def test_a_byte_that_prints_is_its_own_symbol_and_the_others_follow_from_u_0100() -> None:
    symbols = byte_symbols()
    assert sorted(symbols) == list(range(256)) and len({*symbols.values()}) == 256
    prints = {byte for byte in range(256) if chr(byte).isprintable() and not chr(byte).isspace()}
    assert {byte for byte in range(256) if symbols[byte] == chr(byte)} == prints
    rest = [symbols[byte] for byte in range(256) if byte not in prints]
    assert rest == [chr(256 + place) for place in range(len(rest))]


def composed(text: str) -> str:
    """Lower case, each accent with its letter: what the tokenizer makes of a text before cutting it."""
    return unicodedata.normalize("NFC", text).lower()


def squeeze(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40))
@example("a</w>b <|endoftext|> <|startoftext|>")
@example("\u00a0\u2003x\u200by\x85z\x00")
@example("İSTANBUL ÉCOLE ß 日本語 👩‍👩‍👧 e\u0301")
@example("'s''t 'll'")
def test_any_text_survives(text):
    tokens = TOKENIZER.encode(text)
    assert squeeze(TOKENIZER.decode(tokens)).encode() == squeeze(composed(text)).encode()
    assert all(0 <= token < len(TOKENIZER.vocabulary) for token in tokens)
    assert not {TOKENIZER.vocabulary[START], TOKENIZER.vocabulary[END]} & set(tokens)  # no text can forge these


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(max_size=40))
def test_words_are_the_text_cut_up(text):
    words = split_words(text)
    assert "".join(words) == squeeze(composed(text))
    assert all(words)


def test_words_are_cut_where_clip_cuts():
    assert split_words("It's 42 o'clock, don't... #a1!") == [
        "it", "'s", "4", "2", "o", "'", "clock", ",", "don", "'t", "...", "#", "a", "1", "!",
    ]  # fmt: skip
    assert split_words("  we'll\tgo,\nthey've ") == ["we", "'ll", "go", ",", "they", "'ve"]
    assert split_words("") == split_words(" \n\t ") == []


def test_an_accent_typed_apart_is_the_same_word():
    assert split_words("cafe\u0301 A\u030angstro\u0308m") == ["café", "ångström"]


def test_broken_text_neither_fails_nor_spreads():
    """A lone surrogate, and a word cut between two bytes of a letter, show as � and leave other words alone."""
    assert TOKENIZER.decode(TOKENIZER.encode("red \ud800 circle")).split()[::2] == ["red", "circle"]
    tokens = TOKENIZER.encode("ok 日")
    assert TOKENIZER.decode(tokens[:-1]).split()[0] == "ok"


def test_decoding_leaves_the_special_tokens_out():
    row = TOKENIZER.batch(["a red circle"], 20)[0]
    assert TOKENIZER.decode(row) == TOKENIZER.decode(row.tolist()) == "a red circle"


def test_frequent_words_become_one_token():
    for word in ("background", "circle", "white", "red"):
        assert TOKENIZER.encode(word) == [TOKENIZER.vocabulary[word + WORD_END]]
    assert len(TOKENIZER.encode("zyzzyva")) > 1


def test_numbers_are_in_clips_order():
    """256 bytes, 256 bytes that end a word, the merges, start, end. "!" is 0 and "a" is 64, as in CLIP's vocab.json."""
    vocabulary = TOKENIZER.vocabulary
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["!"] == 0 and vocabulary["a"] == 64 and vocabulary["a" + WORD_END] == 320
    assert len({vocabulary[p] for p in map(chr, range(33, 127))} & set(range(94))) == 94
    first, second = TOKENIZER.merges[0]
    assert vocabulary[first + second] == 512
    assert (vocabulary[START], vocabulary[END]) == (len(vocabulary) - 2, len(vocabulary) - 1)
    assert len(vocabulary) <= 640


def naive_merges(captions: list[str], count: int) -> list[tuple[str, str]]:
    """Byte-pair encoding by counting everything anew before each merge."""
    words = Counter(word for caption in captions for word in caption.split())
    spelled = {word: [*word[:-1], word[-1] + WORD_END] for word in words}
    merges = []
    for _ in range(count):
        pairs = Counter()
        for word, pieces in spelled.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += words[word]
        repeated = sorted((-n, pair) for pair, n in pairs.items() if n > 1)
        if not repeated:
            break
        best = repeated[0][1]
        merges.append(best)
        for word, pieces in spelled.items():
            joined = []
            for piece in pieces:
                if joined and (joined[-1], piece) == best:
                    joined[-1] += piece
                else:
                    joined.append(piece)
            spelled[word] = joined
    return merges


@pytest.mark.parametrize("seed", range(4))
def test_training_agrees_with_counting_anew(seed):
    rng = random.Random(seed)
    captions = [" ".join("".join(rng.choices("aab", k=rng.randint(1, 9))) for _ in range(5)) for _ in range(30)]
    wanted = naive_merges(captions, 40)
    assert len(wanted) == 40
    assert Tokenizer.train(captions, 514 + 40).merges == wanted


def test_the_merges_of_a_corpus_worked_by_hand():
    """hug 10, pug 5, pun 12, bun 4, hugs 5: (p, u) occurs 5 + 12 = 17 times, (u, n) 16, (h, u) and (u, g) 15; and so on."""
    corpus = ["hug"] * 10 + ["pug"] * 5 + ["pun"] * 12 + ["bun"] * 4 + ["hugs"] * 5
    assert Tokenizer.train(corpus, 1000).merges == [
        ("p", "u"),  # 17
        ("h", "u"),  # 15
        ("pu", "n</w>"),  # 12
        ("hu", "g</w>"),  # 10
        ("g", "s</w>"),  # 5, as (hu, g) and (pu, g): the first in the alphabet
        ("hu", "gs</w>"),
        ("pu", "g</w>"),
        ("b", "u"),  # 4
        ("bu", "n</w>"),
    ]


def test_a_pair_that_occurs_once_is_not_joined():
    """In "ab ab abc" only (a, b</w>) repeats; (a, b) and (b, c</w>) of "abc" do not, however much room is left."""
    assert Tokenizer.train(["ab ab abc"], 1000).merges == [("a", "b</w>")]
    assert Tokenizer.train(["one two"], 1000).merges == []


def test_training_depends_on_the_captions_alone():
    shuffled = list(CAPTIONS)
    random.Random(0).shuffle(shuffled)
    again = Tokenizer.train(iter(shuffled), 640)
    assert again.merges == TOKENIZER.merges and again.vocabulary == TOKENIZER.vocabulary
    assert Tokenizer.train(CAPTIONS * 2, 640).merges[:50] == TOKENIZER.merges[:50]  # doubling keeps the order


def test_encoding_joins_by_rank_not_by_length():
    """With (b, c) ranked before (a, b), "abc" is a + bc."""
    tokenizer = Tokenizer([("b", "c</w>"), ("a", "b")])
    assert [tokenizer.names[token] for token in tokenizer.encode("abc")] == ["a", "bc</w>"]
    assert [tokenizer.names[token] for token in tokenizer.encode("aba")] == ["ab", "a</w>"]


@pytest.mark.parametrize("size", [513, 256, 0, -1])
def test_a_size_too_small_is_refused(size):
    with pytest.raises(ValueError, match=f"size={size}.*514"):
        Tokenizer.train(CAPTIONS, size)
    assert Tokenizer.train(CAPTIONS, 514).merges == []


@pytest.mark.parametrize("size", [514, 520, 600])
def test_the_size_is_never_exceeded(size):
    assert len(Tokenizer.train(CAPTIONS, size).vocabulary) == size


def test_saved_files_load_again(tmp_path: Path):
    TOKENIZER.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"vocab.json", "merges.txt"}
    again = Tokenizer.load(tmp_path)
    assert again.merges == TOKENIZER.merges and again.vocabulary == TOKENIZER.vocabulary
    for text in [*CAPTIONS, string.printable, "".join(map(chr, range(0x80, 0x250)))]:
        assert again.encode(text) == TOKENIZER.encode(text)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    TOKENIZER.save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    del vocabulary["circle" + WORD_END]
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    with pytest.raises(ValueError, match="circle"):
        Tokenizer.load(tmp_path)
    TOKENIZER.save(tmp_path)
    with (tmp_path / "merges.txt").open("a", encoding="utf-8") as file:
        file.write("a b c\n")
    with pytest.raises(ValueError, match="merges.txt"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("number", [-1, 1.5, True, "7", 3])
def test_numbers_that_are_none_or_belong_to_another_token_are_refused(tmp_path: Path, number):
    TOKENIZER.save(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {"!": number}), encoding="utf-8")
    with pytest.raises(ValueError, match="vocab.json.*whole number of its own"):
        Tokenizer.load(tmp_path)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """transformers' CLIP tokenizer on our files."""
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    TOKENIZER.save(folder)
    return CLIPTokenizer.from_pretrained(str(folder))


@pytest.mark.parametrize(
    "text",
    [
        *dict.fromkeys(CAPTIONS),
        "",
        "   ",
        "A Photo of a CAT",
        '(what?!) #1: 3.14% -- "quoted" & <b>bold</b> / a@b.c ... $5',
        "don't can't I'll we've you're he'd I'm John's 'tis ''s x's't 'LL O'S",
        "1234567890 ½ ² Ⅷ ١٢ a1b2",
        "ÀÉÎÕÜ ąęł Ωμέγα ЖУК 日本語の絵 한국어 العربية हिन्दी",
        "😀 cat 👩‍👩‍👧 ✓ → ∑",
        "tabs\tand\nlines \u00a0 and\u2003more",
        "zyzzyva qwrtp",
        "!\u0301\u0302? x\u0335\u0336y ~\u20e3\u0301 7\u20e3",
    ],
)
def test_tokens_equal_those_of_transformers(clip, text):
    start, *body, end = clip(text)["input_ids"]
    assert TOKENIZER.encode(text) == body
    assert (start, end) == (TOKENIZER.vocabulary[START], TOKENIZER.vocabulary[END])
    wanted = clip(text, padding="max_length", truncation=True, max_length=12)["input_ids"]
    assert TOKENIZER.batch([text], 12)[0].tolist() == wanted


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet=string.printable + "éñüßжд日本", max_size=30))
def test_tokens_equal_those_of_transformers_on_any_text(clip, text):
    text = "".join(c for c in text if c not in "<|>")  # in CLIP a text can hold special tokens
    assert TOKENIZER.encode(text) == clip(text, add_special_tokens=False)["input_ids"]


def test_a_batch_is_start_text_end_and_more_ends():
    start, end = TOKENIZER.vocabulary[START], TOKENIZER.vocabulary[END]
    texts = ["", "a red circle", " ".join(["white"] * 50)]
    rows = TOKENIZER.batch(texts, 8)
    assert rows.shape == (3, 8) and rows.dtype == torch.int64
    assert rows[0].tolist() == [start] + [end] * 7
    body = TOKENIZER.encode("a red circle")
    assert rows[1].tolist() == [start, *body, end, end, end, end] and len(body) == 3
    assert rows[2].tolist() == [start] + TOKENIZER.encode("white") * 6 + [end]
    assert TOKENIZER.batch(["white"], 2).tolist() == [[start, end]]
    assert TOKENIZER.batch([], 8).shape == (0, 8)


def test_pieces_of_a_word_are_its_bytes():
    assert pieces_of("abc") == ("a", "b", "c</w>")
    assert len(pieces_of("日")) == 3 and len(pieces_of("é")) == 2
    symbols = {piece for byte in range(256) for piece in pieces_of(bytes([byte]).decode("latin-1"))}
    assert all(piece.replace(WORD_END, "").isprintable() for piece in symbols)


@pytest.mark.equation("13.1")
@pytest.mark.parametrize("vocabulary", [2, 3, 10, 256, 49408])
def test_a_code_has_room_for_every_stream_and_not_for_one_more_bit_each(vocabulary):
    """2^bits streams of n tokens can be told apart: exactly V^n, counted in whole numbers."""
    for n in (1, 7, 40):
        assert 2 ** (code_bits(n, vocabulary) / n) == pytest.approx(vocabulary, rel=1e-12)
        assert round(code_bits(n, vocabulary), 9) == round(math.log(vocabulary**n, 2), 9)
    assert code_bits(0, vocabulary) == 0


@pytest.mark.equation("13.2")
@pytest.mark.parametrize("seed", range(4))
def test_the_gain_of_a_merge_is_what_the_stream_and_the_list_of_merges_lose(seed):
    """A stream is really merged, and the bits before and after are counted, the list of merges with them."""
    rng = random.Random(seed)
    stream, known, merges = tuple(rng.choices("abcd", k=300)), 4, 0
    for _ in range(8):
        pairs = Counter(itertools.pairwise(stream))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        joined = merge(stream, best)
        count = len(stream) - len(joined)  # overlapping ones, as in "aaa", are joined once
        listed = 2 * math.log2(known)
        before, after = len(stream) * math.log2(known), len(joined) * math.log2(known + 1) + listed
        assert merge_gain(count, len(stream), known) == pytest.approx(before - after, rel=1e-9)
        stream, known, merges = joined, known + 1, merges + 1
    assert merges == 8


def test_a_pair_that_occurs_twice_does_not_pay_and_the_most_frequent_pays_most():
    assert merge_gain(2, 1000, 500) < 0 < merge_gain(100, 1000, 500)
    gains = [merge_gain(count, 1000, 500) for count in range(200)]
    assert gains == sorted(gains) and len(set(gains)) == 200
    threshold = 2 + 1000 / (500 * math.log(500))  # for large V
    assert merge_gain(math.ceil(threshold), 1000, 500) > 0 > merge_gain(math.floor(threshold) - 1, 1000, 500)


@pytest.mark.equation("13.3")
def test_the_bits_of_a_stream_are_the_logarithm_of_its_rearrangements():
    """n H(p̂) against the number of orders in which the same tokens could stand, by Stirling to a few bits; and exact ones."""
    assert stream_bits(torch.tensor([0, 1, 2, 3] * 5)) == pytest.approx(20 * 2, rel=1e-12)
    assert stream_bits(torch.tensor([7] * 9)) == 0
    counts = torch.tensor([400, 250, 150, 200])
    stream = torch.repeat_interleave(torch.tensor([5, 0, 3, 9]), counts)
    orders = (math.lgamma(1001) - sum(math.lgamma(int(count) + 1) for count in counts)) / math.log(2)
    stirling = 0.5 * math.log2(2 * math.pi * 1000) - sum(0.5 * math.log2(2 * math.pi * int(count)) for count in counts)
    assert orders < stream_bits(stream) and stream_bits(stream) == pytest.approx(orders - stirling, abs=0.01)
    shuffled = stream[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert stream_bits(shuffled) == pytest.approx(stream_bits(stream), rel=1e-12)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_frequencies_never_cost_more_than_numbers(stream):
    assert stream_bits(torch.tensor(stream)) <= code_bits(len(stream), len(set(stream))) + 1e-9


def test_a_code_that_was_built_obeys_the_bound():
    """Huffman's code of the stream: at least n H bits, and less than one bit a token more."""
    import heapq

    stream = [0] * 50 + [1] * 20 + [2] * 20 + [3] * 7 + [4] * 3
    heap = [(count, token, 0) for token, count in Counter(stream).items()]
    heapq.heapify(heap)
    bits, fresh = 0, 100
    while len(heap) > 1:
        (one, *_), (two, *_) = heapq.heappop(heap), heapq.heappop(heap)
        bits += one + two  # each token below gets one bit longer
        heapq.heappush(heap, (one + two, fresh, 0))
        fresh += 1
    assert stream_bits(torch.tensor(stream)) <= bits < stream_bits(torch.tensor(stream)) + len(stream)


def test_another_token_can_fill():
    """The end token still ends the text, and is the only one."""
    rows = TOKENIZER.batch(["a", "b c d e f g h i j"], 6, pad=3)
    end = TOKENIZER.vocabulary[END]
    plain = TOKENIZER.batch(["a", "b c d e f g h i j"], 6)
    assert rows[0].tolist() == [*plain[0, :3].tolist(), 3, 3, 3] and plain[0, 2:].tolist() == [end] * 4
    assert torch.equal(rows[1], plain[1]) and rows[1, -1] == end
