"""Randomness as a function of its purpose: no generator is carried from step to step, so none needs to be saved."""

import hashlib

import torch


def seeded(*purpose: str | int) -> torch.Generator:
    """A generator that depends on these words and numbers alone, the same on every machine and in every process."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
