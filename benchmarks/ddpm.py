"""What chapter 10 has no time for: every variance at every number of steps, and mistakes that are made in training.

    MINILDM_DATA=DIR python benchmarks/ddpm.py [--steps 3000] [--only variances training] [--json benchmarks/ddpm.json]

The model is the chapter's: digits of 16×16 pixels, a U-Net of two levels, `--steps` steps of 16 pictures, and a fifth as many to
learn the variance. Distances are means over two sets of 200 drawn pictures, bits are of 32 held-out pictures with their
standard error.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from common import ON_PIXELS, machine, small
from torch import Tensor
from torch.nn.functional import pixel_shuffle

from minildm.ddpm import ancestral, bits_per_dimension, ddpm_loss, denoiser, hybrid_loss, respaced, reverse_of, train_ddpm
from minildm.engine.book import grey_pictures
from minildm.engine.judges import Judge, train_judge
from minildm.metrics import frechet_distance
from minildm.schedule import NoiseSchedule
from minildm.unet import UNet

SCHEDULE, KIND = NoiseSchedule.cosine(1000), "v"
BITS_STEPS, DRAWN_STEPS, CODED = (10, 20, 50, 100, 250, 1000), (10, 20, 50, 100), 32
VARIANCES = {"small": 0.0, "large": 1.0, "learned": None}


def in_levels(images: Tensor) -> Tensor:
    """`small`, in 256 grey levels, as in the chapter."""
    return ((small(images) + 1) * 127.5).round() / 127.5 - 1


def seeded_draw(seed: int) -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=generator).to(like)


def spaced(count: int) -> Tensor:
    """Times from 1000 down to 0."""
    return torch.linspace(1000, 0, count + 1).round().long()


def fresh() -> UNet:
    torch.manual_seed(0)
    return UNet(ON_PIXELS)


def trained(data: Tensor, steps: int, loss: Callable = ddpm_loss) -> tuple[UNet, UNet]:
    """The last weights and the averaged ones."""
    network = fresh()
    averaged, _ = train_ddpm(network, data, SCHEDULE, KIND, steps, torch.Generator().manual_seed(0), batch=16, loss=loss)
    return network, averaged


def widened(averaged: UNet, data: Tensor, steps: int) -> UNet:
    """With channels that say the variance, trained for some steps of the hybrid loss."""
    wide, weights = UNet(dataclasses.replace(ON_PIXELS, out_channels=8)), averaged.state_dict()
    for name in ("last.weight", "last.bias"):
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name])])
    wide.load_state_dict(weights)
    generator = torch.Generator().manual_seed(8)
    return train_ddpm(wide, data, SCHEDULE, KIND, steps, generator, batch=16, lr=1e-3, loss=hybrid_loss)[0]


class Distance:
    """Fréchet distance from 4000 real pictures in the features of a small classifier, the mean over two sets of 200."""

    def __init__(self, data: Tensor, labels: Tensor, classes: int) -> None:
        torch.manual_seed(1)
        self.judge, generator = Judge(1, 16, (classes,), width=16), torch.Generator().manual_seed(6)

        def batch(step: int) -> tuple[Tensor, Tensor]:
            places = torch.randint(len(data), (128,), generator=generator)
            return pixel_shuffle(data[places], 2), labels[places, None]

        with contextlib.redirect_stderr(io.StringIO()):
            train_judge(self.judge, batch, 150)
        self.real = self.features(data[:4000])

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        return self.judge.features(pixel_shuffle(x, 2).clamp(-1, 1))

    def __call__(self, x: Tensor) -> float:
        return sum(frechet_distance(self.features(half), self.real) for half in x[:400].split(200)) / 2


@torch.no_grad()
def walk_back(network: UNet, count: int, v: float | None) -> Tensor:
    """400 pictures in `count` steps with a variance of one's choice; the last step gives its mean."""
    times = spaced(count).flip(0)
    reverse, draw = reverse_of(network, SCHEDULE, KIND, times, v), seeded_draw(3)
    x = seeded_draw(2)(torch.empty(400, 4, 8, 8))
    for k in range(count, 0, -1):
        step = reverse(x, torch.full((len(x),), k))
        x = step.sample(draw(x)) if k > 1 else step.mean
    return x


@torch.no_grad()
def variances(wide: UNet, held_out: Tensor, distance: Distance) -> dict:
    rows = {"bits": {}, "distance": {}}
    for name, v in VARIANCES.items():
        rows["bits"][name], rows["distance"][name] = {}, {}
        for count in BITS_STEPS:
            times = spaced(count).flip(0)
            reverse = reverse_of(wide, SCHEDULE, KIND, times, v)
            found = bits_per_dimension(respaced(SCHEDULE, times), reverse, held_out[:CODED], seeded_draw(7)).sum(1)
            rows["bits"][name][count] = [found.mean().item(), found.std().item() / math.sqrt(CODED)]
            print("bits", name, count, rows["bits"][name][count], flush=True)
        for count in DRAWN_STEPS:
            rows["distance"][name][count] = distance(walk_back(wide, count, v))
            print("distance", name, count, rows["distance"][name][count], flush=True)
    return rows


def late_times(network, x0, t, noise, schedule, kind):
    """Times from 0 to T − 1, as by an index that begins at 0: t = 0 is clean, and T is never seen."""
    return ddpm_loss(network, x0, t - 1, noise, schedule, kind)


def one_time(network, x0, t, noise, schedule, kind):
    """One t for the whole batch."""
    return ddpm_loss(network, x0, t[:1].expand(len(t)), noise, schedule, kind)


def weighted(network, x0, t, noise, schedule, kind):
    return ddpm_loss(network, x0, t, noise, schedule, kind, min_snr=5.0)


LOSSES = {"times 0 to T − 1": late_times, "one time for a batch": one_time, "min-SNR weights, γ = 5": weighted}


@torch.no_grad()
def judged(network: UNet, distance: Distance, held_out: Tensor) -> dict:
    """The distance in 20 steps, and the held-out loss at times spread evenly."""
    *_, (_, x, _) = ancestral(
        denoiser(network, SCHEDULE, KIND), SCHEDULE, seeded_draw(2)(held_out[:400]), spaced(20), seeded_draw(3)
    )
    t = 1 + torch.arange(1000)
    loss = ddpm_loss(network, held_out[:1000], t, seeded_draw(4)(held_out[:1000]), SCHEDULE, KIND)
    return {"distance": distance(x), "loss": loss.mean().item()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=3000)
    options.add_argument("--only", choices=["variances", "training"], nargs="*", default=["variances", "training"])
    options.add_argument("--json", type=Path, default=Path("benchmarks/ddpm.json"))
    chosen = options.parse_args()
    pictures = grey_pictures(20000, 2000)
    data, held_out = in_levels(pictures.train), in_levels(pictures.test)
    distance = Distance(data, pictures.train_labels, len(pictures.classes))
    last, averaged = trained(data, chosen.steps)
    found = {"command": f"python benchmarks/ddpm.py --steps {chosen.steps}", "machine": machine(), "data": pictures.name}
    found |= {"steps": chosen.steps, "floor": distance(held_out)}
    if "variances" in chosen.only:
        found |= variances(widened(averaged, data, chosen.steps // 5), held_out, distance)
    if "training" in chosen.only:
        rows = {"as it should be": judged(averaged, distance, held_out), "last weights": judged(last, distance, held_out)}
        for name, loss in LOSSES.items():
            rows[name] = judged(trained(data, chosen.steps, loss)[1], distance, held_out)
            print(name, rows[name], flush=True)
        found["training"] = rows
    chosen.json.write_text(json.dumps(found, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
