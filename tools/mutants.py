"""Mutation testing: change a module in one small place, and see whether a test notices.

    python tools/mutants.py elbo vae …            mutants of minildm/elbo.py, minildm/vae.py, …; by default all with a chapter
    python tools/mutants.py --list elbo           only print them

Every operator is replaced by its relative, every comparison turned, every number changed, every minus sign dropped, every
`dim` moved, every `and` made an `or`, one at a time. Each mutant is put in place of the module and the module's tests run until
one fails, the quickest first; then, if none did, the others of `make check` that import the module. Outcomes go into
benchmarks/mutants.json.
Survivors that are no mistakes are explained in tools/equivalent.json, by module, line and change.

A mutant runs in a process forked from one that has already imported what the tests need, which saves most of its time.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from notebooks import MODULES, ROOT

ALL = [module for modules in MODULES.values() for module in modules]
RESULTS, EXPLAINED = ROOT / "benchmarks" / "mutants.json", ROOT / "tools" / "equivalent.json"
BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Mod: ast.Mult,
}
COMPARE = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
PATIENCE = 30, 5  # seconds, and multiples of what the tests take, after which a mutant counts as noticed: it hangs


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """What may be changed in one node: a description, and the node in its place."""
    new = copy.deepcopy(node)
    if isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in BINARY:
        new.op = BINARY[type(node.op)]()
        yield f"{type(node.op).__name__} → {type(new.op).__name__}", new
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARE:
        new.ops[0] = COMPARE[type(node.ops[0])]()
        yield f"{type(node.ops[0]).__name__} → {type(new.ops[0]).__name__}", new
    elif isinstance(node, ast.BoolOp):
        new.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{type(node.op).__name__} → {type(new.op).__name__}", new
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield f"without {type(node.op).__name__}", node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield f"{node.value} → {not node.value}", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield f"{node.value} → {node.value + 1}", ast.Constant(node.value + 1)
        half = type(node.value)(node.value / 2)
        if half not in (0, node.value):
            yield f"{node.value} → {half}", ast.Constant(half)
    elif isinstance(node, ast.IfExp):
        new.body, new.orelse = new.orelse, new.body
        yield "branches swapped", new


def mutants(source: str) -> Iterator[tuple[str, str]]:
    """Every mutant of a module: what was changed where, and its source. Messages of errors and annotations are left alone."""
    tree = ast.parse(source)
    left_alone = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.JoinedStr):
            left_alone |= {id(inside) for inside in ast.walk(node)}
        for annotation in (getattr(node, "annotation", None), getattr(node, "returns", None)):
            if annotation is not None:
                left_alone |= {id(inside) for inside in ast.walk(annotation)}
    nodes = [node for node in ast.walk(tree) if id(node) not in left_alone]
    for parent in nodes:
        for field, value in ast.iter_fields(parent):
            for place, node in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(node, ast.AST) or id(node) in left_alone:
                    continue
                for what, new in changes(node):
                    put(parent, field, place, new)
                    line = source.splitlines()[getattr(node, "lineno", 1) - 1].strip()
                    yield f"{what}, column {getattr(node, 'col_offset', 0)}: {line}", ast.unparse(ast.fix_missing_locations(tree))
                    put(parent, field, place, node)


def put(parent: ast.AST, field: str, place: int, node: ast.AST) -> None:
    """Set one child of a node."""
    value = getattr(parent, field)
    if isinstance(value, list):
        value[place] = node
    else:
        setattr(parent, field, node)


class QuickestFirst:
    """Plugin of pytest: tests in the order of the seconds that they took when the module was as it is.

    What a slow fixture took counts for every test that asks for it.

    Args:
        notes: JSON with the seconds of each test and the packages that they imported; written where there is none.
    """

    def __init__(self, notes: Path) -> None:
        self.notes, self.known = notes, notes.exists()
        self.seconds = json.loads(notes.read_text("utf-8"))["seconds"] if self.known else {}
        self.fixtures: dict[str, set[str]] = {}

    def pytest_collection_modifyitems(self, items: list) -> None:
        self.fixtures = {item.nodeid: set(item.fixturenames) for item in items}
        items.sort(key=lambda item: self.seconds.get(item.nodeid, 0.0))

    def pytest_runtest_logreport(self, report: object) -> None:
        slow_fixture = report.when == "setup" and report.duration > 0.5
        mine = self.fixtures[report.nodeid]
        for nodeid in [other for other, names in self.fixtures.items() if mine <= names] if slow_fixture else [report.nodeid]:
            self.seconds[nodeid] = self.seconds.get(nodeid, 0.0) + report.duration

    def pytest_sessionfinish(self) -> None:
        if not self.known:
            files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
            packages = [name for name, file in files.items() if "site-packages" in file]
            self.notes.write_text(json.dumps({"seconds": self.seconds, "packages": packages}), "utf-8")


def imported(notes: Path) -> None:
    """Import what the tests needed, so that each mutant's process has it from the start."""
    for name in json.loads(notes.read_text("utf-8"))["packages"]:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def noticed(module: str, source: str, tests: list[str], notes: Path) -> bool:
    """Whether one of the tests fails with this source in the module's place. In a fork of this process.

    `notes`: of `QuickestFirst`.
    """
    child = os.fork()
    if child == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        outcome = 1
        try:
            import pytest
            import torch

            torch.set_num_threads(1)
            install(module, source)
            options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
            outcome = int(pytest.main([*options, *tests], [QuickestFirst(notes)]) != 0)
        finally:
            os._exit(outcome)
    usual = sum(json.loads(notes.read_text("utf-8"))["seconds"].values()) if notes.exists() else math.inf
    deadline = time.monotonic() + PATIENCE[0] + PATIENCE[1] * usual
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def install(module: str, source: str) -> None:
    """Make `import minildm.<module>` give this source, also to functions that show or read it."""
    import importlib.abc
    import importlib.util

    name, path = f"minildm.{module}", ROOT / "minildm" / f"{module}.py"

    class Loader(importlib.abc.Loader):
        def exec_module(self, target: object) -> None:
            exec(compile(source, str(path), "exec"), target.__dict__)

    class Finder(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, *_: object):
            if fullname == name:
                return importlib.util.spec_from_file_location(name, path, loader=Loader())
            return None

    sys.meta_path.insert(0, Finder())


def tests_of(module: str) -> list[list[str]]:
    """Files of tests, in the order in which they are tried: the module's own, then all others that import it. Where no test
    imports it, those of the modules that do.

    The gate of `test_equations.py` works in a process of its own, which would not see the mutant.
    """
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if path.name != "test_equations.py"]
    using = [f"tests/{path.name}" for path in files if f"minildm.{module} import" in path.read_text("utf-8")]
    own = f"tests/test_{module}.py"  # which not every module has: what tests a U-Net tests attention
    groups = [group for group in ([own] * (ROOT / own).exists(), [name for name in using if name != own]) if group]
    if groups:
        return groups
    above = [path for path in (ROOT / "minildm").glob("*.py") if f"minildm.{module} import" in path.read_text("utf-8")]
    return [group for path in sorted(above) for group in tests_of(path.stem)]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("modules", nargs="*", default=ALL)
    options.add_argument("--list", action="store_true")
    options.add_argument("--workers", type=int, default=os.cpu_count())
    chosen = options.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tools")]
    for name in ("pytest", "torch"):
        importlib.import_module(name)

    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    explained = json.loads(EXPLAINED.read_text("utf-8")) if EXPLAINED.exists() else {}
    for module in chosen.modules:
        all_of_them = list(mutants((ROOT / "minildm" / f"{module}.py").read_text("utf-8")))
        if chosen.list:
            print("\n".join(f"{module}: {what}" for what, _ in all_of_them))
            continue

        with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(chosen.workers) as pool:

            def survives(mutant: tuple[str, str], module: str = module, folder: str = folder) -> bool:
                groups = enumerate(tests_of(module))
                return not any(noticed(module, mutant[1], tests, Path(folder) / f"{group}.json") for group, tests in groups)

            assert survives(("", (ROOT / "minildm" / f"{module}.py").read_text("utf-8"))), f"{module}: its tests fail as it is"
            for group, _ in enumerate(tests_of(module)):
                imported(Path(folder) / f"{group}.json")
            alive = []
            for (what, _), survived in zip(all_of_them, pool.map(survives, all_of_them), strict=True):
                alive += [what] * survived
                print(f"{module}: {'ALIVE  ' if survived else 'noticed'} {what}", flush=True)
        reasons = explained.get(module, {})
        results[module] = {
            "mutants": len(all_of_them),
            "killed": len(all_of_them) - len(alive),
            "equivalent": {what: reasons[what] for what in alive if what in reasons},
            "survivors": [what for what in alive if what not in reasons],
        }
        print(f"{module}: {len(all_of_them) - len(alive)} of {len(all_of_them)} killed", flush=True)
        for what in results[module]["survivors"]:
            print(f"  alive, not explained: {what}")
        in_order = {module: results[module] for module in ALL if module in results}
        RESULTS.write_text(json.dumps(in_order, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
