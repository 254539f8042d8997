"""What the scripts share: the machine's name, small pictures and their network, the sizes that speed is measured at, runs."""

import dataclasses
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pixel_unshuffle

from minildm.config import UNetConfig
from minildm.engine.data import Data, load
from minildm.engine.device import choose_device, name_of, native_bf16
from minildm.engine.folder import read_config
from minildm.engine.presets import PRESETS, Settings
from minildm.engine.stages import encode_all, joined
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion

LARGE = {"widths": (192, 384, 384, 512), "attention": (False, False, True, True), "heads": (4, 4, 4, 8), "groups": 32}
SIZES = {  # name: preset, changes to its model, batch of the denoiser
    "mnist": ("mnist", {}, 128),
    "demo": ("shapes", {}, 32),
    "demo, widths 64 and 128": ("shapes", {"widths": (64, 128)}, 32),
    "mnist, widths 64 and 128": ("mnist", {"widths": (64, 128)}, 128),
    "mnist, widths 64 and 128, attention on the second level": ("mnist", {"widths": (64, 128), "attention": (False, True)}, 128),
    "mnist, widths 64 and 128, attention on both levels": ("mnist", {"widths": (64, 128), "attention": (True, True)}, 128),
    "cifar10": ("cifar10", {}, 128),
    "128 pixels": ("emoji", {"image_size": 128}, 64),
    "128 pixels, 100 M": ("emoji", {"image_size": 128, **LARGE}, 64),
}

ON_PIXELS = UNetConfig(
    in_channels=4, out_channels=4, widths=(32, 64), attention=(False, False), middle_attention=False, context_width=None, groups=2
)


def small(images: Tensor) -> Tensor:
    """N×1×32×32 → N×4×8×8: averages of 2×2 pixels, then 2×2 of those as channels."""
    return pixel_unshuffle(avg_pool2d(images, 2), 2)


def settings_of(size: str) -> tuple[Settings, int]:
    """The settings of one of SIZES, in the precision that is native here, and its batch."""
    preset, changes, batch = SIZES[size]
    settings = PRESETS[preset][1]
    unet = {name: value for name, value in changes.items() if name != "image_size"}
    model = dataclasses.replace(
        settings.model,
        unet=dataclasses.replace(settings.model.unet, **unet),
        image_size=changes.get("image_size", settings.model.image_size),
    )
    precision = "bf16" if native_bf16(choose_device()) else "float32"
    return dataclasses.replace(settings, model=model, batch=batch, precision=precision), batch


def open_run(folder: Path) -> tuple[Settings, LatentDiffusion, Data, Data, Gaussian]:
    """A run's settings, model, training and test data, and the latents of the training pictures."""
    (settings, _), model = read_config(folder), LatentDiffusion.load(folder, choose_device())
    train, test = load(settings)
    return settings, model, train, test, joined(encode_all(model, train.images, settings))


def fresh(settings: Settings, trained: LatentDiffusion) -> LatentDiffusion:
    """An untrained model of these settings that has the trained one's autoencoder and tokenizer."""
    torch.manual_seed(settings.seed)
    model = LatentDiffusion(settings.model, trained.tokenizer).to(choose_device())
    model.autoencoder.load_state_dict(trained.autoencoder.state_dict())
    return model


def shown(arguments: list[str]) -> str:
    """The arguments of a command, places on this machine's disk by another name."""
    names = {"--data": "DIR", "--judge": "RUN", "--curves": "RUN", "--json": "FILE"}
    return " ".join(names.get(before, word) for before, word in zip(["", *arguments[:-1]], arguments, strict=True))


def machine() -> str:
    """The processor, the card if there is one, the number of threads, and torch's version."""
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    facts = {name.strip(): fact.strip() for name, fact in facts.items()}
    name = f"{facts['model name']}, family {facts['cpu family']}" if "cpu family" in facts else platform.processor()
    card = "" if choose_device().type == "cpu" else f", {name_of(choose_device())}"
    return f"{name}{card}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def start_up() -> dict[str, float]:
    """Seconds of fresh processes, the median of five: help, and imports beyond what Python itself takes."""
    commands = {
        "minildm --help": ["-m", "minildm", "--help"],
        "python -c pass": ["-c", "pass"],
        "import torch": ["-c", "import torch"],
        "import torch, minildm.ldm": ["-c", "import torch, minildm.ldm"],
    }

    def once(arguments: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    times = [{name: once(arguments) for name, arguments in commands.items()} for _ in range(6)][1:]
    return {name: statistics.median(row[name] for row in times) for name in commands}
