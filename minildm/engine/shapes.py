"""Coloured shapes with captions and exact attributes: a data set without a download.

A scene is a row of seven whole numbers, one for each of `ATTRIBUTES`; −1 where an attribute does not apply. It holds
one object of some size at some place, or two small objects side by side or one above the other. Positions,
sizes and colours jitter a little, so no two pictures are alike. A fifth of the shape-colour pairs, `HELD_OUT`, never
occurs in training: only the judge sees them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 165, 70),
    "blue": (50, 80, 230),
    "yellow": (245, 215, 40),
    "purple": (150, 50, 180),
    "cyan": (60, 210, 225),
}
BACKGROUNDS = {"white": (245, 245, 245), "black": (15, 15, 15), "grey": (128, 128, 128)}
SIZES = {"small": 14.0, "large": 20.0}  # diameters, in 32nds of the picture's side
PLACES = {  # centre of the one object, in 32nds of the side, from the left and from the top
    "centre": (16.0, 16.0),
    "top left": (11.0, 11.0),
    "top right": (21.0, 11.0),
    "bottom left": (11.0, 21.0),
    "bottom right": (21.0, 21.0),
}
PAIR_SIZE = 14.0
PAIRS = {"left of": ((8.35, 16.0), (23.65, 16.0)), "above": ((16.0, 8.35), (16.0, 23.65))}  # first object, second object
MIRRORED = {"left of": "right of", "above": "below"}
LAYOUTS = (*PLACES, *PAIRS)
ATTRIBUTES = {
    "layout": len(LAYOUTS),
    "size": len(SIZES),
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "second shape": len(SHAPES),
    "second colour": len(COLOURS),
    "background": len(BACKGROUNDS),
}

ALL_PAIRS = tuple((shape, colour) for shape in range(len(SHAPES)) for colour in range(len(COLOURS)))
HELD_OUT = tuple((colour % len(SHAPES), colour) for colour in range(5))  # every shape and colour still occurs otherwise
SEEN = tuple(pair for pair in ALL_PAIRS if pair not in HELD_OUT)

ONE = (
    "a {size} {colour} {shape} at the {place} on a {background} background",
    "{size} {colour} {shape}, {place}, {background} background",
    "on {background}: a {size} {colour} {shape} at the {place}",
)
TWO = (
    "a {colour} {shape} {relation} a {second_colour} {second_shape} on a {background} background",
    "{colour} {shape} {relation} {second_colour} {second_shape}, {background} background",
    "on {background}: a {colour} {shape} {relation} a {second_colour} {second_shape}",
)


def sample_scenes(count: int, pairs: Sequence[tuple[int, int]], generator: torch.Generator) -> Tensor:
    """Draw `count` scenes whose objects all have one of these (shape, colour) pairs. Returns count×7, int64.

    A quarter of the scenes holds two objects; every other attribute is uniform.
    """

    def draw(below: int) -> Tensor:
        return torch.randint(below, (count,), generator=generator)

    choices = torch.tensor(pairs)
    first, second = choices[draw(len(pairs))], choices[draw(len(pairs))]
    two = draw(4) == 0
    layout = torch.where(two, len(PLACES) + draw(len(PAIRS)), draw(len(PLACES)))
    size = torch.where(two, -1, draw(len(SIZES)))
    second = torch.where(two[:, None], second, -1)
    return torch.stack([layout, size, *first.T, *second.T, draw(len(BACKGROUNDS))], 1)


def caption(scene: Sequence[int], wording: int) -> str:
    """The scene in words. `wording` ≥ 0 chooses among the templates and, for two objects, which one is named first."""
    layout, size, *objects, background = (int(value) for value in scene)
    words = [(SHAPES[shape], list(COLOURS)[colour]) for shape, colour in (objects[:2], objects[2:]) if shape >= 0]
    ground = list(BACKGROUNDS)[background]
    (shape, colour), (second_shape, second_colour) = words[0], words[-1]
    if len(words) == 1:
        template = ONE[wording % len(ONE)]
        return template.format(size=list(SIZES)[size], colour=colour, shape=shape, place=LAYOUTS[layout], background=ground)
    template, relation = TWO[wording % len(TWO)], LAYOUTS[layout]
    if wording // len(TWO) % 2:
        shape, colour, second_shape, second_colour = second_shape, second_colour, shape, colour
        relation = MIRRORED[relation]
    return template.format(
        colour=colour, shape=shape, relation=relation, second_colour=second_colour, second_shape=second_shape, background=ground
    )


WORDINGS = 2 * len(TWO)


def render(scenes: Tensor, generator: torch.Generator, size: int = 32) -> Tensor:
    """Draw scenes N×7 as pictures, N×3×size×size, uint8, with smooth edges and a little jitter."""
    count, unit = len(scenes), size / 32

    def jitter(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape, generator=generator) - 1

    layout, which, background = scenes[:, 0], scenes[:, 1], scenes[:, 6]
    places = torch.tensor(list(PLACES.values()))
    centres = torch.cat([torch.stack([places, places], 1), torch.tensor(list(PAIRS.values()))])[layout]  # N×2 objects×2
    diameter = torch.tensor([*SIZES.values(), PAIR_SIZE])[which]  # −1 picks the last
    pictures = torch.tensor(list(BACKGROUNDS.values()))[background] + 6 * jitter(1)  # N×3
    pictures = pictures[:, :, None, None].expand(-1, -1, size, size)
    palette = torch.tensor(list(COLOURS.values())).float()
    for place in range(2):
        shape, colour = scenes[:, 2 + 2 * place], scenes[:, 3 + 2 * place]
        centre = (centres[:, place] + 0.5 * jitter(2)) * unit
        radius = (diameter + 0.7 * jitter()) * unit / 2
        covered = coverage(shape, centre, radius, size) * (shape >= 0)[:, None, None]  # N×size×size
        tint = (palette[colour] + 8 * jitter(3))[:, :, None, None]
        pictures = pictures + covered[:, None] * (tint - pictures)
    return pictures.round().clamp(0, 255).to(torch.uint8)


def silhouettes(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One white shape on black, of any size at any place: what the chapters take for handwritten digits where there are none.

    Returns: pictures, count×1×32×32, uint8; the number of each one's shape in `SHAPES`, count.
    """
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    place = torch.rand(count, 3, generator=generator) * torch.tensor([6.0, 6.0, 5.0]) + torch.tensor([13.0, 13.0, 6.0])
    parts = zip(shape.split(2000), place.split(2000), strict=True)  # centre and radius, in pixels
    covered = torch.cat([coverage(which, where[:, :2], where[:, 2], 32) for which, where in parts])
    return (255 * covered[:, None]).round().to(torch.uint8), shape


def coverage(shape: Tensor, centre: Tensor, radius: Tensor, size: int) -> Tensor:
    """How much of each pixel a shape covers, 0..1, N×size×size.

    Each shape is a signed distance to its edge, in pixels, negative inside; an edge crossing a pixel covers it in part.
    """
    pixel = torch.arange(size) + 0.5
    x = (pixel[None, None, :] - centre[:, 0, None, None]).expand(-1, size, -1)
    y = (pixel[None, :, None] - centre[:, 1, None, None]).expand(-1, -1, size)
    r = radius[:, None, None]
    circle = (x**2 + y**2).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - 0.92 * r
    side = (2 * x.abs() - (y + r)) / 5**0.5  # from the top (0, −r) down to the corners (±r, r)
    triangle = torch.maximum(side, y - r)
    arm = torch.minimum(torch.maximum(x.abs() - 0.32 * r, y.abs() - r), torch.maximum(y.abs() - 0.32 * r, x.abs() - r))
    distance = torch.stack([circle, square, triangle, arm])[shape.clamp(min=0), torch.arange(len(shape))]
    return (0.5 - distance).clamp(0, 1)
