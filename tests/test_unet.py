"""The U-Net's parts do what their equations say, and a fresh network starts where the chapter says it does."""

import dataclasses
import itertools
import math

import matplotlib.pyplot as plt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import GEGLU, Attention, TransformerBlock, attention_weights
from minildm.config import UNetConfig
from minildm.engine.counting import conv_size, convolve, draw_map, group_norm, reach, skips_of, survey
from minildm.engine.presets import PRESETS
from minildm.unet import ResidualBlock, SpatialTransformer, UNet, Upsample, sinusoidal

SMALL = UNetConfig(2, 3, (8, 12, 16), 2, (False, True, True), (1, 2, 4), context_width=10, groups=4)
SD1 = UNetConfig(4, 4, (320, 640, 1280, 1280), 2, (True, True, True, False), (8, 8, 8, 8), context_width=768, groups=32)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def awake(module: nn.Module) -> nn.Module:
    """In float64 and random all over, so that nothing is zero by its first values."""
    generator = torch.Generator().manual_seed(7)
    for parameter in module.double().parameters():
        values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = values / max(1, parameter[0].numel()) ** 0.5
    return module


# Convolutions


@pytest.mark.equation("09.1")
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 1, 0), (4, 3, 2), (5, 2, 0)])
def test_a_convolution_is_a_sum_of_shifted_maps(kernel, stride, padding):
    x, weight, bias = random(2, 3, 8, 11), random(4, 3, kernel, kernel, seed=2), random(4, seed=3)
    wanted = F.conv2d(x, weight, bias, stride, padding)
    got = convolve(x, weight, bias, stride, padding)
    assert got.shape == wanted.shape and (got - wanted).abs().max() < 1e-12


def test_sizes_are_those_that_pytorch_gives():
    for size, kernel, stride, padding in itertools.product((5, 8, 9), (1, 2, 3, 5), (1, 2, 3), (0, 1, 2)):
        wanted = F.conv2d(torch.zeros(1, 1, size, 7), torch.zeros(1, 1, kernel, 1), None, stride, (padding, 0)).shape[2]
        assert conv_size(size, kernel, stride, padding) == wanted
    with pytest.raises(ValueError, match="a kernel of 5 does not fit on 2 pixels with a margin of 1"):
        conv_size(2, 5, 1, 1)
    assert conv_size(3, 5, 1, 1) == 1


@pytest.mark.parametrize("layers", [[(3, 1)] * 4, [(3, 1), (3, 2), (3, 1), (5, 2), (3, 1)], [(1, 1)], [(2, 2), (2, 2), (3, 1)]])
def test_what_a_place_sees_is_where_its_gradient_reaches(layers):
    x = torch.zeros(1, 1, 101, dtype=torch.float64, requires_grad=True)
    y = x
    for kernel, stride in layers:
        y = F.conv1d(y, torch.ones(1, 1, kernel, dtype=torch.float64), None, stride)
    y[0, 0, y.shape[2] // 2].backward()
    assert reach(layers) == (x.grad != 0).sum()


@pytest.mark.equation("09.2")
def test_upsampling_is_four_small_convolutions_side_by_side():
    """Of the nine places of a kernel several fall on the same repeated pixel: four kernels of 2×2 give the same map."""
    layer, x = awake(Upsample(3)), random(2, 3, 4, 5)
    weight, got = layer.conv.weight, layer(x)
    fold = (torch.tensor([[1.0, 0, 0], [0, 1, 1]]).double(), torch.tensor([[1.0, 1, 0], [0, 0, 1]]).double())
    wanted = torch.zeros_like(got)
    for a, b in itertools.product(range(2), range(2)):
        kernel = torch.einsum("pk,ql,ockl->ocpq", fold[a], fold[b], weight)
        padded = F.pad(x, (1 - b, b, 1 - a, a))
        wanted[:, :, a::2, b::2] = F.conv2d(padded, kernel, layer.conv.bias)
    assert got.shape == (2, 3, 8, 10) and (got - wanted).abs().max() < 1e-12


# Normalisation and residual blocks


@pytest.mark.equation("09.3")
def test_each_group_of_each_example_is_normalised_by_itself():
    x, weight, bias = 3 * random(3, 6, 4, 5) + 2, random(6, seed=2), random(6, seed=3)
    got = group_norm(x, 3, weight, bias, 1e-3)
    for n, c in itertools.product(range(3), range(6)):
        own = x[n, 2 * (c // 2) : 2 * (c // 2) + 2].flatten()
        wanted = weight[c] * (x[n, c] - own.mean()) / (own.var(correction=0) + 1e-3).sqrt() + bias[c]
        assert (got[n, c] - wanted).abs().max() < 1e-12
    assert (group_norm(x, 3, weight, bias) - F.group_norm(x, 3, weight, bias)).abs().max() < 1e-12


def test_a_group_may_be_scaled_and_shifted_and_nothing_changes():
    x, one, nought = random(2, 6, 4, 4), torch.ones(6).double(), torch.zeros(6).double()
    changed = x.clone()
    changed[:, 2:4] = 100 * changed[:, 2:4] - 7
    assert (group_norm(changed, 3, one, nought, 0.0) - group_norm(x, 3, one, nought, 0.0)).abs().max() < 1e-12


@pytest.mark.equation("09.4")
@pytest.mark.parametrize("width_out", [6, 8])
def test_a_residual_block_is_its_formula(width_out):
    block, x, time = awake(ResidualBlock(6, width_out, 5, 2, 1e-4)), random(2, 6, 4, 5), random(2, 5, seed=2)

    def half(h: Tensor, norm: nn.GroupNorm, conv: nn.Conv2d) -> Tensor:
        h = group_norm(h, 2, norm.weight, norm.bias, 1e-4)
        return convolve(h / (1 + torch.exp(-h)), conv.weight, conv.bias, 1, 1)

    told = (time / (1 + torch.exp(-time))) @ block.time.weight.T + block.time.bias
    h = half(x, block.norm1, block.conv1) + told[:, :, None, None]
    kept = x if width_out == 6 else convolve(x, block.skip.weight, block.skip.bias)
    assert (block(x, time) - kept - half(h, block.norm2, block.conv2)).abs().max() < 1e-12


def test_a_fresh_residual_block_is_the_identity_and_is_not_stuck_there():
    block, x = ResidualBlock(8, 8, 5, 2), random(2, 8, 4, 4).float().requires_grad_()
    y = block(x, random(2, 5).float())
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert torch.equal(x.grad, 2 * x)  # the gradient passes, whole
    assert block.conv2.weight.grad.abs().sum() > 0 and block.conv1.weight.grad.abs().sum() == 0  # the first to move


def test_a_block_without_a_place_for_time_needs_none():
    block, x = awake(ResidualBlock(6, 6, None, 2)), random(2, 6, 4, 4)
    assert block.time is None and torch.equal(block(x), block(x, random(2, 5)))


# Time


@pytest.mark.equation("09.5")
def test_features_of_time_are_points_that_run_round_circles():
    t, half = torch.tensor([0.0, 1.0, 37.5, 999.0]), 6
    speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    wanted = torch.exp(1j * t.double()[:, None] * speed)
    got = sinusoidal(t, 2 * half)
    assert got.shape == (4, 12) and got.dtype == torch.float32
    assert (got - torch.cat([wanted.real, wanted.imag], 1)).abs().max() < 1e-4  # float32 at angles up to 999
    assert (sinusoidal(t.long()[[1, 3]], 12) - got[[1, 3]]).abs().max() == 0


def test_two_times_are_as_near_as_their_difference_is_small():
    t = torch.tensor([3.0, 250.0, 800.0])
    for difference in (0.0, 1.0, 40.0):
        products = (sinusoidal(t, 64) * sinusoidal(t + difference, 64)).sum(1)
        assert products.max() - products.min() < 1e-3
        assert abs(products[0] - sum(math.cos(difference * 10000 ** (-k / 32)) for k in range(32))) < 1e-3


# Attention


@pytest.mark.equation("09.6")
@pytest.mark.parametrize("masked", [False, True])
def test_attention_weights_are_a_softmax_over_the_keys(masked):
    query, key = random(2, 3, 5), random(2, 4, 5, seed=2)
    mask = torch.tensor([True, False, True, True]) if masked else None
    got = attention_weights(query, key, mask)
    for n, i in itertools.product(range(2), range(3)):
        scores = [math.exp(sum(query[n, i] * key[n, j]).item() / math.sqrt(5)) for j in range(4)]
        scores = [score if mask is None or mask[j] else 0.0 for j, score in enumerate(scores)]
        assert (got[n, i] - torch.tensor(scores) / sum(scores)).abs().max() < 1e-6


def by_formula(layer: Attention, x: Tensor, context: Tensor) -> Tensor:
    """Σ over heads of softmax(x W_q (c W_k)ᵀ/√d) c W_v W_o: each head through its own slice of the last matrix."""
    d = layer.out.weight.shape[1] // layer.heads
    y = layer.out.bias
    for head in range(layer.heads):
        own = slice(head * d, head * d + d)
        query, key = x @ layer.query.weight[own].T, context @ layer.key.weight[own].T
        weight = torch.exp(query @ key.transpose(1, 2) / d**0.5)
        y = y + weight / weight.sum(2, keepdim=True) @ (context @ layer.value.weight[own].T) @ layer.out.weight[:, own].T
    return y


@pytest.mark.equation("09.7")
@pytest.mark.parametrize(("length", "recorded"), [(6, False), (6, True), (300, False), (300, True)])
def test_heads_are_a_sum_on_every_path(length, recorded):
    """Plain, recorded, and through the fused kernel, which takes over on more than 256 positions."""
    layer, x, context = awake(Attention(12, 3, 7)), random(2, 5, 12), random(2, length, 7, seed=2)
    layer.maps = [] if recorded else None
    assert (layer(x, layer.keys_values(context)) - by_formula(layer, x, context)).abs().max() < 1e-6


def test_attention_knows_no_places():
    """The positions permuted, the answers permuted alike; the keys permuted, nothing."""
    layer, x = awake(Attention(12, 3)), random(2, 9, 12)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    assert (layer(x[:, order]) - layer(x)[:, order]).abs().max() < 1e-6
    assert (layer(x, layer.keys_values(x[:, order])) - layer(x)).abs().max() < 1e-6


@pytest.mark.equation("09.8")
def test_geglu_is_its_formula():
    layer, x = awake(GEGLU(3)), random(4, 2, 3)
    value, gate = x @ layer.gated.weight[:12].T + layer.gated.bias[:12], x @ layer.gated.weight[12:].T + layer.gated.bias[12:]
    gate = gate * (1 + torch.erf(gate / 2**0.5)) / 2
    assert (layer(x) - (value * gate) @ layer.out.weight.T - layer.out.bias).abs().max() < 1e-12


@pytest.mark.equation("09.9")
@pytest.mark.parametrize("told", [True, False])
def test_a_transformer_block_adds_three_times(told):
    block, x, context = awake(TransformerBlock(8, 2, 7)), random(2, 5, 8), random(2, 4, 7, seed=2)

    def normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
        centred = h - h.mean(2, keepdim=True)
        return centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias

    y = normed(x, block.norm1)
    y = x + by_formula(block.attend_self, y, y)
    y = y + by_formula(block.attend_context, normed(y, block.norm2), context) if told else y
    y = y + block.feed_forward(normed(y, block.norm3))
    keys_values = block.attend_context.keys_values(context) if told else None
    assert (block(x, keys_values, None) - y).abs().max() < 1e-5


def test_a_map_is_read_as_a_sequence_and_put_back_in_place():
    """Turn the map, and the answer is turned: nothing in it depends on where a position lies."""
    for linear in (False, True):
        config = UNetConfig(widths=(8,), attention=(True,), heads=(2,), context_width=None, groups=4, linear_projection=linear)
        layer, x = awake(SpatialTransformer(8, 2, config)), random(2, 8, 3, 5)
        assert (layer(x, iter([]), None).mT - layer(x.mT, iter([]), None)).abs().max() < 1e-6


# The whole


def recursively(network: UNet, x: Tensor, time: Tensor, keys_values, level: int = 0) -> Tensor:
    """A U-Net of L levels is a way down, a U-Net of L − 1 levels on the smaller map, and a way up that reads what was kept."""
    kept = [x]
    for stage in network.down[level]:
        kept.append(stage(kept[-1], time, keys_values, None))
    if level + 1 < len(network.down):
        inner = recursively(network, network.shrink[level](kept[-1]), time, keys_values, level + 1)
        y = network.grow[len(network.down) - 2 - level](inner)
    else:
        first, transformer, second = network.middle
        y = second(transformer(first(kept[-1], time), keys_values, None), time)
    for stage in network.up[len(network.down) - 1 - level]:
        y = stage(torch.cat([y, kept.pop()], 1), time, keys_values, None)
    return y


@pytest.mark.equation("09.10")
def test_a_unet_is_a_unet_inside_a_way_down_and_up():
    network, x, t = awake(UNet(SMALL)), random(2, 2, 8, 12), torch.tensor([3, 700])
    context = random(2, 5, 10, seed=2)
    first, silu, second = network.time
    time = second(silu(first(sinusoidal(t, 8).double())))
    y = recursively(network, network.first(x), time, iter(network.keys_values(context)))
    y = network.last(F.silu(group_norm(y, 4, network.norm.weight, network.norm.bias)))
    assert y.shape == (2, 3, 8, 12) and y.std() > 0.1
    assert (network(x, t, context) - y).abs().max() < 1e-6


def test_a_fresh_network_says_nothing_and_its_loss_is_the_mean_square_of_the_target():
    network, x, wanted = UNet(SMALL), random(2, 2, 8, 8).float(), random(2, 3, 8, 8).float()
    said = network(x, torch.tensor([3, 700]))
    assert torch.equal(said, torch.zeros_like(said))
    (said - wanted).square().mean().backward()
    reached = {name for name, parameter in network.named_parameters() if parameter.grad is not None and parameter.grad.any()}
    assert reached == {"last.weight", "last.bias"}  # at the first step the others cannot do anything yet


@pytest.mark.parametrize(("height", "width"), [(8, 6), (10, 8), (7, 8)])
def test_maps_that_cannot_be_halved_are_refused(height, width):
    with pytest.raises(ValueError, match=f"maps of {height}×{width}: height and width must be multiples of 4"):
        UNet(SMALL)(torch.zeros(1, 2, height, width), torch.tensor([3]))


def test_what_has_no_place_is_refused():
    x, t = torch.zeros(1, 2, 4, 4), torch.tensor([3])
    plain = UNet(UNetConfig(2, 2, (8,), attention=(False,), heads=(1,), context_width=None, groups=4))
    with pytest.raises(ValueError, match="no cross-attention to read a context with"):
        plain(x, t, torch.zeros(1, 3, 8))
    with pytest.raises(ValueError, match="`extra` is given"):
        plain(x, t, extra=torch.zeros(1, 3))
    config = UNetConfig(2, 2, (8,), attention=(False,), heads=(1,), context_width=None, extra_width=3, groups=4)
    with pytest.raises(ValueError, match="extra_width=3, but `extra` is missing"):
        UNet(config)(x, t)


# Counting


def inputs(config: UNetConfig, size: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, config.in_channels, size, size), torch.tensor([5]), torch.randn(1, length, config.context_width)


@pytest.mark.parametrize(
    "config", [SMALL, UNetConfig(), PRESETS["mnist"][1].model.unet], ids=["three levels", "no sizes named", "mnist"]
)
def test_a_survey_counts_everything_once(config):
    network = UNet(config)
    parts = survey(network, *inputs(config, 8, 6))
    assert sum(part.parameters for part in parts) == sum(parameter.numel() for parameter in network.parameters())
    flops = dict.fromkeys([part.name for part in parts], 0)
    positions = {part.name: math.prod(part.given[1:]) for part in parts}
    for name, module in network.named_modules():
        part = next((part for part in flops if name == part or name.startswith(f"{part}.")), None)
        if isinstance(module, nn.Conv2d):
            flops[part] += 2 * module.weight.numel() * positions[part]
        elif isinstance(module, nn.Linear):
            rows = 6 if name.endswith(("context.key", "context.value")) else positions[part] if ".blocks." in name else 1
            flops[part] += 2 * module.weight.numel() * rows
        elif isinstance(module, Attention):
            flops[part] += 4 * positions[part] * (6 if name.endswith("context") else positions[part]) * module.out.out_features
    assert {part.name: part.flops for part in parts} == flops
    assert [part.name for part in parts][:3] == ["time", "first", "down.0.0"] and parts[-1].name == "last"


@pytest.mark.parametrize("config", [SMALL, SD1], ids=["three levels", "Stable Diffusion 1"])
def test_each_skip_fills_what_its_reader_lacks(config):
    with torch.device("meta"):
        network = UNet(config)
        parts = survey(network, *inputs(config, 64, 7))
    pairs, places = skips_of(parts), {part.name: place for place, part in enumerate(parts)}
    assert len(pairs) == len(config.widths) * (config.blocks + 1)
    for kept, read in pairs:
        before = parts[places[read.name] - 1]
        assert read.taken == (before.given[0] + kept.given[0], *before.given[1:]) and kept.given[1:] == read.given[1:]
    if config is SD1:
        assert sum(part.parameters for part in parts) == 859_520_964


def test_the_map_names_every_block_and_every_skip():
    network = UNet(SMALL)
    parts = survey(network, *inputs(SMALL, 8, 6))
    figure, axis = plt.subplots()
    draw_map(axis, network, parts)
    words = [text.get_text() for text in axis.texts]
    drawn = [part for part in parts if part.name not in ("time", "norm")]
    for part in drawn:
        size = "×".join(map(str, part.given[1:]))
        assert f"{part.name}\n{part.taken[0]}→{part.given[0]}\n{size}" in words
    assert sorted(word for word in words if word.isdigit()) == sorted(str(kept.given[0]) for kept, _ in skips_of(parts))
    plt.close(figure)


def test_the_presets_differ_from_the_default_as_the_chapter_says():
    """Four transformers by default; the demo and MNIST keep the one in the middle alone, their small maps have 64 channels
    instead of 128, and the demo's latents have six."""

    def attending(config: UNetConfig) -> list[str]:
        return [name for name, part in UNet(config).named_modules() if isinstance(part, SpatialTransformer)]

    assert len(attending(UNetConfig())) == 4 and "middle.1" in attending(UNetConfig())
    for name, channels in (("shapes", 6), ("mnist", 4)):
        config = PRESETS[name][1].model.unet
        assert attending(config) == ["middle.1"]
        assert config.in_channels == config.out_channels == channels and config.widths == (64, 64)
        default = UNetConfig()
        assert default.widths == (64, 128)
        changed = {"attention": default.attention, "widths": default.widths, "in_channels": 4, "out_channels": 4}
        assert dataclasses.replace(config, **changed) == default
