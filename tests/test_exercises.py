"""The exercises' checks are themselves checked: stubs are told to be unfinished, solutions pass, wrong answers are named.

A wrong answer is a function in `tests/wrong_answers/chNN_name.py` named `<exercise>__<mistake>`; its docstring is what the check
must say when it rejects it.
"""

import ast
import importlib.util
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from altered import parts_of
from torch import Tensor

ROOT = Path(__file__).parents[1]
STEMS = sorted(path.stem for path in (ROOT / "exercises").glob("ch[0-9][0-9]_*.py"))
HEAD = re.compile(r"(ch\d\d\.\d+) · difficulty [1-5] of 5 · \d+ minutes")


def module_at(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(module: ModuleType) -> dict[str, object]:
    """What a file itself defines, helpers with a leading underscore aside."""
    own = vars(module).items()
    return {
        name: thing for name, thing in own if inspect.isfunction(thing) and thing.__module__ == module.__name__ and name[0] != "_"
    }


def exercises(stem: str) -> dict[str, str]:
    """The chapter's exercises: function to number."""
    found = {}
    for name, function in functions(module_at(ROOT / "exercises" / f"{stem}.py")).items():
        head = HEAD.match(inspect.getdoc(function) or "")
        assert head, f"{stem}.{name}: its docstring should begin like 'ch03.1 · difficulty 2 of 5 · 10 minutes'"
        found[name] = head[1]
    return found


def wrong_answers(stem: str) -> dict[str, object]:
    return functions(module_at(ROOT / "tests" / "wrong_answers" / f"{stem}.py"))


def checks_of(stem: str, exercise: str) -> list:
    """The tests of one exercise: test_<exercise>, and test_<exercise>__<detail>."""
    tests = functions(module_at(ROOT / "exercises" / f"test_{stem}.py"))
    return [test for name, test in tests.items() if name.removeprefix("test_").split("__")[0] == exercise]


def verdict(stem: str, exercise: str, answer: object) -> BaseException | None:
    """What the checks of the exercise say to an answer: nothing, or the first exception."""
    for check in checks_of(stem, exercise):
        torch.manual_seed(0)
        try:
            check(answer)
        except (Exception, pytest.fail.Exception) as error:
            return error
    return None


EACH = [(stem, exercise) for stem in STEMS for exercise in exercises(stem)]
WRONG = [(stem, name) for stem in STEMS for name in wrong_answers(stem)]


@pytest.mark.parametrize("stem", STEMS)
def test_a_chapter_has_three_to_six_exercises_each_with_checks_and_two_wrong_answers(stem):
    found = exercises(stem)
    assert 3 <= len(found) <= 6
    assert list(found.values()) == [f"{stem[:4]}.{number}" for number in range(1, len(found) + 1)]
    assert found.keys() <= functions(module_at(ROOT / "solutions" / f"{stem}.py")).keys()
    for exercise in found:
        assert checks_of(stem, exercise), exercise
        wrong = [name for name in wrong_answers(stem) if name.split("__")[0] == exercise]
        assert len(wrong) >= 2, f"{exercise}: {len(wrong)} wrong answers"
    assert {name.split("__")[0] for name in wrong_answers(stem)} == found.keys()
    for name in functions(module_at(ROOT / "exercises" / f"test_{stem}.py")):
        assert name.removeprefix("test_").split("__")[0] in found, f"{name} belongs to no exercise"


@pytest.mark.parametrize(("stem", "exercise"), EACH)
def test_a_stub_is_specified_and_says_that_it_is_to_do(stem, exercise):
    stub = functions(module_at(ROOT / "exercises" / f"{stem}.py"))[exercise]
    doc = inspect.getdoc(stub)
    for part in ("Args:", "Returns:", "Hint:"):
        assert part in doc, f"{exercise} lacks {part}"
    assert stub.__annotations__.keys() >= {*inspect.signature(stub).parameters, "return"}
    error = verdict(stem, exercise, module_at(ROOT / "exercises" / f"{stem}.py"))
    assert isinstance(error, NotImplementedError) and str(error).startswith(exercises(stem)[exercise]), repr(error)


@pytest.mark.parametrize(("stem", "exercise"), EACH)
def test_a_solution_passes(stem, exercise):
    error = verdict(stem, exercise, module_at(ROOT / "solutions" / f"{stem}.py"))
    assert error is None, repr(error)


def spoilt(result: Any, which: int) -> tuple[Any, int]:
    """The result with its part number `which` off by a hundredth, or by one where it is whole; and how many parts it has."""
    count = itertools.count()

    def visit(thing: Any) -> Any:
        parts, join = parts_of(thing)
        if parts or isinstance(thing, tuple | list | dict):
            return join([visit(part) for part in parts])
        if next(count) != which:
            return thing
        if callable(thing):
            return lambda *given: spoilt(thing(*given), 0)[0]
        if isinstance(thing, str):
            return thing + "!"
        if isinstance(thing, Tensor) and thing.dtype == torch.bool:
            return ~thing
        return (
            thing * 1.01 if isinstance(thing, float) or (isinstance(thing, Tensor) and thing.is_floating_point()) else thing + 1
        )

    return visit(result), next(count)


@pytest.mark.parametrize(("stem", "exercise"), EACH)
def test_a_solution_that_is_off_by_a_hundredth_is_rejected(stem, exercise):
    """Part by part: what has no name among the mistakes is compared with what is right."""
    right = vars(module_at(ROOT / "solutions" / f"{stem}.py"))
    parts = [1]

    def off(*given: object) -> object:
        result, count = spoilt(right[exercise](*given), which)
        parts.append(count)
        return result

    for which in itertools.count():
        if which == max(parts):
            break
        error = verdict(stem, exercise, SimpleNamespace(**{**right, exercise: off}))
        assert isinstance(error, AssertionError), f"part {which}: {error!r}"


@pytest.mark.parametrize(("stem", "name"), WRONG)
def test_a_wrong_answer_is_rejected_by_the_name_of_its_mistake(stem, name):
    exercise, function = name.split("__")[0], wrong_answers(stem)[name]
    right = vars(module_at(ROOT / "solutions" / f"{stem}.py"))
    error = verdict(stem, exercise, SimpleNamespace(**{**right, exercise: function}))
    assert isinstance(error, AssertionError), repr(error)
    assert inspect.getdoc(function), f"{name}: its docstring should be what the check says"
    assert inspect.getdoc(function) in str(error), str(error)


@pytest.mark.parametrize("stem", STEMS)
def test_solutions_stand_alone(stem):
    """They may use earlier parts of minildm, but not the module of their own chapter."""
    for path in (ROOT / "solutions" / f"{stem}.py", ROOT / "exercises" / f"{stem}.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "minildm" for name in names), f"{path.name} imports {names}"
