"""Taught for guidance: a denoiser that is told a class or nothing, and a classifier of noisy data (chapter 12)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minildm.config import Prediction, UNetConfig
from minildm.ddpm import ddpm_loss, spread_times
from minildm.ema import EMA
from minildm.schedule import NoiseSchedule, q_sample
from minildm.unet import Embedding, ResidualBlock, UNet, sinusoidal

LabelledNetwork = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x_t, t, labels) → prediction


class ClassUNet(nn.Module):
    """The U-Net of chapter 09, told a class: a learned row for each of K classes and one for ∅, through its `extra` embedding.

    Args: config: with an extra_width, the width of the rows.   classes: K; label K is ∅, and the attribute `null` says so.
    """

    def __init__(self, config: UNetConfig, classes: int) -> None:
        super().__init__()
        self.null, self.unet, self.rows = classes, UNet(config), nn.Embedding(classes + 1, config.extra_width)

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """x_t: N×C×H×W.   t, labels: shape N, labels in 0..K.   Returns the prediction, N×C×H×W."""
        return self.unet(x_t, t, extra=self.rows(labels))


class NoisyClassifier(nn.Module):
    """log p(c | x_t) for every c, N×K: two levels, a residual block each that knows the time, then the mean over positions.

    Args: channels: C of the data.   classes: K.   width: of the finer level, even; the coarser has twice as many.
    """

    def __init__(self, channels: int, classes: int, width: int = 32, groups: int = 2) -> None:
        super().__init__()
        self.width, self.time = width, Embedding(width, 4 * width)
        self.first, self.shrink = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, 2 * width, 3, 2, padding=1)
        self.fine = ResidualBlock(width, width, 4 * width, groups)
        self.coarse = ResidualBlock(2 * width, 2 * width, 4 * width, groups)
        self.last = nn.Linear(2 * width, classes)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """x_t: N×C×H×W.   t: shape N."""
        time = self.time(sinusoidal(t, self.width).to(x_t))
        h = self.coarse(self.shrink(self.fine(self.first(x_t), time)), time)
        return self.last(F.silu(h).mean((2, 3))).log_softmax(1)


def noisy_class_loss(
    classifier: Callable[[Tensor, Tensor], Tensor], x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule
) -> Tensor:
    """−log p_φ(c | x_t) at x_t = a_t x_0 + σ_t ε, Eq. (12.5), nats, shape N: on average least for the true p(c | x_t).

    Args:
        classifier: (x_t, t) → log-probabilities of every class, N×K.
        x0, noise: clean data and ε, N×….   labels, t: shape N.

    Source: Dhariwal & Nichol 2021 (arXiv:2105.05233), section 4: a classifier p(y | x_t, t) trained on noisy images.
    """
    return F.nll_loss(classifier(q_sample(schedule, x0, t, noise), t), labels, reduction="none")


def dropped_loss(
    network: LabelledNetwork,
    x0: Tensor,
    labels: Tensor,
    dropped: Tensor,
    t: Tensor,
    noise: Tensor,
    schedule: NoiseSchedule,
    kind: Prediction,
    null: int,
) -> Tensor:
    """One draw of Eq. (12.8), shape N: the squared error of ŷ(x_t, t, c), or of ŷ(x_t, t, ∅) where `dropped` is True.

    Args:
        network: (x_t, t, labels) → a prediction of this `kind`; the label `null` is ∅.
        x0, noise: clean data and ε, N×….   labels, t: shape N.
        dropped: True with probability p, independently, shape N.

    Source: Ho & Salimans 2022 (arXiv:2207.12598), algorithm 1.
    """
    told = labels.masked_fill(dropped, null)
    return ddpm_loss(lambda x_t, t: network(x_t, t, told), x0, t, noise, schedule, kind)


def train_labelled(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    loss: Callable[..., Tensor],
    T: int,
    steps: int,
    generator: torch.Generator,
    *,
    batch: int = 16,
    lr: float = 2e-3,
) -> tuple[nn.Module, list[float]]:
    """Train in place as `train_ddpm` does, on pictures with their labels.

    Args:
        loss: (network, x0, labels, t, noise, chance) → shape N, where chance is uniform in [0, 1) and decides what is dropped.
        generator: on the CPU; decides all that is left to chance.

    Returns: the averaged network, an EMA over about a twentieth of the steps; and the loss of every step.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr, fused=True)
    ema, losses = EMA(network, 1 - 20 / max(steps, 40)), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, (step + 1) / 50) * (1 - step / steps)
        places = torch.randint(len(images), (batch,), generator=generator)
        x0, c = images[places], labels[places]
        t = spread_times(batch, T, generator).to(x0.device)
        noise = torch.randn(x0.shape, generator=generator).to(x0)
        chance = torch.rand(batch, generator=generator).to(x0.device)
        value = loss(network, x0, c, t, noise, chance).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        ema.update(network)
        losses.append(value.item())
    return ema.average, losses
