"""The loader: whatever holds pictures becomes bytes with captions; what does not is named in one line."""

import dataclasses
import functools
import io
import itertools
import json
import os
import socket
import time
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from minildm.config import AutoencoderConfig, LatentDiffusionConfig
from minildm.engine import data as data_module
from minildm.engine import pictures, shapes
from minildm.engine.data import (
    Data,
    balanced,
    draw_shapes,
    fingerprint,
    hold_out,
    load,
    read_split,
    to_bytes,
    to_float,
    word,
)
from minildm.engine.errors import UserError
from minildm.engine.pictures import decode, fit_picture
from minildm.engine.presets import PRESETS, Settings
from minildm.engine.sources import located, open_dataset
from minildm.engine.train import Run

SIZE = 16


class NoNetwork(OSError):
    """Raised in place of every connection."""


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path_factory):
    """No network, and a cache of its own: a local folder needs neither."""

    def refuse(*args, **kwargs):
        raise NoNetwork("no network in tests")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", datasets.config.HF_HUB_OFFLINE)  # the loader sets it; put it back


def settings_for(folder: Path | str, channels: int = 3, **fields) -> Settings:
    model = LatentDiffusionConfig(image_size=SIZE, autoencoder=AutoencoderConfig(image_channels=channels))
    return Settings(data=str(folder), model=model, **fields)


def plain(colour: tuple[int, ...], size: tuple[int, int] = (SIZE, SIZE), mode: str = "RGB") -> Image.Image:
    return Image.new(mode, size, colour)


def colour_of(place: int) -> tuple[int, int, int]:
    """A colour that tells which picture this is."""
    return (place * 10 % 256, place // 25 * 40, 200)


def fill(folder: Path, count: int, start: int = 0) -> list[str]:
    """`count` plain pictures, each of its own colour; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{place:03d}.png" for place in range(start, start + count)]
    for place, name in enumerate(names, start):
        plain(colour_of(place)).save(folder / name)
    return names


def describe(folder: Path, captions: dict[str, str | None], column: str = "text") -> None:
    lines = [json.dumps({"file_name": name, column: text}) for name, text in captions.items()]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")


def seen(data: Data) -> list[tuple[tuple[int, ...], str]]:
    """Each picture's colour with its only caption, sorted."""
    assert data.images.dtype == torch.uint8 and data.images.shape[1:] == (3, SIZE, SIZE)
    assert (data.images == data.images[:, :, :1, :1]).all()
    return sorted((tuple(colour), text) for colour, text in zip(data.images[:, :, 0, 0].tolist(), data.captions(), strict=True))


def refusal(settings: Settings) -> str:
    """The one line with which these data are refused."""
    with pytest.raises(UserError) as error:
        load(settings)
    message = str(error.value)
    assert "\n" not in message and settings.data in message
    return message


# Image folders


@pytest.mark.parametrize("column", ["text", "caption", "anything"])
def test_a_folder_with_metadata_gives_each_picture_its_caption(tmp_path, column):
    names = fill(tmp_path, 12)
    describe(tmp_path, {name: f"picture {place}" for place, name in enumerate(names)}, column)
    train, test = load(settings_for(tmp_path))
    assert sorted(seen(train) + seen(test)) == [(colour_of(place), f"picture {place}") for place in range(12)]
    assert train.attributes is None and len(test) == 1 and len(train) == 11


def test_text_is_preferred_where_there_are_several_texts(tmp_path):
    names = fill(tmp_path, 3)
    lines = [{"file_name": name, "author": "me", "text": f"number {i}", "zebra": "no"} for i, name in enumerate(names)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path), 0)
    assert data.captions() == ["number 0", "number 1", "number 2"]


def test_a_missing_caption_is_the_empty_one(tmp_path):
    first, second = fill(tmp_path, 2)
    describe(tmp_path, {first: "here", second: None})
    data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path), 0)
    assert seen(data) == [(colour_of(0), "here"), (colour_of(1), "")]


def test_a_folder_without_captions_has_the_empty_caption(tmp_path):
    fill(tmp_path, 5)
    data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path), 0)
    assert seen(data) == [(colour_of(place), "") for place in range(5)]
    assert data.texts == [""] and data.attributes is None


def test_a_folder_in_splits_keeps_them(tmp_path):
    for split, start, count in (("train", 0, 6), ("test", 6, 3)):
        names = fill(tmp_path / split, count, start)
        describe(tmp_path / split, {name: name for name in names})
    train, test = load(settings_for(tmp_path))
    assert [colour for colour, _ in seen(train)] == [colour_of(place) for place in range(6)]
    assert [colour for colour, _ in seen(test)] == [colour_of(place) for place in range(6, 9)]


def test_the_names_of_splits_are_no_classes(tmp_path):
    """Pictures in train/ and test/ without captions are not "a photo of a test"."""
    fill(tmp_path / "train", 6)
    fill(tmp_path / "test", 3, 6)
    train, test = load(settings_for(tmp_path))
    assert seen(train) == [(colour_of(place), "") for place in range(6)] and train.attributes is None
    assert seen(test) == [(colour_of(place), "") for place in range(6, 9)] and test.attributes is None


@pytest.mark.parametrize(("column", "wins"), [("text", True), ("caption", True), ("file", False)])
def test_captions_go_before_class_names_and_the_judge_keeps_the_labels(tmp_path, column, wins):
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), column: datasets.Value("string")}
    )
    rows = {"image": [png(plain(colour_of(0))), png(plain(colour_of(1)))], "label": [1, 0], column: ["a dog runs", "a cat sits"]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path, templates=("a {label}",)), 0)
    assert data.captions() == (["a dog runs", "a cat sits"] if wins else ["a dog", "a cat"])
    assert data.attributes.tolist() == [[1], [0]] and data.classes == {"label": 2}


def test_a_run_remembers_where_its_data_are(tmp_path, monkeypatch):
    """A relative path given in one folder must still be found from another."""
    fill(tmp_path / "pictures", 4)
    monkeypatch.chdir(tmp_path)
    assert located("pictures") == located("./pictures") == str((tmp_path / "pictures").resolve())
    (tmp_path / "shapes").mkdir()
    assert located("shapes") == "shapes" and located("ylecun/mnist") == "ylecun/mnist"
    training = Run(tmp_path / "run", settings_for("pictures"), resume=False)
    monkeypatch.chdir("/")
    assert len(load(training.settings)[0]) == 3


def test_sub_folders_are_classes_and_classes_are_worded(tmp_path):
    fill(tmp_path / "airplane", 4)
    fill(tmp_path / "frog", 4, 4)
    settings = settings_for(tmp_path, templates=("a photo of a {label}", "{word}!"))
    data = read_split(open_dataset(str(tmp_path))["train"], settings, 0)
    assert list(data.classes.values()) == [2] and data.attributes.shape == (8, 1)
    assert data.wordings.shape == (8, 2)
    for colour, label, wording in zip(
        data.images[:, :, 0, 0].tolist(), data.attributes[:, 0].tolist(), data.wordings, strict=True
    ):
        name = "airplane" if tuple(colour) in map(colour_of, range(4)) else "frog"
        assert label == (name == "frog")  # classes are numbered by the alphabet
        wanted = {"airplane": ["a photo of an airplane", "airplane!"], "frog": ["a photo of a frog", "frog!"]}[name]
        assert [data.texts[place] for place in wording] == wanted


def test_without_a_test_split_a_tenth_is_kept_aside(tmp_path):
    fill(tmp_path, 40)
    train, test = load(settings_for(tmp_path))
    assert (len(train), len(test)) == (36, 4)
    everything = sorted(seen(train) + seen(test))
    assert everything == sorted((colour_of(place), "") for place in range(40))  # disjoint and complete
    again, _ = load(settings_for(tmp_path))
    assert torch.equal(train.images, again.images)
    other, _ = load(settings_for(tmp_path, seed=1))
    assert seen(other) != seen(train)


def test_the_limit_counts_training_pictures(tmp_path):
    describe(tmp_path / "train", dict.fromkeys(fill(tmp_path / "train", 20), "x"))
    describe(tmp_path / "test", dict.fromkeys(fill(tmp_path / "test", 5, 20), "x"))
    train, test = load(settings_for(tmp_path, limit=7))
    assert [colour for colour, _ in seen(train)] == [colour_of(place) for place in range(7)] and len(test) == 5
    assert len(load(settings_for(tmp_path, limit=1000))[0]) == 20


def test_as_many_test_pictures_are_read_as_asked_for(tmp_path):
    describe(tmp_path / "train", dict.fromkeys(fill(tmp_path / "train", 20), "x"))
    describe(tmp_path / "test", dict.fromkeys(fill(tmp_path / "test", 5, 20), "x"))
    train, test = load(settings_for(tmp_path), 3)
    assert len(train) == 20 and [colour for colour, _ in seen(test)] == [colour_of(place) for place in (20, 21, 22)]


# Parquet


def png(picture: Image.Image) -> dict:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write_parquet(folder: Path, labels: list, names: list[str], split: str = "train", images: list | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(names=names)})
    images = images or [png(plain(colour_of(place))) for place in range(len(labels))]
    table = datasets.Dataset.from_dict({"picture": images, "kind": labels}, features=features)
    table.to_parquet(folder / f"{split}-00000-of-00001.parquet")


def test_parquet_with_labels(tmp_path):
    names = ["0", "seven of", "cat"]
    write_parquet(tmp_path, [0, 2, 1, 2, 0, 2], names)
    write_parquet(tmp_path, [1, 1], names, "test")
    train, test = load(settings_for(tmp_path, templates=("the {word}",)))
    assert train.attributes[:, 0].tolist() == [0, 2, 1, 2, 0, 2] and train.classes == {"kind": 3}
    assert train.captions() == ["the zero", "the cat", "the seven of", "the cat", "the zero", "the cat"]
    assert test.captions() == ["the seven of"] * 2
    assert [tuple(c) for c in train.images[:, :, 0, 0].tolist()] == [colour_of(place) for place in range(6)]


def test_labels_and_captions_stay_with_their_pictures_when_some_are_broken(tmp_path):
    images = [png(plain(colour_of(place))) for place in range(6)]
    images[1] = {"bytes": b"no picture", "path": None}
    images[4] = {"bytes": images[4]["bytes"][:40], "path": None}
    write_parquet(tmp_path, [0, 1, 0, 1, 0, 1], ["even", "odd"], images=images)
    with pytest.warns(UserWarning, match="2 pictures were skipped"):
        data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path, templates=("{label}",)), 0)
    assert data.captions() == ["even", "even", "odd", "odd"]
    assert [tuple(c) for c in data.images[:, :, 0, 0].tolist()] == [colour_of(place) for place in (0, 2, 3, 5)]


def test_a_cell_without_a_picture_is_skipped(tmp_path):
    images = [png(plain(colour_of(place))) for place in range(4)]
    images[2] = None
    write_parquet(tmp_path, [0, 1, 0, 1], ["even", "odd"], images=images)
    with pytest.warns(UserWarning, match="1 pictures? (was|were) skipped"):
        data = read_split(open_dataset(str(tmp_path))["train"], settings_for(tmp_path, templates=("{label}",)), 0)
    assert data.captions() == ["even", "odd", "odd"]


@pytest.mark.parametrize("unknown", [-1, None])
def test_an_unlabelled_picture_is_not_given_another_class(tmp_path, unknown):
    """−1 (and nothing) mean unlabelled, as in many test splits on the hub: no class's caption would be true."""
    write_parquet(tmp_path, [0, unknown, 1], ["cat", "frog"])
    split = open_dataset(str(tmp_path))["train"]
    try:
        data = read_split(split, settings_for(tmp_path, templates=("{label}",)), 0)
    except UserError as error:
        assert "label" in str(error) and "\n" not in str(error)
    else:
        captions = dict(zip([tuple(c) for c in data.images[:, :, 0, 0].tolist()], data.captions(), strict=True))
        assert captions.get(colour_of(1), "") == ""
        assert captions[colour_of(0)] == "cat" and captions[colour_of(2)] == "frog"


# Pictures that cannot be read


def test_corrupt_pictures_are_skipped_counted_and_named(tmp_path):
    names = fill(tmp_path, 8)
    describe(tmp_path, {name: name for name in names})
    (tmp_path / "001.png").write_bytes(b"not a picture")
    (tmp_path / "003.png").write_bytes(b"")
    (tmp_path / "005.png").write_bytes((tmp_path / "005.png").read_bytes()[:45])
    with pytest.warns(UserWarning) as caught:
        train, test = load(settings_for(tmp_path))
    (message,) = [str(w.message) for w in caught if "skipped" in str(w.message)]
    assert message.startswith("3 pictures") and all(f"00{place}.png" in message for place in (1, 3, 5))
    assert sorted(seen(train) + seen(test)) == [(colour_of(place), f"00{place}.png") for place in (0, 2, 4, 6, 7)]


def test_more_than_half_corrupt_is_refused(tmp_path):
    names = fill(tmp_path, 7)
    for name in names[:4]:
        (tmp_path / name).write_bytes(b"not a picture")
    message = refusal(settings_for(tmp_path))
    assert "4 of 7" in message and "000.png" in message
    (tmp_path / names[6]).unlink()
    plain(colour_of(0)).save(tmp_path / names[0])  # 3 of 6 are broken now: no more than half
    with pytest.warns(UserWarning, match="3 pictures"):
        load(settings_for(tmp_path))


def test_a_picture_of_absurd_size_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST_PIXELS", 100)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="11×10"):
        decode(io.BytesIO(raw_png((11, 10))))


@functools.cache
def raw_png(size: tuple[int, int]) -> bytes:
    return png(plain((1, 2, 3), size))["bytes"]


raw_png((11, 10))  # before `load` is taken away


# Every kind of picture


def shown(picture: Image.Image, channels: int = 3, format: str = "PNG", size: int = SIZE, fit: str = "crop") -> np.ndarray:
    """A picture written to a file's bytes, read and fitted."""
    buffer = io.BytesIO()
    picture.save(buffer, format)
    got = fit_picture(decode(buffer), size, channels, fit).transpose(1, 2, 0)
    assert got.dtype == np.uint8 and got.shape == (size, size, channels)
    return got


def test_sixteen_bits_keep_the_upper_eight():
    upper = np.arange(SIZE * SIZE, dtype=np.uint16)
    values = (upper * 256 + (upper * 7 + 100) % 256).reshape(SIZE, SIZE)  # the lower byte says something else
    for channels in (1, 3):
        got = shown(Image.fromarray(values), channels)
        assert (got == (values // 256)[..., None]).all()
    assert (shown(Image.fromarray(values), 1, "TIFF")[..., 0] == values // 256).all()


def test_a_palette_is_looked_up():
    indexed = Image.new("P", (SIZE, SIZE), 1)
    indexed.putpalette([0, 0, 0, 10, 200, 30])
    assert (shown(indexed) == (10, 200, 30)).all()
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", transparency=1)
    clear = fit_picture(decode(buffer), SIZE, 3, "crop").transpose(1, 2, 0)
    assert (clear == 255).all()


def test_grey_and_black_and_white():
    assert (shown(plain(77, mode="L")) == 77).all() and (shown(plain(77, mode="L"), 1) == 77).all()
    assert (shown(plain(1, mode="1")) == 255).all() and (shown(plain(0, mode="1"), 1) == 0).all()
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R 601
    assert np.abs(shown(plain((200, 100, 50)), 1).astype(float) - luma).max() <= 1


def test_cmyk_is_converted():
    got = shown(plain((0, 255, 255, 0), mode="CMYK"), format="TIFF").astype(int)  # magenta and yellow ink: red
    assert (got[..., 0] > 200).all() and (got[..., 1:] < 60).all()
    assert (shown(plain((0, 0, 0, 0), mode="CMYK"), format="JPEG") > 245).all()  # no ink: white


def test_transparency_lies_on_white():
    for alpha in (0, 128, 255):
        wanted = np.array([200, 100, 0]) * alpha / 255 + 255 * (1 - alpha / 255)
        assert np.abs(shown(plain((200, 100, 0, alpha), mode="RGBA")) - wanted).max() <= 1
        wanted = 40 * alpha / 255 + 255 * (1 - alpha / 255)
        assert np.abs(shown(plain((40, alpha), mode="LA"), 1) - wanted).max() <= 1


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (100, 7)])
def test_pictures_of_any_size_fit(shape, fit):
    got = shown(plain((9, 120, 240), shape), fit=fit)
    inside = (got == (9, 120, 240)).all(2)
    assert inside.any() and (inside | (got == 0).all(2)).all()
    if fit == "crop":
        assert inside.all()


def test_cropping_keeps_the_middle():
    """Of a wide picture with red ends the middle square stays."""
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, :14], pixels[:, 46:], pixels[:, 14:46] = (255, 0, 0), (255, 0, 0), (0, 0, 255)
    for picture in (pixels, pixels.transpose(1, 0, 2)):
        assert (shown(Image.fromarray(picture)) == (0, 0, 255)).all()


def test_padding_keeps_every_pixel_in_the_middle():
    pixels = np.random.default_rng(0).integers(1, 256, (28, 28), dtype=np.uint8)  # as MNIST
    got = shown(Image.fromarray(pixels), 1, size=32, fit="pad")[..., 0]
    assert (got[2:30, 2:30] == pixels).all()
    assert got.sum(dtype=int) == pixels.sum(dtype=int)


def test_padding_shows_the_whole_of_a_large_picture():
    """A picture larger than the square is made smaller, not cut: its red ends stay."""
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, :10], pixels[:, 50:], pixels[:, 10:50] = (255, 0, 0), (255, 0, 0), (0, 0, 255)
    got = shown(Image.fromarray(pixels), fit="pad").astype(int)
    middle = got[SIZE // 2]
    assert middle[0, 0] > 150 and middle[-1, 0] > 150 and (got[0] == 0).all() and (got[-1] == 0).all()


def test_a_photograph_is_turned_the_way_its_camera_was_held():
    """EXIF orientation 6: the first row of the file is the right edge of the scene."""
    pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    pixels[: SIZE // 2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    got = fit_picture(decode(buffer), SIZE, 3, "crop").transpose(1, 2, 0)
    assert (got[:, SIZE // 2 :] == 255).all() and (got[:, : SIZE // 2] == 0).all()


def test_a_picture_of_the_right_size_is_not_touched():
    pixels = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    for fit in ("crop", "pad"):
        assert (shown(Image.fromarray(pixels), fit=fit) == pixels).all()


# What cannot be data


def test_a_missing_path_is_named(tmp_path):
    assert "does not exist" in refusal(settings_for(tmp_path / "nowhere"))
    assert "--data" in refusal(settings_for("nowhere-at-all"))


def test_an_empty_folder_is_named(tmp_path):
    assert "empty" in refusal(settings_for(tmp_path))
    (tmp_path / "inner").mkdir()
    assert "empty" in refusal(settings_for(tmp_path))


def test_a_file_is_not_a_folder(tmp_path):
    plain((1, 2, 3)).save(tmp_path / "one.png")
    assert "is a file" in refusal(settings_for(tmp_path / "one.png"))


def test_a_folder_without_pictures_is_named(tmp_path):
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    message = refusal(settings_for(tmp_path))
    assert "no picture column" in message and "a, b" in message


def test_a_folder_of_something_else_is_named(tmp_path):
    (tmp_path / "movie.xyz").write_bytes(b"\0" * 100)
    message = refusal(settings_for(tmp_path))
    assert str(tmp_path) in message and "it should hold pictures or parquet files" in message


def test_two_picture_columns_are_named(tmp_path):
    one = png(plain((1, 2, 3)))
    features = datasets.Features({"left": datasets.Image(), "right": datasets.Image()})
    datasets.Dataset.from_dict({"left": [one], "right": [one]}, features=features).to_parquet(tmp_path / "train.parquet")
    message = refusal(settings_for(tmp_path))
    assert "left" in message and "right" in message


def test_a_single_picture_is_too_few(tmp_path):
    fill(tmp_path, 1)
    assert "single" in refusal(settings_for(tmp_path))


def test_without_a_network_a_hub_name_does_not_hang():
    """A connection that is refused, and one that never answers: both end soon, with the data's name and the remedy."""
    started = time.monotonic()
    message = refusal(settings_for("nobody/no-such-data"))
    assert "--data" in message and "nobody/no-such-data" in message
    assert time.monotonic() - started < 60  # no promise of speed, but that it ends


def test_the_question_to_the_hub_is_brief(monkeypatch):
    asked = []

    def silent(address, timeout=None, **kwargs):
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent)
    refusal(settings_for("nobody/no-such-data"))
    assert asked and all(timeout is not None and timeout <= 10 for timeout in asked) and len(asked) <= 3


# Words, bytes, classes


@pytest.mark.parametrize(
    ("template", "label", "wanted"),
    [
        ("a photo of a {label}", "frog", "a photo of a frog"),
        ("a photo of a {label}", "airplane", "a photo of an airplane"),
        ("a {label}", "automobile", "an automobile"),
        ("{label}", "apple", "apple"),
        ("a handwritten {word}", "7", "a handwritten seven"),
        ("the number {label}", "7", "the number 7"),
        ("a {word}", "8", "an eight"),
        ("{word}", "10", "10"),
    ],
)
def test_labels_become_words(template, label, wanted):
    assert word(template, label) == wanted


def test_bytes_survive_the_trip_through_floats():
    values = torch.arange(256, dtype=torch.uint8)
    floats = to_float(values)
    assert floats.dtype == torch.float32 and floats[0] == -1 and floats[255] == 1
    assert torch.equal(to_bytes(floats), values)
    assert to_bytes(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]
    assert torch.equal(to_bytes(floats + 0.4 / 127.5), values)  # to the nearest, not downwards


def made_up(labels: list[int], kinds: int) -> Data:
    count = len(labels)
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    return Data(images, ["x"], torch.zeros(count, 1, dtype=torch.long), torch.tensor(labels)[:, None], {"kind": kinds})


def test_a_balanced_choice_has_as_many_of_each_class():
    data = made_up([0] * 100 + [1] * 20 + [2] * 30, 3)
    for count in (3, 10, 30, 60):
        chosen = balanced(data, count)
        counts = torch.bincount(chosen.attributes[:, 0], minlength=3)
        assert len(chosen) == count and counts.max() - counts.min() <= 1
        assert len(set(chosen.images.flatten().tolist())) == count  # no picture twice
        assert torch.equal(chosen.attributes, data.attributes[chosen.images.flatten().long()])
    assert torch.bincount(balanced(data, 90).attributes[:, 0]).tolist() == [40, 20, 30]  # a class that is used up
    assert torch.equal(balanced(data, 30).images, balanced(data, 30).images)
    assert not torch.equal(balanced(data, 30).images, balanced(data, 30, seed=1).images)


def test_a_choice_without_classes_is_a_random_one():
    data = dataclasses.replace(made_up([0] * 50, 1), attributes=None, classes={})
    chosen = balanced(data, 20).images.flatten().tolist()
    assert len(set(chosen)) == 20 and chosen != sorted(chosen)


def test_captions_are_among_the_wordings_and_follow_the_seed():
    data = Data(torch.zeros(200, 1, 1, 1), ["a", "b", "c"], torch.tensor([[0, 1], [1, 2]]).repeat(100, 1))
    said = data.captions()
    assert {*said[0::2]} == {"a", "b"} and {*said[1::2]} == {"b", "c"}
    assert said == data.captions(0) != data.captions(1)


# Shapes


def test_shapes_show_and_say_their_attributes():
    settings = Settings(limit=60)
    data = draw_shapes(60, shapes.HELD_OUT, settings, "test")
    assert data.images.shape == (60, 3, 32, 32) and data.classes == shapes.ATTRIBUTES
    pairs = {tuple(pair) for pair in data.attributes[:, 2:4].tolist()} | {tuple(p) for p in data.attributes[:, 4:6].tolist()}
    assert pairs - {(-1, -1)} <= set(shapes.HELD_OUT)
    for scene, row in zip(data.attributes.tolist(), data.wordings.tolist(), strict=True):
        assert [data.texts[place] for place in row] == [shapes.caption(scene, w) for w in range(shapes.WORDINGS)]


def test_shapes_depend_on_seed_and_purpose():
    settings = Settings(limit=50)
    first = draw_shapes(50, shapes.SEEN, settings, "train")
    assert torch.equal(first.images, draw_shapes(50, shapes.SEEN, settings, "train").images)
    for other in (draw_shapes(50, shapes.SEEN, settings, "test"), draw_shapes(50, shapes.SEEN, Settings(seed=1), "train")):
        assert not torch.equal(first.attributes, other.attributes)


def test_no_held_out_pair_is_ever_trained_on():
    train, test = load(Settings(limit=500))
    assert len(train) == 500
    for data in (train, test):
        both = torch.cat([data.attributes[:, 2:4], data.attributes[:, 4:6]]).tolist()
        assert not {tuple(pair) for pair in both} & set(shapes.HELD_OUT)


# Real data, where there are any


def real(name: str) -> Path:
    root = os.environ.get("MINILDM_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"set MINILDM_DATA to a folder that holds {name}/ to read the real data")
    return Path(root) / name


def test_mnist_is_complete_and_padded():
    _, settings = PRESETS["mnist"]
    settings = dataclasses.replace(settings, data=str(real("mnist")), limit=300)
    splits = open_dataset(settings.data)
    assert len(splits["train"]) == 60_000 and len(splits["test"]) == 10_000
    data = read_split(splits["train"], settings, settings.limit)
    assert data.images.shape == (300, 1, 32, 32) and data.classes == {"label": 10}
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert (data.images[:, 0, border] == 0).all() and data.images.max() == 255
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    for label, wording in zip(data.attributes[:, 0].tolist(), data.wordings.tolist(), strict=True):
        captions = [data.texts[place] for place in wording]
        assert captions[1] == f"the digit {digits[label]}" and str(label) in captions[2]


def test_cifar10_has_ten_classes_in_colour():
    _, settings = PRESETS["cifar10"]
    settings = dataclasses.replace(settings, data=str(real("cifar10")), limit=300)
    splits = open_dataset(settings.data)
    assert len(splits["train"]) == 50_000 and len(splits["test"]) == 10_000
    data = read_split(splits["train"], settings, settings.limit)
    assert data.images.shape == (300, 3, 32, 32) and list(data.classes.values()) == [10]
    assert {"a photo of an airplane", "a photo of a frog"} <= set(data.texts)


@pytest.mark.slow
def test_emoji_have_captions():
    _, settings = PRESETS["emoji"]
    settings = dataclasses.replace(settings, data=str(real("emoji")), limit=200)
    splits = open_dataset(settings.data)
    data = read_split(splits["train"], settings, settings.limit)
    assert data.images.shape == (200, 3, 64, 64) and data.attributes is None
    written = (real("emoji") / "train" / "metadata.jsonl").read_text("utf-8").splitlines()
    assert set(data.texts) <= {json.loads(line)["text"] for line in written} and "digit zero" in data.texts


# Streaming, and what both ways share


@pytest.mark.parametrize("split", [True, False])
def test_streamed_data_are_the_same_data(tmp_path, split):
    """Row by row onto a disk, or all at once into memory: the same pictures, captions and hold-out, in the same order."""
    names = ["cat", "dog"]
    write_parquet(tmp_path, [place % 2 for place in range(30)], names)
    if split:
        write_parquet(tmp_path, [1, 0, 1], names, "test")
    kept, streamed = (load(settings_for(tmp_path, stream=stream)) for stream in (False, True))
    for one, other in zip(kept, streamed, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.attributes, other.attributes)
        assert one.captions() == other.captions() and one.classes == other.classes
    assert fingerprint(*kept) == fingerprint(*streamed)


def test_streamed_folders_and_archives_are_read(tmp_path):
    names = fill(tmp_path / "folder", 12)
    describe(tmp_path / "folder", {name: f"number {place}" for place, name in enumerate(names)})
    (tmp_path / "archive").mkdir()
    with zipfile.ZipFile(tmp_path / "archive" / "pictures.zip", "w") as archive:
        for path in (tmp_path / "folder").iterdir():
            archive.write(path, path.name)
    wanted = [(colour_of(place), f"number {place}") for place in range(12)]
    for folder, stream in itertools.product(("folder", "archive"), (False, True)):
        train, test = load(settings_for(tmp_path / folder, stream=stream))
        assert sorted(seen(train) + seen(test)) == wanted, (folder, stream)


def test_a_limited_stream_reads_no_more_than_it_needs(tmp_path, monkeypatch):
    write_parquet(tmp_path, [0, 1] * 20, ["cat", "dog"])
    opened = []
    real = data_module.open_cell
    monkeypatch.setattr(data_module, "open_cell", lambda cell, name: (opened.append(1), real(cell, name))[1])
    train, test = load(settings_for(tmp_path, stream=True, limit=10))
    assert len(train) + len(test) == len(opened) == 10


def test_a_limited_stream_reads_no_more_of_the_test_pictures_either(tmp_path):
    describe(tmp_path / "train", dict.fromkeys(fill(tmp_path / "train", 9), "x"))
    describe(tmp_path / "test", dict.fromkeys(fill(tmp_path / "test", 8, 20), "x"))
    train, test = load(settings_for(tmp_path, stream=True, limit=5))
    assert (len(train), len(test)) == (5, 5)
    assert len(load(settings_for(tmp_path, stream=True, limit=5), 3)[1]) == 3


def test_streamed_pictures_leave_nothing_on_the_disk(tmp_path):
    """Their file has no name, so that not even a kill could leave it behind."""
    write_parquet(tmp_path, [0, 1] * 10, ["cat", "dog"])
    train, _ = load(settings_for(tmp_path, stream=True))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    assert len(train.images) == 18 and not [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]


def test_rows_that_break_off_are_named(tmp_path, monkeypatch):
    """As when the network goes in the middle of a stream."""
    write_parquet(tmp_path, [0, 1] * 10, ["cat", "dog"])
    split = open_dataset(str(tmp_path), stream=True)["train"]
    real = type(split).__iter__

    def breaking(self):
        for place, row in enumerate(real(self)):
            if place == 7:
                raise ConnectionError("the line is dead")
            yield row

    monkeypatch.setattr(type(split), "__iter__", breaking)
    with pytest.raises(UserError, match="break off after 7 rows .the line is dead"):
        read_split(split, settings_for(tmp_path, stream=True), 0)


@pytest.mark.parametrize(("size", "count"), [(10, 1), (10, 5), (10, 9), (2, 1), (37, 6)])
def test_what_is_held_out_is_not_trained_on_and_nothing_is_lost(size, count):
    def numbered() -> Data:
        places = torch.arange(size)
        images = places.to(torch.uint8)[:, None, None, None].clone()
        return Data(images, ["x"], places[:, None].clone(), places[:, None] * 2, {"kind": 2 * size})

    few_sets = []
    for seed in range(5):
        rest, few = hold_out(numbered(), count, seed)
        assert (len(rest), len(few)) == (size - count, count)
        for data in (rest, few):  # every row is still one row
            places = data.images.flatten().long()
            assert torch.equal(data.wordings[:, 0], places) and torch.equal(data.attributes[:, 0], 2 * places)
        together = sorted([*rest.images.flatten().tolist(), *few.images.flatten().tolist()])
        assert together == list(range(size))
        assert torch.equal(few.images, hold_out(numbered(), count, seed)[1].images)
        few_sets.append(frozenset(few.images.flatten().tolist()))
    assert len(set(few_sets)) > 1


def test_a_fingerprint_depends_on_every_picture_caption_and_place():
    base = made_up([0, 1, 2, 0], 3)
    again = made_up([0, 1, 2, 0], 3)
    assert fingerprint(base) == fingerprint(again) != fingerprint(base, base)
    images, wordings = base.images.clone(), base.wordings.clone()
    images[2] += 1
    for other in (
        dataclasses.replace(base, images=images),
        dataclasses.replace(base, images=base.images.flip(0)),
        dataclasses.replace(base, texts=["y"]),
        dataclasses.replace(base, texts=["x", "z"], wordings=wordings + 1),
        base.select(slice(3)),
    ):
        assert fingerprint(other) != fingerprint(base)
    assert fingerprint(base.select(slice(2)), base.select(slice(2, 4))) != fingerprint(base)
    fingerprint(dataclasses.replace(base, texts=["\ud800"]))


def test_floating_point_pictures_are_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="floating-point"):
        fit_picture(decode(buffer), SIZE, 3, "crop")
