"""What this machine can do."""

import contextlib
import os

import torch

from minildm.config import LatentDiffusionConfig
from minildm.engine import memory
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.ldm import LatentDiffusion
from minildm.tensors import without_memory

BYTES_PER_PARAMETER = 20  # weight, gradient, two moments and the average, float32


def choose_device() -> torch.device:
    """A CUDA card if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def name_of(device: torch.device) -> str:
    """The card's name, or "cpu": what it computes on decides a run's bits, and its speed."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 there: instructions for it exist, so it is not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.backends.cpu.get_cpu_capability()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return capability.startswith("AVX512") and bool(supported())


def autocast(settings: Settings, device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 inside the networks if the settings say so. Weights, sums and the loss stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")


def autocast_to_sample(settings: Settings, device: torch.device) -> contextlib.AbstractContextManager:
    """The same for drawing pictures: in bf16 only where that is native, on whatever machine the run was trained."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.precision != "float32" and native_bf16(device))


def muon_precision(settings: Settings, device: torch.device) -> torch.dtype:
    """The type in which Muon multiplies a denoiser's matrices: bfloat16 if the settings say so, and only where it is native.

    Elsewhere it would take Muon many times as long. An autoencoder keeps float32: its matrices are small and gain little.
    """
    return torch.bfloat16 if settings.precision == "bf16" and native_bf16(device) else torch.float32


def check_memory(config: LatentDiffusionConfig, device: torch.device) -> None:
    """Raise UserError if a model of this configuration cannot be trained in the memory that the device has in all."""
    try:
        with without_memory():
            count = sum(parameter.numel() for parameter in LatentDiffusion(config).parameters())
    except RuntimeError:  # not even the sizes can be computed
        count = 2**63
    has = total_memory(device)
    if has is not None and BYTES_PER_PARAMETER * count > has:
        raise UserError(
            f"the model has {count:.3g} parameters and needs {BYTES_PER_PARAMETER * count / 1e9:.0f} GB to train, "
            f"the {device.type} has {has / 1e9:.0f} GB: choose smaller --model.unet.widths"
        )


def peak_memory(device: torch.device) -> float | None:
    """The most memory held so far, in GB: of the card's, by this process's tensors; else of the process; None if not told."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else memory.peak_memory()


def total_memory(device: torch.device) -> int | None:
    """In bytes; None where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):
        return None
