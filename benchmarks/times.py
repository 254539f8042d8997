"""Which noise levels to train on: the noise schedule, and the power with which times are drawn.

    python benchmarks/times.py RUN [--steps 1600]

RUN is a trained run of the shapes preset, whose autoencoder, judge and data are used. Each row trains a fresh denoiser for the
same number of steps and judges 500 pictures of pairs that were trained on and 500 of pairs held out.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from common import fresh, open_run
from tqdm import trange

from minildm.engine import shapes
from minildm.engine.data import draw_shapes
from minildm.engine.evaluate import find_judge
from minildm.engine.judges import verdicts
from minildm.engine.stages import DenoiserStage

ROWS = (("cosine", 1.0), ("cosine", 0.6), ("cosine", 0.4), ("linear", 1.0), ("linear", 0.75))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("--steps", type=int, default=1600)
    options.add_argument("--samples", type=int, default=500)
    chosen = options.parse_args()
    settings, trained, train, test, latents = open_run(chosen.run)
    judge = find_judge(chosen.run, train, settings)
    held_out = draw_shapes(chosen.samples, shapes.HELD_OUT, settings, "held out")
    asked = {"seen": test.select(torch.arange(chosen.samples)), "held out": held_out}
    print("| schedule | power | seen pairs | held-out pairs |\n|---|---|---|---|", flush=True)
    for schedule, power in ROWS:
        config = dataclasses.replace(settings.model, schedule=schedule)
        settings = dataclasses.replace(settings, model=config, time_power=power, steps=chosen.steps)
        stage = DenoiserStage(fresh(settings, trained), latents, train, settings)
        for step in trange(chosen.steps, desc=f"{schedule} {power}", leave=False):
            stage.step(step)
        shares = []
        for data in asked.values():
            images = stage.ema.average.generate(data.captions(), **settings.sampling(), seed=settings.seed).cpu()
            shares.append(float(verdicts(judge, images, data.attributes).all(1).float().mean()))
        print(f"| {schedule} | {power:g} | {shares[0]:.1%} | {shares[1]:.1%} |", flush=True)


if __name__ == "__main__":
    main()
