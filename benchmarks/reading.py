"""How soon the denoiser learns to read: the loss near pure noise, where all that it can know comes from the caption.

    python benchmarks/reading.py RUN [--steps 400]

RUN is a trained run, whose autoencoder and data are used. Each row starts from fresh weights, initialised in another way.
"""

import argparse
import dataclasses
from pathlib import Path

import torch
from common import open_run
from torch import nn

from minildm.attention import Attention
from minildm.engine.stages import DenoiserStage
from minildm.ldm import LatentDiffusion
from minildm.unet import SpatialTransformer


def ours(model: LatentDiffusion) -> None:
    """As the modules initialise themselves."""


def small_embeddings(model: LatentDiffusion) -> None:
    """Token and position embeddings as small as CLIP's."""
    nn.init.normal_(model.text.tokens.weight, std=0.02)
    nn.init.normal_(model.text.positions.weight, std=0.01)


def zero_projections(model: LatentDiffusion) -> None:
    """Spatial transformers that start as the identity, as Stable Diffusion's do."""
    for module in model.unet.modules():
        if isinstance(module, SpatialTransformer):
            nn.init.zeros_(module.project_out.weight)


def default_attention(model: LatentDiffusion) -> None:
    """Attention's linear layers as PyTorch initialises them: a third of the variance."""
    for module in model.modules():
        if isinstance(module, Attention):
            for layer in (module.query, module.key, module.value, module.out):
                layer.reset_parameters()


def all_three(model: LatentDiffusion) -> None:
    """The three together."""
    for change in (small_embeddings, zero_projections, default_attention):
        change(model)


@torch.no_grad()
def loss_near_noise(stage: DenoiserStage, count: int = 2000) -> float:
    """The mean squared error of the prediction at 0.85 T < t ≤ T, on training latents under their captions."""
    model, schedule = stage.network, stage.network.schedule
    generator = torch.Generator().manual_seed(1)
    z = stage.latents.mean[:count]
    t = torch.randint(int(0.85 * schedule.T), schedule.T + 1, (count,), generator=generator)
    noise, tokens = torch.randn(z.shape, generator=generator), stage.tokens[stage.wordings[:count, 0]]
    total = 0.0
    for some in torch.arange(count).split(250):
        a, s = (rate(t[some]).float()[:, None, None, None] for rate in (schedule.signal, schedule.noise))
        said = model.unet(a * z[some] + s * noise[some], t[some], model.text(tokens[some]))
        total += float((said - (a * noise[some] - s * z[some])).square().mean(dim=(1, 2, 3)).sum())
    return total / count


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("run", type=Path)
    options.add_argument("--steps", type=int, default=400)
    chosen = options.parse_args()
    settings, trained, train, _, latents = open_run(chosen.run)
    settings = dataclasses.replace(settings, steps=4000)  # the learning rate is near its peak throughout
    print("| initialisation | loss near pure noise |\n|---|---|")
    for change in (ours, small_embeddings, zero_projections, default_attention, all_three):
        torch.manual_seed(0)
        model = LatentDiffusion(settings.model, trained.tokenizer)
        change(model)
        stage = DenoiserStage(model, latents, train, settings)
        for step in range(chosen.steps):
            stage.step(step)
        print(f"| {change.__doc__} | {loss_near_noise(stage):.3f} |", flush=True)


if __name__ == "__main__":
    main()
