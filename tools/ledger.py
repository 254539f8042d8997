"""The equation ledger: every numbered equation, the function that implements it, the tests that confirm it.

    python tools/ledger.py        writes EQUATIONS.md

The chapters carry the equations (`\\tag{03.5}`), docstrings name those they implement ("Eq. (03.5)"), tests those they confirm
(`@pytest.mark.equation("03.5")`). `tests/test_equations.py` holds the three together.
"""

import ast
import dataclasses
import functools
import re
from collections.abc import Iterator

from notebooks import ROOT, chapters

LEDGER = ROOT / "EQUATIONS.md"
NAMED = re.compile(r"Eq\. \((\d\d\.\d+)\)")
SOURCE = re.compile(r"Source: (.+?)(?:\n\s*\n|\Z)", re.DOTALL)
DERIVED = "derived in the chapter"
HEAD = """# The equation ledger

Made by `python tools/ledger.py` from the chapters, the docstrings and the tests. `make check` fails when this page is out of
date, when an equation has no function or no test, and when a test does not notice that the function's result is off by 1%, has
the wrong sign, or stands one place off.
"""


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A function, method or class whose docstring names equations.

    Attributes:
        path: of the file, from the root.
        name: qualified, as in `Gaussian.kl`.
        numbers: of the equations.
        source: where it comes from, as the docstring has it.
    """

    path: str
    name: str
    numbers: tuple[str, ...]
    source: str


def documented(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Qualified name and docstring of everything in a file that has one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = prefix + node.name
            yield name, ast.get_docstring(node) or ""
            yield from documented(node, f"{name}.")


@functools.cache
def implementations() -> list[Implementation]:
    """All of the package, module by module."""
    found = []
    for path in sorted((ROOT / "minildm").rglob("*.py")):
        for name, doc in documented(ast.parse(path.read_text("utf-8"))):
            if numbers := tuple(NAMED.findall(doc)):
                source = SOURCE.search(doc)
                words = " ".join(source[1].split()) if source else DERIVED
                found.append(Implementation(path.relative_to(ROOT).as_posix(), name, numbers, words))
    return found


def confirmations() -> dict[str, list[str]]:
    """For each equation the tests that say they confirm it, as `tests/test_elbo.py::test_name`."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for mark in getattr(node, "decorator_list", ()):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.equation":
                    for number in mark.args:
                        found.setdefault(ast.literal_eval(number), []).append(f"tests/{path.name}::{node.name}")
    return found


def render() -> str:
    """The ledger as Markdown."""
    implemented: dict[str, list[Implementation]] = {}
    for item in implementations():
        for number in item.numbers:
            implemented.setdefault(number, []).append(item)
    confirmed = confirmations()
    lines = [HEAD]
    for chapter in chapters():
        equations = chapter.equations()
        if not equations:
            continue
        lines += [f"## [{chapter.title}](chapters/{chapter.name}.ipynb)", ""]
        lines += ["| | equation | implemented by | confirmed by | reference |", "|---|---|---|---|---|"]
        for number, latex in equations.items():
            items = implemented.get(number, [])
            functions = "<br>".join(f"[`{item.name}`]({item.path})" for item in items)
            tests = "<br>".join(f"[`{name.split('::')[1]}`]({name.split('::')[0]})" for name in confirmed.get(number, []))
            sources = "; ".join(dict.fromkeys(item.source for item in items))
            latex = latex.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
            lines.append(f"| {number} | ${latex}$ | {functions} | {tests} | {sources} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    LEDGER.write_text(render(), "utf-8")
    print(f"{LEDGER.name}: {sum(len(chapter.equations()) for chapter in chapters())} equations")
