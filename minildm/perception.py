"""Judging a reconstruction as one looks at it: distances between features, and a critic of patches (chapter 15)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Features = Callable[[Tensor], Sequence[Tensor]]  # images N×C×H×W → maps N×C_l×H_l×W_l, one for each layer


def unit_channels(feature_map: Tensor) -> Tensor:
    """At every position, the channels divided by their length (1e-10 is added to it, so that nothing stays nothing)."""
    return feature_map / (feature_map.norm(dim=1, keepdim=True) + 1e-10)


def perceptual_loss(features_a: Sequence[Tensor], features_b: Sequence[Tensor]) -> Tensor:
    """How different two sets of images look to a network, Eq. (15.11): unit channels, squared difference, mean over positions.

    The sum over layers of the mean over positions of ‖u(a) − u(b)‖², with every learned weight of LPIPS set to 1.

    Args:
        features_a, features_b: for each layer a map N×C×h×w.

    Returns: one number per pair of images, shape N; each layer adds from 0 to 4.

    Raises:
        ValueError: other numbers of maps, or maps of other shapes.

    Source: Zhang et al. 2018 (arXiv:1801.03924), Eq. 1.
    """
    shapes = [[tuple(feature.shape) for feature in features] for features in (features_a, features_b)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ValueError(f"features must be maps of the same shapes, at least one: {shapes[0]} and {shapes[1]}")
    pairs = zip(features_a, features_b, strict=True)
    return torch.stack([(unit_channels(a) - unit_channels(b)).square().sum(1).mean((1, 2)) for a, b in pairs]).sum(0)


class PatchDiscriminator(nn.Sequential):
    """Real or made? One logit for every patch of the image: N×channels×H×W → N×1×h×w.

    Convolutions of 4×4 pixels: `layers` that halve the map (the first without normalisation), one that does not, and one to
    the logits. With 1, 2 or 3 layers a logit sees 16, 34 or 70 pixels along each side.

    Args:
        channels: of the images.
        width: of the first layer; it doubles from layer to layer, up to eightfold.
        layers: at least 1.

    Source: Isola et al. 2017 (arXiv:1611.07004), appendix 6.1.2.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3) -> None:
        if layers < 1:
            raise ValueError(f"layers={layers} must be at least 1")
        parts: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        before = width
        for layer in range(1, layers + 1):
            after, stride = width * min(2**layer, 8), 2 if layer < layers else 1
            parts += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
            before = after
        super().__init__(*parts, nn.Conv2d(before, 1, 4, 1, 1))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, 1.0, 0.02)


def hinge_critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """What the discriminator descends, Eq. (15.12): ½ mean max(0, 1 − D(x)) + ½ mean max(0, 1 + D(x̂)).

    1 where every logit is 0; never less than 1 minus the total variation between real and made patches.

    Args:
        real, made: logits, of any shapes.

    Source: Lim and Ye 2017 (arXiv:1705.02894), Eq. 4.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + made).mean())


def hinge_maker_loss(made: Tensor) -> Tensor:
    """What the decoder descends against the discriminator, also Eq. (15.12): −mean D(x̂).

    Source: Lim and Ye 2017 (arXiv:1705.02894), Eq. 5.
    """
    return -made.mean()


def adaptive_weight(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, delta: float = 1e-4, most: float = 1e4
) -> Tensor:
    """How much the adversary may weigh, Eq. (15.13): ‖∇ reconstruction‖/(‖∇ adversarial‖ + δ), at most `most`.

    Both gradients are taken at the decoder's last layer. Weighed so, the two pull there with the same force.

    Args:
        reconstruction, adversarial: scalar losses, both functions of last_layer; their graphs are kept.
        last_layer: the weight of the last convolution.
        delta: δ, so that nothing is divided by 0.

    Returns: a single number, without a gradient.

    Source: Esser et al. 2021 (arXiv:2012.09841), Eq. 7.
    """
    (pull,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (push,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (pull.norm() / (push.norm() + delta)).clamp(max=most).detach()


def with_adversary(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, step: int, start: int, weight: float = 1.0
) -> Tensor:
    """The decoder's loss, Eq. (15.14): reconstruction + weight · λ · adversarial from step `start` on; before, reconstruction.

    λ is `adaptive_weight`. The rest is as there.

    Source: Rombach et al. 2022 (arXiv:2112.10752), appendix G, Eq. 25; the late start: Esser et al. 2021 (arXiv:2012.09841).
    """
    if step < start:
        return reconstruction
    return reconstruction + weight * adaptive_weight(reconstruction, adversarial, last_layer) * adversarial


def train_sharp(
    model: nn.Module,
    critic: nn.Module,
    features: Features | None,
    images: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    start: int = 0,
    batch: int = 16,
    lr: float = 5e-4,
    kl_weight: float = 1e-3,
    perceptual_weight: float = 1.0,
    adversarial_weight: float = 1.0,
    loss: Callable[..., Tensor] = with_adversary,
) -> list[tuple[float, float, float]]:
    """Train an autoencoder in place on (15.4) with both additions, and its critic with it, by Adam.

    Args:
        model: has encode, decode and decoder, as `Autoencoder`.
        critic: images → logits, as `PatchDiscriminator`; it trains from step `start` on.
        features: what the perceptual loss compares; None leaves it out.
        loss: puts reconstruction and adversary together; called like `with_adversary`.

    Returns: reconstruction, the decoder's adversarial loss and the critic's loss of every step, the last two NaN before `start`.
    """
    last_layer, history = model.decoder[-1].weight, []
    maker, judge = (torch.optim.Adam(part.parameters(), lr, (0.5, 0.9)) for part in (model, critic))
    for step in range(steps):
        x = images[torch.randint(len(images), (batch,), generator=generator)]
        q = model.encode(x)
        made = model.decode(q.sample(torch.randn(q.mean.shape, generator=generator).to(q.mean)))
        reconstruction = (made - x).abs().mean() + (made - x).square().mean()
        if features is not None:
            reconstruction = reconstruction + perceptual_weight * perceptual_loss(features(x), features(made)).mean()
        adversarial = hinge_maker_loss(critic(made)) if step >= start else torch.full((), torch.nan)
        total = loss(reconstruction, adversarial, last_layer, step, start, adversarial_weight)
        maker.zero_grad()
        (total + kl_weight * q.kl().mean() / x[0].numel()).backward()
        maker.step()
        doubt = torch.full((), torch.nan)
        if step >= start:
            doubt = hinge_critic_loss(critic(x), critic(made.detach()))
            judge.zero_grad()
            doubt.backward()
            judge.step()
        history.append((reconstruction.item(), adversarial.item(), doubt.item()))
    return history
