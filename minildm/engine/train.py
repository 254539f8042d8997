"""A training run from settings to report: tokenizer, autoencoder, caching, denoiser, samples, judge."""

import contextlib
import dataclasses
import signal
import statistics
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from minildm.engine import checkpoints, plots, shapes
from minildm.engine.checkpoints import Checkpoint
from minildm.engine.clock import Clock
from minildm.engine.data import Data, balanced, draw_shapes, fingerprint, load
from minildm.engine.device import autocast_to_sample, check_memory, choose_device, name_of, native_bf16
from minildm.engine.errors import UserError
from minildm.engine.folder import Metrics, Origin, held, read_config, write_config
from minildm.engine.plan import plan, plan_denoiser
from minildm.engine.presets import Settings
from minildm.engine.sources import located
from minildm.engine.stages import AutoencoderStage, DenoiserStage, Diverged, Stage, encode_all, joined, remedy
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.tensors import fill
from minildm.tokenizer import Tokenizer

LOG_EVERY = 20  # steps between lines of metrics.jsonl


class Interrupted(Exception):
    """Ctrl-C or a polite kill, after the checkpoint was written."""


class Run:
    """One run folder and the training that fills it.

    Args:
        folder: where everything goes.
        settings: what to train; ignored in favour of the stored ones when resuming.
        resume: go on with what the folder holds.
        data: where a resumed run's data are now, if they have moved.

    Attributes:
        settings: what is trained: of a new run with its plan and precision, of a resumed one as stored, and planned as far as it
            was not.
        clock: the seconds spent so far, part by part.
        prompts: of the run's pictures.
    """

    def __init__(self, folder: Path, settings: Settings, resume: bool, data: str | None = None) -> None:
        self.folder, self.resumed, self.clock = folder, resume, Clock({})
        self.settings, self.moved = dataclasses.replace(settings, data=located(settings.data)), data
        self._stop = self._held = False

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep the folder for this process and see that it is the one to train in; within another hold, do nothing.

        Raises:
            UserError: another process has it, it holds another run, or none to resume.
        """
        if self._held:
            yield
            return
        with held(self.folder, self.resumed):
            self._held = True
            try:
                yield
            finally:
                self._held = False

    def train(self) -> LatentDiffusion:
        """Do all of it. Returns the model with averaged weights, which are also in model.safetensors.

        Raises:
            UserError: see `hold`; data that cannot be used, or that are not those the run began with; a loss that is no
                number; a damaged checkpoint.
            Interrupted: Ctrl-C or SIGTERM.
        """
        with self.hold():
            return self._train()

    def _train(self) -> LatentDiffusion:
        device = choose_device()
        origin = None
        if self.resumed:
            self.settings, origin = read_config(self.folder)
            if self.moved is not None:
                self.settings = dataclasses.replace(self.settings, data=located(self.moved))
        if Path(self.settings.data).is_dir() and self.folder.resolve().is_relative_to(Path(self.settings.data).resolve()):
            raise UserError(f"{self.folder} lies in the folder of data, {self.settings.data}: name one outside with --out")
        print("data: reading", self.settings.data, flush=True)
        train, test = load(self.settings)
        print(f"data: {len(train)} training pictures, {len(test)} test pictures", flush=True)
        present = self.check(train, test, origin)
        if self.moved is not None and origin:
            write_config(self.folder, self.settings, origin)
        self.prompts = preview_prompts(test, self.settings)
        checkpoint = checkpoints.load(self.folder) if self.resumed else None
        self.origin = origin or present
        model = self.prepare(train, device)
        facts = checkpoint.facts if checkpoint else {"seconds": {}, "lines": 0, "losses": []}
        self.clock, self.losses = Clock(facts["seconds"]), facts["losses"]
        self.metrics = Metrics(self.folder / "metrics.jsonl", facts["lines"])
        with self.interruptible():
            stage = AutoencoderStage(model, train, self.settings)
            if checkpoint is None or checkpoint.stage == stage.name:
                with self.clock.measure("autoencoder"):
                    self.run_stage(stage, checkpoint)
                checkpoint = None
            model.autoencoder.eval()
            if checkpoint:  # the latents are encoded again before the rest is restored
                prefix = "network/autoencoder."
                found = {key.removeprefix(prefix): v for key, v in checkpoint.tensors.items() if key.startswith(prefix)}
                fill(model.autoencoder, found, checkpoints.pointed_to(self.folder))
            with self.clock.measure("caching"):
                latents = self.cache(model, train, fit_scale=checkpoint is None)
            if not self.origin.final:
                self.settings = plan_denoiser(model, latents, train, self.settings, sum(self.clock.seconds.values()))
                self.note(final=True)
            stage = DenoiserStage(model, latents, train, self.settings)
            with self.clock.measure("denoiser"):
                self.run_stage(stage, checkpoint, self.preview)
        averaged = stage.ema.average
        averaged.tokenizer = model.tokenizer
        averaged.save_weights(self.folder / "model.safetensors")
        with self.clock.measure("samples"):
            images = self.preview(stage, stage.steps)
            plots.captioned_grid(images, self.prompts, self.folder / "samples" / "final.png")
        return averaged

    def check(self, train: Data, test: Data, origin: Origin | None) -> Origin:
        """See that these data can be trained on, and that they are those the run began with, if it did.

        Returns: the origin that a run would have that began now.

        Raises:
            UserError: too few pictures for a batch; other pictures or captions than at the start; a model too large.
        """
        settings = self.settings
        for name in ("batch", "autoencoder_batch"):
            if getattr(settings, name) > len(train):
                value = f"{name}={getattr(settings, name)}"
                raise UserError(f"{value} exceeds the {len(train)} training pictures of {settings.data!r}: choose a smaller one")
        check_memory(settings.model, choose_device())
        bf16 = settings.precision != "float32" and native_bf16(choose_device())
        now = {"threads": torch.get_num_threads(), "torch": torch.__version__, "bf16": bf16, "device": name_of(choose_device())}
        told = settings.minutes is None  # the steps themselves: there is nothing to plan
        present = Origin(len(train), fingerprint(train, test), **now, planned=told, final=told)
        if origin and (origin.pictures, origin.fingerprint) != (present.pictures, present.fingerprint):
            raise UserError(
                f"data {settings.data!r} have changed since the run began, from {origin.pictures} training pictures to "
                f"{present.pictures} others: name a copy of the old ones with --data, or start afresh with another --out"
            )
        for name, value in now.items():
            if origin and getattr(origin, name) not in (value, None):
                began = f"the run began with {name}={getattr(origin, name)}, now {value}"
                warnings.warn(f"{began}: expect its result, but not bit for bit", stacklevel=2)
        return present

    def note(self, **changes: bool) -> None:
        """Keep the settings, and what has become true of them, in config.json."""
        self.origin = dataclasses.replace(self.origin, **changes)
        write_config(self.folder, self.settings, self.origin)

    def prepare(self, train: Data, device: torch.device) -> LatentDiffusion:
        """The untrained model with its tokenizer. On the way, config.json is written: first of all, and again with the plan. (The
        denoiser's steps come into it once more, where it begins.)
        """
        if not self.resumed:
            if self.settings.precision == "auto":
                precision = "bf16" if native_bf16(device) else "float32"
                self.settings = dataclasses.replace(self.settings, precision=precision)
            self.note()
        if (self.folder / "vocab.json").exists() and (self.folder / "merges.txt").exists():
            tokenizer = Tokenizer.load(self.folder)
        else:
            print("tokenizer: learning", self.settings.model.text.vocabulary, "tokens", flush=True)
            tokenizer = Tokenizer.train(train.texts, self.settings.model.text.vocabulary)
            tokenizer.save(self.folder)
        torch.manual_seed(self.settings.seed)  # of the weights; all later randomness has its own generators
        model = LatentDiffusion(self.settings.model, tokenizer).to(device)
        if not self.origin.planned:
            self.settings = plan(model, train, self.settings)
            self.note(planned=True)
        return model

    def run_stage(self, stage: Stage, checkpoint: Checkpoint | None, preview=None) -> None:
        """Train a stage to its end, from a checkpoint of it if there is one, and leave a checkpoint there."""
        first = 0
        if checkpoint is not None:
            if checkpoint.step > stage.steps:
                raise UserError(
                    f"{self.folder}: its checkpoint is at step {checkpoint.step} of {stage.steps}: restore config.json"
                )
            stage.restore(checkpoint.tensors, checkpoints.pointed_to(self.folder))
            first = checkpoint.step
            if isinstance(stage, DenoiserStage):
                stage.ema.updates = first
        stage.network.train()
        steps, started = range(first, stage.steps), time.monotonic()
        with tqdm(steps, desc=stage.name, unit="step", total=stage.steps, initial=first, dynamic_ncols=True) as progress:
            for step in progress:
                self.losses.append(self.step(stage, step))
                done, last = step + 1, step + 1 == stage.steps
                if done % LOG_EVERY == 0 or last:
                    loss, self.losses = statistics.fmean(self.losses), []
                    rate = (done - first) * stage.batch / max(time.monotonic() - started, 1e-9)
                    self.metrics.append({"stage": stage.name, "step": done, "loss": loss, "images_per_second": round(rate, 1)})
                    progress.set_postfix(loss=f"{loss:.4f}", images_per_second=f"{rate:.0f}", refresh=False)
                if self._stop or done % self.settings.checkpoint_every == 0 or last:
                    self.checkpoint(stage, done)
                if self._stop:
                    raise Interrupted
                if preview and done % self.settings.preview_every == 0 and not last:
                    preview(stage, done)

    def step(self, stage: Stage, step: int) -> float:
        """One step. Returns the loss. Raises UserError when it is no number; the weights are those before the step then."""
        try:
            return float(stage.step(step))
        except Diverged as error:
            raise UserError(f"{error}: {self.remedy(stage)}") from None

    def remedy(self, stage: Stage) -> str:
        """What to try when numbers have become too large for themselves, and what there is to go back to."""
        kept = checkpoints.pointed_to(self.folder)
        return remedy(stage) + (f"; {kept.name}, from before, is kept" if kept else "")

    def checkpoint(self, stage: Stage, done: int) -> None:
        """Save where the run stands. Raises UserError, and saves nothing, if weights are no finite numbers any more."""
        state = stage.tensors()
        for name, tensor in state.items():
            if not name.startswith("optimizer/") and not tensor.isfinite().all():
                raise UserError(f"{stage.name}: {name} is no finite number after step {done}: {self.remedy(stage)}")
        number = done + (self.settings.autoencoder_steps if stage.name == "denoiser" else 0)
        self.clock.tick()
        self.metrics.sync()
        facts = {"seconds": self.clock.seconds, "lines": self.metrics.lines, "losses": self.losses}
        checkpoints.save(self.folder, Checkpoint(stage.name, done, state, facts), f"step-{number}")

    def cache(self, model: LatentDiffusion, train: Data, fit_scale: bool) -> Gaussian:
        """Encode every picture once, and set the scale that gives the latents variance 1."""
        parts = tqdm(encode_all(model, train.images, self.settings), desc="caching", total=-(-len(train) // 250), unit="batch")
        return joined(parts, model.autoencoder if fit_scale else None)

    def preview(self, stage: DenoiserStage, done: int) -> Tensor:
        """Draw the same prompts from the same noise with the averaged weights, and save them."""
        settings = self.settings
        with autocast_to_sample(settings, stage.device):
            images = stage.ema.average.generate(self.prompts, **settings.sampling(), seed=settings.seed)
        (self.folder / "samples").mkdir(exist_ok=True)
        plots.save_grid(images, self.folder / "samples" / f"{done:06d}.png")
        return images

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Turn Ctrl-C and SIGTERM into a stop after the present step and a checkpoint; a second Ctrl-C stops at once."""
        if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
            yield
            return

        def stop(signum: int, frame: object) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def preview_prompts(test: Data, settings: Settings, count: int = 36) -> list[str]:
    """The prompts of the run's picture: captions of test data, for shapes half of them of held-out pairs."""
    prompts = balanced(test, count, settings.seed).captions(settings.seed)
    if settings.data == "shapes":
        half = count // 2
        prompts[half:] = draw_shapes(count - half, shapes.HELD_OUT, settings, "preview").captions(settings.seed)
    return prompts
