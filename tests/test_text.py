"""The text encoder computes what it says, and does not look ahead; language models add up to probabilities of texts."""

import dataclasses
import itertools
import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from minildm.config import TextConfig
from minildm.text import (
    LanguageModel,
    TextBlock,
    TextEncoder,
    causal_loss,
    causal_mask,
    ideal_log_probs,
    ideal_masked_log_probs,
    in_text,
    masked_loss,
    next_token_log_probs,
    perplexity,
    pooled,
    quick_gelu,
    train_language_model,
    write_texts,
)
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


@pytest.mark.equation("13.8")
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


# What the encoder computes, written out with loops over positions and heads, in float64


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In float64, with every weight drawn anew, so that no zero and no one hides a part."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for weight in module.parameters():
            weight.copy_(0.3 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return module.eval()


def norm_by_hand(x: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
    centred = x - sum(x) / len(x)
    return layer.weight * centred / torch.sqrt(sum(centred**2) / len(x) + layer.eps) + layer.bias


def block_by_hand(block: TextBlock, x: Tensor, causal: bool) -> Tensor:
    """One row of tokens L×width, position by position, head by head."""
    heads, size = block.attend.heads, x.shape[1] // block.attend.heads
    normed = torch.stack([norm_by_hand(each, block.norm1) for each in x])
    query, key, value = (
        normed @ part.weight.T + part.bias for part in (block.attend.query, block.attend.key, block.attend.value)
    )
    out = []
    for i in range(len(x)):
        found = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            seen = range(i + 1) if causal else range(len(x))
            scores = [torch.exp(query[i, part] @ key[j, part] / math.sqrt(size)) for j in seen]
            found.append(sum(score / sum(scores) * value[j, part] for score, j in zip(scores, seen, strict=True)))
        h = x[i] + torch.cat(found) @ block.attend.out.weight.T + block.attend.out.bias
        wide = norm_by_hand(h, block.norm2) @ block.wide.weight.T + block.wide.bias
        out.append(h + (wide / (1 + torch.exp(-1.702 * wide))) @ block.narrow.weight.T + block.narrow.bias)
    return torch.stack(out)


@pytest.mark.equation("13.4")
def test_embeddings_are_what_and_where_added():
    encoder = randomised(TextEncoder(SMALL))
    tokens = torch.tensor([[3, 1, 4, 1], [5, 9, 2, 6]])
    one_hot = torch.eye(50, dtype=torch.float64)[tokens]  # a look-up is a product with a one-hot vector
    places = torch.eye(9, dtype=torch.float64)[:4]
    wanted = one_hot @ encoder.tokens.weight + places @ encoder.positions.weight
    torch.testing.assert_close(encoder.embed(tokens), wanted)


@pytest.mark.equation("13.5")
def test_quick_gelu_is_its_definition_and_nearly_the_gelu():
    h = torch.linspace(-8, 8, 2001, dtype=torch.float64)
    torch.testing.assert_close(quick_gelu(h), h / (1 + torch.exp(-1.702 * h)))
    assert (quick_gelu(h) - torch.nn.functional.gelu(h)).abs().max() < 0.0204  # by what 1.702 was chosen for, see below
    assert (torch.sigmoid(1.702 * h) - torch.special.ndtr(h)).abs().max() < 0.0096


@pytest.mark.equation("13.6")
@pytest.mark.parametrize("causal", [True, False])
def test_a_block_is_its_formula_position_by_position(causal):
    block = randomised(TextBlock(dataclasses.replace(SMALL, width=12)))
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = block(x, causal_mask(5) if causal else None)
    wanted = torch.stack([block_by_hand(block, row, causal) for row in x])
    torch.testing.assert_close(got, wanted)


@pytest.mark.equation("13.7")
@pytest.mark.parametrize("causal", [True, False])
def test_the_encoder_is_embeddings_blocks_and_a_norm(causal):
    config = dataclasses.replace(SMALL, width=12, causal=causal)
    encoder = randomised(TextEncoder(config))
    tokens = torch.randint(50, (3, 6), generator=torch.Generator().manual_seed(1))
    for row, got in zip(tokens, encoder(tokens), strict=True):
        x = encoder.tokens.weight[row] + encoder.positions.weight[:6]
        for block in encoder.blocks:
            x = block_by_hand(block, x, causal)
        torch.testing.assert_close(got, torch.stack([norm_by_hand(each, encoder.norm) for each in x]))


def test_no_gradient_comes_from_what_stands_behind():
    """The Jacobian of state i with respect to embedding j is zero for j > i, and nowhere else."""
    block = randomised(TextBlock(dataclasses.replace(SMALL, width=12)))
    x = torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slopes = torch.autograd.functional.jacobian(lambda x: block(x, causal_mask(5)).sum(2)[0], x)[:, 0].abs().sum(2)  # 5×5
    assert torch.equal(slopes > 0, torch.ones(5, 5, dtype=torch.bool).tril())


# Language models, in worlds small enough to count


WORLD = torch.tensor([[0, 1, 2, 3, 3], [0, 1, 3, 3, 3], [0, 2, 1, 2, 3], [0, 2, 2, 2, 3], [0, 2, 2, 3, 3], [0, 3, 3, 3, 3]])
CHANCES = torch.tensor([0.3, 0.05, 0.15, 0.1, 0.22, 0.18], dtype=torch.float64)  # start 0, end 3
LM = TextConfig(vocabulary=4, length=5, width=16, layers=2, heads=2)


def all_texts(length: int = 5) -> Tensor:
    """Every row in which a start is followed by some of the tokens 0, 1 and 2, and by at least one end."""
    rows = []
    for body in range(length - 1):
        for words in itertools.product([0, 1, 2], repeat=body):
            rows.append([0, *words, *[3] * (length - 1 - body)])
    return torch.tensor(rows)


@pytest.mark.equation("13.9")
def test_probabilities_of_tokens_multiply_to_those_of_texts_and_these_sum_to_one():
    """Over all texts that end within the length, and all that are still going on there."""
    model = randomised(LanguageModel(dataclasses.replace(LM, length=6)))
    rows = all_texts()
    log_p = next_token_log_probs(model(rows), rows, 3).sum(1)
    for row, got in zip(rows, log_p, strict=True):  # one token after the other, each from a prefix alone
        wanted = 0.0
        for place in range(row.tolist().index(3)):
            wanted += model(row[None, : place + 1])[0, -1].log_softmax(0)[row[place + 1]].item()
        assert got.item() == pytest.approx(wanted, rel=1e-9)
    going_on = torch.tensor([[0, *words] for words in itertools.product([0, 1, 2], repeat=4)])
    still = next_token_log_probs(model(going_on), going_on, 3).sum(1)
    assert (log_p.exp().sum() + still.exp().sum()).item() == pytest.approx(1, rel=1e-12)


def test_padding_is_no_part_of_a_text():
    tokens = torch.tensor([[0, 1, 3, 3, 3], [0, 3, 3, 3, 3], [0, 1, 2, 1, 2]])
    assert in_text(tokens, 3).int().tolist() == [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    model = randomised(LanguageModel(LM))
    short, long = (next_token_log_probs(model(rows), rows, 3).sum(1) for rows in (tokens[:1, :3], tokens[:1]))
    torch.testing.assert_close(short, long)


@pytest.mark.equation("13.10")
def test_the_ideal_model_is_bayes_rule_by_counting():
    got = ideal_log_probs(WORLD, CHANCES)
    for n, row in enumerate(WORLD):
        for i in range(4):
            begins = [(other[: i + 1] == row[: i + 1]).all() for other in WORLD]
            goes_on = [(other[: i + 2] == row[: i + 2]).all() for other in WORLD]
            wanted = CHANCES[torch.tensor(goes_on)].sum() / CHANCES[torch.tensor(begins)].sum()
            assert got[n, i].exp().item() == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(got.sum(1), CHANCES.log())  # the chain rule
    assert got[-1].tolist() == [pytest.approx(math.log(0.18)), 0, 0, 0]  # after the end all is certain


def test_no_model_is_better_than_the_ideal():
    """The mean surprise of any model is the entropy plus a divergence: at least the ideal's, and that only if it is the ideal."""
    floor = -(CHANCES * CHANCES.log()).sum()
    assert -(CHANCES * ideal_log_probs(WORLD, CHANCES).sum(1)).sum() == pytest.approx(floor.item())
    for seed in range(5):
        model = randomised(LanguageModel(LM), seed)
        log_p = next_token_log_probs(model(WORLD), WORLD, 3).sum(1)
        assert -(CHANCES * log_p).sum() > floor + 0.01


@pytest.mark.equation("13.11")
def test_perplexity_of_a_die_is_its_number_of_faces():
    assert perplexity(torch.full((7,), -math.log(6)), 7).item() == pytest.approx(6)
    log_probs = torch.tensor([0.5, 0.25, 0.125, 0.8], dtype=torch.float64).log()
    assert perplexity(log_probs, 4).item() == pytest.approx((0.5 * 0.25 * 0.125 * 0.8) ** -0.25)  # a geometric mean
    assert perplexity(log_probs.view(2, 2).sum(1), torch.tensor(4)).item() == pytest.approx((0.5 * 0.25 * 0.125 * 0.8) ** -0.25)


def test_a_fresh_model_holds_every_token_for_equally_likely():
    model = LanguageModel(LM)
    assert causal_loss(model, WORLD, 3).item() == pytest.approx(math.log(4))
    log_probs = next_token_log_probs(model(WORLD), WORLD, 3)
    assert perplexity(log_probs, in_text(WORLD, 3)[:, 1:].sum()).item() == pytest.approx(4, rel=1e-6)


def test_the_causal_loss_is_the_mean_over_tokens_of_texts():
    model = randomised(LanguageModel(LM))
    total = next_token_log_probs(model(WORLD), WORLD, 3).sum()
    assert causal_loss(model, WORLD, 3).item() == pytest.approx(-total.item() / (3 + 2 + 4 + 4 + 3 + 1), rel=1e-9)


@pytest.mark.equation("13.12")
def test_the_masked_loss_sees_nothing_of_what_is_hidden():
    """Against one token at a time; and what stood under the mask changes nothing but the answer that is wanted."""
    model = randomised(LanguageModel(dataclasses.replace(LM, vocabulary=5, causal=False)))
    hidden = torch.tensor([[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]], dtype=torch.bool)
    rows = WORLD[[0, 2]]
    seen = torch.tensor([[0, 4, 2, 4, 3], [0, 2, 4, 2, 3]])
    log_probs = model(seen).log_softmax(2)
    wanted = -(log_probs[0, 1, 1] + log_probs[0, 3, 3] + log_probs[1, 2, 1]) / 3
    torch.testing.assert_close(masked_loss(model, rows, hidden, 4), wanted)
    other = rows.clone()
    other[1, 2] = 2
    change = masked_loss(model, other, hidden, 4) - masked_loss(model, rows, hidden, 4)
    torch.testing.assert_close(change, (log_probs[1, 2, 1] - log_probs[1, 2, 2]) / 3)


@pytest.mark.equation("13.13")
def test_the_ideal_masked_model_is_bayes_rule_by_counting():
    got = ideal_masked_log_probs(WORLD, CHANCES)
    assert got.shape == WORLD.shape
    for n, row in enumerate(WORLD):
        for i in range(5):
            keep = [j for j in range(5) if j != i]
            alike = torch.tensor([bool((other[keep] == row[keep]).all()) for other in WORLD])
            assert got[n, i].exp().item() == pytest.approx((CHANCES[n] / CHANCES[alike].sum()).item(), rel=1e-12)
    assert got[0].exp()[3].item() == pytest.approx(1) and got[2].exp()[2].item() == pytest.approx(0.15 / 0.25)


def test_hidden_tokens_are_no_more_surprising_than_next_ones():
    """Σ H(w_i | all others) ≤ H(w) = Σ H(w_i | those before): conditions take entropy away."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        p = torch.rand(6, generator=generator, dtype=torch.float64)
        p = p / p.sum()
        masked, causal = -(p[:, None] * ideal_masked_log_probs(WORLD, p)).sum(), -(p[:, None] * ideal_log_probs(WORLD, p)).sum()
        assert masked <= causal + 1e-12
    independent = torch.tensor([[0, a, b, 3] for a in (1, 2) for b in (1, 2)])
    p = torch.tensor([0.12, 0.28, 0.18, 0.42], dtype=torch.float64)  # a product: here both are the entropy
    for floor in (ideal_masked_log_probs(independent, p), ideal_log_probs(independent, p)):
        assert (p * floor.sum(1)).sum().item() == pytest.approx((p * p.log()).sum().item())


def test_more_beginnings_than_tokens_are_told_apart():
    """All texts of four tokens out of three: up to 27 beginnings, each counted on its own."""
    rows = torch.cartesian_prod(*[torch.arange(3)] * 4)
    p = torch.rand(len(rows), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    p /= p.sum()
    got = ideal_log_probs(rows, p)
    for row, mine in zip(rows.tolist(), got.tolist(), strict=True):
        begins = [sum(q for other, q in zip(rows.tolist(), p.tolist(), strict=True) if other[:k] == row[:k]) for k in range(1, 5)]
        assert mine == pytest.approx([math.log(after / before) for before, after in itertools.pairwise(begins)], rel=1e-9)


def test_embeddings_start_wide_enough_to_be_told_apart():
    """Deviations of 1 for what a token is and ½ for where it stands, within four standard errors."""
    torch.manual_seed(0)
    encoder = TextEncoder(dataclasses.replace(SMALL, vocabulary=500, length=100))
    for weight, wanted in ((encoder.tokens.weight, 1.0), (encoder.positions.weight, 0.5)):
        assert abs(weight.std().item() - wanted) < 4 * wanted / math.sqrt(2 * weight.numel())


class OneNumber(torch.nn.Module):
    """What is trained is a number, so that each step can be read off."""

    def __init__(self) -> None:
        super().__init__()
        self.number = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))


def places_of(slopes: list[float], **options: float) -> Tensor:
    """Where the number stands before each step of training with these slopes of the loss, and at the end."""
    model, places = OneNumber(), []

    def loss_of(model: OneNumber, step: int) -> Tensor:
        places.append(model.number.item())
        return slopes[step] * model.number

    train_language_model(model, loss_of, len(slopes), **options)
    return torch.tensor([*places, model.number.item()], dtype=torch.float64)


def test_the_learning_rate_rises_for_fifty_steps_and_falls_to_nothing():
    """Under a constant slope Adam's steps are as long as the learning rate."""
    steps = torch.arange(200, dtype=torch.float64)
    rate = 3e-3 * ((steps + 1) / 50).clamp(max=1) * (1 - steps / 200)
    torch.testing.assert_close(-places_of([1.0] * 200).diff(), rate, rtol=1e-6, atol=0)
    torch.testing.assert_close(-places_of([1.0] * 200, lr=0.01).diff(), rate * 0.01 / 3e-3, rtol=1e-6, atol=0)


def test_gradients_longer_than_one_are_shortened_to_it():
    torch.testing.assert_close(places_of([50.0, 0.4, -3.0, 0.9]), places_of([1.0, 0.4, -1.0, 0.9]), rtol=1e-4, atol=0)
    assert not torch.allclose(places_of([1.0, 0.4]), places_of([0.8, 0.4]), rtol=1e-2)


def test_training_reaches_the_floor_of_a_small_world_and_writes_its_texts():
    torch.manual_seed(0)
    model, generator = LanguageModel(LM), torch.Generator().manual_seed(0)
    draws = torch.multinomial(CHANCES, 200 * 64, True, generator=generator).view(200, 64)
    losses = train_language_model(model, lambda model, step: causal_loss(model, WORLD[draws[step]], 3), 200, 1e-2)
    assert len(losses) == 200 and losses[0] == pytest.approx(math.log(4))
    log_p = next_token_log_probs(model(WORLD), WORLD, 3).sum(1).double()
    divergence = (CHANCES * (CHANCES.log() - log_p)).sum().item()
    assert 0 < divergence < 0.03
    texts = write_texts(model, 0, 3, 2000, 5, torch.Generator().manual_seed(1))
    assert texts.shape == (2000, 5) and (texts[:, 0] == 0).all()
    counts = Counter(map(tuple, texts.tolist()))
    for row, p in zip(WORLD.tolist(), log_p.exp().tolist(), strict=True):
        assert abs(counts[tuple(row)] / 2000 - p) < 4 * math.sqrt(p * (1 - p) / 2000)


def test_what_is_written_depends_on_the_generator_alone_and_ends_stay_ends():
    model = randomised(LanguageModel(LM))
    one, same, other = (write_texts(model, 0, 3, 50, 5, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    after = (one == 3).int().cumsum(1).roll(1, 1)[:, 1:] > 0
    assert (one[:, 1:][after] == 3).all() and after.any()
