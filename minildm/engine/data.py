"""Pictures, captions and attributes, from `shapes` or from anything that the `datasets` library opens."""

import contextlib
import dataclasses
import io
import os
import re
import socket
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from minildm.engine import shapes
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train", "test", "validation", "valid", "val"}  # folders of pictures with these names hold splits, not classes
LARGEST_PIXELS = 64_000_000  # a larger picture is refused before it is decoded
SMALLEST_TEST = 500  # pictures kept aside where the data have no test split (or a tenth, if that is fewer)


@dataclasses.dataclass(frozen=True)
class Data:
    """A set of pictures in memory.

    Attributes:
        images: N×C×H×W, uint8.
        texts: the distinct captions.
        wordings: N×W, places in `texts`: the captions that picture i may be shown with.
        attributes: N×A, what a judge should read off each picture (−1: not applicable), or None.
        classes: for each attribute its name and how many values it has.
    """

    images: Tensor
    texts: list[str]
    wordings: Tensor
    attributes: Tensor | None = None
    classes: dict[str, int] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def select(self, places: Tensor) -> "Data":
        """The pictures at these places."""
        attributes = None if self.attributes is None else self.attributes[places]
        return dataclasses.replace(self, images=self.images[places], wordings=self.wordings[places], attributes=attributes)

    def captions(self, seed: int = 0) -> list[str]:
        """One caption for each picture, its wording drawn with the seed."""
        choice = torch.randint(self.wordings.shape[1], (len(self),), generator=seeded(seed, "wording"))
        return [self.texts[place] for place in self.wordings[torch.arange(len(self)), choice].tolist()]


def balanced(data: Data, count: int, seed: int = 0) -> Data:
    """`count` pictures, as many of each class as of any other where there is a single class attribute."""
    order = torch.randperm(len(data), generator=seeded(seed, "balanced"))
    if data.attributes is None or data.attributes.shape[1] != 1:
        return data.select(order[:count])
    labels, kinds = data.attributes[order, 0], next(iter(data.classes.values()))
    turn = torch.zeros(len(order), dtype=torch.long)  # the how-maniest of its class each picture is
    for kind in range(kinds):
        of_kind = labels == kind
        turn[of_kind] = torch.arange(int(of_kind.sum()))
    return data.select(order[torch.argsort(turn * kinds + labels, stable=True)[:count]])


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 → float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] → uint8 0..255."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def load(settings: Settings) -> tuple[Data, Data]:
    """Training and test pictures.

    Raises:
        UserError: data that are missing, empty, or have no pictures.
    """
    if settings.data == "shapes":
        count = settings.limit or 40000
        train = draw_shapes(count, shapes.SEEN, settings, "train")
        return train, draw_shapes(4000, shapes.SEEN, settings, "test")
    splits = open_dataset(settings.data)
    train = read_split(splits["train"], settings, settings.limit)
    if "test" in splits:
        return train, read_split(splits["test"], settings, 0)
    order = torch.randperm(len(train), generator=seeded(settings.seed, "split"))
    kept = min(SMALLEST_TEST, max(1, len(train) // 10))
    if len(train) < 2:
        raise UserError(f"data {settings.data!r} hold a single picture: give at least 2")
    return train.select(order[kept:]), train.select(order[:kept])


def draw_shapes(count: int, pairs: Iterable[tuple[int, int]], settings: Settings, purpose: str) -> Data:
    """`count` fresh scenes whose objects have these shape-colour pairs, rendered and captioned."""
    generator = seeded(settings.seed, "shapes", purpose)
    scenes = shapes.sample_scenes(count, tuple(pairs), generator)
    images = torch.cat([shapes.render(some, generator, settings.model.image_size) for some in scenes.split(2000)])
    distinct, which = scenes.unique(dim=0, return_inverse=True)
    captions = [[shapes.caption(scene, wording) for wording in range(shapes.WORDINGS)] for scene in distinct.tolist()]
    texts, wordings = number_texts(captions)
    return Data(images, texts, wordings[which], scenes, shapes.ATTRIBUTES)


def number_texts(captions: list[list[str]]) -> tuple[list[str], Tensor]:
    """Captions N×W as numbers into the list of distinct ones."""
    places: dict[str, int] = {}
    numbers = [[places.setdefault(text, len(places)) for text in row] for row in captions]
    return list(places), torch.tensor(numbers)


def located(name: str) -> str:
    """The name to store in a run: a folder by its absolute path, so that the run can be judged from anywhere."""
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name != "shapes" and folder.exists() else name


def open_dataset(name: str) -> Any:
    """The splits of a data set, by hub name or folder, pictures not yet decoded.

    Raises:
        UserError: nothing there, nothing in it, or no network and no copy on this machine.
    """
    with quiet():
        import datasets

        folder = Path(name).expanduser()
        if folder.exists():
            if folder.is_file() or not any(path.is_file() for path in folder.rglob("*")):
                what = "a file" if folder.is_file() else "an empty folder"
                raise UserError(f"data {name!r} is {what}: name a folder of pictures or parquet files")
        elif name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise UserError(
                f"data {name!r} does not exist: name a folder with --data DIR, or a data set on the hub such as ylecun/mnist"
            )
        elif not hub_answers():
            datasets.config.HF_HUB_OFFLINE = True
        try:
            splits = datasets.load_dataset(str(folder) if folder.exists() else name)
        except Exception as error:  # datasets raises many types; each means that these data cannot be had
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if folder.exists():
                raise UserError(f"data {name!r} cannot be read ({reason}): it should hold pictures or parquet files") from error
            raise UserError(
                f"data {name!r} are not on this machine and the hub gave none: get a copy and name it with --data DIR"
            ) from error
    if "train" not in splits:
        splits = datasets.DatasetDict({"train": splits[next(iter(splits))]})
    return splits


def hub_answers(seconds: float = 3.0) -> bool:
    """Whether the hub can be reached, asked once and briefly, so that nothing hangs without a network."""
    from huggingface_hub import constants

    address = urlparse(constants.ENDPOINT)
    try:
        with socket.create_connection((address.hostname, address.port or 443), timeout=seconds):
            return True
    except OSError:
        return False


def read_split(split: Any, settings: Settings, limit: int) -> Data:
    """Decode a split's pictures and word its captions. Pictures that cannot be read are skipped, counted and named.

    Raises:
        UserError: no picture column, or several; more than half of the pictures broken; nothing left.
    """
    import datasets

    images_in = [name for name, kind in split.features.items() if isinstance(kind, datasets.Image)]
    labels_in = [name for name, kind in split.features.items() if isinstance(kind, datasets.ClassLabel)]
    texts_in = [name for name, kind in split.features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    if len(images_in) != 1:
        found = f"{len(images_in)} picture columns ({', '.join(images_in)})" if images_in else "no picture column"
        raise UserError(f"data {settings.data!r} have {found}, columns {', '.join(split.column_names)}: exactly one is needed")
    text_in = next((name for name in ("text", "caption") if name in texts_in), texts_in[0] if len(texts_in) == 1 else None)
    rows = split.select(range(min(limit, len(split)))) if limit else split
    cells = rows.cast_column(images_in[0], datasets.Image(decode=False)).with_format("arrow")[:]
    kept, pictures, broken = [], [], []
    size, channels = settings.model.image_size, settings.model.autoencoder.image_channels
    for place, cell in enumerate(cells[images_in[0]].to_pylist()):
        try:
            pictures.append(fit_picture(decode(cell), size, channels, settings.fit))
            kept.append(place)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            broken.append(f"{(cell or {}).get('path') or f'row {place}'} ({error})")
    if len(broken) > len(pictures):
        raise UserError(
            f"data {settings.data!r}: {len(broken)} of {len(broken) + len(pictures)} pictures cannot be read, first {broken[0]}"
        )
    if not pictures:
        raise UserError(f"data {settings.data!r} hold no pictures: name a folder that does")
    if broken:
        warnings.warn(f"{len(broken)} pictures were skipped: {'; '.join(broken[:5])}", stacklevel=2)
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    labels = cells[labels_in[0]].to_pylist() if labels_in else []
    labels = torch.tensor([-1 if label is None else label for label in labels])
    names = split.features[labels_in[0]].names if labels_in else []
    classes: dict[str, Any] = {}
    if (labels >= 0).any() and not SPLITS.issuperset(names):
        labels = labels[kept]
        classes = {"attributes": labels[:, None], "classes": {labels_in[0]: len(names)}}
    if classes and text_in not in ("text", "caption"):  # a lone column of strings may be names of files
        texts, by_label = number_texts(
            [*([word(template, name) for template in settings.templates] for name in names), [""] * len(settings.templates)]
        )  # the last row, −1, is for pictures without a label
        return Data(images, texts, by_label[labels], **classes)
    captions = cells[text_in].to_pylist() if text_in else [""] * len(cells)
    texts, wordings = number_texts([[captions[place] or ""] for place in kept])
    return Data(images, texts, wordings, **classes)


def word(template: str, label: str) -> str:
    """Fill a template: "a photo of a {label}" and "airplane" make "a photo of an airplane"."""
    spelled = DIGITS[int(label)] if label in map(str, range(10)) else label
    return re.sub(r"\ba (?=[aeiou])", "an ", template.format(label=label, word=spelled))


def decode(cell: dict | None) -> Image.Image:
    """The picture in a cell of an undecoded column: its bytes, or the file it names."""
    if cell is None:
        raise ValueError("no picture in this row")
    source = io.BytesIO(cell["bytes"]) if cell["bytes"] is not None else cell["path"]
    picture = Image.open(source)
    if picture.width * picture.height > LARGEST_PIXELS:
        raise ValueError(f"{picture.width}×{picture.height} is more than {LARGEST_PIXELS} pixels")
    return ImageOps.exif_transpose(picture)


def fit_picture(picture: Image.Image, size: int, channels: int, fit: str) -> np.ndarray:
    """Any picture as size×size×channels bytes: transparency on white, then cut and resized, or padded with black."""
    if picture.mode.startswith("I;16") or picture.mode == "I":  # 16 bits a pixel
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    picture = picture.convert("L" if channels == 1 else "RGB")
    if fit == "pad":
        picture.thumbnail((size, size), Image.Resampling.LANCZOS)  # only ever makes smaller
        padded = Image.new(picture.mode, (size, size))
        padded.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
        picture = padded
    elif picture.size != (size, size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.resize((size, size), Image.Resampling.LANCZOS, (left, top, left + side, top + side))
    return np.asarray(picture).reshape(size, size, channels)


@contextlib.contextmanager
def quiet() -> Iterable[None]:
    """Load `datasets` without its progress bars and start-up chatter."""
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    yield
