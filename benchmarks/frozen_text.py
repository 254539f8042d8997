"""A text encoder that learns with the U-Net against frozen ones, on the small world of chapter 16.

    python benchmarks/frozen_text.py [--seeds 0 1 2] [--json benchmarks/frozen_text.json]

One autoencoder a seed; then the denoiser is trained three times from the same weights, on the same batches and noise. Its text
encoder is trained with it, or it is the text tower that chapter 14's contrastive loss made of the same pictures and captions,
frozen, or it is frozen as it was drawn. Everything else is the chapter's. "named" is how often the towers name a picture's pair
among the twelve; "seconds" are the processor's before the denoiser, for the towers and for trying them, and of the denoiser's
training. Rows are stored as they are done, and not done again. The stored ones are of one thread (OMP_NUM_THREADS=1).
"""

import argparse
import copy
import dataclasses
import json
import time
from pathlib import Path

from common import machine

from minildm.engine import small_world
from minildm.engine.data import Data
from minildm.engine.judges import Judge, verdicts
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.metrics import prompt_accuracy

KINDS, CLIP_STEPS, JUDGED = ("joint", "contrastive, frozen", "untrained, frozen"), 100, 200


def row_of(kind: str, seed: int, model: LatentDiffusion, latents: Gaussian, train: Data, judge: Judge) -> dict:
    """Train the denoiser with this encoder, draw, judge."""
    settings, row = dataclasses.replace(small_world.SETTINGS, seed=seed), {"kind": kind, "seed": seed}
    model = copy.deepcopy(model)
    start = time.process_time()
    if kind == "contrastive, frozen":
        clip = small_world.read_as_clip(model, train, CLIP_STEPS, seed)
        row["named"] = {
            name: small_world.named(clip, model, small_world.draw_data(JUDGED, pairs, 200))
            for name, pairs in (("seen", small_world.SEEN), ("held_out", small_world.HELD_OUT))
        }
    model.text.requires_grad_(kind == "joint")
    before = time.process_time()
    averaged, losses = small_world.second_stage(model, latents, train, settings)
    row |= {"seconds": [before - start, time.process_time() - before], "steps": settings.steps, "loss": sum(losses[-25:]) / 25}
    for name, pairs in (("seen", small_world.SEEN), ("held_out", small_world.HELD_OUT)):
        asked = small_world.draw_data(JUDGED, pairs, 100)
        images = averaged.generate(asked.captions(), guidance=settings.guidance, steps=settings.sample_steps)
        row[name], interval = prompt_accuracy(verdicts(judge, images, asked.attributes))
        row[f"{name}_interval"] = list(interval)
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    options.add_argument("--json", type=Path, default=Path("benchmarks/frozen_text.json"))
    chosen = options.parse_args()
    stored = json.loads(chosen.json.read_text()) if chosen.json.exists() else {"rows": []}
    stored |= {"command": "python benchmarks/frozen_text.py", "machine": machine(), "judged": JUDGED, "clip_steps": CLIP_STEPS}
    train, judge = small_world.draw_data(small_world.SETTINGS.limit, small_world.SEEN, 0), small_world.train_judge_here(200)
    for seed in chosen.seeds:
        missing = [kind for kind in KINDS if (kind, seed) not in {(row["kind"], row["seed"]) for row in stored["rows"]}]
        settings = dataclasses.replace(small_world.SETTINGS, seed=seed)
        model = small_world.untrained(settings, train.texts)
        latents, _ = small_world.first_stage(model, train, settings) if missing else (None, None)
        for kind in missing:
            stored["rows"].append(row_of(kind, seed, model, latents, train, judge))
            print(stored["rows"][-1], flush=True)
            chosen.json.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
