"""Runs chapters from the top and saves them with their outputs; keeps how long each took.

    python tools/run_chapters.py [03 04 …]        by default all

A chapter that raises is not saved. Seconds go into chapters/times.json, from which tools/readme_table.py prints.
"""

import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from notebooks import CHAPTERS

TIMES = CHAPTERS / "times.json"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path) -> float:
    """Execute a notebook in place. Returns the seconds it took, the kernel's start included."""
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    seconds = time.monotonic() - start
    tidy(notebook)
    nbformat.write(notebook, path)
    return seconds


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Leave out what changes from machine to machine, so that a change in the file is a change in the chapter."""
    notebook.metadata = METADATA
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number:03d}", {}
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)


def joined(outputs: list) -> list:
    """Outputs with the pieces of one stream put together: where the kernel happened to cut them is chance."""
    whole = []
    for output in outputs:
        if whole and output.output_type == "stream" and whole[-1].get("name") == output.name:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if (path := os.environ.get("MINILDM_DATA")) is not None:
        os.environ["MINILDM_DATA"] = str(Path(path).resolve())
    wanted = sys.argv[1:] or [""]
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    for path in sorted(CHAPTERS.glob("[0-9][0-9]_*.ipynb")):
        if path.name.startswith(tuple(wanted)):
            times[path.stem] = round(run(path), 1)
            print(f"{path.stem}: {times[path.stem]} s", flush=True)
    TIMES.write_text(json.dumps(dict(sorted(times.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
