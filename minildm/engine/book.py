"""What the chapters show: a function's source, and figures in one style.

One colour means one thing throughout the book, from Okabe and Ito's palette, whose colours people with any kind of colour
vision tell apart.
"""

import dataclasses
import inspect
import os
import re
import textwrap
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
from IPython.display import Markdown
from matplotlib.figure import Figure
from torch import Tensor

from minildm.engine import shapes
from minildm.engine.data import load, to_float
from minildm.engine.plots import grid
from minildm.engine.presets import PRESETS
from minildm.engine.seeds import seeded

BLUE, ORANGE, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, PINK, GREY, BLACK = "#56B4E9", "#CC79A7", "#8C8C8C", "#000000"
COLOURS = {
    "data": BLACK,  # what was observed, or the true density
    "model": BLUE,  # p, with or without learned parameters
    "approximation": ORANGE,  # q: the encoder, the variational posterior, anything fitted in place of something exact
    "exact": GREEN,  # what could be computed exactly: true posteriors, log p(x)
    "bound": YELLOW,  # the ELBO and its kin
    "prior": SKY,  # p(z), noise
    "wrong": PINK,  # a mistake, shown as one
    "guide": GREY,  # reference lines
}
EQUATION = re.compile(r"Eq\. \((\d\d\.\d+)\)")
STAND_IN = "white shapes (MINILDM_DATA names no MNIST)"
PAGE = 7.2  # inches: the width of a figure on the page


def use_style() -> None:
    """Set matplotlib up for the book: sizes that read at page width, thin axes, the palette."""
    plt.rcParams.update(
        {
            "figure.figsize": (PAGE, 2.9),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
            "image.interpolation": "nearest",
            "axes.prop_cycle": plt.cycler(color=[BLUE, ORANGE, GREEN, YELLOW, SKY, PINK]),
        }
    )


def panels(count: int = 1, height: float = 2.9, **options) -> tuple[Figure, list[plt.Axes]]:
    """A figure as wide as the page, with `count` axes side by side, which are returned as a list."""
    figure, axes = plt.subplots(1, count, figsize=(PAGE, height), squeeze=False, **options)
    return figure, list(axes[0])


def show_images(axis: plt.Axes, images, columns: int | None = None, title: str = "") -> None:
    """Images N×C×H×W in [-1, 1] as one sheet on an axis without ticks."""
    axis.imshow(grid(images, columns, margin=1))
    axis.set(title=title, xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)


def show_source(thing: Callable) -> Markdown:
    """The source of a function, method or class, under its file's name and the equations that its docstring names."""
    path = Path(inspect.getsourcefile(thing) or "")
    numbers = ", ".join(f"({number})" for number in equations_of(thing))
    heading = f"`{path.parent.name}/{path.name}`" + (f" — equation {numbers}" if numbers else "")
    source = textwrap.dedent(inspect.getsource(thing)).rstrip()
    return Markdown(f"{heading}\n\n```python\n{source}\n```")


def equations_of(thing: Callable) -> list[str]:
    """The numbers of the equations that a docstring says it implements, as in "Eq. (NN.k)"."""
    return EQUATION.findall(inspect.getdoc(thing) or "")


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Grey pictures for a chapter, N×1×32×32 in [-1, 1], each with the number of its class.

    Attributes:
        name: what they are, in words.
        classes: the classes' names.
    """

    name: str
    classes: tuple[str, ...]
    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


def grey_pictures(train: int = 60000, test: int = 10000) -> Pictures:
    """MNIST from the folder that the environment variable MINILDM_DATA names; without it, white shapes on black.

    Args:
        train, test: how many pictures of each at most.
    """
    folder = os.environ.get("MINILDM_DATA")
    if not (folder and (Path(folder) / "mnist").is_dir()):
        counts = {"train": train, "test": test}
        white = [shapes.silhouettes(count, seeded(0, "silhouettes", part)) for part, count in counts.items()]
        grey = [part for images, labels in white for part in (to_float(images), labels)]
        return Pictures(STAND_IN, shapes.SHAPES, *grey)
    settings = dataclasses.replace(PRESETS["mnist"][1], data=str(Path(folder) / "mnist"), limit=train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the datasets library, about progress bars
        parts = load(settings, test)
    grey = [part for data in parts for part in (to_float(data.images), data.attributes[:, 0])]
    return Pictures("MNIST", tuple("0123456789"), *grey)
