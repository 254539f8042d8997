"""Doors for a condition: what words add sums to the whole; maps are shares; a new door starts closed."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import PROMPTS, TINY
from torch import nn

from minildm.attention import Attention
from minildm.conditions import first_layer, places_of_words, recorded, token_maps, widened, word_maps, word_parts
from minildm.ldm import LatentDiffusion, beside
from minildm.unet import UNet


@pytest.mark.equation("16.8")
def test_what_the_words_add_sums_to_what_attention_says():
    """And each part is what attention says when all other tokens' values are silent."""
    torch.manual_seed(1)
    attention, x, context = Attention(12, 3, 8).double(), torch.randn(2, 5, 12).double(), torch.randn(2, 4, 8).double()
    nn.init.normal_(attention.out.bias)
    key, value = attention.keys_values(context)
    parts = word_parts(attention, x, (key, value))
    assert parts.shape == (2, 4, 5, 12)
    assert torch.allclose(parts.sum(1) + attention.out.bias, attention(x, (key, value)), atol=1e-12)
    for token in range(4):
        alone = value * F.one_hot(torch.tensor(token), 4)[:, None]  # the others say nothing, but are still looked at
        assert torch.allclose(parts[:, token], attention(x, (key, alone)) - attention.out.bias, atol=1e-12)


@pytest.mark.equation("16.9")
def test_token_maps_are_means_over_heads_and_layers_scaled_by_hand():
    """A map of one place is the same everywhere, one of the wanted size is kept, and a ramp stays a ramp inside."""
    torch.manual_seed(2)
    flat, fine = torch.rand(2, 3, 1, 5).softmax(-1), torch.rand(2, 2, 16, 5).softmax(-1)
    got = token_maps([flat, fine], 4)
    assert got.shape == (2, 5, 4, 4)
    for token in range(5):
        by_hand = (flat.mean(1)[:, 0, token, None, None] + fine.mean(1)[:, :, token].reshape(2, 4, 4)) / 2
        assert torch.allclose(got[:, token], by_hand, atol=1e-6)
    assert torch.allclose(got.sum(1), torch.ones(2, 4, 4), atol=1e-6)
    ramp = torch.arange(16.0).reshape(4, 4).flatten()[None, None, :, None]  # 4 y + x
    scaled = token_maps([ramp], 8)[0, 0]
    y, x = torch.meshgrid(*[(torch.arange(8) + 0.5) / 2 - 0.5] * 2, indexing="ij")
    assert torch.allclose(scaled[1:-1, 1:-1], (4 * y + x)[1:-1, 1:-1], atol=1e-5)


def test_recording_ends_with_the_block_and_changes_nothing(model: LatentDiffusion):
    x, t, context = torch.randn(2, 4, 8, 8), torch.tensor([50, 50]), torch.randn(2, 20, 32)
    with torch.no_grad():
        plain = model.unet(x, t, context)
        with recorded(model.unet) as layers:
            assert torch.allclose(model.unet(x, t, context), plain, atol=1e-5)
        assert [len(layer) for layer in layers] == [1] * len(layers) and len(layers) >= 3
        with pytest.raises(RuntimeError, match="stop"), recorded(model.unet) as interrupted:
            raise RuntimeError("stop")
        model.unet(x, t, context)
    assert [len(layer) for layer in layers] == [1] * len(layers) and all(len(layer) == 0 for layer in interrupted)
    assert all(module.maps is None for module in model.unet.modules() if isinstance(module, Attention))


def test_words_know_their_tokens(model: LatentDiffusion):
    """Joined, the tokens of all words are the prompt's; start and end take the rest."""
    length = model.config.text.length
    for prompt in (*PROMPTS, "an unheard-of word, zyx!", "red " * 40, "zyxwvutsrq " * 3):
        words, tokens = places_of_words(model.tokenizer, prompt, length), model.tokens([prompt])[0]
        assert [place for _, places in words for place in places] == list(range(length)), "each place once, in order"
        assert words[0][0] == "⟨start⟩" and words[-1][0] == "⟨end⟩"
        for word, places in words[1:-2]:
            assert model.tokenizer.decode(tokens[places].tolist()) == word
    assert words[-1][1] == [length - 1], "the last place is kept for the end token"


def test_a_words_map_is_that_of_the_prompts_half(model: LatentDiffusion):
    """With guidance the null prompt's half is left out: its tokens after the start are all the same."""
    prompt = "a red circle"
    drawn = word_maps(model, prompt, guidance=2.0, steps=4, seed=3)
    assert torch.equal(drawn.image, model.generate([prompt], guidance=2.0, steps=4, seed=3))
    assert drawn.words == ["⟨start⟩", "a", "red", "circle", "⟨end⟩"] and drawn.times == [100, 75, 50, 25]
    assert drawn.maps.shape == (4, 5, 8, 8) and torch.allclose(drawn.maps.sum(1), torch.ones(4, 8, 8), atol=1e-5)
    denoise, red = model.denoiser([prompt], 1.0), dict(places_of_words(model.tokenizer, prompt, 20))["red"]
    with torch.no_grad(), recorded(model.unet) as layers:
        denoise(torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([100]))
        seen = token_maps([layer[0] for layer in layers], 8)[0]
    assert torch.allclose(drawn.maps[0, 2], seen[red].sum(0), atol=1e-5), "at the first step guidance has changed nothing yet"
    assert torch.allclose(drawn.maps[0, :4].sum(0) + drawn.maps[0, 4], seen.sum(0), atol=1e-5)
    by_default = word_maps(model, prompt)
    assert len(by_default.times) == 20 and torch.equal(by_default.image, model.generate([prompt]))


@pytest.mark.equation("16.10")
@pytest.mark.parametrize(("stride", "padding", "kernel"), [(1, 1, 3), (2, 0, 2)])
def test_a_convolution_over_two_is_the_sum_of_two(stride, padding, kernel):
    torch.manual_seed(4)
    conv = nn.Conv2d(5, 7, kernel, stride, padding).double()
    x, image = torch.randn(3, 2, 6, 6).double(), torch.randn(3, 3, 6, 6).double()
    assert torch.allclose(first_layer(conv, x, image), conv(torch.cat([x, image], 1)), atol=1e-12)


def test_a_network_beside_an_image_sees_both(model: LatentDiffusion):
    unet = UNet(dataclasses.replace(TINY.unet, in_channels=7))
    nn.init.normal_(unet.last.weight)
    x, t, image = torch.randn(2, 4, 8, 8), torch.tensor([3, 40]), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(beside(unet, image.double())(x, t), unet(torch.cat([x, image], 1), t))


def test_a_new_door_is_closed_at_first_and_can_be_opened(model: LatentDiffusion):
    x, t, image = torch.randn(2, 4, 8, 8), torch.tensor([3, 40]), 100 * torch.randn(2, 3, 8, 8)
    before = {name: value.clone() for name, value in model.unet.state_dict().items()}
    wide = widened(model.unet, 3)
    assert wide.config == dataclasses.replace(TINY.unet, in_channels=7) and not wide.training
    context = torch.randn(2, 20, 32)
    with torch.no_grad():
        assert torch.allclose(wide(torch.cat([x, image], 1), t, context), model.unet(x, t, context), atol=1e-4)
    wide(torch.cat([x, image], 1), t, context).square().mean().backward()
    assert wide.first.weight.grad[:, 4:].abs().sum() > 0, "zero weights, but not zero gradients"
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in model.unet.state_dict().items()), "a copy"
    assert widened(UNet(TINY.unet), 1).training
