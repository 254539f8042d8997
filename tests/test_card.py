"""Training, sampling and judging on a card, where there is only the pretence of one (`pretend_card.py`)."""

import contextlib
import dataclasses
import importlib
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_FLAGS
from PIL import Image
from pretend_card import pretend_card
from torch import nn

from minildm.autoencoder import Autoencoder
from minildm.clip import Clip
from minildm.engine import bench, doctor, evaluate, plan, retrieval, stages
from minildm.engine.cli import main
from minildm.engine.judges import Judge
from minildm.engine.presets import PRESETS
from minildm.text import TextEncoder
from minildm.unet import UNet


def looked_at(original: Callable, seen: dict[str, set[str]]) -> Callable:
    """A network's method that first notes where its input is."""

    def method(self: nn.Module, x: torch.Tensor, *rest: object, **more: object) -> object:
        seen[type(self).__name__].add(x.device.type)
        return original(self, x, *rest, **more)

    return method


@contextlib.contextmanager
def pretend_and_look() -> Iterator[dict[str, set[str]]]:
    """The pretence; and on which devices its networks were called, by their class."""
    seen: dict[str, set[str]] = defaultdict(set)
    with pretend_card(), pytest.MonkeyPatch.context() as patch:
        for network in (UNet, Autoencoder, TextEncoder, Judge, Clip):
            for name in {"forward", "encode", "decode", "features", "encode_images"} & set(vars(network)):
                patch.setattr(network, name, looked_at(getattr(network, name), seen))
        yield seen


def all_on_the_card(*networks: str) -> dict[str, set[str]]:
    return {network: {"cuda"} for network in networks}


@pytest.fixture(scope="module")
def run(few_test_shapes: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained, sampled and judged on the card."""
    folder = tmp_path_factory.mktemp("card") / "run"
    with pytest.MonkeyPatch.context() as patch, pretend_and_look() as seen:
        patch.setattr(evaluate, "JUDGE_STEPS", 3)
        assert main(["train", "shapes", "--out", str(folder), *TINY_FLAGS, "--preview-every", "2", "--debug"]) == 0
    assert seen == all_on_the_card("Autoencoder", "UNet", "TextEncoder", "Judge")
    return folder


def test_a_run_is_trained_on_the_card(run: Path):
    assert json.loads((run / "evaluation.json").read_text())["samples"] == 20


def test_a_run_of_the_card_is_sampled_and_judged_there(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    """The pictures are those that the CPU draws of the same weights: here both compute in the same way."""
    for folder, place in ((tmp_path / "card.png", pretend_and_look()), (tmp_path / "cpu.png", contextlib.nullcontext())):
        with place as seen:
            options = ["--steps", "4", "--guidance-high", "0.5", "--out", str(folder)]
            assert main(["sample", str(run), "a red circle", "a blue square", *options]) == 0
        assert seen is None or seen == all_on_the_card("Autoencoder", "UNet", "TextEncoder")
    pictures = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("card.png", "cpu.png")]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1
    with pretend_and_look() as seen:
        assert main(["evaluate", str(run), "--samples", "20", "--json"]) == 0
    assert seen == all_on_the_card("Autoencoder", "UNet", "TextEncoder", "Judge")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["samples"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("seen", [2, 8])
def test_a_run_that_was_stopped_goes_on_on_the_card(run: Path, tmp_path: Path, seen: int, monkeypatch: pytest.MonkeyPatch):
    """In either stage; from its checkpoint it ends in the same bits."""
    monkeypatch.setattr(evaluate, "JUDGE_STEPS", 3)
    arguments = ["train", "shapes", "--out", str(tmp_path / "run"), *TINY_FLAGS]
    steps, original = iter(range(1, 100)), stages.Stage.step

    def step(self: stages.Stage, number: int) -> torch.Tensor:
        if next(steps) == seen:
            raise KeyboardInterrupt
        return original(self, number)

    with pretend_card():
        monkeypatch.setattr(stages.Stage, "step", step)
        with pytest.raises(SystemExit):
            main(arguments)
        monkeypatch.setattr(stages.Stage, "step", original)
        assert main([*arguments[:4], "--resume", "--samples", "20"]) == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_who_resumes_on_another_device_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(run, tmp_path / "run")
    assert main(["train", "shapes", "--out", str(tmp_path / "run"), "--resume", "--samples", "20"]) == 0
    assert "the run began with device=a pretended card, now cpu: expect its result, but not bit" in capsys.readouterr().err


@pytest.mark.slow
def test_captioned_pictures_without_classes_are_judged_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval, "CLIP_STEPS", 2)
    monkeypatch.setattr(retrieval, "CLIP_BATCH", 8)
    pictures = torch.randint(0, 256, (24, 32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    (tmp_path / "data").mkdir()
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "data" / f"{number}.png")
    lines = (json.dumps({"file_name": f"{number}.png", "text": f"picture {number}"}) + "\n" for number in range(24))
    (tmp_path / "data" / "metadata.jsonl").write_text("".join(lines))
    with pretend_and_look() as seen:
        arguments = ["train", "folder", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *TINY_FLAGS]
        assert main([*arguments, "--batch", "4", "--autoencoder-batch", "4"]) == 0
    assert seen == all_on_the_card("Autoencoder", "UNet", "TextEncoder", "Clip")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["retrieval_seen"] is not None


@pytest.mark.slow
def test_minutes_are_planned_on_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan, "seconds_per_step", lambda stage: float(stage.step(0)) * 0 + 1.0)
    flags = list(TINY_FLAGS)
    for flag in ("--autoencoder-steps", "--steps"):
        del flags[flags.index(flag) : flags.index(flag) + 2]
    with pretend_card():
        assert main(["train", "shapes", "--out", str(tmp_path / "run"), "--minutes", "0.1", *flags, "--samples", "0"]) == 0


@pytest.mark.slow
def test_the_measurements_of_a_card_run_on_one(run: Path, monkeypatch: pytest.MonkeyPatch):
    """`benchmarks/card.py`, sizes and timings cut short: a step's work is counted, and both precisions begin alike."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    card = importlib.import_module("card")
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY)
    monkeypatch.setattr(card, "settings_of", lambda size: (settings, 8))
    monkeypatch.setattr(card, "timed", lambda work, device, *_, **__: bench.Timing([(work(), 0.5)[1]]))
    with pretend_card():
        row = card.step_of("any", 8, "float32", False, 1.0)
        assert row["images_per_second"] == 16 and row["peak_memory_gb"] == 1
        assert row["gflop_per_second"] == pytest.approx(2 * bench.gflop(bench.stages(dataclasses.replace(settings, batch=8))[2]))
        losses = card.curve(run, "float32", 3)
    assert len(losses) == 3 and losses[0] != losses[1]
    assert card.curve(run, "bf16", 3)[0] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.slow
def test_the_machine_is_measured_there(monkeypatch: pytest.MonkeyPatch):
    """`minildm bench` and `doctor`, each timing cut to a call or two."""
    monkeypatch.setattr(bench, "timed", lambda work, device, *_, **__: bench.Timing([(work(), 1.0)[1]]))
    monkeypatch.setattr(bench, "profile", lambda stage: {"convolutions": 1.0})  # there is no card whose time could be read
    monkeypatch.setattr(bench, "ceiling", lambda device: {"bfloat16 matrix product": 1.0})
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY, batch=8, autoencoder_batch=8)
    with pretend_card():
        assert ", 0 MB were, beyond the start" in bench.page(bench.bench("shapes", settings))  # of the card's, which stand still
        assert doctor.training_speed(torch.device("cuda"), False) > 0
