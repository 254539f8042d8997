"""How networks start: what comes out of a convolution varies as much as what went in."""

import torch
from torch import nn

from minildm.autoencoder import Autoencoder
from minildm.config import AutoencoderConfig
from minildm.unet import ResidualBlock, keep_variance


def test_convolutions_keep_variance_and_zeros_stay_zero() -> None:
    """Away from the border, an output of independent normal inputs is normal with variance 1, to four standard errors."""
    torch.manual_seed(0)
    block = ResidualBlock(48, 64, None, groups=8)
    convolutions = nn.ModuleList([nn.Conv2d(64, 64, 3, stride=2), nn.Conv2d(40, 64, 1), block])
    keep_variance(convolutions)
    assert not block.conv2.weight.any() and not block.conv2.bias.any()
    for layer in (convolutions[0], convolutions[1], block.conv1, block.skip):
        assert not layer.bias.any()
        with torch.no_grad():
            y = layer(torch.randn(50, layer.in_channels, 19, 19))[:, :, 2:-2, 2:-2]
        # A channel's variance is the sum of its squared weights: a sum of n squares of variance 1/n each.
        error = (2 / layer.weight[0].numel() / layer.out_channels) ** 0.5
        print(f"variance {y.var():.3f}, standard error {error:.3f}")
        assert abs(float(y.var()) - 1) < 4 * error + 0.01


def test_a_fresh_autoencoder_passes_its_picture_on() -> None:
    """With PyTorch's own initialisation next to nothing of the input's variation reaches the latents' means."""
    torch.manual_seed(1)
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        means = Autoencoder(AutoencoderConfig(widths=(16, 32, 64), groups=4)).encode(images).mean
    assert 0.5 < means.std() < 2
