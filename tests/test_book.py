"""What the chapters are made with: sources shown, figures, pictures, mutants, checks of exercises."""

import ast
import re

import checks
import matplotlib
import mutants
import pytest
import torch

from minildm.elbo import Mixture, elbo
from minildm.engine import book, shapes
from minildm.gaussian import Gaussian


def test_a_source_is_shown_under_its_file_and_equations():
    shown = book.show_source(elbo).data
    assert shown.startswith("`minildm/elbo.py` — equation (03.3)\n")
    code = re.search(r"```python\n(.+)\n```$", shown, re.DOTALL)[1]
    assert ast.parse(code).body[0].name == "elbo"
    method = book.show_source(Mixture.log_posterior).data
    assert "(03.2)" in method and re.search(r"```python\ndef log_posterior", method)  # without the class's indentation
    assert book.show_source(Gaussian.sample).data.splitlines()[0].startswith("`minildm/gaussian.py`")


def test_one_meaning_one_colour():
    assert len(set(book.COLOURS.values())) == len(book.COLOURS)
    assert all(matplotlib.colors.is_color_like(colour) for colour in book.COLOURS.values())


def test_figures_are_as_wide_as_the_page():
    with matplotlib.rc_context():
        matplotlib.use("Agg")
        book.use_style()
        figure, axes = book.panels(3, height=2.0)
        assert len(axes) == 3 and figure.get_size_inches().tolist() == pytest.approx([book.PAGE, 2.0])
        book.show_images(axes[0], torch.zeros(4, 1, 8, 8), columns=2, title="four")
        assert axes[0].get_title() == "four" and axes[0].images[0].get_array().shape[:2] == (19, 19)
        matplotlib.pyplot.close(figure)


def test_without_data_a_chapter_has_white_shapes(monkeypatch):
    monkeypatch.delenv("MINILDM_DATA", raising=False)
    pictures = book.grey_pictures(60, 60)  # as many of each, and no picture in both
    assert "shapes" in pictures.name and pictures.classes == tuple(shapes.SHAPES)
    assert pictures.train.shape == (60, 1, 32, 32) and pictures.test.shape == (60, 1, 32, 32)
    assert pictures.train_labels.unique().tolist() == [0, 1, 2, 3] and len(pictures.test_labels) == 60
    assert pictures.train.amin((1, 2, 3)).eq(-1).all() and pictures.train.amax((1, 2, 3)).eq(1).all()
    assert not any(torch.equal(picture, other) for picture in pictures.test for other in pictures.train)


def test_with_data_a_chapter_has_digits(real_data):
    pictures = book.grey_pictures(300, 100)
    assert pictures.name == "MNIST" and pictures.classes == tuple("0123456789")
    assert pictures.train.shape == (300, 1, 32, 32) and pictures.test_labels.shape == (100,)
    assert pictures.train[:, :, 0].eq(-1).all()  # padded to 32 pixels


# Mutants

SOURCE = '''
def f(x, n=3, flag=True):
    """Docstring with 3 + 3."""
    if x < 0 and n:
        raise ValueError(f"{x + 1} is below 0")
    return -x ** 2 + x.sum(1) if flag else x[n - 1]
'''


def test_every_place_is_changed_one_at_a_time():
    found = list(mutants.mutants(SOURCE))
    what = [name.split(", column")[0] for name, _ in found]
    numbers = ("3 → 4", "3 → 1", "0 → 1", "2 → 3", "2 → 1", "1 → 2", "1 → 2", "True → False")
    operators = ("Lt → GtE", "And → Or", "without USub", "Pow → Mult", "Add → Sub", "Sub → Add", "branches swapped")
    assert sorted(what) == sorted((*numbers, *operators))
    plain = ast.unparse(ast.parse(SOURCE))
    for name, source in found:
        assert source != plain, name
        assert "Docstring with 3 + 3" in source and "{x + 1} is below 0" in source
        before, after = plain.splitlines(), source.splitlines()
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1, name
    assert len({source for _, source in found}) == len(found)


# What exercises' checks are made of


def test_a_wrong_shape_is_never_broadcast_away():
    assert checks.shaped(torch.ones(3, 1), (3, 1), "it").shape == (3, 1)
    for got, message in [
        (None, "nothing was returned"),
        ([1.0], "not list"),
        (torch.ones(3), "shape is (3,)"),
        (torch.tensor([[1.0], [float("nan")], [1.0]]), "not a number"),
    ]:
        with pytest.raises(AssertionError, match=re.escape(message)):
            checks.shaped(got, (3, 1), "it")
    assert not checks.close(torch.ones(3), torch.ones(3, 1)) and not checks.close(1.0, torch.ones(3))


def test_numbers_are_numbers():
    assert checks.number(torch.tensor([2.0]), "it") == 2.0 and checks.number(3, "it") == 3.0
    for got in (None, "2", torch.ones(2), float("inf"), float("nan")):
        with pytest.raises(AssertionError, match="it"):
            checks.number(got, "it")


def test_answers_agree_within_a_tolerance_and_say_where_they_do_not():
    checks.agree(torch.tensor([1.0, 1e6]), [1.0, 1e6 + 0.5], "it")
    with pytest.raises(AssertionError, match=r"it: 3 where 2 is right \(entry 1 of 2\)"):
        checks.agree(torch.tensor([1.0, 3.0]), [1.0, 2.0], "it")
    with pytest.raises(AssertionError, match="a known mistake"):
        checks.differ_from(torch.tensor([1.0]), [1.0], "a known mistake")
    checks.differ_from(torch.tensor([1.0]), [1.1], "a known mistake")
