"""Writes the README's table of chapters: seconds, equations, exercises, wrong answers, mutants, all counted or measured.

    python tools/readme_table.py

Seconds are those of the last `python tools/run_chapters.py`, mutants those of the last `python tools/mutants.py`; the rest is
counted now. A test fails when the README's counts are out of date.
"""

import ast
import json
import re

import ledger
from notebooks import CHAPTERS, MODULES, ROOT, Chapter, chapters

BEGIN, END = "<!-- chapters: tools/readme_table.py -->", "<!-- end of chapters -->"
README = ROOT / "README.md"


def functions(path) -> list[str]:
    """The public functions at the top of a file."""
    names = [node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef)]
    return [name for name in names if not name.startswith("_")]


def row(chapter: Chapter, confirmed: set[str], seconds: dict[str, float], killed: dict[str, dict]) -> str:
    """One chapter's line of the table."""
    equations, stem = chapter.equations(), f"ch{chapter.name}.py"
    exercises, wrong = functions(ROOT / "exercises" / stem), functions(ROOT / "tests" / "wrong_answers" / stem)
    modules, mutants = MODULES[chapter.number], "–"
    if killed.keys() >= set(modules):
        results = [killed[module] for module in modules]
        dead, equivalent, total = (
            sum(result["killed"] for result in results),
            sum(len(result["equivalent"]) for result in results),
            sum(result["mutants"] for result in results),
        )
        mutants = f"{dead} of {total - equivalent}"
    took = f"{seconds[chapter.name]:.0f} s" if chapter.name in seconds else "–"
    counts = f"{len(confirmed & equations.keys())} of {len(equations)} | {len(exercises)} | {len(wrong)}"
    return f"| [{chapter.title}](chapters/{chapter.name}.ipynb) | {took} | {counts} | {mutants} |"


def table() -> str:
    """The whole of it, between its marks."""
    times, mutants = CHAPTERS / "times.json", ROOT / "benchmarks" / "mutants.json"
    seconds = json.loads(times.read_text("utf-8")) if times.exists() else {}
    killed = json.loads(mutants.read_text("utf-8")) if mutants.exists() else {}
    confirmed = set(ledger.confirmations())
    lines = [
        "| chapter | runs in | equations confirmed | exercises | wrong answers, each rejected | mutants killed |",
        "|---|---|---|---|---|---|",
    ]
    lines += [row(chapter, confirmed, seconds, killed) for chapter in chapters()]
    return "\n".join([BEGIN, *lines, END])


def main() -> None:
    text = README.read_text("utf-8")
    README.write_text(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: table(), text, flags=re.DOTALL), "utf-8")
    print(table())


if __name__ == "__main__":
    main()
