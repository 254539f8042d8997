"""Shared by all tests: few threads, no network, a tiny run."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from minildm.config import AutoencoderConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.engine.presets import PRESETS, Settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

TINY = LatentDiffusionConfig(
    image_size=32,
    unet=UNetConfig(widths=(16, 32), heads=(2, 2), context_width=32, groups=8),
    autoencoder=AutoencoderConfig(widths=(8, 8, 16), groups=4),
    text=TextConfig(vocabulary=600, length=20, width=32, layers=1, heads=2),
    T=100,
)


@pytest.fixture
def tiny_settings() -> Settings:
    """Shapes, small networks, a few steps of each stage."""
    return dataclasses.replace(
        PRESETS["shapes"][1],
        limit=96,
        minutes=None,
        autoencoder_steps=6,
        autoencoder_batch=8,
        steps=8,
        batch=16,
        checkpoint_every=3,
        preview_every=4,
        sample_steps=4,
        model=TINY,
    )


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets, from the environment."""
    folder = os.environ.get("MINILDM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("MINILDM_DATA names no folder with mnist, cifar10 and emoji: set it to test on real data")
    return Path(folder)


@pytest.fixture(autouse=True)
def fixed_threads():
    """The same number of threads for every test, so that equal seeds give equal bits."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))
