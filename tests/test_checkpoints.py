"""Checkpoints are whole or not there; data order and learning rate are functions of the step."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from minildm import files
from minildm import tensors as weights
from minildm.engine import checkpoints
from minildm.engine.checkpoints import Checkpoint, load, save
from minildm.engine.errors import UserError
from minildm.engine.presets import Settings
from minildm.engine.seeds import seeded
from minildm.engine.stages import Stage, rate_factor
from minildm.files import sweep, write_text
from minildm.muon import Muon

FACTS = {"seconds": {}, "lines": 0, "losses": []}


class Crash(BaseException):
    """The power goes."""


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "network/weight": torch.randn(3, 4, generator=generator),
        "network/turned": torch.randn(3, 4, generator=generator).T,
        "network/half": torch.randn(5, generator=generator).bfloat16(),
        "optimizer/0/step": torch.tensor(float(step)),
        "network/count": torch.tensor(step),
        "network/empty": torch.zeros(0, 2),
    }
    return Checkpoint("denoiser", step, tensors, {"seconds": {"denoiser": 1.5 * step}, "lines": step, "losses": [0.1 * step]})


def assert_same(got: Checkpoint | None, wanted: Checkpoint) -> None:
    assert got is not None and (got.stage, got.step, got.facts) == (wanted.stage, wanted.step, wanted.facts)
    assert got.tensors.keys() == wanted.tensors.keys()
    for key, value in wanted.tensors.items():
        assert got.tensors[key].dtype == value.dtype and torch.equal(got.tensors[key], value), key


def test_what_is_saved_is_loaded(tmp_path):
    assert load(tmp_path) is None
    save(tmp_path, checkpoint(3), "step-3")
    assert_same(load(tmp_path), checkpoint(3))
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-3"}


def test_the_latest_wins_and_the_one_before_goes(tmp_path):
    for step in (3, 6, 10):
        save(tmp_path, checkpoint(step), f"step-{step}")
        assert_same(load(tmp_path), checkpoint(step))
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-10"}


def test_other_files_of_the_run_are_left_alone(tmp_path):
    for name in ("config.json", "metrics.jsonl"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "samples").mkdir()
    save(tmp_path, checkpoint(1), "step-1")
    save(tmp_path, checkpoint(2), "step-2")
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-2", "config.json", "metrics.jsonl", "samples"}


def crash_at(monkeypatch, moment: int) -> list[str]:
    """Let the power go just before the moment-th change to the disk, counted from 0. Returns the changes made."""
    done: list[str] = []

    def guard(owner, name: str) -> None:
        real = getattr(owner, name)

        def guarded(*args, **kwargs):
            if len(done) == moment:
                raise Crash(name)
            done.append(name)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, guarded)

    guard(weights, "save_file")
    guard(Path, "mkdir")
    guard(Path, "write_text")
    guard(Path, "replace")
    guard(os, "fsync")
    guard(shutil, "rmtree")
    return done


def test_a_crash_at_any_moment_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch):
    """And the new one from the moment on that `latest` names it; afterwards saving works as if nothing had been."""
    outcomes = []
    for moment in range(100):
        run = tmp_path / str(moment)
        run.mkdir()
        save(run, checkpoint(3), "step-3")
        with monkeypatch.context() as patch:
            done = crash_at(patch, moment)
            try:
                save(run, checkpoint(6), "step-6")
                crashed = False
            except Crash:
                crashed = True
        sweep(run)
        assert not list(run.glob(".*"))
        step = load(run).step
        assert_same(load(run), checkpoint(step))
        outcomes.append(step)
        save(run, checkpoint(6), "step-6")  # the run goes on and comes to the same place again
        assert_same(load(run), checkpoint(6))
        assert {path.name for path in run.iterdir()} == {"latest", "step-6"}
        if not crashed:
            break
    assert not crashed and "save_file" in done and done.count("replace") == 2
    assert outcomes == sorted(outcomes) and {*outcomes} == {3, 6} and len(outcomes) > 8


def test_saving_again_what_is_already_pointed_to_touches_nothing(tmp_path, monkeypatch):
    """So that no crash can hit the only checkpoint there is."""
    save(tmp_path, checkpoint(3), "step-3")
    monkeypatch.setattr(weights, "save_file", lambda *args: (_ for _ in ()).throw(Crash()))
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **options: (_ for _ in ()).throw(Crash()))
    save(tmp_path, checkpoint(3), "step-3")
    assert_same(load(tmp_path), checkpoint(3))


def test_a_first_checkpoint_that_is_not_yet_pointed_to_is_taken(tmp_path):
    """The power went between its renaming and the writing of `latest`: it is whole."""
    save(tmp_path, checkpoint(3), "step-3")
    (tmp_path / "latest").unlink()
    assert_same(load(tmp_path), checkpoint(3))
    assert (tmp_path / "latest").read_text() == "step-3"


def test_a_later_checkpoint_that_is_not_yet_pointed_to_goes(tmp_path):
    save(tmp_path, checkpoint(3), "step-3")
    shutil.copytree(tmp_path / "step-3", tmp_path / "step-6")
    assert_same(load(tmp_path), checkpoint(3))
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-3"}


def test_a_checkpoint_that_is_a_link_out_of_the_run_is_refused(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    save(run, checkpoint(3), "step-3")
    (run / "step-3").rename(tmp_path / "elsewhere")
    (run / "step-3").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"step-3 is a link to .*elsewhere, outside the run"):
        load(run)


def test_a_full_disk_gets_its_room_back(tmp_path, monkeypatch):
    save(tmp_path, checkpoint(3), "step-3")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", full)
        with pytest.raises(OSError, match=r"No space left.*state\.safetensors"):
            save(tmp_path, checkpoint(6), "step-6")
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-3"}
    assert_same(load(tmp_path), checkpoint(3))


def test_a_torn_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    """The tensors' file breaks off in the middle."""
    save(tmp_path, checkpoint(3), "step-3")

    def torn(tensors, path, metadata):
        Path(path).write_bytes(b"\x10\0\0\0")
        raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", torn)
        with pytest.raises(Crash):
            save(tmp_path, checkpoint(6), "step-6")
    assert_same(load(tmp_path), checkpoint(3))
    save(tmp_path, checkpoint(6), "step-6")  # over the leftovers, even without a sweep
    assert_same(load(tmp_path), checkpoint(6))


def test_everything_is_on_disk_before_the_pointer_moves(tmp_path, monkeypatch):
    """Both files and their folder are synced before the rename, the run's folder before `latest` is replaced."""
    events = []
    real_sync, real_replace = files.sync, Path.replace
    for module in (files, checkpoints):
        monkeypatch.setattr(module, "sync", lambda path: (events.append(("sync", Path(path).name)), real_sync(path)))

    def replace(self, target):
        events.append(("replace", Path(target).name))
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    save(tmp_path, checkpoint(6), "step-6")
    renamed, pointed = events.index(("replace", "step-6")), events.index(("replace", "latest"))
    before = {name for kind, name in events[:renamed] if kind == "sync"}
    assert {"state.safetensors", "state.json", ".step-6.partial"} <= before
    assert ("sync", tmp_path.name) in events[renamed:pointed] and ("sync", tmp_path.name) in events[pointed:]


@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "nonsense"])
def test_a_damaged_checkpoint_is_named(tmp_path, name, damage):
    save(tmp_path, checkpoint(3), "step-3")
    path = tmp_path / "step-3" / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "nonsense": b"\xff" * len(content)}[damage])
    with pytest.raises((UserError, ValueError), match=f"step-3/{name}") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", '"text"', "{}", '{"stage": "denoiser"}'])
def test_a_state_that_lacks_something_is_named(tmp_path, text):
    save(tmp_path, checkpoint(3), "step-3")
    (tmp_path / "step-3" / "state.json").write_text(text)
    with pytest.raises((UserError, ValueError), match="step-3/state.json"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["step-9", "", "\n", "step-3/../../other", "../step-3", "/etc", "config.json", "step-"])
def test_a_pointer_to_nothing_is_named(tmp_path, text):
    run = tmp_path / "run"
    run.mkdir()
    save(run, checkpoint(3), "step-3")
    shutil.copytree(run / "step-3", tmp_path / "step-3")
    (run / "latest").write_text(text)
    with pytest.raises((UserError, ValueError)) as error:
        load(run)
    assert str(run) in str(error.value) and "\n" not in str(error.value)


def test_a_pointer_that_is_no_text_is_named(tmp_path):
    save(tmp_path, checkpoint(3), "step-3")
    (tmp_path / "latest").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="latest is no text"):
        load(tmp_path)


def test_a_sweep_removes_leftovers_alone(tmp_path):
    save(tmp_path, checkpoint(3), "step-3")
    (tmp_path / ".step-6.partial").mkdir()
    (tmp_path / ".step-6.partial" / "state.json").write_text("{")
    (tmp_path / ".latest.99999999.partial").write_text("ste")
    (tmp_path / "config.json").write_text("{}")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "step-3", "config.json"}
    assert_same(load(tmp_path), checkpoint(3))


def test_write_text_replaces_in_one_step(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_text(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda *args: (_ for _ in ()).throw(Crash()))
        with pytest.raises(Crash):
            write_text(path, "né" * 1000)
    assert path.read_text() == "old"
    write_text(path, "né")
    assert path.read_text(encoding="utf-8") == "né" and [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_checkpoint_is_data_not_code(tmp_path):
    save(tmp_path, checkpoint(3), "step-3")
    assert {path.name for path in (tmp_path / "step-3").iterdir()} == {"state.safetensors", "state.json"}
    json.loads((tmp_path / "step-3" / "state.json").read_text())


# The order of examples


class Line(Stage):
    """Fits one number; remembers nothing but weights and moments."""

    def __init__(self, size: int = 10, batch: int = 4, seed: int = 0, name: str = "line", steps: int = 50) -> None:
        torch.manual_seed(0)
        super().__init__(name, nn.Linear(1, 1), size, steps, batch, 0.05, Settings(seed=seed, warmup=5, precision="float32"))

    def loss(self, places, generator):
        x = places.float()[:, None] / self.size
        noise = 0.1 * torch.randn(x.shape, generator=generator)
        return (self.network(x) - 2 * x - 1 + noise).square().mean()


@pytest.mark.parametrize(("size", "batch"), [(10, 4), (12, 4), (7, 7), (3, 8), (5, 1), (1, 3), (100, 33)])
def test_every_epoch_visits_each_example_once(size, batch):
    stage = Line(size, batch)
    steps = -(-3 * size // batch)
    visited = torch.cat([stage.places(step) for step in range(steps)])
    assert len(visited) == steps * batch
    epochs = [visited[start : start + size].tolist() for start in range(0, 3 * size, size)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    if size > 4:
        assert epochs[0] != epochs[1] != epochs[2] != epochs[0] and epochs[0] != sorted(epochs[0])


def test_places_are_a_function_of_seed_stage_and_step():
    straight = [Line().places(step).tolist() for step in range(20)]  # each from a stage that has seen no other step
    stage = Line()
    assert [stage.places(step).tolist() for step in range(20)] == straight
    assert [stage.places(step).tolist() for step in reversed(range(20))] == straight[::-1]
    for other in (Line(seed=1), Line(name="another")):
        assert [other.places(step).tolist() for step in range(20)] != straight


def test_seeds_depend_on_every_word_and_on_nothing_else():
    first = torch.rand(4, generator=seeded(0, "stage", 3))
    torch.manual_seed(5)
    torch.rand(10)
    assert torch.equal(first, torch.rand(4, generator=seeded(0, "stage", 3)))
    for other in [
        (1, "stage", 3),
        (0, "stages", 3),
        (0, "stage", 4),
        (0, "stage", "3"),
        (0, "stage3"),
        (0, "stage", 3, 0),
        ("0", "stage", 3),
    ]:
        assert not torch.equal(first, torch.rand(4, generator=seeded(*other)))
    # The first numbers of many steps are as spread as independent ones: mean 1/2 within four standard errors.
    many = torch.stack([torch.rand(1, generator=seeded(0, "stage", step)) for step in range(1000)])
    assert abs(many.mean().item() - 0.5) < 4 * (1 / 12 / 1000) ** 0.5


@pytest.mark.parametrize("killed", [1, 13, 49])
def test_a_restored_stage_goes_on_bit_by_bit(tmp_path, killed):
    straight = Line()
    for step in range(50):
        straight.step(step)
    first = Line()
    for step in range(killed):
        first.step(step)
    save(tmp_path, Checkpoint("autoencoder", killed, first.tensors(), FACTS), f"step-{killed}")
    second = Line()
    with torch.no_grad():
        second.network.weight.fill_(99)  # whatever it starts from
    second.restore(load(tmp_path).tensors, tmp_path)
    for step in range(killed, 50):
        second.step(step)
    wanted, got = straight.tensors(), second.tensors()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)
    assert any(key.startswith("optimizer/") for key in wanted)


@pytest.mark.parametrize("share", [0.1, 0.9, 1.1, 100.0])
def test_gradients_are_shortened_as_pytorch_shortens_them(share):
    """To `share` of the first one's length: ours leaves a gradient that is short enough alone, PyTorch's multiplies it by 1."""
    ours, theirs = Line(), Line()
    theirs.loss(theirs.places(0), seeded(0, "line", 0)).backward()
    clip = share * nn.utils.get_total_norm([parameter.grad for parameter in theirs.parameters]).item()
    ours.settings = dataclasses.replace(ours.settings, clip=clip)
    for step in range(8):
        ours.step(step)
        for optimizer in theirs.optimizers:
            optimizer.param_groups[0]["lr"] = theirs.lr * rate_factor(step, theirs.steps, theirs.settings.warmup)
            optimizer.zero_grad()
        theirs.loss(theirs.places(step), seeded(0, "line", step)).backward()
        nn.utils.clip_grad_norm_(theirs.parameters, clip)
        for got, wanted in zip(ours.parameters, theirs.parameters, strict=True):
            assert torch.equal(got.grad, wanted.grad)
        for optimizer in theirs.optimizers:
            optimizer.step()
    for got, wanted in zip(ours.parameters, theirs.parameters, strict=True):
        assert torch.equal(got, wanted)


def test_a_trial_leaves_the_stage_as_it_was():
    stage = Line()
    stage.step(0)
    before = {key: value.clone() for key, value in stage.tensors().items()}
    twin = stage.trial()
    for step in range(1, 5):
        twin.step(step)
    assert all(torch.equal(before[key], value) for key, value in stage.tensors().items())
    assert not torch.equal(twin.network.weight, stage.network.weight)


# The learning rate


@pytest.mark.parametrize(("steps", "warmup"), [(1000, 100), (1000, 0), (50, 100), (10, 5), (5, 100), (1, 100), (2, 0)])
def test_the_rate_rises_to_its_peak_and_falls_to_a_fiftieth(steps, warmup):
    rates = [rate_factor(step, steps, warmup) for step in range(steps)]
    rising = min(warmup, steps // 10)  # never more than a tenth of a short run
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[:rising] == pytest.approx([(step + 1) / rising for step in range(rising)])
    assert rates[rising] == 1
    falling = rates[rising:]
    assert falling == sorted(falling, reverse=True)
    assert rate_factor(steps, steps, warmup) == pytest.approx(0.02)
    if (steps - rising) % 2 == 0:
        assert rates[(steps + rising) // 2] == pytest.approx(0.51)  # half-way down at half-way through


def test_matrices_are_muons_the_rest_is_adamws_and_both_decay_as_set():
    network, settings = nn.Linear(3, 2), dataclasses.replace(Line().settings, weight_decay=0.3)
    stage = Stage("line", network, 10, 50, 4, 0.05, settings)
    owners = [(type(owner), parameter is network.weight) for parameter, owner in stage.owners]
    assert owners == [(Muon, True), (torch.optim.AdamW, False)]
    assert [optimizer.param_groups[0]["weight_decay"] for optimizer in stage.optimizers] == [0.3, 0.3]


def test_the_rate_is_the_optimizers():
    stage = Line(steps=50)
    for step in (0, 4, 5, 30, 49):
        stage.step(step)
        for optimizer in stage.optimizers:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05 * rate_factor(step, 50, 5))
