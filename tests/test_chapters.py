"""What every saved chapter must have, and must not have. The cells themselves run in `make test`, through nbval."""

import ast
import functools
import json
import re

import pytest
import readme_table
from notebooks import CHAPTERS, ROOT, Chapter, chapters, text

from minildm.engine.book import STAND_IN, show_source

ALL = chapters()
EACH = pytest.mark.parametrize("chapter", ALL, ids=lambda chapter: chapter.name)
HEADINGS = ("Where we are", "What goes wrong", "Exercises", "Summary")
LONGEST_HELPER = 10


@functools.cache
def public_names() -> set[str]:
    """Everything that a module of the book defines at its top and does not hide."""
    names = set()
    for path in (ROOT / "minildm").glob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def defined(tree: ast.AST) -> set[str]:
    """Every name that a cell binds, imports aside."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return names | {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def faults(chapter: Chapter) -> list[str]:
    """What is wrong with a chapter, one line each."""
    found, prose, code = [], chapter.prose, "\n".join(text(cell["source"]) for cell in chapter.code)
    headings = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    for wanted in HEADINGS:
        if not any(wanted in heading for heading in headings):
            found.append(f"no section {wanted!r}")
    if not chapter.equations():
        found.append("no derivation: no equation has a number")
    if "show_source(" not in code:
        found.append("no code is shown with show_source")
    if "assert" not in code and "NBVAL_CHECK_OUTPUT" not in code:
        found.append("no check: nothing is asserted or compared")
    if not chapter.pictures():
        found.append("no picture among the saved outputs")
    for page in ("notation.md", "glossary.md"):
        if f"../docs/{page}" not in prose:
            found.append(f"no link to ../docs/{page}")
    wanted = list(range(1, len(chapter.code) + 1))
    if [cell["execution_count"] for cell in chapter.code] != wanted:
        found.append("saved out of execution order: run it from the top and save")
    for place, output in chapter.outputs():
        words = json.dumps(output)
        if output["output_type"] == "error":
            found.append(f"an error in the output of code cell {place + 1}")
        if output.get("name") == "stderr" or re.search(r"\w*Warning\b", words):
            found.append(f"a warning in the output of code cell {place + 1}")
        if re.search(r"(?<![\w.])/(home|root|tmp|work|usr|Users)/", words):
            found.append(f"a machine's path in the output of code cell {place + 1}")
        if STAND_IN in words:
            found.append(f"code cell {place + 1} was saved without data: name their folder with MINILDM_DATA")
    for place, cell in enumerate(chapter.code):
        tree = chapter.tree(cell)
        for name in sorted(defined(tree) & public_names()):
            found.append(f"code cell {place + 1} redefines {name}, which minildm exports: import it, or take another name")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST_HELPER:
                found.append(f"{node.name} in code cell {place + 1} is longer than {LONGEST_HELPER} lines: move it to a module")
    return found


@EACH
def test_a_chapter_is_whole(chapter):
    assert faults(chapter) == []


@EACH
def test_what_a_chapter_names_exists(chapter):
    """Files that it links to, and exercises that it points to."""
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", chapter.prose):
        assert (CHAPTERS / target).exists(), target
    stubs = ROOT / "exercises" / f"ch{chapter.name}.py"
    numbers = re.findall(r"ch\d\d\.\d+", stubs.read_text("utf-8"))
    named = set(re.findall(r"ch\d\d\.\d+", chapter.prose))
    assert named == set(numbers), "the exercises that the chapter names and those that exist"


def imported(chapter: Chapter) -> dict:
    """What a chapter imports from minildm and from the benchmarks, by the names that it uses."""
    names: dict = {}
    for node in (node for cell in chapter.code for node in ast.walk(chapter.tree(cell))):
        ours = isinstance(node, ast.ImportFrom) and node.module.startswith("minildm")
        if ours or (isinstance(node, ast.Import) and (ROOT / "benchmarks" / f"{node.names[0].name}.py").exists()):
            exec(ast.unparse(node), names)
    return names


@EACH
def test_the_source_that_was_shown_is_the_source_now(chapter, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names, shown = imported(chapter), 0
    for cell in chapter.code:
        if found := re.fullmatch(r"show_source\((\w+)([\w.]*)\)", text(cell["source"]).strip()):
            thing = functools.reduce(getattr, found[2].split(".")[1:], names[found[1]])
            assert text(cell["outputs"][0]["data"]["text/markdown"]) == show_source(thing).data, found[0]
            shown += 1
    assert shown > 0


def test_the_tables_that_were_shown_are_the_tables_now():
    shown = 0
    for chapter in ALL:
        for cell in chapter.code:
            for page, first, last in re.findall(r'Markdown\(rows_between\("(.+?)", "(.+?)", "(.+?)"\)\)', text(cell["source"])):
                page = (ROOT / "chapters" / page).read_text("utf-8")
                begin = page.index(f"\n{first}") + 1
                wanted = page[begin : page.index("\n", page.index(f"\n{last}", begin) + 1)]
                assert text(cell["outputs"][0]["data"]["text/markdown"]) == wanted, f"{chapter.name}: run it anew"
                shown += 1
    assert shown > 0


def test_the_readme_counts_what_there_is():
    assert readme_table.table() in readme_table.README.read_text("utf-8"), "python tools/readme_table.py writes it anew"


def test_chapters_stand_in_the_order_of_the_book():
    numbers = [int(chapter.number) for chapter in ALL]
    assert numbers == sorted(set(numbers)) and numbers[:16] == [*range(1, 17)] and numbers[-1] <= 22


# The gate's own laws: a chapter that is whole, then one fault at a time


def example() -> dict:
    """A chapter without faults, as cells."""

    def code(source: str, count: int, outputs: tuple = ()) -> dict:
        return {"cell_type": "code", "source": [source], "execution_count": count, "outputs": list(outputs)}

    prose = "# 07\n\n## Where we are\n[n](../docs/notation.md) [g](../docs/glossary.md)\n$$a \\tag{07.1}$$\n"
    prose += "## What goes wrong\n## Exercises\n## Summary\n"
    picture = {"output_type": "display_data", "data": {"image/png": "AAAA", "text/plain": ["<Figure>"]}}
    return {
        "prose": {"cell_type": "markdown", "source": prose.splitlines(keepends=True)},
        "shown": code("from minildm.gaussian import Gaussian\nshow_source(Gaussian)", 1),
        "check": code("assert 1 + 1 == 2", 2, (picture,)),
    }


def broken(fault: str) -> dict:
    """The example with one fault."""
    cells = example()
    prose, check = cells["prose"], cells["check"]
    if fault == "redefines":
        check["source"] = ["def q_sample(x):\n    return x\n", "assert True"]
    elif fault == "redefines by assignment":
        check["source"] = ["posterior = 3\nassert True"]
    elif fault == "error":
        check["outputs"].append({"output_type": "error", "ename": "ValueError"})
    elif fault == "stderr":
        check["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["100%"]})
    elif fault == "warning":
        check["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["UserWarning: mind"]})
    elif fault == "path":
        check["outputs"].append({"output_type": "stream", "name": "stdout", "text": ["in /home/someone/x"]})
    elif fault == "stand-in":
        check["outputs"].append({"output_type": "stream", "name": "stdout", "text": [f"{STAND_IN}: 3"]})
    elif fault == "order":
        check["execution_count"] = 5
    elif fault == "not run":
        check["execution_count"] = None
    elif fault == "picture":
        check["outputs"].clear()
    elif fault == "shown":
        cells["shown"]["source"] = ["1"]
    elif fault == "check":
        check["source"] = ["print(3)"]
    elif fault == "equation":
        prose["source"] = [line for line in prose["source"] if "tag" not in line]
    elif fault == "glossary":
        prose["source"] = [line.replace("glossary", "glossar") for line in prose["source"]]
    elif fault == "long helper":
        check["source"] = ["def helper():\n" + "    x = 1\n" * LONGEST_HELPER + "assert True"]
    else:
        prose["source"] = [line for line in prose["source"] if fault not in line]
    return cells


def test_a_whole_chapter_has_no_faults():
    assert faults(Chapter("07_name", list(example().values()))) == []


FAULTS = (
    "redefines|redefines by assignment|error|stderr|warning|path|stand-in|order|not run|picture|shown|check|equation|glossary"
)


@pytest.mark.parametrize("fault", [*FAULTS.split("|"), "long helper", *HEADINGS])
def test_each_fault_is_found_and_no_other(fault):
    assert len(faults(Chapter("07_name", list(broken(fault).values())))) == 1
