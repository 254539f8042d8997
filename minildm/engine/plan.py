"""From minutes to steps, by short timings: of both stages at the start of a run, of the denoiser again where it begins."""

import dataclasses
import math
import statistics
import time

import torch

from minildm.engine.data import Data
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.engine.stages import AutoencoderStage, DenoiserStage, Diverged, Stage, encode_all, remedy
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion

RESERVE = 0.9  # of the minutes are planned for; the rest is for the final samples and for what the timings missed
ENOUGH = 800  # denoiser steps after which the presets of five minutes draw well: benchmarks/RESULTS.md


def plan(model: LatentDiffusion, train: Data, settings: Settings) -> Settings:
    """Turn the minutes into steps, by timing a few steps of each stage on copies.

    Encoding the data is timed too and paid from the same minutes. The autoencoder is timed twice, some seconds apart, and the
    faster time believed: if it takes longer, the denoiser, which is planned again when it begins, has the less. If it had too few
    steps, nothing could mend that.
    """
    seconds = 60 * settings.minutes * RESERVE
    autoencoder = seconds_per_step(AutoencoderStage(model, train, settings).trial())
    start = time.monotonic()
    some = next(encode_all(model, train.images, settings))
    caching = (time.monotonic() - start) * len(train) / len(some.mean)
    side = settings.model.image_size // settings.model.autoencoder.factor
    shape = (len(train), settings.model.unet.in_channels, side, side)
    blank = Gaussian(torch.zeros(shape[1:]).expand(shape), torch.zeros(shape[1:]).expand(shape))
    denoiser = seconds_per_step(DenoiserStage(model, blank, train, settings).trial())
    model.autoencoder.requires_grad_(True)
    autoencoder = min(autoencoder, seconds_per_step(AutoencoderStage(model, train, settings).trial()))
    autoencoder_steps = max(1, int(seconds * settings.autoencoder_share / autoencoder))
    left = seconds * (1 - settings.autoencoder_share) - caching
    steps = max(1, int(left / denoiser))
    print(
        f"plan: {autoencoder_steps} autoencoder steps, then about {steps} denoiser steps, for {settings.minutes:g} minutes",
        flush=True,
    )
    warn_if_few(steps, (caching + ENOUGH * denoiser) / (1 - settings.autoencoder_share))
    return dataclasses.replace(settings, autoencoder_steps=autoencoder_steps, steps=steps)


def plan_denoiser(model: LatentDiffusion, latents: Gaussian, train: Data, settings: Settings, spent: float) -> Settings:
    """Plan the denoiser's steps again, once it is known how long the autoencoder and the encoding really took.

    However long that was (perhaps the machine slept), at least half of the denoiser's own share is planned for.

    Args:
        latents: of the training data.
        spent: seconds of the minutes that are gone.
    """
    seconds = 60 * settings.minutes * RESERVE
    left = max(seconds - spent, seconds * (1 - settings.autoencoder_share) / 2)
    denoiser = seconds_per_step(DenoiserStage(model, latents, train, settings).trial())
    steps = max(1, int(left / denoiser))
    print(f"plan: {steps} denoiser steps, for the {left / 60:.1f} minutes that are left", flush=True)
    warn_if_few(steps, spent + ENOUGH * denoiser)
    return dataclasses.replace(settings, steps=steps)


def warn_if_few(steps: int, seconds: float) -> None:
    """Say so when a run gets fewer than ENOUGH denoiser steps, and how many minutes hold the `seconds` that these take."""
    if steps < ENOUGH:
        minutes = math.ceil(seconds / (60 * RESERVE))
        print(f"plan: {steps} denoiser steps are few; {ENOUGH} take --minutes {minutes} on this machine", flush=True)


def seconds_per_step(stage: Stage, warm: int = 5, seconds: float = 3.0) -> float:
    """The mean time of a step, over some seconds after a few steps to warm up. Raises UserError when a loss is no number."""
    times: list[float] = []
    while len(times) < warm + 3 or sum(times[warm:]) < seconds:
        start = time.monotonic()
        try:
            float(stage.step(len(times)))
        except Diverged as error:
            raise UserError(f"{error}: {remedy(stage)}") from None
        times.append(time.monotonic() - start)
    return steady_mean(times[warm:])


def steady_mean(times: list[float]) -> float:
    """The mean without what took over ten times the median: a laptop that slept meanwhile is no slow one."""
    return statistics.fmean(time for time in times if time <= 10 * statistics.median(times))
