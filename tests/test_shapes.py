"""The procedural data: held-out pairs, captions that say what is there, pictures that show it."""

import itertools
import math
import re

import numpy as np
import pytest
import torch
from torch import Tensor

from minildm.engine import shapes
from minildm.engine.shapes import (
    ALL_PAIRS,
    ATTRIBUTES,
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    LAYOUTS,
    PAIRS,
    PLACES,
    SEEN,
    SHAPES,
    SIZES,
    WORDINGS,
    caption,
    render,
    sample_scenes,
)

COLUMN = {name: place for place, name in enumerate(ATTRIBUTES)}
PALETTE = np.array(list(COLOURS.values()), dtype=float)
GROUNDS = np.array(list(BACKGROUNDS.values()), dtype=float)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(count: int, seed: int, size: int = 32, pairs=ALL_PAIRS) -> tuple[Tensor, np.ndarray]:
    """Scenes and their pictures N×size×size×3."""
    scenes = sample_scenes(count, pairs, seeded(seed))
    return scenes, render(scenes, seeded(seed + 1), size).permute(0, 2, 3, 1).numpy().astype(float)


def ground_of(pictures: np.ndarray) -> np.ndarray:
    """The background's colour, N×3: the median of the four corners, of which no scene covers more than one."""
    return np.median(pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]], 1)


def foreground(pictures: np.ndarray) -> np.ndarray:
    """Which pixels differ clearly from the background, N×size×size."""
    return np.abs(pictures - ground_of(pictures)[:, None, None]).max(3) > 40


def shown(scene: list[int], count: int, seed: int, size: int = 32) -> np.ndarray:
    """Several pictures of one scene, count×size×size×3."""
    pictures = render(torch.tensor([scene]).expand(count, -1), seeded(seed), size)
    return pictures.permute(0, 2, 3, 1).numpy().astype(float)


def nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
    return ((colours[..., None, :] - palette) ** 2).sum(-1).argmin(-1)


def test_the_pairs_are_split_in_two():
    assert set(ALL_PAIRS) == set(itertools.product(range(len(SHAPES)), range(len(COLOURS))))
    assert len(ALL_PAIRS) == len(set(ALL_PAIRS)) == len(HELD_OUT) + len(SEEN)
    assert set(HELD_OUT) | set(SEEN) == set(ALL_PAIRS) and not set(HELD_OUT) & set(SEEN)
    assert len(HELD_OUT) >= 0.2 * len(ALL_PAIRS)
    for column, kinds in ((0, SHAPES), (1, COLOURS)):
        # What is asked of the unseen was seen in other company.
        assert {pair[column] for pair in SEEN} == set(range(len(kinds)))


@pytest.mark.parametrize("pairs", [SEEN, HELD_OUT, ((2, 3),)])
def test_scenes_hold_only_the_allowed_pairs_and_all_of_them(pairs):
    scenes = sample_scenes(3000, pairs, seeded(0))
    assert scenes.shape == (3000, 7) and scenes.dtype == torch.int64
    first = {tuple(pair) for pair in scenes[:, 2:4].tolist()}
    second = {tuple(pair) for pair in scenes[:, 4:6].tolist()}
    assert first == set(pairs) and second == {*pairs, (-1, -1)}


def test_attributes_apply_exactly_where_they_should():
    scenes = sample_scenes(3000, SEEN, seeded(1))
    for name, column in COLUMN.items():
        values = scenes[:, column]
        assert values.max() == ATTRIBUTES[name] - 1 and values.min() >= -1
        assert set(values.tolist()) - {-1} == set(range(ATTRIBUTES[name]))
    two = scenes[:, COLUMN["layout"]] >= len(PLACES)
    assert torch.equal(two, scenes[:, COLUMN["size"]] == -1)
    assert torch.equal(two, scenes[:, COLUMN["second shape"]] >= 0)
    assert torch.equal(two, scenes[:, COLUMN["second colour"]] >= 0)
    for name in ("layout", "shape", "colour", "background"):
        assert (scenes[:, COLUMN[name]] >= 0).all()


def test_attributes_are_uniform():
    """Every count within four standard errors of a binomial one."""
    count = 20_000
    scenes = sample_scenes(count, ALL_PAIRS, seeded(2))
    two = scenes[:, 0] >= len(PLACES)

    def check(values: Tensor, kinds: int) -> None:
        n, p = len(values), 1 / kinds
        counts = torch.bincount(values, minlength=kinds)
        assert ((counts - n * p).abs() < 4 * (n * p * (1 - p)) ** 0.5).all(), counts

    assert abs(two.sum().item() - count / 4) < 4 * (count * 3 / 16) ** 0.5
    check(scenes[~two, 0], len(PLACES))
    check(scenes[two, 0] - len(PLACES), len(PAIRS))
    check(scenes[~two, 1], len(SIZES))
    check(scenes[:, 2] * len(COLOURS) + scenes[:, 3], len(ALL_PAIRS))
    check(scenes[two, 4] * len(COLOURS) + scenes[two, 5], len(ALL_PAIRS))
    check(scenes[:, 6], len(BACKGROUNDS))


def parse(text: str) -> tuple[int, ...]:
    """Read a caption back: the scene it describes, whichever object it names first."""
    colour, shape = "|".join(COLOURS), "|".join(SHAPES)
    objects = re.findall(rf"\b({colour}) ({shape})\b", text)
    grounds = re.findall(rf"\b({'|'.join(BACKGROUNDS)})\b", text)
    assert len(grounds) == 1
    pairs = [(SHAPES.index(shape), list(COLOURS).index(colour)) for colour, shape in objects]
    ground = list(BACKGROUNDS).index(grounds[0])
    if len(pairs) == 1:
        (size,) = re.findall(rf"\b({'|'.join(SIZES)})\b", text)
        (place,) = re.findall(rf"\b({'|'.join(PLACES)})\b", text)
        return LAYOUTS.index(place), list(SIZES).index(size), *pairs[0], -1, -1, ground
    (relation,) = re.findall(r"\b(left of|right of|above|below)\b", text)
    if relation in ("right of", "below"):
        pairs.reverse()
        relation = {"right of": "left of", "below": "above"}[relation]
    return LAYOUTS.index(relation), -1, *pairs[0], *pairs[1], ground


def test_captions_say_exactly_what_is_there():
    for scene in sample_scenes(400, ALL_PAIRS, seeded(3)).tolist():
        for wording in range(WORDINGS):
            assert parse(caption(scene, wording)) == tuple(scene), caption(scene, wording)


def test_both_orders_occur_and_no_wording_is_said_twice():
    scene = (LAYOUTS.index("left of"), -1, 0, 1, 2, 3, 0)  # green circle left of yellow triangle
    captions = [caption(scene, wording) for wording in range(WORDINGS)]
    assert len(set(captions)) == WORDINGS
    assert sum("left of" in text and text.index("circle") < text.index("triangle") for text in captions) == WORDINGS // 2
    assert sum("right of" in text and text.index("triangle") < text.index("circle") for text in captions) == WORDINGS // 2
    single = (0, 0, 0, 1, -1, -1, 0)
    assert len({caption(single, wording) for wording in range(WORDINGS)}) == len(shapes.ONE)


def test_different_scenes_have_different_captions():
    scenes = {tuple(scene) for scene in sample_scenes(2000, ALL_PAIRS, seeded(4)).tolist()}
    for wording in range(WORDINGS):
        assert len({caption(scene, wording) for scene in scenes}) == len(scenes)


@pytest.mark.parametrize("size", [32, 64, 16])
def test_pictures_are_bytes_decided_by_the_generator(size):
    scenes = sample_scenes(20, SEEN, seeded(5))
    first = render(scenes, seeded(6), size)
    assert first.shape == (20, 3, size, size) and first.dtype == torch.uint8
    assert torch.equal(first, render(scenes, seeded(6), size))
    assert not torch.equal(first, render(scenes, seeded(7), size))  # jitter
    assert torch.equal(scenes, sample_scenes(20, SEEN, seeded(5)))
    same = render(scenes[:1].expand(5, -1), seeded(6), size)
    assert len({picture.numpy().tobytes() for picture in same}) == 5


@pytest.mark.parametrize("size", [32, 64])
def test_the_background_is_the_one_named(size):
    scenes, pictures = drawn(300, 10, size)
    assert (nearest(ground_of(pictures), GROUNDS) == scenes[:, 6].numpy()).all()


@pytest.mark.parametrize("size", [32, 64])
def test_the_colours_are_those_named(size):
    """Most pixels that are not background are nearest to the colour of the one object, or of the two."""
    scenes, pictures = drawn(300, 20, size)
    mask = foreground(pictures)
    for scene, picture, inside in zip(scenes.tolist(), pictures, mask, strict=True):
        votes = np.bincount(nearest(picture[inside], PALETTE), minlength=len(COLOURS)) / inside.sum()
        wanted = {scene[3], scene[5]} - {-1}
        assert votes[list(wanted)].sum() > 0.5 and votes.argmax() in wanted, (scene, votes)
        if len(wanted) == 2:
            assert votes[list(wanted)].min() > 0.15, (scene, votes)


def centre_of_mass(mask: np.ndarray) -> np.ndarray:
    """(x, y) in 32nds of the side."""
    y, x = np.nonzero(mask)
    return np.array([x.mean() + 0.5, y.mean() + 0.5]) * 32 / len(mask)


PLACED = {"left": (11, None), "right": (21, None), "top": (None, 11), "bottom": (None, 21), "centre": (16, 16)}


@pytest.mark.parametrize("size", [32, 64])
def test_one_object_is_where_the_caption_says(size):
    """Within the jitter of 0.5 and some pixels' rounding. A triangle's centre of mass lies two thirds below its tip."""
    scenes, pictures = drawn(400, 30, size)
    mask = foreground(pictures)
    checked = 0
    for scene, inside in zip(scenes.tolist(), mask, strict=True):
        if scene[0] >= len(PLACES):
            continue
        x, y = centre_of_mass(inside)
        if SHAPES[scene[2]] == "triangle":
            y -= list(SIZES.values())[scene[1]] / 6
        for said in LAYOUTS[scene[0]].split():
            for value, wanted in zip((x, y), PLACED[said], strict=True):
                assert wanted is None or abs(value - wanted) < 1.1, (scene, x, y)
                checked += wanted is not None
    assert checked > 400


@pytest.mark.parametrize("size", [32, 64])
def test_two_objects_stand_as_the_caption_says(size):
    """The first object's colour lies left of, or above, the second's."""
    scenes, pictures = drawn(500, 40, size)
    mask = foreground(pictures)
    checked = 0
    for scene, picture, inside in zip(scenes.tolist(), pictures, mask, strict=True):
        if scene[0] < len(PLACES) or scene[3] == scene[5]:
            continue
        said = nearest(picture, PALETTE)
        first, second = (centre_of_mass(inside & (said == colour)) for colour in (scene[3], scene[5]))
        apart = second - first
        along, across = (0, 1) if LAYOUTS[scene[0]] == "left of" else (1, 0)
        assert apart[along] > 6 and abs(apart[across]) < 6, (scene, apart)
        checked += 1
    assert checked > 80


def test_two_objects_of_one_colour_are_two():
    """Between them lies a strip that does not have their colour."""
    for picture in shown([LAYOUTS.index("left of"), -1, 1, 2, 1, 2, 0], 50, 50, size=64):  # blue squares on white
        blue = (np.abs(picture - PALETTE[2]).max(2) < 50).any(0)
        assert np.count_nonzero(np.diff(blue.astype(int)) == 1) == 2


def test_large_covers_more_than_small():
    for shape in range(len(SHAPES)):
        areas = []
        for size in range(len(SIZES)):
            areas.append(foreground(shown([0, size, shape, 2, -1, -1, 0], 60, 60)).sum((1, 2)))
        areas = dict(zip(SIZES, areas, strict=True))
        assert areas["small"].max() < areas["large"].min(), SHAPES[shape]


def test_the_shapes_have_the_areas_of_their_names():
    """Of the square around each: circle π/4, square nearly all, triangle half, a cross by its arms. Any two differ."""
    filled = {}
    for shape, name in enumerate(SHAPES):
        shares = []
        for inside in foreground(shown([0, 1, shape, 2, -1, -1, 0], 80, 70, size=128)):
            rows, columns = np.nonzero(inside.any(1))[0], np.nonzero(inside.any(0))[0]
            shares.append(inside.sum() / ((np.ptp(rows) + 1) * (np.ptp(columns) + 1)))
            width = inside.sum(1)[rows[0] : rows[-1] + 1].astype(float)
            third = len(width) // 6
            profile = width[:third].mean(), width[len(width) // 2 - third : len(width) // 2 + third].mean(), width[-third:].mean()
            top, middle, bottom = np.array(profile) / width.max()
            if name == "triangle":  # widens from its tip to its base
                assert top < middle < bottom and top < 0.3 and bottom > 0.8
            elif name == "square":
                assert min(top, middle, bottom) > 0.9
            elif name == "circle":
                assert middle > 0.9 and abs(top - bottom) < 0.15 and top < 0.8
            else:  # a cross: narrow, wide, narrow
                assert top < 0.5 and bottom < 0.5 and middle > 0.7
        filled[name] = np.mean(shares)
    print(filled)
    assert filled["circle"] == pytest.approx(np.pi / 4, abs=0.04)
    assert filled["square"] == pytest.approx(1, abs=0.04)
    assert filled["triangle"] == pytest.approx(0.5, abs=0.04)
    assert filled["cross"] < 0.65


def test_pictures_of_another_size_show_the_same_scene():
    """A picture of side 64, averaged over 2×2 pixels, is nearly the one of side 32 from the same generator."""
    scenes = sample_scenes(40, ALL_PAIRS, seeded(80))
    small, large = (render(scenes, seeded(81), size).float() for size in (32, 64))
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert (halved - small).abs().mean() < 2
    assert (halved - small).abs().amax((1, 2, 3)).mean() < 40


def test_objects_are_not_cut_off():
    """Large ones in a corner may lose half a 32nd of the side, no more; all others do not touch the border."""
    least = 0.92 * (max(SIZES.values()) - 0.7)  # the square is the smallest of the large ones
    for seed in range(100, 130, 10):
        scenes, pictures = drawn(200, seed, 64)
        for scene, inside in zip(scenes.tolist(), foreground(pictures), strict=True):
            if scene[1] == list(SIZES).index("large") and LAYOUTS[scene[0]] != "centre":
                for axis in (0, 1):
                    assert (np.ptp(np.nonzero(inside.any(axis))[0]) + 1) / 2 > least - 1
            else:
                assert not (inside[0].any() or inside[-1].any() or inside[:, 0].any() or inside[:, -1].any()), scene


def test_a_silhouette_is_one_white_shape_on_black_and_says_which():
    pictures, labels = shapes.silhouettes(4000, torch.Generator().manual_seed(0))
    assert pictures.shape == (4000, 1, 32, 32) and pictures.dtype == torch.uint8
    assert pictures[:, :, [0, -1]].max() == 0 and pictures[..., [0, -1]].max() == 0 and (pictures == 255).any(3).any(2).all()
    assert torch.allclose(labels.bincount() / 4000, torch.tensor(0.25), atol=0.03)  # four and a half standard errors
    ink = pictures.float().div(255).sum((1, 2, 3))
    for rows in (1, 2):  # the middle of the ink, from the left, then from the top
        middle = (pictures[:, 0].float().div(255).sum(rows) @ (torch.arange(32) + 0.5)) / ink
        assert 12.5 < middle[labels < 2].min() < 13.2 and 18.8 < middle[labels < 2].max() < 19.5, "centres from 13 to 19"
    tall = pictures.amax((1, 3)).gt(127).sum(1).float()  # rows that hold ink
    assert tall.min() <= 12 and tall.max() >= 21, "radii from 6 to 11"
    share = torch.stack([(ink / tall**2)[labels == kind].mean() for kind in range(4)])  # of the square around the shape
    assert torch.allclose(share, torch.tensor([math.pi / 4, 1, 0.5, 0.32 * 2 - 0.32**2]), atol=0.04), share  # a tip fills no row
