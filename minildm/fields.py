"""A JSON file of somebody else's, read so that no field of it goes unnoticed (chapter 21)."""

from pathlib import Path
from typing import Any

from minildm.config import typed
from minildm.files import linked, read_json

REQUIRED = object()


class Fields:
    """A JSON file's fields, each of which must be accounted for, unless it is null or false or begins with an underscore.

    Args:
        path: of the file; what is missing, unknown or of another type is refused under its name.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.values = path, read_json(linked(path))
        off = (None, False)  # as objects: 0 is something else
        self.left = {name for name, value in self.values.items() if name[:1] != "_" and not any(value is each for each in off)}

    def read(self, name: str, kind: Any, default: Any = REQUIRED) -> Any:
        """A field's value, of the type of `kind`. Raises ValueError when it has another, or is missing and has no default."""
        self.left.discard(name)
        value = self.values.get(name, default)
        if value is REQUIRED:
            raise ValueError(f"{self.path} has no {name!r}: is it whole?")
        try:
            return typed(name, value, kind)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    def pick(self, name: str, choices: dict[str, Any], default: Any = REQUIRED) -> Any:
        """What one of our choices answers to a field's word. Raises ValueError for a word that has no answer."""
        word = self.read(name, str, default)
        if word not in choices:
            raise ValueError(f"{self.path}: {name}={word!r} is not in minildm, which has {', '.join(choices)}")
        return choices[word]

    def must(self, **only: Any) -> None:
        """Fields that our classes have no choice about; one that is missing has this value. Raises ValueError for another."""
        for name, wanted in only.items():
            self.left.discard(name)
            value = self.values.get(name, wanted)
            if value != wanted and not (isinstance(value, list) and value and all(entry == wanted for entry in value)):
                raise ValueError(f"{self.path}: {name}={value!r} is not in minildm, which has {wanted!r} only")

    def each(self, name: str, count: int, default: int) -> tuple[int, ...]:
        """A number for every level; a single one stands for all."""
        several = isinstance(self.values.get(name), list)
        value = self.read(name, tuple[int, ...] if several else int, default)
        return value if several else (value,) * count

    def one(self, name: str, default: int) -> int:
        """The same number for all levels. Raises ValueError when they differ."""
        values = set(self.each(name, 1, default))
        if len(values) != 1:
            raise ValueError(f"{self.path}: {name}={self.values[name]} differs from level to level, which minildm has not")
        return values.pop()

    def end(self, *idle: str) -> None:
        """Nothing else may be set, but what is `idle`: it changes nothing when pictures are drawn."""
        for name in sorted(self.left - {*idle}):
            raise ValueError(f"{self.path}: {name}={self.values[name]!r} is not in minildm: this is another architecture")
