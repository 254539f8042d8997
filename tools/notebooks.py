"""The chapters as data: their cells, equations, outputs and names. Reads JSON, runs nothing."""

import ast
import dataclasses
import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
CHAPTERS = ROOT / "chapters"
# The modules that each chapter derives, in the order of the book.
MODULES = {
    "01": ("information", "gaussian"),
    "02": ("families",),
    "03": ("elbo",),
    "04": ("vae",),
    "05": ("hvae",),
    "06": ("schedule",),
    "07": ("posterior",),
    "08": ("objectives",),
    "09": ("attention", "unet"),
    "10": ("ddpm",),
    "11": ("samplers",),
    "12": ("conditioning", "guidance"),
    "13": ("tokenizer", "text"),
    "14": ("clip",),
    "15": ("rate", "quantise", "autoencoder", "perception"),
    "16": ("latent", "ldm", "conditions"),
    "21": ("sizes", "fields", "foreign", "layout", "names", "interop"),
}
TAG = re.compile(r"\\tag\{(\d\d\.\d+)\}")
DISPLAY = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Chapter:
    """One notebook.

    Attributes:
        name: as in `03_elbo`.
        cells: as in the file.
    """

    name: str
    cells: list[dict]

    @property
    def number(self) -> str:
        return self.name[:2]

    @property
    def title(self) -> str:
        """The first heading, without its mark."""
        return next(line.removeprefix("# ") for line in self.prose.splitlines() if line.startswith("# "))

    @property
    def code(self) -> list[dict]:
        return [cell for cell in self.cells if cell["cell_type"] == "code"]

    @property
    def prose(self) -> str:
        """All markdown cells, joined."""
        return "\n\n".join(text(cell["source"]) for cell in self.cells if cell["cell_type"] == "markdown")

    def equations(self) -> dict[str, str]:
        """The tagged display equations, number to LaTeX without the tag.

        Raises ValueError for a number that is given twice, a tag outside a display equation, or another chapter's number.
        """
        found: dict[str, str] = {}
        for equation in DISPLAY.findall(self.prose):
            tags = TAG.findall(equation)
            if len(tags) > 1:
                raise ValueError(f"{self.name}: one display equation carries the tags {', '.join(tags)}: give each its own")
            for number in tags:
                if number in found:
                    raise ValueError(f"{self.name}: equation {number} stands there twice")
                if not number.startswith(self.number):
                    raise ValueError(f"{self.name}: equation {number} has another chapter's number")
                found[number] = " ".join(TAG.sub("", equation).split())
        strays = set(TAG.findall(self.prose)) - found.keys()
        if strays:
            raise ValueError(f"{self.name}: tags outside of $$…$$: {', '.join(sorted(strays))}")
        return found

    def outputs(self) -> list[tuple[int, dict]]:
        """Every saved output with the place of its cell among the code cells."""
        return [(place, output) for place, cell in enumerate(self.code) for output in cell["outputs"]]

    def pictures(self) -> int:
        return sum("image/png" in output.get("data", {}) for _, output in self.outputs())

    def tree(self, cell: dict) -> ast.Module:
        """A code cell's syntax; lines of magic are left out."""
        lines = text(cell["source"]).splitlines()
        return ast.parse("\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines))


def text(source: str | list[str]) -> str:
    """A cell's source; the format allows a list of lines."""
    return source if isinstance(source, str) else "".join(source)


def chapters() -> list[Chapter]:
    """All chapters, in order."""
    paths = sorted(CHAPTERS.glob("[0-9][0-9]_*.ipynb"))
    return [Chapter(path.stem, json.loads(path.read_text("utf-8"))["cells"]) for path in paths]
