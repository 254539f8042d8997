"""What the scripts share: the machine's name, and a trained run opened for training its denoiser again."""

import platform
from pathlib import Path

import torch

from minildm.engine.data import Data, load
from minildm.engine.folder import read_config
from minildm.engine.presets import Settings
from minildm.engine.stages import encode_all
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion


def open_run(folder: Path) -> tuple[Settings, LatentDiffusion, Data, Data, Gaussian]:
    """A run's settings, model, training and test data, and the latents of the training pictures."""
    (settings, _), model = read_config(folder), LatentDiffusion.load(folder)
    train, test = load(settings)
    parts = list(encode_all(model, train.images, settings))
    latents = Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.log_var for part in parts]))
    return settings, model, train, test, latents


def machine() -> str:
    """The processor, the number of threads, and torch's version."""
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
