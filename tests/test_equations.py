"""Chapters, docstrings and tests tell of the same equations, and a test that confirms one would notice if it were wrong."""

import os
import re
import subprocess
import sys
from pathlib import Path

import ledger
import pytest
import torch
from altered import Altered, altered_leaf, leaves
from notebooks import ROOT, Chapter, chapters

from minildm.gaussian import Gaussian

EQUATIONS = {number: chapter.name for chapter in chapters() for number in chapter.equations()}
IMPLEMENTED = {number for item in ledger.implementations() for number in item.numbers}
CONFIRMED = ledger.confirmations()
CONFIRMING = sorted({test.split("::")[0] for tests in CONFIRMED.values() for test in tests})  # files


def test_every_equation_is_implemented_and_confirmed():
    assert EQUATIONS, "no chapter has a numbered equation"
    assert sorted(EQUATIONS.keys() - IMPLEMENTED) == [], "equations that no docstring names"
    assert sorted(EQUATIONS.keys() - CONFIRMED.keys()) == [], "equations that no test confirms"


def test_no_docstring_and_no_test_names_an_equation_that_does_not_exist():
    assert sorted(IMPLEMENTED - EQUATIONS.keys()) == []
    assert sorted(CONFIRMED.keys() - EQUATIONS.keys()) == []


def test_an_equation_belongs_to_the_chapter_of_its_module():
    """`gaussian.py` may implement chapter 01's, and a later module only its own or an earlier one's."""
    modules = (
        "gaussian families elbo vae hvae schedule posterior objectives unet ddpm samplers guidance text clip autoencoder ldm"
    )
    first = {name: f"{place:02}" for place, name in enumerate(modules.split(), 1)}
    first |= {"attention": "09", "conditioning": "12", "tokenizer": "13", "latent": "16", "conditions": "16"}
    first |= dict.fromkeys(("rate", "quantise", "perception"), "15")
    for item in ledger.implementations():
        limit = first.get(Path(item.path).stem, "99")
        assert all(number[:2] <= limit for number in item.numbers), item


def test_the_ledger_is_up_to_date():
    assert ledger.LEDGER.read_text("utf-8") == ledger.render(), "python tools/ledger.py writes it anew"


@pytest.mark.parametrize("options", [["--only-scaled"], pytest.param([], marks=pytest.mark.slow)])
def test_confirming_tests_notice_what_is_wrong(options: list[str]):
    """The gate of `altered.py`, in a process of its own: results off by 1%; then also of the wrong sign, one place off."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tools")))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "altered",
        "-p",
        "no:nbval",
        "-m",
        "equation",
        "-p",
        "no:cacheprovider",
        *options,
        *CONFIRMING,
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    found = re.search(r"TRIED (\d+) alterations, (\d+) unnoticed", done.stdout)
    assert found, done.stdout[-3000:] + done.stderr[-3000:]
    unnoticed = [line for line in done.stdout.splitlines() if line.startswith("UNNOTICED")]
    assert unnoticed == [] and done.returncode == 0
    assert int(found[1]) >= (1 if options else 2) * len(EQUATIONS)


# The gate's own laws


def halves(x: torch.Tensor, scale: float = 0.5) -> tuple[torch.Tensor, float]:
    return scale * x, scale


def test_an_altered_function_is_altered_for_everybody_and_then_as_before():
    mine, x = halves, torch.tensor([1.0, 2.0, 4.0])
    with Altered(halves, lambda result: altered_leaf(result, 0, "shifted by one place")):
        assert mine(x)[0].tolist() == [2.0, 0.5, 1.0] and mine(x, scale=1.0)[1] == 1.0
    with Altered(halves, lambda result: altered_leaf(result, 1, "scaled by 1%")):
        assert mine(x)[0].tolist() == [0.5, 1.0, 2.0] and mine(x)[1] == pytest.approx(0.505)
    with Altered(halves, lambda result: altered_leaf(result, 1, "shifted by one place")):
        assert mine(x)[1] == 0.5
    assert mine(x)[0].tolist() == [0.5, 1.0, 2.0]


def test_every_number_in_a_result_is_found_and_altered_alone():
    result = {"q": Gaussian(torch.ones(2), torch.zeros(2)), "n": (3, 2.0)}
    assert len(leaves(result)) == 3
    flipped = altered_leaf(result, 0, "with its sign flipped")
    assert flipped["q"].mean.tolist() == [-1, -1] and flipped["n"] == (3, 2.0) and result["q"].mean.tolist() == [1, 1]
    assert altered_leaf(result, 2, "with its sign flipped")["n"] == (3, -2.0)


def test_equations_are_found_in_chapters():
    def chapter(prose: str) -> Chapter:
        return Chapter("07_name", [{"cell_type": "markdown", "source": [prose]}])

    two = chapter("$$a = b \\tag{07.1}$$ and\n\n$$\nc \\tag{07.2}\n$$\n\n$$d$$")
    assert two.equations() == {"07.1": "a = b", "07.2": "c"}
    for prose, message in [
        ("$$a \\tag{07.1}$$ $$b \\tag{07.1}$$", "twice"),
        ("$$a \\tag{08.1}$$", "another chapter"),
        ("$$a \\tag{07.1} b \\tag{07.2}$$", "each its own"),
        ("$a \\tag{07.1}$", "outside"),
    ]:
        with pytest.raises(ValueError, match=message):
            chapter(prose).equations()
