"""A run that is killed, at whatever moment, is resumed and ends as if nothing had been."""

import os
import random
import time

import pytest
from kill_and_resume import PARTS, TINY, Trials, make_pictures

pytestmark = pytest.mark.slow


def test_a_killed_run_ends_as_if_nothing_had_been(tmp_path):
    """Five kills at moments drawn afresh, two of them inside a checkpoint's write; `benchmarks/kills.py` makes more."""
    seed = int(os.environ.get("MINILDM_KILL_SEED", time.time_ns() % 2**32))
    print(f"moments drawn with seed {seed}: repeat them with MINILDM_KILL_SEED={seed}")
    make_pictures(tmp_path / "pictures")
    streamed = Trials(tmp_path, ["folder", "--data", str(tmp_path / "pictures"), "--stream", *TINY], seed)
    parts = random.Random(seed).sample(PARTS, 3)
    records = [record for aim in (*parts, "write", "write") for record in streamed.kill(aim)]
    for record in records:
        print(record)
    assert not [record for record in records if record["wrong"]]
    assert any(record["in_write"] for record in records)
