"""Training speed by precision and memory layout: the autoencoder and the U-Net of the shapes preset.

    python benchmarks/layouts.py

Prints a Markdown table of images/s, forward and backward passes, the median of several repeats.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch

from minildm.autoencoder import Autoencoder, autoencoder_loss
from minildm.engine.presets import PRESETS
from minildm.unet import UNet

SETTINGS = PRESETS["shapes"][1]
MODEL = SETTINGS.model


def images_per_second(step: Callable[[], torch.Tensor], batch: int, repeats: int = 9) -> float:
    """The median over repeats, after three steps to warm up."""
    seconds = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        step().backward()
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds[3:])


def autoencoder(layout: torch.memory_format) -> tuple[Callable[[], torch.Tensor], int]:
    """A step of the autoencoder at the preset's batch."""
    batch, size, config = SETTINGS.autoencoder_batch, MODEL.image_size, MODEL.autoencoder
    model = Autoencoder(config).to(memory_format=layout)
    images = torch.randn(batch, config.image_channels, size, size).to(memory_format=layout)
    noise = torch.randn(batch, config.latent_channels, size // config.factor, size // config.factor)
    return lambda: autoencoder_loss(model, images, noise, SETTINGS.kl_weight)[0], batch


def unet(layout: torch.memory_format) -> tuple[Callable[[], torch.Tensor], int]:
    """A step of the U-Net at the preset's batch, text states given."""
    batch, side = SETTINGS.batch, MODEL.image_size // MODEL.autoencoder.factor
    model = UNet(MODEL.unet).to(memory_format=layout)
    z = torch.randn(batch, MODEL.unet.in_channels, side, side).to(memory_format=layout)
    t, context = torch.randint(1, MODEL.T, (batch,)), torch.randn(batch, MODEL.text.length, MODEL.text.width)
    return lambda: model(z, t, context).float().square().mean(), batch


def main() -> None:
    print("| network | precision | layout | images/s |\n|---|---|---|---|")
    layouts = {"NCHW": torch.contiguous_format, "channels-last": torch.channels_last}
    for network, precision, layout in itertools.product((autoencoder, unet), ("float32", "bf16"), layouts):
        work, batch = network(layouts[layout])

        def step(work: Callable = work, bf16: bool = precision == "bf16") -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                return work()

        print(f"| {network.__name__} | {precision} | {layout} | {images_per_second(step, batch):.0f} |", flush=True)


if __name__ == "__main__":
    main()
