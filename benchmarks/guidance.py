"""Guidance on digits: prompt accuracy, precision and recall against w; thresholds; how often the class was dropped in training.

    python benchmarks/guidance.py [--drops 0.15] [--seeds 1] [--steps 1000] [--draws 300] [--json benchmarks/guidance.json]

The pictures and the network are those of chapter 12: MNIST (without it, grey shapes) at 16×16, handed to a small U-Net as 4
channels of 8×8; it predicts v, with the cosine schedule, and is told the class or nothing. Sampling is DDIM. What was drawn is
read by a judge that never guided anything; precision and recall are taken among its features. Rows are kept as soon as their
network is judged, so that a run can be done in parts: `--only 0.15 1` is the network with p = 0.15 and seed 1.
"""

import argparse
import contextlib
import dataclasses
import io
import json
from pathlib import Path

import torch
from common import ON_PIXELS, machine, small
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, pixel_shuffle

from minildm.conditioning import ClassUNet, dropped_loss, train_labelled
from minildm.ddpm import Denoise, denoiser
from minildm.engine.book import Pictures, grey_pictures
from minildm.engine.judges import Judge, train_judge
from minildm.guidance import classifier_free, dynamic_threshold, static_threshold
from minildm.metrics import precision_recall
from minildm.samplers import ddim, time_grid
from minildm.schedule import NoiseSchedule

SCHEDULE, KIND, CALLS = NoiseSchedule.cosine(1000), "v", 15
WEIGHTS = (0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0)  # of the network with p = 0.15
OTHERS = (0.0, 1.0, 3.0)  # of the others
THRESHOLDS = {"static": static_threshold, "dynamic": dynamic_threshold, "dynamic, 0.9": lambda d: dynamic_threshold(d, 0.9)}
WIDE = (3.0, 8.0, 15.0)  # with a threshold


def trained_judge(pictures: Pictures) -> Judge:
    """A classifier of clean pictures, which reads what was drawn."""
    torch.manual_seed(0)
    judge, generator = Judge(1, 16, (len(pictures.classes),), width=16), torch.Generator().manual_seed(6)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        places = torch.randint(len(pictures.train), (128,), generator=generator)
        return avg_pool2d(pictures.train[places], 2), pictures.train_labels[places, None]

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        train_judge(judge, batch, 300)
    return judge


def guided_by(network: nn.Module, labels: Tensor, w: float) -> Denoise:
    """Classifier-free guidance of the network; where w is 0 or 1 one of its two answers is not needed."""
    null = torch.full_like(labels, network.null)
    with_class, without = (denoiser(lambda x, t, c=c: network(x, t, c), SCHEDULE, KIND) for c in (labels, null))
    return {0.0: without, 1.0: with_class}.get(w) or classifier_free(with_class, without, w)


@torch.no_grad()
def judged(denoise: Denoise, judge: Judge, labels: Tensor, real: Tensor) -> dict[str, float]:
    """Draw one picture for each label, and measure."""
    x_T = torch.randn(len(labels), 4, 8, 8, generator=torch.Generator().manual_seed(2))
    *_, (_, x, _) = ddim(denoise, SCHEDULE, x_T, time_grid(SCHEDULE.T, CALLS))
    images = pixel_shuffle(x, 2)
    precision, recall = precision_recall(real, judge.features(images.clamp(-1, 1)))
    right = (judge(images.clamp(-1, 1))[0].argmax(1) == labels).double().mean().item()
    row = {"accuracy": right, "precision": precision, "recall": recall, "out": (images.abs() > 1.05).double().mean().item()}
    return row | {"brightness": images.clamp(-1, 1).mean().item(), "white": (images > 0.95).double().mean().item()}


def rows_of(drop: float, seed: int, steps: int, draws: int, pictures: Pictures, judge: Judge) -> list[dict]:
    """Train with the class dropped in a share `drop` of the examples, and judge what is drawn."""
    torch.manual_seed(seed)
    network = ClassUNet(dataclasses.replace(ON_PIXELS, extra_width=32), len(pictures.classes))

    def loss(network: nn.Module, x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor, chance: Tensor) -> Tensor:
        return dropped_loss(network, x0, labels, chance < drop, t, noise, SCHEDULE, KIND, network.null)

    generator = torch.Generator().manual_seed(seed)
    network, losses = train_labelled(network, small(pictures.train), pictures.train_labels, loss, SCHEDULE.T, steps, generator)
    print(f"p = {drop}, seed {seed}: loss {sum(losses[-100:]) / 100:.4f}", flush=True)
    labels = torch.arange(draws) % network.null
    with torch.no_grad():
        real = judge.features(avg_pool2d(pictures.test[:draws], 2))
    kinds = [("none", w) for w in (WEIGHTS if drop == 0.15 else OTHERS)]
    kinds += [(name, w) for name in THRESHOLDS for w in WIDE] + [("none", WIDE[-1])] if drop == 0.15 else []
    found = []
    for name, w in kinds:
        denoise = guided_by(network, labels, w)
        denoise = THRESHOLDS[name](denoise) if name in THRESHOLDS else denoise
        found.append({"drop": drop, "seed": seed, "threshold": name, "w": w} | judged(denoise, judge, labels, real))
        print({key: round(value, 3) if isinstance(value, float) else value for key, value in found[-1].items()}, flush=True)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, default=1)
    options.add_argument("--steps", type=int, default=1000)
    options.add_argument("--draws", type=int, default=300)
    options.add_argument("--drops", type=float, nargs="+", default=[0.15])
    options.add_argument("--only", type=float, nargs=2)
    options.add_argument("--json", type=Path, default=Path("benchmarks/guidance.json"))
    chosen, pictures = options.parse_args(), grey_pictures(20000, 2000)
    judge = trained_judge(pictures)
    with torch.no_grad():
        real = judge.features(avg_pool2d(pictures.test, 2))
        reads = (judge(avg_pool2d(pictures.test, 2))[0].argmax(1) == pictures.test_labels).double().mean().item()
    floor = precision_recall(real[: chosen.draws], real[chosen.draws : 2 * chosen.draws])
    drops = " ".join(str(drop) for drop in chosen.drops)
    command = (
        f"python benchmarks/guidance.py --drops {drops} --seeds {chosen.seeds} --steps {chosen.steps} --draws {chosen.draws}"
    )
    about = {"command": command, "machine": machine(), "pictures": pictures.name, "steps": chosen.steps, "draws": chosen.draws}
    about |= {"calls": CALLS, "judge": reads, "real": {"precision": floor[0], "recall": floor[1]}}
    jobs = [(drop, seed) for seed in range(chosen.seeds) for drop in chosen.drops]
    for drop, seed in [(chosen.only[0], int(chosen.only[1]))] if chosen.only else jobs:
        rows = rows_of(drop, seed, chosen.steps, chosen.draws, pictures, judge)
        kept = json.loads(chosen.json.read_text("utf-8"))["rows"] if chosen.json.exists() else []
        kept = [row for row in kept if (row["drop"], row["seed"]) != (drop, seed)]
        chosen.json.write_text(
            json.dumps({**about, "rows": sorted(kept + rows, key=lambda row: (row["drop"], row["seed"]))}) + "\n"
        )


if __name__ == "__main__":
    main()
