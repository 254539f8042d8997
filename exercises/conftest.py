"""`pytest exercises/test_ch03_elbo.py` checks your answers; with `--solutions` it checks the book's."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--solutions", action="store_true", help="check the solutions instead of your answers")


def module_at(path: Path) -> ModuleType:
    """A file as a module, without leaving it among the imported ones."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def answer(request: pytest.FixtureRequest) -> ModuleType:
    """The file that the test file is about: yours, or the book's."""
    folder = HERE.parent / "solutions" if request.config.getoption("--solutions") else HERE
    return module_at(folder / f"{request.path.stem.removeprefix('test_')}.py")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    """One line instead of a traceback, when an exercise is not begun yet or a check says what is wrong."""
    outcome = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, NotImplementedError):
        outcome.get_result().longrepr = f"to do: {error}"
    elif isinstance(error, AssertionError) and str(error):
        outcome.get_result().longrepr = str(error).split("\nassert")[0]
