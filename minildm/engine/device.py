"""What this machine can do."""

import torch


def choose_device() -> torch.device:
    """A CUDA card if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than float32 there: instructions for it exist, so it is not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capability = torch.backends.cpu.get_cpu_capability()
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return capability.startswith("AVX512") and bool(supported())
