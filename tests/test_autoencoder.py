"""How the autoencoder starts: what comes out of a convolution varies as much as what went in."""

import torch
from torch import nn

from minildm.autoencoder import Autoencoder, keep_variance
from minildm.config import AutoencoderConfig
from minildm.engine import shapes
from minildm.engine.data import to_float
from minildm.unet import ResidualBlock


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


def test_a_fresh_encoder_tells_pictures_apart() -> None:
    """How much the means differ between pictures, in units of the noise added to them: 0.05 with PyTorch's own weights."""
    torch.manual_seed(1)
    generator = torch.Generator().manual_seed(1)
    images = to_float(shapes.render(shapes.sample_scenes(64, shapes.SEEN, generator), generator))
    with torch.no_grad():
        latents = Autoencoder(AutoencoderConfig(widths=(16, 32, 64), groups=4)).encode(images)
    ratio = latents.mean.std(0).mean() / (0.5 * latents.log_var).exp().mean()
    print(f"signal over noise {ratio:.2f}")
    assert ratio > 0.2
