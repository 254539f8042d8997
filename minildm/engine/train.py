"""A training run from settings to report: tokenizer, autoencoder, caching, denoiser, samples, judge."""

import contextlib
import dataclasses
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from minildm import config as configs
from minildm.engine import checkpoints, plots, shapes
from minildm.engine.checkpoints import Checkpoint
from minildm.engine.data import Data, balanced, draw_shapes, load, located
from minildm.engine.device import choose_device, native_bf16
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.engine.stages import AutoencoderStage, DenoiserStage, Stage, encode_all
from minildm.gaussian import Gaussian
from minildm.ldm import LAYOUT, LatentDiffusion, read_json
from minildm.text import Tokenizer

LOG_EVERY = 20  # steps between lines of metrics.jsonl
RESERVE = 0.9  # of the minutes are planned for; the rest absorbs what the short timing missed


class Interrupted(Exception):
    """Ctrl-C, after the checkpoint was written."""


@dataclasses.dataclass
class Clock:
    """Seconds spent in each part of the run, those before a resume included, up to the last `tick`."""

    seconds: dict[str, float]
    part: str = ""
    since: float = 0.0

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of a block to a part."""
        self.part, self.since = part, time.monotonic()
        try:
            yield
        finally:
            self.tick()

    def tick(self) -> None:
        """Add the time since the last tick to the present part."""
        now = time.monotonic()
        self.seconds[self.part] = self.seconds.get(self.part, 0.0) + now - self.since
        self.since = now


class Run:
    """One run folder and the training that fills it.

    Args:
        folder: where everything goes.
        settings: what to train; ignored in favour of the stored ones when resuming.
        resume: go on with what the folder holds.

    Raises:
        UserError: a folder that holds another run, or none to resume.
    """

    def __init__(self, folder: Path, settings: Settings, resume: bool) -> None:
        self.folder = folder
        config = folder / "config.json"
        if resume:
            if not config.exists():
                raise UserError(f"{folder} holds no run to resume: leave out --resume to start one")
            settings = stored_settings(folder)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is not empty: go on with --resume, or name another folder with --out")
        else:
            settings = dataclasses.replace(settings, data=located(settings.data))
        self.settings, self.resumed = settings, resume
        self.clock, self.lines = Clock({}), 0
        self._stop = False

    def train(self) -> LatentDiffusion:
        """Do all of it. Returns the model with averaged weights, which are also in model.safetensors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        checkpoints.sweep(self.folder)
        device = choose_device()
        print("data: reading", self.settings.data, flush=True)
        train, test = load(self.settings)
        self.prompts = preview_prompts(test, self.settings)
        model = self.prepare(train, device)
        checkpoint = checkpoints.load(self.folder) if self.resumed else None
        if checkpoint:
            self.clock, self.lines = Clock(checkpoint.facts["seconds"]), checkpoint.facts["lines"]
        self.cut_metrics()
        with self.interruptible():
            stage = AutoencoderStage(model, train, self.settings)
            if checkpoint is None or checkpoint.stage == stage.name:
                with self.clock.measure("autoencoder"):
                    self.run_stage(stage, checkpoint)
                checkpoint = None
            else:
                model.load_state_dict(
                    {
                        key.removeprefix("network/"): value
                        for key, value in checkpoint.tensors.items()
                        if key.startswith("network/")
                    }
                )
            model.autoencoder.eval()
            with self.clock.measure("caching"):
                latents = self.cache(model, train, fit_scale=checkpoint is None)
            stage = DenoiserStage(model, latents, train, self.settings)
            with self.clock.measure("denoiser"):
                self.run_stage(stage, checkpoint, self.preview)
        averaged = stage.ema.average
        averaged.tokenizer = model.tokenizer
        averaged.save(self.folder)
        self.write_config()  # `save` wrote the model's part alone
        with self.clock.measure("samples"):
            images = self.preview(stage, stage.steps)
            plots.captioned_grid(images, self.prompts, self.folder / "samples" / "final.png")
        return averaged

    def prepare(self, train: Data, device: torch.device) -> LatentDiffusion:
        """The untrained model with its tokenizer; on a fresh start also the plan, and config.json to rebuild the run."""
        if self.resumed:
            tokenizer = Tokenizer.load(self.folder)
        else:
            tokenizer = Tokenizer.train(train.texts, self.settings.model.text.vocabulary)
            tokenizer.save(self.folder)
            if self.settings.precision == "auto":
                precision = "bf16" if native_bf16(device) else "float32"
                self.settings = dataclasses.replace(self.settings, precision=precision)
        torch.manual_seed(self.settings.seed)  # of the weights; all later randomness has its own generators
        model = LatentDiffusion(self.settings.model, tokenizer).to(device)
        if not self.resumed:
            if self.settings.minutes is not None:
                self.settings = plan(model, train, self.settings)
            self.write_config()
        return model

    def write_config(self) -> None:
        """config.json: the layout, the settings, and apart from them the model, so that `LatentDiffusion.load` reads it."""
        settings = configs.to_dict(self.settings)
        document = {"layout": LAYOUT, "model": settings.pop("model"), "settings": settings}
        checkpoints.write_text(self.folder / "config.json", json.dumps(document, indent=1))

    def run_stage(self, stage: Stage, checkpoint: Checkpoint | None, preview=None) -> None:
        """Train a stage to its end, from a checkpoint of it if there is one."""
        first = 0
        if checkpoint is not None:
            stage.restore(checkpoint.tensors)
            first = checkpoint.step
            if isinstance(stage, DenoiserStage):
                stage.ema.updates = first
        stage.network.train()
        progress = tqdm(total=stage.steps, initial=first, desc=stage.name, unit="step", dynamic_ncols=True)
        started, recent = time.monotonic(), []
        for step in range(first, stage.steps):
            recent.append(stage.step(step))
            done = step + 1
            if done % LOG_EVERY == 0 or done == stage.steps:
                loss = float(torch.stack(recent).mean())
                recent = []
                if not math.isfinite(loss):
                    raise UserError(
                        f"{stage.name}: the loss became {loss} at step {done}: try a lower learning rate or --precision float32"
                    )
                rate = (done - first) * stage.batch / (time.monotonic() - started)
                self.log({"stage": stage.name, "step": done, "loss": loss, "images_per_second": round(rate, 1)})
                progress.set_postfix(loss=f"{loss:.4f}", images_per_second=f"{rate:.0f}", refresh=False)
            progress.update()
            if self._stop or (done % self.settings.checkpoint_every == 0 and done < stage.steps):
                self.checkpoint(stage, done)
            if self._stop:
                progress.close()
                raise Interrupted
            if preview and done % self.settings.preview_every == 0 and done < stage.steps:
                preview(stage, done)
        progress.close()

    def checkpoint(self, stage: Stage, done: int) -> None:
        """Save where the run stands."""
        number = done + (self.settings.autoencoder_steps if stage.name == "denoiser" else 0)
        self.clock.tick()
        facts = {"seconds": self.clock.seconds, "lines": self.lines}
        checkpoints.save(self.folder, Checkpoint(stage.name, done, stage.tensors(), facts), f"step-{number}")

    def cache(self, model: LatentDiffusion, train: Data, fit_scale: bool) -> Gaussian:
        """Encode every picture once, and set the scale that gives the latents variance 1."""
        parts = list(
            tqdm(encode_all(model, train.images, self.settings), desc="caching", total=-(-len(train) // 250), unit="batch")
        )
        latents = Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.log_var for part in parts]))
        if not fit_scale:
            return latents
        before = model.autoencoder.scale.clone().cpu()
        model.autoencoder.fit_scale(latents)
        change = model.autoencoder.scale.cpu() / before
        return Gaussian(latents.mean * change, latents.log_var + 2 * change.log())

    def preview(self, stage: DenoiserStage, done: int) -> Tensor:
        """Draw the same prompts from the same noise with the averaged weights, and save them."""
        settings = self.settings
        images = stage.ema.average.generate(
            self.prompts, guidance=settings.guidance, steps=settings.sample_steps, seed=settings.seed
        )
        (self.folder / "samples").mkdir(exist_ok=True)
        plots.save_grid(images, self.folder / "samples" / f"{done:06d}.png")
        return images

    def log(self, line: dict) -> None:
        """Append a line to metrics.jsonl."""
        with (self.folder / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.lines += 1

    def cut_metrics(self) -> None:
        """Drop the lines that a killed run wrote after its last checkpoint."""
        path = self.folder / "metrics.jsonl"
        kept = path.read_text().splitlines(keepends=True)[: self.lines] if path.exists() else []
        checkpoints.write_text(path, "".join(kept))

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turn Ctrl-C into a stop at the end of the present step, after a checkpoint; a second one stops at once."""

        def stop(signum: int, frame: object) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def stored_settings(folder: Path) -> Settings:
    """The settings of a run folder.

    Raises:
        ValueError: no or broken config.json, or one of a newer layout.
    """
    document = read_json(folder / "config.json")
    if document.get("layout") != LAYOUT or "settings" not in document:
        raise ValueError(f"{folder / 'config.json'}: layout {document.get('layout')!r} is no training run of layout {LAYOUT}")
    return configs.from_dict(Settings, document["settings"] | {"model": document["model"]})


def plan(model: LatentDiffusion, train: Data, settings: Settings) -> Settings:
    """Turn the minutes into steps, by timing a few steps of each stage on copies.

    Sampling the final grid and encoding the data are timed too and paid from the same minutes.
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
    autoencoder_steps = max(1, int(seconds * settings.autoencoder_share / autoencoder))
    left = seconds * (1 - settings.autoencoder_share) - caching
    steps = max(1, int(left / denoiser))
    print(
        f"plan: {autoencoder_steps} autoencoder steps, then {steps} denoiser steps, for {settings.minutes:g} minutes", flush=True
    )
    return dataclasses.replace(settings, autoencoder_steps=autoencoder_steps, steps=steps)


def seconds_per_step(stage: Stage, warm: int = 5, seconds: float = 4.0) -> float:
    """The mean time of a step, over some seconds after a few steps to warm up."""
    for step in range(warm):
        float(stage.step(step))
    start, count = time.monotonic(), 0
    while count < 3 or time.monotonic() - start < seconds:
        float(stage.step(warm + count))
        count += 1
    return (time.monotonic() - start) / count


def preview_prompts(test: Data, settings: Settings, count: int = 36) -> list[str]:
    """The prompts of the run's picture: captions of test data, for shapes half of them of held-out pairs."""
    prompts = balanced(test, count, settings.seed).captions(settings.seed)
    if settings.data == "shapes":
        half = count // 2
        prompts[half:] = draw_shapes(count - half, shapes.HELD_OUT, settings, "preview").captions(settings.seed)
    return prompts
