"""The assembled model drawn as it is: what passes between its parts, with the shapes that one real pass has (chapter 16)."""

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from minildm.engine.book import COLOURS
from minildm.ldm import LatentDiffusion
from minildm.schedule import q_sample

Shapes = dict[str, tuple[int, ...]]
SPOTS = {  # name: (column, row, the name of the part that makes it, its colour)
    "image": (0, 2, "", "data"),
    "mean": (1, 2, "encode", "approximation"),
    "z_0": (2, 2, "a draw, × scale", "approximation"),
    "z_t": (3, 2, "q_sample", "prior"),
    "tokens": (0, 0, "tokenizer", "guide"),
    "states": (1, 0, "text encoder", "model"),
    "keys": (2, 0, "keys, values", "model"),
    "prediction": (3, 1, "U-Net at t", "model"),
    "z_0 guess": (4, 1, "to_x0", "model"),
    "drawn": (5, 1, "÷ scale, decode", "model"),
}
ARROWS = (
    ("image", "mean"),
    ("mean", "z_0"),
    ("z_0", "z_t"),
    ("z_t", "prediction"),
    ("tokens", "states"),
    ("states", "keys"),
    ("keys", "prediction"),
    ("prediction", "z_0 guess"),
    ("z_0 guess", "drawn"),
)


@torch.no_grad()
def shapes_of(model: LatentDiffusion, image: Tensor, prompt: str) -> Shapes:
    """The shape of everything that passes between the parts, in one step of training and the picture it implies.

    Args:
        image: 1×C×H×W in [-1, 1].

    Returns: by the names of SPOTS, without the batch; of the keys those of the first cross-attention, heads×L×d.
    """
    q, t = model.encode(image), torch.tensor([model.schedule.T // 2])
    tokens = model.tokens([prompt]).to(image.device)
    states = model.text(tokens)
    keys_values = model.unet.keys_values(states)
    z_0 = q.sample(torch.zeros_like(q.mean))
    z_t = q_sample(model.schedule, z_0, t, torch.ones_like(z_0))
    prediction, guess = model.unet(z_t, t, keys_values), model.denoiser([prompt], 1.0)(z_t, t)
    passed = {"image": image, "mean": q.mean, "z_0": z_0, "z_t": z_t, "tokens": tokens, "states": states}
    passed |= {"keys": keys_values[0][0], "prediction": prediction, "z_0 guess": guess, "drawn": model.autoencoder.decode(guess)}
    return {name: tuple(value.shape[1:]) for name, value in passed.items()}


def draw_flow(axis: plt.Axes, shapes: Shapes) -> None:
    """What `shapes_of` found, as boxes, each under the part that makes it."""
    half_width, half_height = 0.4, 0.3
    for name, (column, row, maker, kind) in SPOTS.items():
        colours = {"facecolor": COLOURS[kind] + "30", "edgecolor": COLOURS[kind]}
        corner = (column - half_width, row - half_height)
        style = "round,pad=0,rounding_size=0.06"
        axis.add_patch(FancyBboxPatch(corner, 2 * half_width, 2 * half_height, boxstyle=style, **colours))
        axis.text(column, row, f"{name}\n{'×'.join(map(str, shapes[name]))}", ha="center", va="center", fontsize=8)
        axis.text(column, row + half_height + 0.04, maker, ha="center", va="bottom", fontsize=7, color=COLOURS["guide"])
    for before, after in ARROWS:
        (x0, y0), (x1, y1) = SPOTS[before][:2], SPOTS[after][:2]
        if x0 == x1:
            start, end = (x0, y0 - half_height), (x1, y1 + half_height + 0.2)
        else:
            start, end = (x0 + half_width, y0), (x1 - half_width, y1)
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, color="black"))
    axis.text(4.5, 2, "training: compare the\nprediction with v = aε − σz_0", ha="center", va="center", fontsize=7.5)
    axis.text(
        4.2,
        0,
        "sampling: no image; begin with noise\nfor z_t, and go round from z_t to\nz_0 guess to the next z_t",
        ha="center",
        va="center",
        fontsize=7.5,
    )
    axis.set(xlim=(-0.55, 5.55), ylim=(-0.45, 2.6))
    axis.axis("off")
