"""A gate for tests that confirm equations: alter what the function gives, and the test must fail.

Used as a plugin, in a process of its own:

    python -m pytest -p tests.altered -m equation

For every test marked with `@pytest.mark.equation(number, …)` and every function whose docstring names that equation, the test is
run again and again while the function's results are scaled by 1%, change sign, or are shifted by one place. What a test
fails to notice is printed and makes the run fail. With `--only-scaled` the other two are left out: nearly all that notices 1%
notices them too, and the run takes half the time.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _pytest.runner import runtestprotocol
from ledger import implementations
from torch import Tensor

ALTERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "scaled by 1%": lambda value: value * 1.01,
    "with its sign flipped": lambda value: -value,
    "shifted by one place": lambda value: value.roll(1, 0),
}
counter = itertools.count()


def leaves(result: Any) -> list[Tensor | float]:
    """The numbers in a result: tensors of floats and floats, inside tuples, dictionaries and dataclasses."""
    if isinstance(result, float) or (isinstance(result, Tensor) and result.is_floating_point()):
        return [result]
    return [leaf for part in parts_of(result)[0] for leaf in leaves(part)]


def parts_of(result: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """What a result consists of, and how to put it together again."""
    if isinstance(result, list | tuple):
        kind = type(result)
        return list(result), lambda parts: kind(*parts) if hasattr(result, "_fields") else kind(parts)
    if isinstance(result, dict):
        return list(result.values()), lambda parts: dict(zip(result, parts, strict=True))
    if dataclasses.is_dataclass(result):
        names = [field.name for field in dataclasses.fields(result)]
        return [getattr(result, name) for name in names], lambda parts: dataclasses.replace(
            result, **dict(zip(names, parts, strict=True))
        )
    return [], lambda parts: result


def altered(result: Any, which: int, how: str) -> Any:
    """The result with its leaf number `which` altered."""
    if not leaves(result):
        return result
    if isinstance(result, float | Tensor):
        changed = ALTERATIONS[how](torch.as_tensor(result))
        return changed if isinstance(result, Tensor) else changed.item()
    parts, join = parts_of(result)
    for place, part in enumerate(parts):
        count = len(leaves(part))
        if which < count:
            parts[place] = altered(part, which, how)
            break
        which -= count
    return join(parts)


class Altered:
    """A function whose results are altered for everybody who holds it, however they came by it: its code is replaced.

    Args:
        function: a plain function; of a class, its `__init__` is taken to return nothing, so name a method.
        alter: what its results go through.
    """

    def __init__(self, function: types.FunctionType, alter: Callable[[Any], Any]) -> None:
        self.function, self.kept = function, (function.__code__, function.__defaults__, function.__kwdefaults__)
        real = types.FunctionType(function.__code__, function.__globals__, function.__name__, *self.kept[1:2])
        real.__kwdefaults__ = function.__kwdefaults__
        name = f"_altered_{next(counter)}"
        function.__globals__[name] = lambda *args, **options: alter(real(*args, **options))
        space: dict[str, Any] = {}
        exec(f"def stand_in(*args, **options):\n    return {name}(*args, **options)", space)
        self.code = space["stand_in"].__code__

    def __enter__(self) -> None:
        self.function.__code__, self.function.__defaults__, self.function.__kwdefaults__ = self.code, None, None

    def __exit__(self, *_: object) -> None:
        self.function.__code__, self.function.__defaults__, self.function.__kwdefaults__ = self.kept


def functions_of(number: str) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions that implement an equation; of a class its `forward`."""
    for item in implementations():
        if number in item.numbers:
            module = importlib.import_module(item.path.removesuffix(".py").replace("/", "."))
            thing = functools.reduce(getattr, item.name.split("."), module)
            thing = thing.forward if inspect.isclass(thing) else thing
            yield f"{item.path}::{item.name}", inspect.unwrap(thing)


def passes(item: pytest.Item) -> bool:
    reports = runtestprotocol(item, log=False)
    return all(report.outcome == "passed" for report in reports)


class Gate:
    """Runs each confirming test with each alteration of each of its functions."""

    def __init__(self, alterations: list[str]) -> None:
        self.alterations, self.tried, self.unnoticed = alterations, 0, []

    def pytest_runtest_protocol(self, item: pytest.Item) -> bool:
        for number in itertools.chain.from_iterable(mark.args for mark in item.iter_markers("equation")):
            for name, function in functions_of(number):
                counts: list[int] = []
                sizes: list[bool] = []

                def note(result: Any, counts=counts, sizes=sizes) -> Any:
                    found = leaves(result)
                    counts.append(len(found))
                    sizes.append(any(isinstance(leaf, Tensor) and leaf.ndim and len(leaf) > 1 for leaf in found))
                    return result

                with Altered(function, note):
                    whole = passes(item)
                if not whole or not counts or not max(counts):
                    why = "does not pass" if not whole else "never calls it" if not counts else "sees no number of it"
                    self.unnoticed.append(f"{item.nodeid} confirms ({number}), but with {name} it {why}")
                    continue
                for how in self.alterations:
                    if how.startswith("shifted") and not any(sizes):
                        continue  # single numbers have no other place
                    for which in range(max(counts)):
                        self.tried += 1
                        with Altered(function, functools.partial(altered_leaf, which=which, how=how)):
                            if passes(item):
                                self.unnoticed.append(f"{item.nodeid} does not notice {name} ({number}) {how}, number {which}")
        return True

    def pytest_terminal_summary(self, terminalreporter) -> None:
        for line in self.unnoticed:
            terminalreporter.write_line(f"UNNOTICED {line}")
        terminalreporter.write_line(f"TRIED {self.tried} alterations, {len(self.unnoticed)} unnoticed")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        session.exitstatus = 1 if self.unnoticed or not self.tried else 0


def altered_leaf(result: Any, which: int, how: str) -> Any:
    """`altered`, for results that may differ in form from call to call; what has no other place is left as it is."""
    found = leaves(result)
    if which >= len(found):
        return result
    leaf = found[which]
    if how.startswith("shifted") and not (isinstance(leaf, Tensor) and leaf.ndim and len(leaf) > 1):
        return result
    return altered(result, which, how)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--only-scaled", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    alterations = list(ALTERATIONS)[:1] if config.getoption("--only-scaled") else list(ALTERATIONS)
    config.pluginmanager.register(Gate(alterations), "altered-gate")
