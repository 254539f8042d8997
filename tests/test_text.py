"""The text encoder's causality, and what it makes of order, padding and length."""

import dataclasses
import itertools

import pytest
import torch

from minildm.config import TextConfig
from minildm.text import TextEncoder, pooled
from minildm.tokenizer import END, Tokenizer

SMALL = TextConfig(vocabulary=50, length=9, width=32, layers=2, heads=4)
TOKENIZER = Tokenizer.train(["a small red circle on white", "a blue square, grey background"] * 3, 600)


@torch.no_grad()
def states(config: TextConfig, tokens: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    encoder = TextEncoder(config).eval()
    encoder.positions.weight.normal_()  # so that positions show at once
    encoder.tokens.weight.normal_()
    return encoder(tokens)


def test_a_causal_encoder_does_not_look_ahead():
    tokens = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
    before = states(SMALL, tokens)
    assert before.shape == (3, 9, 32)
    for place in (0, 4, 8):
        changed = tokens.clone()
        changed[:, place] = (changed[:, place] + 1) % 50
        moved = (states(SMALL, changed) - before).abs().amax(2)
        assert moved[:, :place].numel() == 0 or moved[:, :place].max() < 1e-6
        assert (moved[:, place:] > 1e-4).all()


def test_a_bidirectional_encoder_looks_everywhere():
    config = dataclasses.replace(SMALL, causal=False)
    tokens = torch.randint(50, (3, 9), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    assert ((states(config, changed) - states(config, tokens)).abs().amax(2) > 1e-4).all()


def test_a_causal_encoder_gives_a_prefix_the_states_of_the_whole():
    tokens = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(states(SMALL, tokens[:, :5]), states(SMALL, tokens)[:, :5], rtol=1e-5, atol=1e-6)


def test_the_order_of_words_matters():
    tokens = torch.tensor([[1, 2, 3, 4], [1, 3, 2, 4]])
    first, second = states(SMALL, tokens)
    assert (first[-1] - second[-1]).abs().max() > 1e-4


def test_the_encoder_ends_in_a_norm():
    got = states(SMALL, torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(got.mean(2), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(got.var(2, unbiased=False), torch.ones(2, 9), atol=1e-3, rtol=0)


def test_the_two_gelus_differ_and_have_the_same_weights():
    tokens = torch.tensor([[1, 2, 3]])
    exact = dataclasses.replace(SMALL, quick_gelu=False)
    assert (states(SMALL, tokens) - states(exact, tokens)).abs().max() > 1e-5
    assert TextEncoder(exact).state_dict().keys() == TextEncoder(SMALL).state_dict().keys()


def test_too_many_tokens_are_refused():
    with pytest.raises(ValueError, match="10 tokens.*9 positions"):
        TextEncoder(SMALL)(torch.zeros(1, 10, dtype=torch.long))


def test_pooled_picks_the_first_end():
    values = torch.arange(4 * 6 * 2).view(4, 6, 2).float()
    tokens = torch.tensor([[8, 1, 2, 9, 9, 9], [8, 9, 9, 9, 9, 9], [8, 1, 2, 3, 4, 9], [9, 1, 9, 1, 9, 1]])
    assert torch.equal(pooled(values, tokens, 9), torch.stack([values[0, 3], values[1, 1], values[2, 5], values[3, 0]]))


def test_pooled_of_a_batch_is_that_of_the_prompt_alone():
    rows = TOKENIZER.batch(["a red circle", "", "blue"], 9)
    config = dataclasses.replace(SMALL, vocabulary=len(TOKENIZER.vocabulary))
    end = TOKENIZER.vocabulary[END]
    together = pooled(states(config, rows), rows, end)
    for one, row in zip(together, rows, strict=True):
        short = torch.tensor([[*itertools.takewhile(lambda token: token != end, row.tolist()), end]])
        torch.testing.assert_close(one, states(config, short)[0, -1], rtol=1e-5, atol=1e-6)
