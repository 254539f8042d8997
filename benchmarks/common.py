"""What the comparisons share: a trained run opened for training its denoiser again."""

from pathlib import Path

import torch

from minildm.engine.data import Data, load
from minildm.engine.presets import Settings
from minildm.engine.stages import encode_all
from minildm.engine.train import stored_settings
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion


def open_run(folder: Path) -> tuple[Settings, LatentDiffusion, Data, Data, Gaussian]:
    """A run's settings, model, training and test data, and the latents of the training pictures."""
    settings, model = stored_settings(folder), LatentDiffusion.load(folder)
    train, test = load(settings)
    parts = list(encode_all(model, train.images, settings))
    latents = Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.log_var for part in parts]))
    return settings, model, train, test, latents
