"""What a change of the recipe gives: a fresh denoiser on a finished run's autoencoder, trained and judged.

    python benchmarks/recipe.py RUN --steps N [--guidances 1.5 1.75] [--samples 2000] [any field of the denoiser's recipe]

RUN is a finished run on shapes or on data with classes, whose judge is used; what no flag changes is as it was there. Prints, for
each guidance, the seconds of training, the prompt accuracy and the Fréchet distance over its floor.

    python benchmarks/recipe.py RUN --steps 760 --model.prediction flow
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from common import fresh
from quality import Examiner, Quality, run_stage

from minildm.engine.data import load
from minildm.engine.folder import read_config
from minildm.engine.memory import keep_freed_memory
from minildm.engine.presets import Settings
from minildm.engine.stages import DenoiserStage, encode_all, joined
from minildm.ldm import LatentDiffusion


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What to change, and how to judge it."""

    settings: Annotated[Settings, tyro.conf.arg(name="")]
    guidances: tuple[float, ...] = ()
    """Judge at each of these; by default at the run's own."""
    samples: int = 2000
    """Pictures for each kind of prompt."""


def main() -> None:
    keep_freed_memory()
    run = Path(sys.argv[1])
    stored, _ = read_config(run)
    chosen = tyro.cli(Recipe, default=Recipe(stored), args=sys.argv[2:])
    settings = chosen.settings
    train, test = load(settings)
    examiner = Examiner(Quality(settings, run, samples=chosen.samples), train, test)
    model = fresh(settings, LatentDiffusion.load(run))
    latents = joined(encode_all(model, train.images, settings))
    stage = DenoiserStage(model, latents, train, settings)
    run_stage(stage, examiner, set())
    for guidance in chosen.guidances or (settings.guidance,):
        print(f"guidance {guidance:g}", end=": ")
        examiner.settings = dataclasses.replace(settings, guidance=guidance)
        examiner.look(stage.ema.average, settings.steps)


if __name__ == "__main__":
    main()
