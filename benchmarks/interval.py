"""Guidance in a part of the times only (Kynkäänniemi et al. 2024, arXiv:2404.07724): accuracy and Fréchet distance.

    python benchmarks/interval.py RUN [--data DIR] [--samples 2000]

RUN is a trained run on data with classes, whose judge is used. At times outside the interval the network is asked for the
conditional prediction alone. Prints a table.
"""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from torch import Tensor

from minildm import metrics
from minildm.ddpm import Denoise
from minildm.engine.data import balanced, load, to_float
from minildm.engine.device import autocast_to_sample, choose_device
from minildm.engine.evaluate import find_judge, judge_features
from minildm.engine.folder import read_config
from minildm.engine.judges import verdicts
from minildm.ldm import LatentDiffusion

ROWS = (  # guidance, from which time, up to which
    (1.5, 0, 1000),
    (1.8, 0, 1000),
    (1.8, 0, 900),
    (2.0, 0, 800),
    (2.0, 100, 800),
    (2.0, 200, 1000),
    (2.5, 100, 800),
    (2.5, 0, 700),
    (3.0, 0, 600),
)


def within(model: LatentDiffusion, first: int, last: int) -> Callable[..., Denoise]:
    """`model.denoiser`, but guided at the times from `first` to `last` alone."""
    whole = model.denoiser

    def denoiser(prompts: list[str], guidance: float, condition: Tensor | None = None) -> Denoise:
        guided, plain = whole(prompts, guidance, condition), whole(prompts, 1.0, condition)
        return lambda z, t: (guided if first <= t[0] <= last else plain)(z, t)

    return denoiser


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("--data", help="where the run's data are now, if they have moved")
    options.add_argument("--samples", type=int, default=2000)
    chosen = options.parse_args()
    settings, _ = read_config(chosen.run)
    settings = settings if chosen.data is None else dataclasses.replace(settings, data=chosen.data)
    train, test = load(settings)
    judge, model = find_judge(chosen.run, train, settings), LatentDiffusion.load(chosen.run)
    features, asked = judge_features(judge), balanced(test, chosen.samples, 0)
    real, reference = (features(to_float(balanced(data, chosen.samples, 1).images)) for data in (train, test))
    floor = metrics.frechet_distance(real, reference)
    print(f"floor {floor:.2f}\n\n| guidance | times | right | floors |\n|---|---|---|---|", flush=True)
    for guidance, first, last in ROWS:
        with (
            mock.patch.object(model, "denoiser", within(model, first, last)),
            autocast_to_sample(settings, choose_device()),
        ):
            images = model.generate(asked.captions(), guidance=guidance, steps=settings.sample_steps)
        right, _ = metrics.prompt_accuracy(verdicts(judge, images, asked.attributes))
        floors = metrics.frechet_distance(features(images), reference) / floor
        print(f"| {guidance} | {first} to {last} | {right:.1%} | {floors:.1f} |", flush=True)


if __name__ == "__main__":
    main()
