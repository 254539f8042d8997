"""The autoencoder: how it starts, what its loss is, what its scale does, and how codes take the place of noise."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from minildm.autoencoder import (
    Autoencoder,
    autoencoder_loss,
    keep_variance,
    latent_scale,
    train_autoencoder,
    vq_autoencoder_loss,
)
from minildm.config import AutoencoderConfig
from minildm.engine import shapes
from minildm.engine.data import to_float
from minildm.gaussian import Gaussian
from minildm.muon import muon_and_adamw
from minildm.quantise import Quantizer, quantise
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


SMALL = AutoencoderConfig(image_channels=2, latent_channels=3, widths=(4, 8), groups=1)


def pictures(count: int = 5, size: int = 8) -> Tensor:
    return torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.equation("15.4")
def test_the_loss_is_absolute_and_squared_error_a_value_and_the_kl_over_as_many_values() -> None:
    torch.manual_seed(0)
    model, x, noise = Autoencoder(SMALL).double(), pictures().double(), torch.randn(5, 3, 4, 4).double()
    q = model.encode(x)
    error = (model.decode(q.mean + (0.5 * q.log_var).exp() * noise) - x).flatten().tolist()
    wanted = sum(abs(e) + e * e for e in error) / len(error)
    terms = zip(q.mean.flatten().tolist(), q.log_var.flatten().tolist(), strict=True)
    kl = sum(0.5 * (math.exp(v) + m * m - 1 - v) for m, v in terms) / 5  # summed over a latent, averaged over pictures
    loss, reconstruction = autoencoder_loss(model, x, noise, 0.3)
    assert reconstruction.item() == pytest.approx(wanted, rel=1e-6)
    assert loss.item() == pytest.approx(wanted + 0.3 * kl / (2 * 8 * 8), rel=1e-6)
    single = [autoencoder_loss(model, x[place : place + 1], noise[place : place + 1], 0.3)[0].item() for place in range(5)]
    assert sum(single) / 5 == pytest.approx(loss.item(), rel=1e-6)  # a batch of one is a batch


@pytest.mark.equation("15.5")
def test_latents_times_the_scale_have_variance_one() -> None:
    """By drawing, to four standard errors; and exactly, where every value is known."""
    generator = torch.Generator().manual_seed(4)
    q = Gaussian(
        3 + 2 * torch.randn(40000, 4, generator=generator).double(), torch.randn(40000, 4, generator=generator).double() - 1
    )
    drawn = latent_scale(q) * q.sample(torch.randn(q.mean.shape, generator=generator).double())
    print(f"variance {drawn.var():.4f}")
    assert abs(drawn.var().item() - 1) < 4 * (2 / drawn.numel()) ** 0.5 * 1.5  # heavier tails than a Gaussian's
    assert latent_scale(Gaussian(torch.tensor([[0.0], [2.0], [4.0]]), torch.zeros(3, 1))).item() == pytest.approx(5**-0.5)


def test_fitting_the_scale_changes_latents_and_not_pictures_and_twice_is_once() -> None:
    torch.manual_seed(0)
    model, x = Autoencoder(SMALL), pictures(20)
    with torch.no_grad():
        before, raw = model.decode(model.encode(x).mean), model.encode(x)
        model.fit_scale(raw)
        once = model.scale.clone()
        torch.testing.assert_close(once, latent_scale(raw))
        torch.testing.assert_close(model.encode(x).mean, raw.mean * once)
        torch.testing.assert_close(model.encode(x).log_var, raw.log_var + 2 * torch.log(once))
        torch.testing.assert_close(model.decode(model.encode(x).mean), before, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latent_scale(model.encode(x)), torch.tensor(1.0))
        model.fit_scale(model.encode(x))
    torch.testing.assert_close(model.scale, once)
    other = Autoencoder(SMALL)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.scale, model.scale), "the scale is saved with the weights"


def test_sizes_that_do_not_halve_are_refused_and_log_variances_stay_finite() -> None:
    model = Autoencoder(SMALL)
    for size in ((8, 7), (7, 8)):
        with pytest.raises(ValueError, match="multiples of 2"):
            model.encode(torch.zeros(1, 2, *size))
    assert model.encode(torch.zeros(1, 2, 6, 4)).mean.shape == (1, 3, 3, 2)
    with torch.no_grad():
        model.quant.bias.copy_(torch.tensor([0.0, 0, 0, 1e6, -1e6, 5.0]))
        model.quant.weight.zero_()
        assert model.encode(pictures(1)).log_var[0, :, 0, 0].tolist() == [20.0, -30.0, 5.0]


def test_codes_take_the_place_of_noise() -> None:
    torch.manual_seed(0)
    model, quantizer, x = Autoencoder(SMALL), Quantizer(7, 3), pictures()
    loss, reconstruction, codes = vq_autoencoder_loss(model, quantizer, x, commitment=0.4)
    z = model.encode(x).mean
    z_q, wanted = quantise(z, quantizer.codebook)
    error = model.decode(z_q) - x
    torch.testing.assert_close(reconstruction, error.abs().mean() + error.square().mean())
    torch.testing.assert_close(loss, reconstruction + 1.4 * (z - z_q).square().mean())
    assert torch.equal(codes, wanted) and codes.shape == (5, 4, 4)
    by_default = reconstruction + 1.25 * (z - z_q).square().mean()
    torch.testing.assert_close(vq_autoencoder_loss(model, quantizer, x)[0], by_default)  # the commitment weighs a quarter
    reconstruction.backward()
    assert model.encoder[0].weight.grad.abs().sum() > 0 and quantizer.codebook.grad is None


def test_training_follows_its_generator_and_its_rate() -> None:
    """A bias is AdamW's, whose steps are at most about as long as the rate, which rises for 20 steps and then falls to 0."""

    def trained(steps: int, seed: int = 0, lr: float = 1e-2) -> tuple[list[float], list[float]]:
        torch.manual_seed(0)
        model, moved, seen = Autoencoder(SMALL), [], []
        weight = model.decoder[-1].bias

        def loss(x: Tensor, noise: Tensor) -> Tensor:
            seen.append(weight.detach().clone())
            assert x.shape == (3, 2, 8, 8) and noise.shape == (3, 3, 4, 4)
            return autoencoder_loss(model, x, noise, 1e-3)[0]

        parts, generator = nn.ModuleList([model]), torch.Generator().manual_seed(seed)
        losses = train_autoencoder(parts, pictures(), steps, generator, loss, batch=3, lr=lr)
        seen.append(weight.detach().clone())
        moved = [(b - a).abs().max().item() for a, b in itertools.pairwise(seen)]
        return losses, moved

    losses, moved = trained(40)
    assert trained(40)[0] == losses and trained(40, seed=1)[0] != losses
    assert len(losses) == 40 and sum(losses[-5:]) < sum(losses[:5])
    assert moved[0] == pytest.approx(1e-2 / 20, rel=1e-2), "the first step of AdamW has the length of the rate"
    assert moved[-1] < 1e-2 * 3 / 40
    only = trained(1)[1]
    assert only[0] == pytest.approx(1e-2 / 20, rel=1e-2)


def test_training_counts_the_codes_whatever_mode_the_parts_were_in() -> None:
    """A codebook that is not in training mode counts nothing, and `revive` would take every code for dead."""
    torch.manual_seed(0)
    model, quantizer = Autoencoder(SMALL), Quantizer(5, SMALL.latent_channels)
    parts = nn.ModuleList([model, quantizer]).eval()
    generator = torch.Generator().manual_seed(0)
    train_autoencoder(parts, pictures(), 2, generator, lambda x, noise: vq_autoencoder_loss(model, quantizer, x)[0], batch=3)
    assert quantizer.counts.sum() > 0


def test_training_is_muon_and_adamw_with_a_rate_that_rises_and_falls() -> None:
    """Written out once more, with the defaults, and compared weight by weight."""
    torch.manual_seed(0)
    model = Autoencoder(SMALL)
    wide = pictures().repeat(1, 1, 1, 2)
    train_autoencoder(model, wide, 26, torch.Generator().manual_seed(0), lambda x, n: autoencoder_loss(model, x, n, 0.1)[0])
    torch.manual_seed(0)
    mine, generator = Autoencoder(SMALL), torch.Generator().manual_seed(0)
    optimizers = muon_and_adamw(mine, 1.0)
    for step in range(26):
        x = wide[torch.randint(5, (8,), generator=generator)]
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 2e-3 * (min(step, 19) + 1) / 20 * (26 - step) / 26
            optimizer.zero_grad()
        autoencoder_loss(mine, x, torch.randn(8, 3, 4, 8, generator=generator), 0.1)[0].backward()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(model.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
