"""Shared by all tests: few threads, no network, a tiny run."""

import dataclasses
import os
from pathlib import Path

import pytest
import torch

from minildm.config import AutoencoderConfig, LatentDiffusionConfig, TextConfig, UNetConfig
from minildm.engine import data, evaluate
from minildm.engine.cli import main
from minildm.engine.presets import PRESETS, Settings
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # bits and ranges are promised of the CPU; test_card.py pretends a card

PROMPTS = ["a red circle", "a large blue square at the centre", "", "two green crosses"]

TINY = LatentDiffusionConfig(
    image_size=32,
    unet=UNetConfig(widths=(16, 32), heads=(2, 2), context_width=32, groups=1),  # as wide as channels-last wants them
    autoencoder=AutoencoderConfig(widths=(16, 16, 16), groups=1),
    text=TextConfig(vocabulary=600, length=20, width=32, layers=1, heads=2),
    T=100,
)

TINY_FLAGS = (
    "--limit 96 --autoencoder-steps 4 --autoencoder-batch 8 --steps 5 --batch 8 --sample-steps 3 --checkpoint-every 2 "
    "--samples 20 --model.T 50 --model.image-size 32 --model.unet.widths 16 32 --model.unet.heads 2 2 --model.unet.groups 1 "
    "--model.unet.in-channels 4 --model.unet.out-channels 4 --model.autoencoder.latent-channels 4 "
    "--model.autoencoder.widths 16 16 16 --model.autoencoder.groups 1 --model.unet.context-width 32 --model.text.width 32 "
    "--model.text.layers 1 --model.text.heads 2 --model.text.vocabulary 640"
).split()


@pytest.fixture(scope="session", autouse=True)
def few_test_shapes():
    """Shapes keep 200 pictures aside instead of 4,000: most tests judge nothing, or by a judge that is hardly trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "TEST_SHAPES", 200)
        yield


@pytest.fixture(scope="session")
def trained(few_test_shapes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder made by `minildm train`, its judge hardly trained. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "JUDGE_STEPS", 3)
        assert main(["train", "shapes", "--out", str(folder), *TINY_FLAGS]) == 0
    return folder


@pytest.fixture(scope="module")
def model() -> LatentDiffusion:
    """A tiny model; see `without_zeros`. Not to be changed: copy it."""
    return without_zeros(TINY)


def without_zeros(config: LatentDiffusionConfig) -> LatentDiffusion:
    """A model of random weights, none of them zero, so that text and time have an effect."""
    torch.manual_seed(0)
    model = LatentDiffusion(config, Tokenizer.train(PROMPTS, 560)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.7 * parameter[0].numel() ** -0.5)
    return model


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
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))
