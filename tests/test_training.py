"""The training run: reproducible, resumable, and complete."""

import dataclasses
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from minildm import files
from minildm.engine import checkpoints, data, plan, stages
from minildm.engine import folder as folder_module
from minildm.engine.errors import UserError
from minildm.engine.folder import Origin, read_config, write_config
from minildm.engine.presets import Settings
from minildm.engine.train import Interrupted, Run
from minildm.ldm import LatentDiffusion
from minildm.tokenizer import Tokenizer
from minildm.unet import UNet


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, stage: type, step: int) -> None:
    """Have the process receive SIGINT, as from Ctrl-C, while it takes this step."""
    original = stage.step

    def step_and_signal(self, number):
        if number == step and not getattr(interrupt_at, "sent", False):
            interrupt_at.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, number)

    interrupt_at.sent = False
    monkeypatch.setattr(stage, "step", step_and_signal)


@pytest.mark.slow
def test_same_seed_same_weights_other_seed_other_weights(tiny_settings: Settings, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        Run(tmp_path / name, dataclasses.replace(tiny_settings, seed=seed), resume=False).train()
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


MOMENTS = [
    pytest.param(stages.AutoencoderStage, 1, marks=pytest.mark.slow),
    pytest.param(stages.AutoencoderStage, 5, marks=pytest.mark.slow),
    (stages.DenoiserStage, 4),
]


@pytest.mark.parametrize(("stage", "step"), MOMENTS)
def test_ctrl_c_saves_and_resume_ends_with_the_same_bits(
    stage: type, step: int, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path / "whole", tiny_settings, resume=False).train()
    interrupt_at(monkeypatch, stage, step)
    with pytest.raises(Interrupted):
        Run(tmp_path / "cut", tiny_settings, resume=False).train()
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    saved = checkpoints.load(tmp_path / "cut")
    assert saved.step == step + 1, "the interrupted step is finished and saved"
    resumed = Run(tmp_path / "cut", tiny_settings, resume=True)
    resumed.train()
    assert resumed.clock.seconds[saved.stage] > saved.facts["seconds"][saved.stage] > 0, "time before the stop counts"
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")

    def without_times(folder: Path) -> list[dict]:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [{key: line[key] for key in ("stage", "step")} for line in lines]

    kept = without_times(tmp_path / "cut")
    assert kept == sorted(kept, key=lambda line: (line["stage"], line["step"])), "lines are in order"
    assert {(line["stage"], line["step"]) for line in kept} >= {("autoencoder", 6), ("denoiser", 8)}


@pytest.mark.slow
def test_resume_after_a_crash_between_checkpoints(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """What was done after the last checkpoint is done again, the same way."""
    Run(tmp_path / "whole", tiny_settings, resume=False).train()
    original = stages.DenoiserStage.step

    def crash(self, number):
        if number == 7:
            raise RuntimeError("power cut")
        return original(self, number)

    monkeypatch.setattr(stages.DenoiserStage, "step", crash)
    with pytest.raises(RuntimeError):
        Run(tmp_path / "cut", tiny_settings, resume=False).train()
    assert checkpoints.load(tmp_path / "cut").step == 6
    monkeypatch.undo()
    Run(tmp_path / "cut", tiny_settings, resume=True).train()
    assert weights(tmp_path / "whole") == weights(tmp_path / "cut")


def test_run_folder_is_complete_and_rebuilds_the_run(tiny_settings: Settings, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", tiny_settings, resume=False)
    averaged = run.train()
    for name in ("config.json", "model.safetensors", "vocab.json", "merges.txt", "metrics.jsonl"):
        assert (tmp_path / "run" / name).exists(), name
    assert read_config(tmp_path / "run")[0] == run.settings
    loaded = LatentDiffusion.load(tmp_path / "run")
    for (name, ours), theirs in zip(averaged.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    assert loaded.tokens(["a red circle"]).tolist() == averaged.tokens(["a red circle"]).tolist()


@pytest.mark.slow
def test_scale_makes_training_latents_unit_variance(tiny_settings: Settings, tmp_path: Path) -> None:
    from minildm.engine.data import load, to_float

    model = Run(tmp_path / "run", dataclasses.replace(tiny_settings, precision="float32"), resume=False).train()
    train, _ = load(tiny_settings)
    with torch.no_grad():
        noise = torch.randn(96, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        latents = model.encode(to_float(train.images)).sample(noise)
    error = (2 / latents.numel()) ** 0.5 * 5  # five standard errors of a variance of independent normal values
    assert abs(float(latents.var()) - 1) < error + 0.01
    assert float(load_file(tmp_path / "run" / "model.safetensors")["autoencoder.scale"]) != 1


def test_a_folder_with_something_in_it_is_never_overwritten(tiny_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UserError, match="not empty"):
        Run(tmp_path, tiny_settings, resume=False).train()
    with pytest.raises(UserError, match="no run to resume"):
        Run(tmp_path, tiny_settings, resume=True).train()
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_loss_that_is_no_number_stops_the_run(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    original = stages.DenoiserStage.loss
    monkeypatch.setattr(stages.DenoiserStage, "loss", lambda *args: original(*args) * float("nan"))
    with pytest.raises(UserError, match=r"the loss became nan at step 1.*--lr"):
        Run(tmp_path / "run", tiny_settings, resume=False).train()


@pytest.mark.parametrize(("stage", "flag"), [(stages.AutoencoderStage, "--autoencoder-lr"), (stages.DenoiserStage, "--lr")])
def test_a_loss_that_is_no_number_stops_the_timing(stage, flag, tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    original = stage.loss
    monkeypatch.setattr(stage, "loss", lambda *args: original(*args) * float("nan"))
    with pytest.raises(UserError, match=f"the loss became nan at step 1.*a lower {flag} than"):
        Run(tmp_path / "run", dataclasses.replace(tiny_settings, minutes=0.02), resume=False).train()


@pytest.mark.slow
def test_minutes_become_steps(tiny_settings: Settings, tmp_path: Path, capsys) -> None:
    """Plans are made from timings and stored; the weights are as if nothing had been timed."""
    run = Run(tmp_path / "run", dataclasses.replace(tiny_settings, minutes=0.02), resume=False)
    run.train()
    stored, origin = read_config(tmp_path / "run")
    pattern = r"plan: (\d+) autoencoder steps|plan: (\d+) denoiser steps, for the .* minutes that are left"
    said = re.findall(pattern, capsys.readouterr().out)
    assert said == [(str(stored.autoencoder_steps), ""), ("", str(stored.steps))] and origin.planned and origin.final
    planned = dataclasses.replace(stored, minutes=None)
    Run(tmp_path / "same", planned, resume=False).train()
    assert weights(tmp_path / "run") == weights(tmp_path / "same")


@pytest.mark.slow
def test_dropped_captions_are_the_stated_share(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """The null condition is the encoding of "", and about `drop_caption` of all captions become it."""
    seen = []

    def record(self, latents, tokens, **_):
        seen.append(tokens)
        return latents.sum() * 0 + sum(parameter.sum() * 0 for parameter in self.unet.parameters())

    monkeypatch.setattr(LatentDiffusion, "loss", record)
    settings = dataclasses.replace(tiny_settings, drop_caption=0.3, steps=60)
    model = Run(tmp_path / "run", settings, resume=False).train()
    tokens = torch.cat(seen)
    null = (tokens == model.tokens([""])).all(1).double()
    error = (0.3 * 0.7 / len(null)) ** 0.5
    print(f"null captions: {null.mean():.3f}, expected 0.3 ± {error:.3f}")
    assert abs(null.mean() - 0.3) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_training_times_follow_the_setting(power: float, tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """The mean of (t/T)^(1/power) is ½ whatever the power, for times drawn as T·u^power."""
    times, original = [], UNet.forward

    def record(self, x_t, t, *args, **options):
        if self.training:
            times.append(t)
        return original(self, x_t, t, *args, **options)

    monkeypatch.setattr(UNet, "forward", record)
    settings = dataclasses.replace(tiny_settings, time_power=power, steps=20, preview_every=100)
    Run(tmp_path / "run", settings, resume=False).train()
    T = settings.model.T
    u = ((torch.cat(times).double() - 0.5) / T) ** (1 / power)
    print(f"mean of u: {u.mean():.4f} over {len(u)} times")
    assert len(u) == 20 * settings.batch and abs(u.mean() - 0.5) < 0.02


def metrics(folder: Path) -> list[tuple]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["step"], line["loss"]) for line in lines]


def crash_at(patch: pytest.MonkeyPatch, owner: type, name: str, when) -> None:
    """Have a method raise as if the power went, the first time that `when(its arguments)` holds."""
    original = getattr(owner, name)

    def crash(self, *args, **options):
        if when(*args):
            raise Power
        return original(self, *args, **options)

    patch.setattr(owner, name, crash)


class Power(BaseException):
    """It is gone."""


@pytest.mark.slow
def test_metrics_of_a_resumed_run_are_those_of_the_whole_one(tiny_settings: Settings, tmp_path: Path) -> None:
    """Means over twenty steps, across a stop at the seventh: no gap, no repeat, the same numbers."""
    settings = dataclasses.replace(tiny_settings, steps=45, autoencoder_steps=23, checkpoint_every=7, preview_every=100)
    Run(tmp_path / "whole", settings, resume=False).train()
    assert [step for _, step, _ in metrics(tmp_path / "whole")] == [20, 23, 20, 40, 45]
    for stage, step in ((stages.AutoencoderStage, 17), (stages.DenoiserStage, 30)):
        folder = tmp_path / f"{stage.__name__}"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
            crash_at(patch, stage, "step", lambda number, step=step: number == step)
            Run(folder, settings, resume=False).train()
        Run(folder, settings, resume=True).train()
        assert metrics(folder) == metrics(tmp_path / "whole") and weights(folder) == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tokenizer", "between its two files", "model", "caching", "weights", "samples"])
def test_power_that_goes_between_the_stages_loses_nothing(moment: str, tiny_settings: Settings, tmp_path: Path) -> None:
    """And what was finished is not done again."""
    from minildm.engine import plots, train

    Run(tmp_path / "whole", tiny_settings, resume=False).train()
    places = {
        "tokenizer": (Tokenizer, "save"),
        "between its two files": (files, "write_text"),
        "model": (train, "AutoencoderStage"),
        "caching": (train.Run, "cache"),
        "weights": (LatentDiffusion, "save_weights"),
        "samples": (plots, "captioned_grid"),
    }
    owner, name = places[moment]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        if moment == "between its two files":
            from minildm import tokenizer

            owner, original = tokenizer, tokenizer.write_text
            patch.setattr(
                tokenizer, "write_text", lambda path, *rest: _power() if path.name == "merges.txt" else original(path, *rest)
            )
        else:
            crash_at(patch, owner, name, lambda *args: True) if isinstance(owner, type) else patch.setattr(owner, name, _power)
        Run(tmp_path / "cut", tiny_settings, resume=False).train()
    steps = []
    with pytest.MonkeyPatch.context() as patch:
        original = stages.Stage.step
        patch.setattr(stages.Stage, "step", lambda self, step: (steps.append(self.name), original(self, step))[1])
        Run(tmp_path / "cut", tiny_settings, resume=True).train()
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole") and metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    wanted = {"caching": ["denoiser"] * 8, "weights": [], "samples": []}.get(moment, ["autoencoder"] * 6 + ["denoiser"] * 8)
    assert steps == wanted


def _power(*args) -> None:
    raise Power


@pytest.mark.slow
def test_a_finished_run_is_resumed_to_the_same_weights(tiny_settings: Settings, tmp_path: Path) -> None:
    Run(tmp_path / "run", tiny_settings, resume=False).train()
    before = weights(tmp_path / "run")
    Run(tmp_path / "run", tiny_settings, resume=True).train()
    assert weights(tmp_path / "run") == before


@pytest.mark.slow
def test_a_plan_that_was_not_finished_is_made_on_resume(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    from minildm.engine import train

    settings = dataclasses.replace(tiny_settings, minutes=0.01)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        patch.setattr(train, "plan", _power)
        Run(tmp_path / "run", settings, resume=False).train()
    stored, origin = read_config(tmp_path / "run")
    assert not origin.planned and not origin.final and stored.steps == settings.steps
    monkeypatch.setattr(train, "plan", lambda model, data, settings: dataclasses.replace(settings, autoencoder_steps=2, steps=3))
    monkeypatch.setattr(train, "plan_denoiser", lambda model, latents, data, settings, spent: settings)
    Run(tmp_path / "run", settings, resume=True).train()
    stored, origin = read_config(tmp_path / "run")
    assert origin.planned and origin.final and (stored.autoencoder_steps, stored.steps) == (2, 3)


@pytest.mark.slow
def test_the_denoiser_is_planned_where_it_begins_and_never_again(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """Killed in the autoencoder's second step, a run still has to plan; killed in the denoiser's first, it has planned. All that
    its clock has seen when it plans is spent, the autoencoder's first step included, before the kill."""
    from minildm.engine import train

    run, planned, calls = tmp_path / "run", [], []
    settings = dataclasses.replace(tiny_settings, minutes=0.01, checkpoint_every=1)
    first_loss = stages.AutoencoderStage.loss

    def counted(model, latents, data, settings, spent):
        assert current.clock.seconds.keys() == {"autoencoder", "caching"}
        assert current.clock.seconds["autoencoder"] > before and spent == sum(current.clock.seconds.values())
        planned.append(spent)
        return dataclasses.replace(settings, steps=4)

    def killed_in_the_second_step(stage, places, generator):
        calls.append(1)
        return first_loss(stage, places, generator) if len(calls) == 1 else _power()

    monkeypatch.setattr(train, "plan", lambda model, data, settings: dataclasses.replace(settings, autoencoder_steps=2, steps=3))
    monkeypatch.setattr(train, "plan_denoiser", counted)
    kills = ((stages.AutoencoderStage, killed_in_the_second_step), (stages.DenoiserStage, _power))
    for times, (stage, kill) in enumerate(kills):
        current = Run(run, settings, resume=run.exists())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
            patch.setattr(stage, "loss", kill)
            current.train()
        before = checkpoints.load(run).facts["seconds"]["autoencoder"]
        stored, origin = read_config(run)
        assert len(planned) == times and origin.planned and origin.final == bool(times) and stored.steps == 3 + times
    finished = Run(run, settings, resume=True)
    finished.train()
    assert len(planned) == 1 and finished.settings.steps == 4
    told = dataclasses.replace(finished.settings, minutes=None)
    Run(tmp_path / "told", told, resume=False).train()
    assert len(planned) == 1 and weights(run) == weights(tmp_path / "told")


@pytest.mark.slow
@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_a_clock_that_jumps_changes_nothing_but_the_times(
    jump: float, tiny_settings: Settings, tmp_path: Path, monkeypatch
) -> None:
    """The calendar set back or forward by thirty years at every look, the steady clock stopped or leaping."""
    Run(tmp_path / "whole", tiny_settings, resume=False).train()
    looks = []
    monkeypatch.setattr("time.time", lambda: looks.append(1) or 1.7e9 + jump * (len(looks) % 2))
    monkeypatch.setattr("time.monotonic", lambda: looks.append(1) or (len(looks) // 10 * 3600.0 if jump > 0 else 5.0))
    Run(tmp_path / "run", tiny_settings, resume=False).train()
    assert looks and weights(tmp_path / "run") == weights(tmp_path / "whole")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["images_per_second"] >= 0 for line in lines)


def planning(tiny_settings: Settings) -> tuple:
    """A model, its data and settings of one minute, 54 seconds of which are planned for, half of them for the autoencoder."""
    settings = dataclasses.replace(tiny_settings, minutes=1.0, autoencoder_share=0.5)
    train, _ = data.load(settings)
    return LatentDiffusion(settings.model, Tokenizer.train(train.texts, settings.model.text.vocabulary)), train, settings


def test_a_sleep_during_the_timing_does_not_spoil_the_plan() -> None:
    """One step in which the machine slept for an hour, among steps of about 20 ms."""
    from minildm.engine.plan import steady_mean

    times = [0.018, 0.022, 0.02, 3600.0, 0.021, 0.019]
    assert steady_mean(times) == pytest.approx(0.02)
    assert steady_mean([0.01, 0.03, 0.05]) == pytest.approx(0.03)  # an honest spread is kept


@pytest.mark.parametrize(("seconds", "steps", "needed"), [(0.25, 108, 8), (0.04, 675, 2), (0.03, 900, None)])
def test_minutes_that_are_too_few_are_told_at_the_start(
    seconds, steps, needed, tiny_settings: Settings, monkeypatch, capsys
) -> None:
    """Of one minute 54 seconds are planned for, 27 of them for the denoiser's steps; encoding seems to take no time."""
    monkeypatch.setattr(plan, "seconds_per_step", lambda stage: seconds)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    assert plan.plan(*planning(tiny_settings)).steps == steps
    said = capsys.readouterr().out
    assert ("are few" in said) == (needed is not None)  # 7.4 and 1.2 minutes, rounded up
    if needed is not None:
        assert f"{steps} denoiser steps are few; 800 take --minutes {needed} on this machine\n" in said


@pytest.mark.parametrize(("first", "second"), [(0.4, 0.1), (0.1, 0.4)])
def test_a_busy_moment_does_not_cost_the_autoencoder_its_steps(first, second, tiny_settings, monkeypatch) -> None:
    """It is timed before and after the denoiser, and the faster time is believed: 27 seconds of 0.1."""
    times = {"autoencoder": iter([first, second]), "denoiser": iter([0.05])}
    monkeypatch.setattr(plan, "seconds_per_step", lambda stage: next(times[stage.name]))
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    planned = plan.plan(*planning(tiny_settings))
    assert (planned.autoencoder_steps, planned.steps) == (270, 540)


@pytest.mark.parametrize(("spent", "steps"), [(14.0, 800), (27.0, 540), (40.0, 280), (3600.0, 270)])
def test_the_denoiser_gets_what_is_left(spent, steps, tiny_settings, monkeypatch, capsys) -> None:
    """Of 54 seconds, in steps of 0.05; but never less than half of its own share, 13.5 seconds."""
    monkeypatch.setattr(plan, "seconds_per_step", lambda stage: 0.05)
    model, train, settings = planning(tiny_settings)
    latents = stages.joined(stages.encode_all(model, train.images, settings), model.autoencoder)
    planned = plan.plan_denoiser(model, latents, train, settings, spent)
    assert planned == dataclasses.replace(settings, steps=steps)
    said, few = f"plan: {steps} denoiser steps, for the {steps * 0.05 / 60:.1f} minutes that are left\n", ""
    if steps < 800:  # which take 40 seconds: with those spent 1.2, 1.5 or 67.4 minutes, rounded up
        few = f"plan: {steps} denoiser steps are few; 800 take --minutes {68 if spent > 60 else 2} on this machine\n"
    assert capsys.readouterr().out == said + few


@pytest.mark.slow
def test_other_threads_are_noted_on_resume(tiny_settings: Settings, tmp_path: Path) -> None:
    Run(tmp_path / "run", tiny_settings, resume=False).train()
    began = torch.get_num_threads()
    torch.set_num_threads(began + 1)
    with pytest.warns(UserWarning) as noted:
        Run(tmp_path / "run", tiny_settings, resume=True).train()
    said = [str(warning.message) for warning in noted]
    assert said == [f"the run began with threads={began}, now {began + 1}: expect its result, but not bit for bit"]


def test_the_origin_of_an_older_minildm_is_final_and_knows_nothing_of_bf16(tiny_settings: Settings, tmp_path: Path) -> None:
    """It planned everything at the start, so its runs are not planned again in the middle."""
    began = Origin(20, "abc", 2, "2.13.0", planned=True, final=False, bf16=True)
    write_config(tmp_path, tiny_settings, began)
    assert read_config(tmp_path)[1] == began
    document = json.loads((tmp_path / "config.json").read_text())
    del document["origin"]["final"], document["origin"]["bf16"]
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert read_config(tmp_path)[1] == dataclasses.replace(began, final=True, bf16=None)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_a_machine_without_native_bf16_is_noted_on_resume(
    precision: str, tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Only where the run computes in it; a run of an older minildm, which did not note it, is not asked."""
    settings = dataclasses.replace(tiny_settings, precision=precision)
    train_data, test_data = data.load(settings)
    monkeypatch.setattr("minildm.engine.train.native_bf16", lambda device: True)
    began = Run(tmp_path / "run", settings, resume=False).check(train_data, test_data, None)
    monkeypatch.setattr("minildm.engine.train.native_bf16", lambda device: False)
    run = Run(tmp_path / "run", settings, resume=True)
    run.check(train_data, test_data, dataclasses.replace(began, bf16=None))
    assert not recwarn
    run.check(train_data, test_data, began)
    said = ["the run began with bf16=True, now False: expect its result, but not bit for bit"] if precision == "bf16" else []
    assert [str(warning.message) for warning in recwarn] == said


@pytest.mark.slow
def test_a_polite_kill_saves_and_stops(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """SIGTERM, as a machine sends before it shuts down."""
    original = stages.DenoiserStage.step
    monkeypatch.setattr(
        stages.DenoiserStage,
        "step",
        lambda self, step: (os.kill(os.getpid(), signal.SIGTERM) if step == 4 else None, original(self, step))[1],
    )
    with pytest.raises(Interrupted):
        Run(tmp_path / "run", tiny_settings, resume=False).train()
    assert checkpoints.load(tmp_path / "run").step == 5


@pytest.mark.slow
def test_metrics_are_on_disk_before_the_checkpoint_that_counts_on_them(
    tiny_settings: Settings, tmp_path: Path, monkeypatch
) -> None:
    """It counts on them: after a power cut as many lines must be there as it says."""
    events, real_sync, real_replace = [], os.fsync, Path.replace
    name_of = lambda number: Path(os.readlink(f"/proc/self/fd/{number}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda number: (events.append(name_of(number)), real_sync(number))[1])

    def replace(self, target):
        events.append(f"-> {Path(target).name}")
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    Run(tmp_path / "run", tiny_settings, resume=False).train()
    pointed = [place for place, event in enumerate(events) if event == "-> latest"]
    assert len(pointed) == 5  # at steps 3 and 6 of the autoencoder, 3, 6 and 8 of the denoiser
    for first, last in zip([0, *pointed], pointed, strict=False):
        assert "metrics.jsonl" in events[first:last]


@pytest.mark.slow
def test_leftovers_of_a_kill_are_swept_away(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Power):
        crash_at(patch, stages.DenoiserStage, "step", lambda number: number == 4)
        Run(tmp_path / "run", tiny_settings, resume=False).train()
    for name in (".step-9.partial", "samples/.000004.png.77.partial"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / ".tmpAbc123").write_text("half")
    Run(tmp_path / "run", tiny_settings, resume=True).train()
    assert not [path for path in (tmp_path / "run").rglob(".*")]


def test_a_run_that_could_not_begin_leaves_no_folder(tiny_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Run(tmp_path / "run", dataclasses.replace(tiny_settings, data=str(tmp_path / "nowhere")), resume=False).train()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_data_that_moved_are_remembered_where_they_are_now(tiny_settings: Settings, tmp_path: Path) -> None:
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    for place in range(20):
        Image.new("RGB", (32, 32), (12 * place, 0, 0)).save(data / f"{place}.png")
    Run(tmp_path / "run", dataclasses.replace(tiny_settings, data=str(data)), resume=False).train()
    data.rename(tmp_path / "elsewhere")
    Run(tmp_path / "run", tiny_settings, resume=True, data=str(tmp_path / "elsewhere")).train()
    assert read_config(tmp_path / "run")[0].data == str(tmp_path / "elsewhere")
    Run(tmp_path / "run", tiny_settings, resume=True).train()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stages.AutoencoderStage, stages.DenoiserStage])
def test_weights_that_are_no_numbers_are_not_saved(stage: type, tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """The last step before a checkpoint may spoil them while its loss is still fine."""
    original = stage.step

    def spoil(self, step):
        loss = original(self, step)
        if step == 4:
            with torch.no_grad():
                next(self.network.parameters())[0].fill_(torch.inf)
        return loss

    monkeypatch.setattr(stage, "step", spoil)
    settings = dataclasses.replace(tiny_settings, checkpoint_every=5, autoencoder_steps=5, steps=5)
    with pytest.raises(UserError, match="is no finite number after step 5"):
        Run(tmp_path / "run", settings, resume=False).train()
    saved = checkpoints.load(tmp_path / "run")
    assert saved is None if stage is stages.AutoencoderStage else saved.stage == "autoencoder"


def test_a_run_that_began_between_the_look_and_the_lock_is_seen(tiny_settings: Settings, tmp_path: Path, monkeypatch) -> None:
    """Another process may have come first, and have gone again."""
    real = folder_module.FileLock.acquire

    def late(self, *args, **options):
        (tmp_path / "run" / "config.json").write_text("another's")
        return real(self, *args, **options)

    monkeypatch.setattr(folder_module.FileLock, "acquire", late)
    with pytest.raises(UserError, match="holds another run"):
        Run(tmp_path / "run", tiny_settings, resume=False).train()
    assert (tmp_path / "run" / "config.json").read_text() == "another's"


def test_previews_are_drawn_as_the_run_is_set(tiny_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    original = LatentDiffusion.generate
    monkeypatch.setattr(
        LatentDiffusion, "generate", lambda self, *rest, **more: told.append(more) or original(self, *rest, **more)
    )
    settings = dataclasses.replace(tiny_settings, guidance=2.5, guidance_high=0.6, sample_steps=3, seed=4)
    Run(tmp_path / "run", settings, resume=False).train()
    assert len(told) > 1
    assert all(each == {"guidance": 2.5, "guidance_high": 0.6, "steps": 3, "seed": 4} for each in told)
