"""Pictures, captions and attributes, from `shapes` or from anything that the `datasets` library opens."""

import contextlib
import dataclasses
import hashlib
import io
import mmap
import re
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from minildm.engine import shapes
from minildm.engine.errors import UserError
from minildm.engine.pictures import decode, fit_picture
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded
from minildm.engine.sources import open_cell, open_dataset, rows_of, scratch_file

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = {"train", "test", "validation", "valid", "val"}  # folders of pictures with these names hold splits, not classes
TEST_SHAPES = 4000
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

    def select(self, places: Tensor | slice) -> "Data":
        """The pictures at these places."""
        attributes = None if self.attributes is None else self.attributes[places]
        return dataclasses.replace(self, images=self.images[places], wordings=self.wordings[places], attributes=attributes)

    def captions(self, seed: int = 0) -> list[str]:
        """One caption for each picture, its wording drawn with the seed."""
        choice = torch.randint(self.wordings.shape[1], (len(self),), generator=seeded(seed, "wording"))
        return [self.texts[place] for place in self.wordings[torch.arange(len(self)), choice].tolist()]


def fingerprint(*sets: Data) -> str:
    """A hash of all pictures and captions: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for data in sets:
        digest.update(repr((tuple(data.images.shape), data.texts)).encode("utf-8", "surrogatepass"))
        for tensor in (data.images, data.wordings):
            digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
    return digest.hexdigest()


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


def load(settings: Settings, test: int = 0) -> tuple[Data, Data]:
    """Training and test pictures.

    Args:
        test: of a test split, how many pictures are read at most (0: all).

    Raises:
        UserError: data that are missing, empty, or have no pictures.
    """
    if settings.data == "shapes":
        count = settings.limit or 40000
        train = draw_shapes(count, shapes.SEEN, settings, "train")
        return train, draw_shapes(TEST_SHAPES, shapes.SEEN, settings, "test")
    splits = open_dataset(settings.data, settings.stream)
    train = read_split(splits["train"], settings, settings.limit)
    if "test" in splits:
        return train, read_split(splits["test"], settings, test or (settings.limit if settings.stream else 0))
    if len(train) < 2:
        limited = " that --limit leaves" if settings.limit == 1 else ""
        raise UserError(f"data {settings.data!r} hold a single picture{limited}: give at least 2")
    return hold_out(train, min(SMALLEST_TEST, max(1, len(train) // 10)), settings.seed)


def hold_out(data: Data, count: int, seed: int) -> tuple[Data, Data]:
    """All but `count` pictures, and those, chosen at random.

    The pictures may be on disk: instead of copying the many, the last ones move, in place, to where the few were.
    """
    chosen = torch.randperm(len(data), generator=seeded(seed, "split"))[:count]
    few, rest = data.select(chosen), len(data) - count
    among_last = torch.zeros(count, dtype=torch.bool)
    among_last[chosen[chosen >= rest] - rest] = True
    free, movers = chosen[chosen < rest], rest + torch.nonzero(~among_last)[:, 0]
    for tensor in (data.images, data.wordings, data.attributes):
        if tensor is not None:
            tensor[free] = tensor[movers]
    return data.select(slice(rest)), few


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


def read_split(split: Any, settings: Settings, limit: int) -> Data:
    """Decode a split's pictures and word its captions. Pictures that cannot be read are skipped, counted and named.

    Raises:
        UserError: no picture column, or several; captions that are no text; more than half of the pictures broken; none left.
    """
    image, label, text = columns_of(split, settings.data)
    size, channels = settings.model.image_size, settings.model.autoencoder.image_channels
    names = split.features[label].names if label else []
    labels, places, captions = [], [], {}
    broken, examples = 0, []
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # Pillow's, on pictures that are odd but can be read
        file = stack.enter_context(scratch_file()) if settings.stream else io.BytesIO()
        wanted = [column for column in (image, label, text) if column]
        for row in rows_of(split, wanted, image, limit, settings.data):
            cell = row[image]
            try:
                with open_cell(cell, settings.data) as source:
                    picture = fit_picture(decode(source), size, channels, settings.fit)
            except Exception as error:  # Pillow's decoders raise many types; each means that this picture cannot be read
                broken += 1
                if len(examples) < 5:
                    path = (cell or {}).get("path") or f"row {len(places) + broken - 1}"
                    examples.append(f"{path} ({' '.join(str(error).split())})")
                continue
            file.write(picture)
            labels.append(-1 if label is None or row[label] is None else row[label])
            places.append(captions.setdefault((text and row[text]) or "", len(captions)))
        count = len(places)
        if broken > count:
            raise UserError(
                f"data {settings.data!r}: {broken} of {broken + count} pictures cannot be read, first {examples[0]}: mend them"
            )
        if not count:
            raise UserError(f"data {settings.data!r} hold no pictures: name a folder that does")
        file.flush()
        bytes_ = mmap.mmap(file.fileno(), 0) if settings.stream else file.getbuffer()
    images = torch.frombuffer(bytes_, dtype=torch.uint8).view(count, channels, size, size)
    if broken:
        what = "1 picture was" if broken == 1 else f"{broken} pictures were"
        warnings.warn(f"{what} skipped: {'; '.join(examples)}{' …' if broken > 5 else ''}", stacklevel=2)
    labels, texts, wordings = torch.tensor(labels).clamp(min=-1), list(captions), torch.tensor(places)[:, None]
    if names and int(labels.max()) >= len(names):
        beyond = f"label {int(labels.max())} in column {label!r}, which names {len(names)} classes"
        raise UserError(f"data {settings.data!r} have {beyond}: mend the labels, or name the class")
    classes: dict[str, Any] = {}
    if (labels >= 0).any() and not SPLITS.issuperset(names):
        classes = {"attributes": labels[:, None], "classes": {label: len(names)}}
    if classes and text not in ("text", "caption"):  # a lone column of strings may be names of files
        texts, by_label = number_texts(
            [*([word(template, name) for template in settings.templates] for name in names), [""] * len(settings.templates)]
        )  # the last row, −1, is for pictures without a label
        return Data(images, texts, by_label[labels], **classes)
    without = int((wordings == captions.get("", -1)).sum())
    if without:
        warnings.warn(f"{without} of {count} pictures have no caption: they are learned as the empty prompt's", stacklevel=2)
    return Data(images, texts, wordings, **classes)


def columns_of(split: Any, name: str) -> tuple[str, str | None, str | None]:
    """The names of the picture column, of the label column and of the caption column, found by their types.

    Raises:
        UserError: no picture column, or several; a column of captions that are no text.
    """
    import datasets

    features = split.features or {}
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [column for column, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    texts = [column for column, kind in features.items() if getattr(kind, "dtype", None) in ("string", "large_string")]
    if len(images) != 1:
        found = f"{len(images)} picture columns ({', '.join(images)})" if images else "no picture column"
        raise UserError(f"data {name!r} have {found}, columns {', '.join(features)}: exactly one is needed")
    for column in ("text", "caption"):
        if column in features and column not in texts:
            raise UserError(f"data {name!r}: column {column!r} holds {features[column]}, not text: write captions as strings")
    text = next((column for column in ("text", "caption") if column in texts), texts[0] if len(texts) == 1 else None)
    return images[0], labels[0] if labels else None, text


def word(template: str, label: str) -> str:
    """Fill a template: "a photo of a {label}" and "airplane" make "a photo of an airplane"."""
    spelled = DIGITS[int(label)] if label in map(str, range(10)) else label
    return re.sub(r"\ba (?=[aeiou])", "an ", template.replace("{word}", spelled).replace("{label}", label))
