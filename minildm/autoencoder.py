"""Perceptual compression: images to small latent maps and back (chapter 15).

An encoder proposes a Gaussian over latents, a decoder turns a latent into an image. Both are convolutional, with the
structure of Rombach et al. 2022 (arXiv:2112.10752), appendix G, and every size left open (`AutoencoderConfig`).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.attention import Attention
from minildm.config import AutoencoderConfig
from minildm.gaussian import Gaussian
from minildm.muon import muon_and_adamw
from minildm.quantise import Quantizer
from minildm.unet import ResidualBlock, Upsample, lay_out

EPS = 1e-6  # of every GroupNorm here; the U-Net's residual blocks use 1e-5


class Shrink(nn.Module):
    """Halve height and width. One row and column of zeros are added after the map only, as in Stable Diffusion."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class MapAttention(nn.Module):
    """Every position of a map looks at every other, with a single head; added to the map."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm, self.attend = nn.GroupNorm(groups, width, EPS), Attention(width, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.attend(self.norm(x).flatten(2).transpose(1, 2))  # N×HW×C
        return x + h.transpose(1, 2).unflatten(2, x.shape[2:])


def middle(width: int, config: AutoencoderConfig) -> nn.Sequential:
    """The blocks at the smallest size: residual, attention (if configured), residual."""
    attention = [MapAttention(width, config.groups)] if config.middle_attention else []
    return nn.Sequential(block(width, width, config), *attention, block(width, width, config))


def block(width_in: int, width_out: int, config: AutoencoderConfig) -> ResidualBlock:
    return ResidualBlock(width_in, width_out, None, config.groups, EPS)


class Encoder(nn.Sequential):
    """Images N×image_channels×H×W → N×2·latent_channels×H/f×W/f, means and log-variances before `quant`."""

    def __init__(self, config: AutoencoderConfig) -> None:
        widths = config.widths
        layers: list[nn.Module] = [nn.Conv2d(config.image_channels, widths[0], 3, padding=1)]
        before = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                layers.append(block(before, width, config))
                before = width
            if level < len(widths) - 1:
                layers.append(Shrink(width))
        last = nn.Conv2d(before, 2 * config.latent_channels, 3, padding=1)
        super().__init__(*layers, middle(before, config), nn.GroupNorm(config.groups, before, EPS), nn.SiLU(), last)


class Decoder(nn.Sequential):
    """Latents N×latent_channels×h×w → images N×image_channels×f·h×f·w; one more residual block a level than the encoder."""

    def __init__(self, config: AutoencoderConfig) -> None:
        before = config.widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, before, 3, padding=1), middle(before, config)]
        for level in reversed(range(len(config.widths))):
            for _ in range(config.blocks + 1):
                layers.append(block(before, config.widths[level], config))
                before = config.widths[level]
            if level > 0:
                layers.append(Upsample(before))
        last = nn.Conv2d(before, config.image_channels, 3, padding=1)
        super().__init__(*layers, nn.GroupNorm(config.groups, before, EPS), nn.SiLU(), last)


def keep_variance(network: nn.Module) -> None:
    """Start every convolution so that what comes out varies as much as what goes in; those that start at zero stay.

    Weights of variance 1/fan-in, no bias. PyTorch's own have a third of that variance, and a few convolutions on, what
    tells one picture from another is a twentieth of the noise that a fresh encoder adds to it. The decoder then sees
    noise alone, and nothing seems to happen for some hundred steps.
    Source: LeCun et al. 1998, Efficient BackProp, section 4.6.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta and layer.weight.any():  # meta: shapes without values
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            nn.init.zeros_(layer.bias)


class Autoencoder(nn.Module):
    """Images in [-1, 1] to scaled latents and back.

    Attributes:
        scale: what raw latents are multiplied by, so that over the training set their variance is 1 (set by
            `fit_scale`, stored with the weights). The schedules of chapter 06 count on that variance.
    """

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder, self.quant = Encoder(config), nn.Conv2d(2 * channels, 2 * channels, 1)
        self.post_quant, self.decoder = nn.Conv2d(channels, channels, 1), Decoder(config)
        self.register_buffer("scale", torch.tensor(1.0))
        keep_variance(self)
        lay_out(self, config.widths, config.groups)

    def encode(self, images: Tensor) -> Gaussian:
        """q(z | image) over scaled latents.

        Args:
            images: N×image_channels×H×W in [-1, 1], H and W multiples of the factor f.

        Returns: a Gaussian over N×latent_channels×H/f×W/f. Multiplying z by `scale` adds 2 log(scale) to its log-variance.

        Raises:
            ValueError: a size that f does not divide.
        """
        factor = self.config.factor
        if images.shape[2] % factor or images.shape[3] % factor:
            raise ValueError(f"images of {images.shape[2]}×{images.shape[3]}: height and width must be multiples of {factor}")
        mean, log_var = self.quant(self.encoder(images)).float().chunk(2, 1)
        log_var = log_var.clamp(-30, 20)  # as in Stable Diffusion; exp stays finite
        return Gaussian(mean * self.scale, log_var + 2 * torch.log(self.scale))

    def decode(self, latents: Tensor) -> Tensor:
        """Images, roughly in [-1, 1], from scaled latents N×latent_channels×h×w."""
        return self.decoder(self.post_quant(latents / self.scale))

    @torch.no_grad()
    def fit_scale(self, latents: Gaussian) -> None:
        """Set `scale` so that latents drawn from these Gaussians (the training set's) have variance 1.

        The Gaussians are over scaled latents, as `encode` gives them; what they were scaled by before is taken out.
        """
        before = self.scale.to(latents.mean)
        raw = Gaussian(latents.mean / before, latents.log_var - 2 * torch.log(before))
        self.scale.copy_(latent_scale(raw))


def latent_scale(latents: Gaussian) -> Tensor:
    """What latents must be multiplied by to have variance 1, Eq. (15.5): 1/√(Var[μ] + E[σ²]), a single number.

    The variance of a draw is the variance of the means plus the mean of the variances.

    Args:
        latents: q(z | x) of the whole training set, or of many pictures of it, N×….

    Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G, which estimates it from one batch.
    """
    return (latents.mean.var() + torch.exp(latents.log_var).mean()).rsqrt()


def autoencoder_loss(model: Autoencoder, images: Tensor, noise: Tensor, kl_weight: float) -> tuple[Tensor, Tensor]:
    """Reconstruction and regularisation, Eq. (15.4): mean |x − x̂| + mean (x − x̂)², plus kl_weight · KL(q(z|x) ‖ N(0, I))/D.

    Unlike the ELBO of chapter 04, both terms are divided by the number of pixel values, and the KL weighs next to
    nothing: it only keeps the latents from drifting, so that almost all of the image passes.

    Args:
        images: N×C×H×W in [-1, 1].
        noise: ε for the draw of z, shaped like the latents.
        kl_weight: w, the squared error, summed over the values, that one nat of KL is worth; small.

    Returns: the loss to descend and its reconstruction part, both averaged over the batch.
    """
    q = model.encode(images)
    error = model.decode(q.sample(noise)).float() - images
    reconstruction = error.abs().mean() + error.square().mean()
    return reconstruction + kl_weight * q.kl().mean() / images[0].numel(), reconstruction


def vq_autoencoder_loss(
    model: Autoencoder, quantizer: Quantizer, images: Tensor, commitment: float = 0.25
) -> tuple[Tensor, Tensor, Tensor]:
    """The same reconstruction with codes in place of noise: the encoder's means are quantised, and (15.9) takes the KL's place.

    Args:
        images: N×C×H×W in [-1, 1].
        commitment: β of `Quantizer`.

    Returns: the loss to descend, its reconstruction part, and the codes N×h×w.
    """
    z_q, codes, pull = quantizer(model.encode(images).mean, commitment)
    error = model.decode(z_q).float() - images
    reconstruction = error.abs().mean() + error.square().mean()
    return reconstruction + pull, reconstruction, codes


def train_autoencoder(
    parts: nn.Module,
    images: Tensor,
    steps: int,
    generator: torch.Generator,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    batch: int = 8,
    lr: float = 2e-3,
) -> list[float]:
    """Train in place by Muon and AdamW, their rate rising for 20 steps and then falling to 0. Returns the loss of every step.

    Args:
        parts: holds everything that learns: an autoencoder, or a list of it and its codebook.
        images: N×C×H×W in [-1, 1].
        generator: on the CPU; decides which pictures are seen, and all the noise.
        loss: (pictures, noise) → what is descended; the noise is shaped for an autoencoder's latents.
    """
    model = next(part for part in parts.train().modules() if isinstance(part, Autoencoder))
    optimizers, losses, factor = muon_and_adamw(parts, lr), [], model.config.factor
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 20) * (1 - step / steps)
            optimizer.zero_grad()
        x = images[torch.randint(len(images), (batch,), generator=generator)]
        shape = (batch, model.config.latent_channels, x.shape[2] // factor, x.shape[3] // factor)
        value = loss(x, torch.randn(shape, generator=generator).to(x))
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(value.item())
    return losses
