"""Judges: small classifiers that read the attributes off a picture, to tell whether it follows its prompt."""

import contextlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

NOT_APPLICABLE = -1
SMALLEST_JUDGED = 16  # pixels along a side: four levels halve it
Batch = tuple[Tensor, Tensor]  # images in [-1, 1], attributes


class Judge(nn.Module):
    """A convolutional network with one answer per attribute.

    Args:
        channels: of the images.
        image_size: height and width of the images.
        classes: the number of values of each attribute.
    """

    def __init__(self, channels: int, image_size: int, classes: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        self.classes = classes
        layers, before = [], channels
        for level in range(4):  # each level halves the map: 32 → 2
            after = min(width * 2**level, 128)
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.features_head = nn.Sequential(nn.Linear(before * (image_size // 16) ** 2, 128), nn.ReLU())
        self.answers = nn.Linear(128, sum(classes))
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """What the answers are read from, N×128: the space in which the Fréchet distance is taken."""
        return self.features_head(self.convolutions(images))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of every attribute, each N×classes."""
        return list(self.answers(self.features(images)).split(self.classes, 1))


def judge_loss(judge: Judge, images: Tensor, attributes: Tensor) -> Tensor:
    """Cross-entropy, summed over the attributes that apply."""
    losses = []
    for logits, wanted in zip(judge(images), attributes.T, strict=True):
        if (wanted != NOT_APPLICABLE).any():
            losses.append(F.cross_entropy(logits.float(), wanted, ignore_index=NOT_APPLICABLE))
    return torch.stack(losses).sum()


@torch.no_grad()
def verdicts(judge: Judge, images: Tensor, attributes: Tensor, batch: int = 500) -> Tensor:
    """Whether each picture has each attribute that was asked of it: N×attributes, True where it does not apply."""
    judge.eval()
    right, device = [], next(judge.parameters()).device
    for some, wanted in zip(images.split(batch), attributes.cpu().split(batch), strict=True):
        said = torch.stack([logits.argmax(1) for logits in judge(some.to(device))], 1).cpu()
        right.append((said == wanted) | (wanted == NOT_APPLICABLE))
    return torch.cat(right)


def roughen(images: Tensor, generator: torch.Generator, blur: float = 1.0, noise: float = 0.15) -> Tensor:
    """Blur and noise of random strength, one for the batch: a judge of content should forgive soft edges.

    Args:
        images: N×C×H×W in [-1, 1].
        blur: the largest standard deviation, in pixels.
        noise: the largest standard deviation, in units of the images.
    """
    blur, noise = (torch.rand(2, generator=generator) * torch.tensor([blur, noise])).tolist()
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3) / max(blur, 1e-3)) ** 2)
    kernel, channels = (kernel / kernel.sum()).to(images), images.shape[1]
    images = F.pad(images, (2, 2, 2, 2), mode="replicate")
    for shape in ((1, 1, 1, 5), (1, 1, 5, 1)):
        images = F.conv2d(images, kernel.view(shape).expand(channels, -1, -1, -1), groups=channels)
    return images + noise * torch.randn(images.shape, generator=generator).to(images)


def train_judge(
    judge: Judge,
    batch_of: Callable[[int], Batch],
    steps: int,
    lr: float = 2e-3,
    precision: contextlib.AbstractContextManager | None = None,
) -> None:
    """Train in place on `batch_of(0)`, `batch_of(1)`, …, the learning rate falling to zero along half a cosine.

    `precision` surrounds each forward pass; by default it is float32's.
    """
    judge.train()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=lr, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in tqdm(range(steps), desc="judge", unit="step", dynamic_ncols=True):
        optimizer.zero_grad()
        images, attributes = batch_of(step)
        with precision or contextlib.nullcontext():
            loss = judge_loss(judge, images, attributes)
        loss.backward()
        optimizer.step()
        schedule.step()
    judge.eval()
