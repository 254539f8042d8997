"""Time to quality: how good the samples are after how many seconds of training.

    python benchmarks/quality.py PRESET --judge RUN [--points 8] [--samples 2000] [--json FILE] [any flag of `minildm train`]

Trains as `minildm train PRESET` does, and stops the clock every now and then to judge what the averaged weights draw. RUN is a
finished run on the same data, whose judge is used (so that every row has the same one). Prints one line for each look: seconds of
training, the autoencoder's included; prompt accuracy; Fréchet distance over its floor. The last look is what the run ends with.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import tyro
from common import machine, shown
from torch import Tensor

from minildm import metrics
from minildm.engine import shapes
from minildm.engine.data import Data, balanced, draw_shapes, load, to_float
from minildm.engine.device import autocast, choose_device, native_bf16
from minildm.engine.evaluate import find_judge, judge_features, reconstruct
from minildm.engine.judges import verdicts
from minildm.engine.memory import keep_freed_memory
from minildm.engine.plan import plan, plan_denoiser
from minildm.engine.presets import PRESETS, Settings
from minildm.engine.stages import AutoencoderStage, DenoiserStage, Stage, encode_all, joined
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Quality:
    """What to train, and how to judge it."""

    settings: Annotated[Settings, tyro.conf.arg(name="")]
    judge: Path
    """A finished run on the same data."""
    points: int = 8
    """Looks along the denoiser's way."""
    samples: int = 2000
    json: Path | None = None


class Examiner:
    """Judges a model's samples, and remembers the clock."""

    def __init__(self, chosen: Quality, train: Data, test: Data) -> None:
        self.settings, self.seconds, self.rows = chosen.settings, 0.0, []
        self.judge = find_judge(chosen.judge, train, self.settings)
        self.features = judge_features(self.judge)
        self.real = to_float(balanced(train, chosen.samples, 1).images)
        self.reference = self.features(to_float(balanced(test, chosen.samples, 1).images))
        self.floor = metrics.frechet_distance(self.features(self.real), self.reference)
        self.asked = {"seen": balanced(test, chosen.samples, 0)}
        if self.settings.data == "shapes":
            self.asked["held out"] = draw_shapes(chosen.samples, shapes.HELD_OUT, self.settings, "held out")

    def distance(self, images: Tensor) -> float:
        """The Fréchet distance to the test pictures, in units of its floor."""
        return metrics.frechet_distance(self.features(images), self.reference) / self.floor

    def look(self, model: LatentDiffusion, step: int) -> None:
        """Judge the model's samples and print a line."""
        row: dict = {"seconds": round(self.seconds, 1), "step": step}
        for name, data in self.asked.items():
            with autocast(self.settings, choose_device()):
                images = model.generate(data.captions(), **self.settings.sampling()).cpu()
            row[name] = float(verdicts(self.judge, images, data.attributes).all(1).float().mean())
            row.setdefault("floors", self.distance(images))
        self.rows.append(row)
        shares = ", ".join(f"{name} {row[name]:.1%}" for name in self.asked)
        print(f"{row['seconds']:6.1f} s, step {step}: {shares}; Fréchet {row['floors']:.2f} floors", flush=True)


def run_stage(stage: Stage, examiner: Examiner, looks: set[int]) -> None:
    """Train to the end, the clock stopped while judging."""
    stage.network.train()
    for step in range(stage.steps):
        start = time.monotonic()
        float(stage.step(step))
        examiner.seconds += time.monotonic() - start
        if step + 1 in looks:
            examiner.look(stage.ema.average, step + 1)


def main() -> None:
    keep_freed_memory()
    chosen = tyro.cli(Quality, default=Quality(PRESETS[sys.argv[1]][1], Path()), args=sys.argv[2:])
    precision = "bf16" if native_bf16(choose_device()) else "float32"
    settings = dataclasses.replace(chosen.settings, precision=precision)
    train, test = load(settings)
    examiner = Examiner(dataclasses.replace(chosen, settings=settings), train, test)
    torch.manual_seed(settings.seed)
    tokenizer = Tokenizer.train(train.texts, settings.model.text.vocabulary)
    model = LatentDiffusion(settings.model, tokenizer).to(choose_device())
    if settings.minutes is not None:
        settings = plan(model, train, settings)
    run_stage(AutoencoderStage(model, train, settings), examiner, set())
    model.autoencoder.eval()
    autoencoder_seconds = examiner.seconds
    restored = examiner.distance(reconstruct(model, examiner.real))
    print(f"autoencoder: {examiner.seconds:.1f} s, {settings.autoencoder_steps} steps, reconstructions {restored:.2f} floors")
    start = time.monotonic()
    latents = joined(encode_all(model, train.images, settings), model.autoencoder)
    examiner.seconds += time.monotonic() - start
    print(f"caching: {time.monotonic() - start:.1f} s", flush=True)
    if settings.minutes is not None:
        settings = plan_denoiser(model, latents, train, settings, examiner.seconds)
    stage = DenoiserStage(model, latents, train, settings)
    run_stage(stage, examiner, {settings.steps * place // chosen.points for place in range(1, chosen.points + 1)})
    document = {
        "command": f"python benchmarks/quality.py {shown(sys.argv[1:])}",
        "machine": machine(),
        "autoencoder": {"seconds": autoencoder_seconds, "steps": settings.autoencoder_steps, "floors": restored},
        "steps": settings.steps,
        "looks": examiner.rows,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
