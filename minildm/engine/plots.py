"""Pictures of a run: sample grids and loss curves."""

import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure  # without pyplot, which would choose a screen to draw on
from PIL import Image
from torch import Tensor

from minildm.files import written_whole

COLOURS = {"autoencoder": "#0072B2", "denoiser": "#D55E00"}  # Okabe and Ito's palette, safe for colour-blind readers


def grid(images: Tensor, columns: int | None = None, margin: int = 2) -> Image.Image:
    """Images N×C×H×W in [-1, 1], side by side on white, row by row; as square as possible unless `columns` is given."""
    columns = columns or math.ceil(len(images) ** 0.5)
    rows = math.ceil(len(images) / columns)
    height, width = images.shape[2] + margin, images.shape[3] + margin
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().permute(0, 2, 3, 1)
    sheet = np.full((rows * height + margin, columns * width + margin, 3), 255, np.uint8)
    for place, picture in enumerate(pixels.expand(-1, -1, -1, 3).numpy()):
        top, left = margin + place // columns * height, margin + place % columns * width
        sheet[top : top + height - margin, left : left + width - margin] = picture
    return Image.fromarray(sheet)


def save_grid(images: Tensor, path: Path, columns: int | None = None, side: int = 720) -> None:
    """Save the grid as a PNG, each pixel enlarged by a whole factor while the sheet stays within about `side`."""
    sheet = grid(images, columns)
    factor = max(1, side // max(sheet.size))
    with written_whole(path) as aside:
        sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST).save(aside, "PNG")


def captioned_grid(images: Tensor, captions: list[str], path: Path, columns: int = 6) -> None:
    """Save pictures with their prompts underneath, wrapped."""
    rows = math.ceil(len(images) / columns)
    figure = Figure(figsize=(1.9 * columns, 2.5 * rows))
    axes = figure.subplots(rows, columns, squeeze=False)
    pixels = ((images.float().clamp(-1, 1) + 1) / 2).cpu().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    for place, axis in enumerate(axes.flat):
        axis.axis("off")
        if place < len(images):
            axis.imshow(pixels[place], interpolation="nearest")
            axis.set_title("\n".join(wrap(captions[place], 24)), fontsize=8, y=-0.05, va="top", parse_math=False)
    figure.tight_layout(h_pad=2.5)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG."""
    with written_whole(path) as aside:
        figure.savefig(aside, dpi=100, format="png")


def wrap(text: str, width: int) -> list[str]:
    """Lines of at most `width` characters, broken between words."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def loss_curves(lines: list[dict], path: Path) -> None:
    """Save the loss of each stage against its steps: every logged value, and their running mean."""
    stages = [stage for stage in COLOURS if any(line["stage"] == stage for line in lines)]
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots(1, max(1, len(stages)), squeeze=False)
    for axis, stage in zip(axes[0], stages, strict=False):
        steps = [line["step"] for line in lines if line["stage"] == stage]
        losses = np.array([line["loss"] for line in lines if line["stage"] == stage])
        window = max(1, len(losses) // 20)
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axis.plot(steps, losses, color=COLOURS[stage], alpha=0.3, linewidth=0.8)
        axis.plot(steps[window - 1 :], smooth, color=COLOURS[stage])
        axis.set(title=stage, xlabel="step", ylabel="loss", yscale="log")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    save_figure(figure, path)
