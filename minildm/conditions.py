"""Doors for a condition: what each word adds, and where; an image beside the noise; a door that is cut later (chapter 16)."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention, KeysValues, TransformerBlock, attention_weights
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer, split_words
from minildm.unet import UNet


def word_parts(attention: Attention, x: Tensor, keys_values: KeysValues) -> Tensor:
    """What each token adds at each position, Eq. (16.8): Σ_h A[h, position, token] · W_h v[h, token].

    Cross-attention's answer is their sum over the tokens, plus the bias of `out`; so its work can be divided among the words
    without a remainder. W_h are the columns of `out` that belong to head h.

    Args:
        x: normalised positions, N×Q×width.
        keys_values: of the text, each N×heads×L×(width/heads).

    Returns: N×L×Q×width.
    """
    key, value = keys_values
    query = attention.query(x).unflatten(-1, (attention.heads, -1)).transpose(1, 2)  # N×heads×Q×d
    weight = attention_weights(query, key).to(value.dtype)  # N×heads×Q×L
    mixing = attention.out.weight.unflatten(1, (attention.heads, -1))  # width×heads×d
    said = torch.einsum("nhld,whd->nhlw", value, mixing)  # what each token has to say, whoever asks
    return torch.einsum("nhql,nhlw->nlqw", weight, said)


def token_maps(layers: Sequence[Tensor], size: int) -> Tensor:
    """Where the U-Net looks at each token, Eq. (16.9): attention, averaged over heads and layers on maps of one size.

    Args:
        layers: of each layer the weights N×heads×Q×L, its Q positions a square, row by row.
        size: height and width of the result; each map is scaled to it bilinearly.

    Returns: N×L×size×size. At every place the L tokens' shares sum to 1.

    Source: Tang et al. 2022 (arXiv:2210.04885), section 2.2, who also sum over the steps, and scale bicubically.
    """
    maps = []
    for weight in layers:
        over_heads = weight.float().mean(1).transpose(1, 2)  # N×L×Q
        side = round(over_heads.shape[2] ** 0.5)
        maps.append(F.interpolate(over_heads.unflatten(2, (side, side)), (size, size), mode="bilinear"))
    return torch.stack(maps).mean(0)


@contextlib.contextmanager
def recorded(unet: UNet) -> Iterator[list[list[Tensor]]]:
    """Have the cross-attentions keep their weights: one list for each layer, in the order of use, one entry a call."""
    layers = [block.attend_context for block in unet.modules() if isinstance(block, TransformerBlock)]
    try:
        for layer in layers:
            layer.maps = []
        yield [layer.maps for layer in layers]
    finally:
        for layer in layers:
            layer.maps = None


def places_of_words(tokenizer: Tokenizer, prompt: str, length: int) -> list[tuple[str, list[int]]]:
    """The prompt's words, each with the positions of its tokens; first the start token, last all end tokens together."""
    found, place = [("⟨start⟩", [0])], 1
    for word in split_words(prompt):
        after = min(place + len(tokenizer.encode(word)), length - 1)
        if after > place:  # else it was cut off
            found.append((word, list(range(place, after))))
        place = after
    return [*found, ("⟨end⟩", list(range(place, length)))]


@dataclasses.dataclass(frozen=True)
class WordMaps:
    """Where a model looked for each word while it drew.

    Attributes:
        image: what it drew, 1×C×H×W.
        words: in the order of the prompt; ⟨start⟩ first, ⟨end⟩ last.
        times: at which the network was asked.
        maps: times×words×size×size; the words' shares sum to 1 at every place.
    """

    image: Tensor
    words: list[str]
    times: list[int]
    maps: Tensor


def word_maps(model: LatentDiffusion, prompt: str, *, guidance: float = 3.0, steps: int = 20, seed: int = 0) -> WordMaps:
    """Draw one image with DPM-Solver++, and tell for each word and each step where the U-Net looked at it.

    A word's map is the sum of its tokens' maps (16.9), of the half of the batch that has the prompt.
    """
    size = model.config.image_size // model.config.autoencoder.factor
    with recorded(model.unet) as layers:
        image = model.generate([prompt], guidance=guidance, steps=steps, seed=seed)
    words = places_of_words(model.tokenizer, prompt, model.config.text.length)
    by_step = [token_maps([weight[:1] for weight in step], size)[0] for step in zip(*layers, strict=True)]  # each L×size×size
    maps = torch.stack([torch.stack([each[places].sum(0) for _, places in words]) for each in by_step])
    return WordMaps(image, [word for word, _ in words], model.times(steps, "dpmpp")[:-1].tolist(), maps)


def first_layer(conv: nn.Conv2d, x_t: Tensor, image: Tensor) -> Tensor:
    """A convolution over [x_t, image], Eq. (16.10): w_x ∗ x_t + w_c ∗ image + b, each with its own part of the weights.

    Args:
        x_t: N×C×H×W.
        image: the condition, N×(in_channels − C)×H×W.

    Returns: N×out_channels×H×W.
    """
    own, other = conv.weight.split([x_t.shape[1], image.shape[1]], 1)
    return F.conv2d(x_t, own, conv.bias, conv.stride, conv.padding) + F.conv2d(image, other, None, conv.stride, conv.padding)


def widened(unet: UNet, channels: int) -> UNet:
    """A copy that takes so many more channels of input and, at first, pays no attention to them: their weights are zero.

    Source: Rombach et al. 2022; Stable Diffusion's inpainting model was begun so.
    """
    wide = UNet(dataclasses.replace(unet.config, in_channels=unet.config.in_channels + channels))
    state = copy.deepcopy(unet.state_dict())
    weight = state["first.weight"]
    state["first.weight"] = torch.cat([weight, weight.new_zeros(len(weight), channels, *weight.shape[2:])], 1)
    wide.load_state_dict(state)
    return wide.to(weight.device).train(unet.training)
