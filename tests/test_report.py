"""Pictures and tables of a run: nothing is cut off, wrong or left out."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minildm.engine import plots
from minildm.engine.evaluate import KEYS
from minildm.engine.memory import peak_memory
from minildm.engine.presets import Settings
from minildm.engine.report import judge_table, write_report


def judged(**values) -> dict:
    full = dict.fromkeys(KEYS) | {
        "frechet": 3.0,
        "frechet_floor": 1.5,
        "samples": 10,
        "guidance": 3.0,
        "steps": 20,
        "guidance_high": 1.0,
    }
    return full | {"nearest_train_distance": 0.1, "nearest_train_distance_of_test": 0.2, "images_per_second": 5.0} | values


@pytest.mark.parametrize(("count", "channels"), [(1, 1), (5, 3), (9, 3)])
def test_a_grid_holds_every_pixel_of_every_picture(count: int, channels: int) -> None:
    images = torch.rand(count, channels, 8, 8) * 2 - 1
    sheet = np.asarray(plots.grid(images, columns=3))
    for place, image in enumerate(images):
        top, left = 2 + place // 3 * 10, 2 + place % 3 * 10
        pixels = sheet[top : top + 8, left : left + 8].astype(float) / 127.5 - 1
        assert np.abs(pixels - image.permute(1, 2, 0).expand(-1, -1, 3).numpy()).max() <= 0.5 / 127.5 + 1e-6


def test_captions_are_wrapped_without_losing_a_word() -> None:
    text = "a large red circle left of a small and very purple square on a white background"
    lines = plots.wrap(text, 20)
    assert " ".join(lines) == text and max(map(len, lines)) <= 20


def test_table_shows_what_exists_and_leaves_out_what_does_not() -> None:
    table = "\n".join(judge_table(judged(prompt_accuracy=0.9, prompt_accuracy_interval=[0.8, 0.95])))
    assert "90.00% (80.00% to 95.00%)" in table
    assert "2.00" in table, "the distance over its floor"
    assert "never seen" not in table and "reconstructions" not in table
    assert "| guidance, steps | 3, 20 |" in table
    assert "| guidance, steps | 3 from t = 0.8 T down, 20 |" in "\n".join(judge_table(judged(guidance_high=0.8)))


def test_report_names_times_and_memory(tmp_path: Path) -> None:
    lines = [{"stage": stage, "step": step, "loss": 1 / step} for stage in ("autoencoder", "denoiser") for step in (20, 40)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    seconds = {"autoencoder": 60.0, "caching": 5.0, "denoiser": 110.0, "samples": 5.0, "judge and evaluation": 500.0}
    text = write_report(tmp_path, Settings(), seconds, judged()).read_text()
    assert "**180.0** (3.00 minutes)" in text, "the judge's time is not part of the sum"
    assert f"{peak_memory():.1f}"[0] in text and Image.open(tmp_path / "loss.png").size[0] > 500
    assert json.loads((tmp_path / "evaluation.json").read_text())["frechet"] == 3.0


@pytest.mark.slow
def test_peak_memory_counts_what_is_held() -> None:
    before = peak_memory()
    held = torch.ones(int(before * 1.5e9 / 4))
    assert peak_memory() > before + 0.2 * held.numel() * 4 / 1e9
