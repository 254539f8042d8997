"""The two stages of training: first the autoencoder, then the denoiser with its text encoder, on cached latents."""

import copy
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from minildm.autoencoder import Autoencoder, autoencoder_loss
from minildm.ema import EMA
from minildm.engine.data import Data, to_float
from minildm.engine.device import autocast, muon_precision
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.muon import Muon, muon_and_adamw
from minildm.tensors import copy_like, fill


class Diverged(Exception):
    """A loss that is no number."""


def remedy(stage: "Stage") -> str:
    """What to try when numbers have become too large for themselves."""
    flag = "--lr" if stage.name == "denoiser" else "--autoencoder-lr"
    return f"start afresh with a lower {flag} than {stage.lr:g}, or with --precision float32"


class Stage:
    """A network, its optimizer, and a loss that is a function of (seed, stage, step) alone.

    Args:
        name: of the stage, part of every seed.
        network: what is trained.
        size: the number of training examples.
        steps, batch, lr: of this stage.
        settings: the run's.
        muon: the type in which Muon multiplies.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        size: int,
        steps: int,
        batch: int,
        lr: float,
        settings: Settings,
        muon: torch.dtype = torch.float32,
    ) -> None:
        self.name, self.network, self.size, self.steps, self.batch, self.lr = name, network, size, steps, batch, lr
        self.settings = settings
        self.device = next(network.parameters()).device
        self.optimizers = muon_and_adamw(network, lr, settings.weight_decay, muon)
        self.owners = [(each, optimizer) for optimizer in self.optimizers for each in optimizer.param_groups[0]["params"]]
        self.parameters = [parameter for parameter, _ in self.owners]
        self._epoch, self._order = -1, torch.empty(0)

    def loss(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """The loss on the examples at these places, all randomness from the generator."""
        raise NotImplementedError

    def step(self, step: int) -> Tensor:
        """Take the step with this number, counted from 0. Returns the loss.

        Raises:
            Diverged: a loss or a gradient that is no finite number; the weights are as they were before the step.
        """
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = self.lr * rate_factor(step, self.steps, self.settings.warmup)
            optimizer.zero_grad()
        with autocast(self.settings, self.device):
            loss = self.loss(self.places(step), seeded(self.settings.seed, self.name, step))
        loss.backward()
        norm = nn.utils.get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if not torch.isfinite(loss.detach() + norm):
            raise Diverged(f"{self.name}: the loss became {loss:g} at step {step + 1}, its gradient's length {norm:g}")
        if norm > self.settings.clip:
            nn.utils.clip_grads_with_norm_(self.parameters, self.settings.clip, norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return loss.detach()

    def places(self, step: int) -> Tensor:
        """Which examples step number `step` sees: every epoch visits each once, in an order of its own."""
        first, last, batch = step * self.batch, (step + 1) * self.batch, []
        while first < last:
            epoch, place = divmod(first, self.size)
            if epoch != self._epoch:
                self._epoch = epoch
                self._order = torch.randperm(self.size, generator=seeded(self.settings.seed, self.name, "order", epoch))
            batch.append(self._order[place : place + last - first])
            first += len(batch[-1])
        return torch.cat(batch)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint of this stage holds, besides the optimizer."""
        return {"network": self.network}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that training goes on from."""
        tensors = {
            f"{name}/{key}": value for name, module in self.modules().items() for key, value in module.state_dict().items()
        }
        for number, (parameter, optimizer) in enumerate(self.owners):
            tensors |= {f"optimizer/{number}/{key}": value for key, value in optimizer.state.get(parameter, {}).items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor], path: Path) -> None:
        """Go on from what `tensors` gave.

        Raises:
            ValueError: tensors that are no state of this stage, named as those of `path`.
        """
        parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*self.modules(), "optimizer")}
        for key, value in tensors.items():
            name, _, rest = key.partition("/")
            parts.setdefault(name, {})[rest] = value
        moments, state = parts.pop("optimizer"), {}
        for number, (parameter, optimizer) in enumerate(self.owners):
            names = ("average",) if isinstance(optimizer, Muon) else ("step", "exp_avg", "exp_avg_sq")
            if f"{number}/{names[0]}" in moments:  # else the loss does not depend on this parameter
                state |= {f"{number}/{name}": () if name == "step" else parameter.shape for name in names}
        if parts.keys() != self.modules().keys() or {key: value.shape for key, value in moments.items()} != state:
            raise ValueError(f"{path} holds no state of the {self.name} as config.json describes it: restore it")
        for name, module in self.modules().items():
            fill(module, parts[name], path)
        for key, shape in state.items():
            number, _, name = key.partition("/")
            parameter, optimizer = self.owners[int(number)]
            value = copy_like(parameter, moments[key]) if shape else moments[key].clone()
            optimizer.state[parameter][name] = value.to(self.device)

    def trial(self) -> "Stage":
        """A copy to be timed, after which this stage is as it was."""
        return copy.deepcopy(self)


class AutoencoderStage(Stage):
    """Learns to compress and restore the pictures themselves."""

    def __init__(self, model: LatentDiffusion, data: Data, settings: Settings) -> None:
        steps, batch = settings.autoencoder_steps, settings.autoencoder_batch
        super().__init__("autoencoder", model.autoencoder, len(data), steps, batch, settings.autoencoder_lr, settings)
        self.images = data.images

    def loss(self, places: Tensor, generator: torch.Generator) -> Tensor:
        images = to_float(self.images[places]).to(self.device)
        config = self.network.config
        side = images.shape[-1] // config.factor
        noise = torch.randn(len(images), config.latent_channels, side, side, generator=generator).to(self.device)
        return autoencoder_loss(self.network, images, noise, self.settings.kl_weight)[0]

    def __deepcopy__(self, memo: dict) -> "AutoencoderStage":
        return copy_stage(self, memo, shared=("images", "settings"))


class DenoiserStage(Stage):
    """Learns to denoise cached latents under their captions; keeps the average that is sampled from."""

    def __init__(self, model: LatentDiffusion, latents: Gaussian, data: Data, settings: Settings) -> None:
        model.autoencoder.requires_grad_(False)
        muon = muon_precision(settings, next(model.parameters()).device)
        super().__init__("denoiser", model, len(data), settings.steps, settings.batch, settings.lr, settings, muon)
        self.latents, self.wordings = latents, data.wordings
        self.tokens = model.tokens([*data.texts, ""])  # the last row is ∅
        self.ema = EMA(model, settings.ema)

    def loss(self, places: Tensor, generator: torch.Generator) -> Tensor:
        count = len(places)
        latents = Gaussian(self.latents.mean[places].float(), self.latents.log_var[places].float())
        z = latents.sample(torch.randn(latents.mean.shape, generator=generator)).to(self.device)
        wording = torch.randint(self.wordings.shape[1], (count,), generator=generator)
        text = self.wordings[places, wording]
        dropped = torch.rand(count, generator=generator) < self.settings.drop_caption
        tokens = self.tokens[torch.where(dropped, len(self.tokens) - 1, text)].to(self.device)
        return self.network.loss(
            z, tokens, generator=generator, time_power=self.settings.time_power, min_snr=self.settings.min_snr
        )

    def step(self, step: int) -> Tensor:
        loss = super().step(step)
        self.ema.update(self.network)
        return loss

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "ema": self.ema.average}

    def __deepcopy__(self, memo: dict) -> "DenoiserStage":
        return copy_stage(self, memo, shared=("latents", "wordings", "tokens", "settings"))


def copy_stage(stage: Stage, memo: dict, shared: tuple[str, ...]) -> Stage:
    """A deep copy that shares the data, which no step changes."""
    for name in shared:
        memo[id(getattr(stage, name))] = getattr(stage, name)
    twin = object.__new__(type(stage))
    memo[id(stage)] = twin
    twin.__dict__.update(copy.deepcopy(stage.__dict__, memo))
    return twin


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """The learning rate over its peak: a linear rise, then half a cosine down to a fiftieth."""
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def encode_all(model: LatentDiffusion, images: Tensor, settings: Settings, batch: int = 250) -> Iterator[Gaussian]:
    """The latents of all pictures, batch by batch, on the CPU."""
    device = next(model.parameters()).device
    for some in images.split(batch):
        with autocast(settings, device):
            latents = model.encode(to_float(some).to(device))
        yield Gaussian(latents.mean.cpu(), latents.log_var.cpu())


def joined(parts: Iterable[Gaussian], to_fit: Autoencoder | None = None) -> Gaussian:
    """All latents in one. The autoencoder `to_fit` gets the scale with which they have variance 1, and they with it."""
    parts = list(parts)
    latents = Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.log_var for part in parts]))
    if to_fit is None:
        return latents
    before = to_fit.scale.clone().cpu()
    to_fit.fit_scale(latents)
    change = to_fit.scale.cpu() / before
    return Gaussian(latents.mean * change, latents.log_var + 2 * change.log())
