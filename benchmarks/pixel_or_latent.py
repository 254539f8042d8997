"""The same seconds of training in pixel space and in the latent space, on the small world of chapter 16.

    python benchmarks/pixel_or_latent.py [--seconds 90] [--json benchmarks/pixel_or_latent.json]

Each row trains a text-to-image model from nothing, for so many seconds of processor time: in the latent space a third of
them goes to the autoencoder, in pixel space all of them to the denoiser. Text encoder, data, batch, schedule, sampler and
judge are the same. "Same network" is the latent model's U-Net on pixels; "thinner" begins with 16 channels and has one level
more, so that its smallest maps are 8×8. On pixels, which take long to draw, 40 pictures are judged instead of 100. Rows are
stored as they are done, and rows that are stored are not done again.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import torch
from common import machine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from minildm.autoencoder import Autoencoder
from minildm.config import AutoencoderConfig
from minildm.engine import small_world
from minildm.engine.data import Data, to_float
from minildm.engine.judges import Judge, verdicts
from minildm.engine.presets import Settings
from minildm.engine.stages import AutoencoderStage, DenoiserStage
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.metrics import prompt_accuracy

SHARE = 1 / 3


class Pixels(nn.Module):
    """In place of an autoencoder: latents are the pixels, times a scale factor."""

    fit_scale = Autoencoder.fit_scale

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("scale", torch.tensor(1.0))

    def encode(self, images: Tensor) -> Gaussian:
        return Gaussian(images * self.scale, torch.full_like(images, -30.0))

    def decode(self, latents: Tensor) -> Tensor:
        return latents / self.scale


def of_pixels(settings: Settings, widths: tuple[int, ...]) -> Settings:
    """The settings for a U-Net of these widths on 3×32×32, attention at its last level."""
    attention = (False,) * (len(widths) - 1) + (True,)
    shape = {"in_channels": 3, "out_channels": 3, "widths": widths, "attention": attention}
    shape |= {"heads": (2,) * len(widths), "groups": widths[0] // 16}
    unet = dataclasses.replace(settings.model.unet, **shape)
    autoencoder = AutoencoderConfig(latent_channels=3, widths=(16,), groups=1)
    return dataclasses.replace(settings, model=dataclasses.replace(settings.model, unet=unet, autoencoder=autoencoder))


def steps_in(stage, seconds: float) -> int:
    """How many steps fit, by the processor time of six steps of a copy, the first of which does not count."""
    trial = stage.trial()
    trial.step(0)
    start = time.process_time()
    for step in range(1, 6):
        trial.step(step)
    return max(1, round(seconds / ((time.process_time() - start) / 5)))


def flops(model: LatentDiffusion, settings: Settings) -> int:
    """Of the denoiser, forward, for one picture."""
    side = settings.model.image_size // settings.model.autoencoder.factor
    context = torch.zeros(1, settings.model.text.length, settings.model.text.width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.unet(torch.zeros(1, settings.model.unet.in_channels, side, side), torch.tensor([1]), context)
    return counter.get_total_flops()


def row_of(kind: str, widths: tuple[int, ...] | None, seconds: float, train: Data, judge: Judge) -> dict:
    """Train for so long, draw, judge."""
    settings, share = small_world.SETTINGS, 0.0
    if widths:
        settings = of_pixels(settings, widths)
    model, judged = small_world.untrained(settings, train.texts), 40 if widths else 100
    if widths:
        model.autoencoder = Pixels(settings.model.autoencoder)
    else:
        share, stage = SHARE, AutoencoderStage(model, train, settings)
        settings = dataclasses.replace(settings, autoencoder_steps=steps_in(stage, share * seconds))
    start = time.process_time()
    if widths:
        model.autoencoder.fit_scale(model.encode(to_float(train.images)))
        latents = model.encode(to_float(train.images))
    else:
        latents, _ = small_world.first_stage(model, train, settings)
    first = time.process_time() - start
    settings = dataclasses.replace(settings, steps=steps_in(DenoiserStage(model, latents, train, settings), seconds - first))
    start = time.process_time()
    averaged, losses = small_world.second_stage(model, latents, train, settings)
    row = {
        "kind": kind,
        "seconds": seconds,
        "judged": judged,
        "seconds_before": first,
        "seconds_denoiser": time.process_time() - start,
    }
    row |= {
        "autoencoder_steps": 0 if widths else settings.autoencoder_steps,
        "steps": settings.steps,
        "loss": sum(losses[-25:]) / 25,
    }
    row |= {"parameters": sum(each.numel() for each in model.unet.parameters()), "flops": flops(model, settings)}
    for name, pairs in (("seen", small_world.SEEN), ("held_out", small_world.HELD_OUT)):
        asked = small_world.draw_data(judged, pairs, 100)
        start = time.process_time()
        images = averaged.generate(asked.captions(), guidance=settings.guidance, steps=settings.sample_steps)
        row["sampling"] = (time.process_time() - start) / judged
        row[name], interval = prompt_accuracy(verdicts(judge, images, asked.attributes))
        row[f"{name}_interval"] = list(interval)
        with torch.no_grad():
            again = averaged.autoencoder.decode(averaged.encode(to_float(asked.images)).mean)
        row[f"reconstructed_{name}"] = prompt_accuracy(verdicts(judge, again, asked.attributes))[0]
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, nargs="+", default=[90.0])
    options.add_argument("--rows", type=int, default=100, help="stop after so many new rows")
    options.add_argument("--json", type=Path, default=Path("benchmarks/pixel_or_latent.json"))
    chosen = options.parse_args()
    command = "python benchmarks/pixel_or_latent.py --seconds " + " ".join(f"{seconds:g}" for seconds in chosen.seconds)
    stored = json.loads(chosen.json.read_text()) if chosen.json.exists() else {}
    stored |= {"command": command, "machine": machine(), "guidance": small_world.SETTINGS.guidance}
    rows = stored.setdefault("rows", [])
    train, judge = small_world.draw_data(small_world.SETTINGS.limit, small_world.SEEN, 0), small_world.train_judge_here(200)
    kinds = {"latent": None, "pixels, same network": small_world.MODEL.unet.widths, "pixels, thinner": (16, 32, 64)}
    for seconds in chosen.seconds:
        for kind, widths in kinds.items():
            missing = not any((row["kind"], row["seconds"]) == (kind, seconds) for row in rows)
            if missing and chosen.rows > 0:
                chosen.rows -= 1
                rows.append(row_of(kind, widths, seconds, train, judge))
                print(rows[-1], flush=True)
                chosen.json.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
