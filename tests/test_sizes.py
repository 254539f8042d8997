"""Counted from the configuration, the U-Net has as many numbers as its tensors have."""

import random

import pytest
import torch
from torch import nn

from minildm.config import UNetConfig
from minildm.sizes import SD15, SD21, residual_size, transformer_size, unet_shares, unet_size
from minildm.tensors import without_memory
from minildm.unet import ResidualBlock, SpatialTransformer, UNet


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.equation("21.1")
@pytest.mark.parametrize(("c", "d", "w"), [(8, 8, 12), (8, 24, 5), (24, 8, 32)])
def test_a_residual_block_has_as_many_numbers(c, d, w):
    assert residual_size(c, d, w) == count(ResidualBlock(c, d, w, 4))


@pytest.mark.equation("21.2")
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("c", "k"), [(8, 5), (16, 16), (12, None)])
@pytest.mark.parametrize("linear", [True, False])
def test_a_spatial_transformer_has_as_many_numbers(c, k, depth, linear):
    config = UNetConfig(context_width=k, depth=depth, linear_projection=linear)
    assert transformer_size(c, k, depth) == count(SpatialTransformer(c, 2, config))
    assert transformer_size(c, k) == transformer_size(c, k, 1), "one block, where nothing is said"
    assert k is None or transformer_size(c, k, depth) == 2 * c**2 + 4 * c + depth * (18 * c**2 + 2 * k * c + 17 * c)


def random_config(number: int) -> UNetConfig:
    roll = random.Random(number)
    levels = roll.randint(1, 4)
    return UNetConfig(
        in_channels=roll.randint(1, 9),
        out_channels=roll.randint(1, 5),
        widths=tuple(4 * roll.randint(1, 5) for _ in range(levels)),
        blocks=roll.randint(1, 3),
        attention=tuple(roll.random() < 0.5 for _ in range(levels)),
        heads=(2,) * levels,
        depth=roll.randint(1, 2),
        middle_attention=roll.random() < 0.7,
        context_width=roll.choice([None, 8, 20]),
        extra_width=roll.choice([None, 6]),
        groups=2,
    )


@pytest.mark.parametrize("number", range(24))
def test_the_whole_unet_has_as_many_numbers_part_by_part(number):
    config = random_config(number)
    with without_memory():
        unet = UNet(config)
    shares = unet_shares(config)
    assert sum(share.total for share in shares.values()) == unet_size(config) == count(unet)
    ends = sum(count(part) for part in (unet.time, unet.first, unet.norm, unet.last, *([unet.extra] if unet.extra else [])))
    assert shares["ends"].rest == shares["ends"].total == ends
    for level, (stages, shrink) in enumerate(zip(unet.down, unet.shrink, strict=True)):
        assert_share(shares[f"down {level}"], stages, shrink)
    for level, stages, grow in zip(reversed(range(len(config.widths))), unet.up, unet.grow, strict=True):
        assert_share(shares[f"up {level}"], stages, grow)
    assert next(iter(shares)) == "ends" and list(shares)[-1] == "up 0"


def assert_share(share, stages: nn.ModuleList, rest: nn.Module) -> None:
    assert share.residual == sum(count(stage.residual) for stage in stages)
    assert share.transformer == sum(count(stage.transformer) for stage in stages if stage.transformer is not None)
    assert share.rest == count(rest)


@pytest.mark.equation("21.3")
def test_stable_diffusion_has_the_size_that_is_known():
    """The numbers that diffusers counts: 859,520,964 and 865,910,724."""
    for config, known in ((SD15.unet, 859_520_964), (SD21.unet, 865_910_724)):
        assert unet_size(config) == known
        with torch.device("meta"):
            assert count(UNet(config)) == known
