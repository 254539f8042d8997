"""What the checks of the exercises share. A check says what is wrong, and where it can, which mistake it looks like."""

from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor


def asked(function: Callable, *given: object) -> object:
    """What a function answers, to copies of the arguments; fails when it changes them."""
    copies = [each.clone() if isinstance(each, Tensor) else each for each in given]
    got = function(*copies)
    for before, after in zip(given, copies, strict=True):
        changed = isinstance(before, Tensor) and not (before.shape == after.shape and torch.equal(before, after))
        assert not changed, "an argument itself was changed, in place: work on a copy"
    return got


def shaped(got: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The answer, if it is a tensor of this shape. Nothing is broadcast: a wrong shape is a mistake, not a detail."""
    assert got is not None, f"{what}: nothing was returned; is there a `return`?"
    assert isinstance(got, Tensor), f"{what}: a tensor is wanted, not {type(got).__name__}"
    assert tuple(got.shape) == tuple(shape), f"{what}: the shape is {tuple(got.shape)}, wanted is {tuple(shape)}"
    assert got.isfinite().all(), f"{what}: some of it is infinite or not a number"
    return got.detach()


def doubles(got: object, shape: tuple[int, ...], what: str) -> Tensor:
    """The same, in float64: what is made once and used always should not begin with seven digits."""
    got = shaped(got, shape, what)
    assert got.dtype == torch.float64, f"{what}: float64 is wanted, not {got.dtype}"
    return got


def several(got: object, count: int, what: str) -> tuple:
    """The answer, if it is a tuple of so many things."""
    assert got is not None, f"{what}: nothing was returned; is there a `return`?"
    assert isinstance(got, tuple | list) and len(got) == count, f"{what}: {count} things are to be returned, separated by commas"
    return tuple(got)


def number(got: object, what: str) -> float:
    """The answer, if it is one finite number, as a Python float."""
    assert got is not None, f"{what}: nothing was returned; is there a `return`?"
    assert isinstance(got, Real | Tensor), f"{what}: a number is wanted, not {type(got).__name__}"
    assert not isinstance(got, Tensor) or got.numel() == 1, f"{what}: one number is wanted, not {tuple(got.shape)} of them"
    value = float(got)
    assert value == value and abs(value) != float("inf"), f"{what} is {value}"
    return value


def close(got: Tensor | float, wanted: Tensor | float, tolerance: float = 1e-6) -> bool:
    """Whether two answers agree, relative to the larger of 1 and what is wanted."""
    got, wanted = torch.as_tensor(got, dtype=torch.float64), torch.as_tensor(wanted, dtype=torch.float64)
    return got.shape == wanted.shape and bool(((got - wanted).abs() <= tolerance * wanted.abs().clamp(min=1)).all())


def differ_from(got: Tensor | float, wrong: Tensor | float, mistake: str, tolerance: float = 1e-6) -> None:
    """Fail, naming the mistake, if the answer is what that mistake gives."""
    assert not close(got, wrong, tolerance), mistake


def agree(got: Tensor | float, wanted: Tensor | float, what: str, tolerance: float = 1e-6) -> None:
    """Fail, with the numbers that differ most, unless the answer is the right one."""
    shape, wanted_shape = tuple(torch.as_tensor(got).shape), tuple(torch.as_tensor(wanted).shape)
    assert shape == wanted_shape, f"{what}: the shape is {shape}, wanted is {wanted_shape}"
    if not close(got, wanted, tolerance):
        a, b = torch.as_tensor(got, dtype=torch.float64).flatten(), torch.as_tensor(wanted, dtype=torch.float64).flatten()
        place = int(((a - b).abs() / b.abs().clamp(min=1)).argmax())
        raise AssertionError(f"{what}: {a[place]:.6g} where {b[place]:.6g} is right (entry {place} of {len(a)})")
