"""`minildm doctor`: what this machine can run, and how fast."""

import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable

import torch

from minildm.engine.device import choose_device, native_bf16
from minildm.engine.presets import PRESETS
from minildm.ldm import LatentDiffusion

PACKAGES = ("torch", "numpy", "datasets", "safetensors", "pillow", "matplotlib", "tyro", "tqdm")


def doctor() -> str:
    """A page of facts: versions, device, precision, disk, and the speed of the work that training is made of."""
    device = choose_device()
    bf16 = native_bf16(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU ({torch.backends.cpu.get_cpu_capability()})"
    lines = [
        f"Python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"packages     {', '.join(f'{package} {version(package)}' for package in PACKAGES)}",
        f"device       {name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        f"bf16         {'native: used for training' if bf16 else 'not native: training uses float32'}",
        f"disk         {shutil.disk_usage('.').free / 1e9:.1f} GB free here",
    ]
    for dtype in (torch.float32, torch.bfloat16) if bf16 else (torch.float32,):
        lines.append(f"{str(dtype).removeprefix('torch.'):12} {convolution_speed(device, dtype):.0f} GFLOP/s in 3×3 convolutions")
    lines.append(f"training     {training_speed(device, bf16):.0f} images/s through the shapes preset's denoiser")
    return "\n".join(lines)


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "MISSING (pip install -r requirements.txt)"


def convolution_speed(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a forward 3×3 convolution, 128 channels on 16×16 maps, batch 64; on a card 64 times as much, to fill it."""
    width, side, batch = 128, 16, 64 if device.type == "cpu" else 4096
    layer = torch.nn.Conv2d(width, width, 3, padding=1, device=device, dtype=dtype)
    x = torch.randn(batch, width, side, side, device=device, dtype=dtype)
    with torch.no_grad():
        return 2 * 9 * width**2 * side**2 * batch / seconds(lambda: layer(x), device) / 1e9


def training_speed(device: torch.device, bf16: bool) -> float:
    """Images/s of forward and backward passes of the shapes preset's denoiser, without its optimizer."""
    config, batch = PRESETS["shapes"][1].model, PRESETS["shapes"][1].batch
    model = LatentDiffusion(config).to(device)
    side = config.image_size // config.autoencoder.factor
    latents = torch.randn(batch, config.unet.in_channels, side, side, device=device)
    tokens = torch.zeros(batch, config.text.length, dtype=torch.long, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            model.loss(latents, tokens, generator=torch.Generator().manual_seed(0)).backward()

    return batch / seconds(step, device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    """The mean time of a call, after two to warm up."""
    for count in (2, repeats):
        start = time.monotonic()
        for _ in range(count):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    return (time.monotonic() - start) / repeats
