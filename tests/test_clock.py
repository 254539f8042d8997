"""The two changes that weights may need on their way through the door: another clock, another shape."""

import pytest
import torch
from torch import Tensor

from minildm.interop import same_map, shifted_time
from minildm.unet import sinusoidal


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.equation("21.5")
@pytest.mark.parametrize("by", [-1, 1, 0.5, -20])
def test_a_shifted_first_layer_hears_another_clock(by):
    """W′ f(t) = W f(t + b), with f as the U-Net computes it; a shift and its opposite cancel."""
    weight, t = normal(6, 32), torch.tensor([30, 123, 456, 789])
    expected = sinusoidal(t + by, 32) @ weight.T
    assert torch.allclose(sinusoidal(t, 32) @ shifted_time(weight, by).T, expected, atol=2e-4, rtol=1e-4)
    assert torch.allclose(shifted_time(shifted_time(weight, by), -by), weight, atol=1e-6)


@pytest.mark.equation("21.4")
def test_a_linear_layer_is_a_convolution_of_one_pixel():
    weight, x = normal(5, 3), normal(2, 3, 4, 4, seed=2)
    kernel = same_map(weight, (5, 3, 1, 1))
    by_pixel = torch.nn.functional.linear(x.movedim(1, -1), weight).movedim(-1, 1)
    assert torch.allclose(torch.nn.functional.conv2d(x, kernel), by_pixel, atol=1e-6)
    assert torch.equal(same_map(kernel, (5, 3)), weight)
    for shape in ((3, 5), (5, 3, 3, 3), (15,)):
        with pytest.raises(ValueError, match="no map of shape"):
            same_map(weight, shape)
