"""The command line: what it does and what it says. What it does with mistakes is in test_bad_input.py."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import TINY_FLAGS
from PIL import Image

from minildm.engine.cli import main
from minildm.engine.presets import PRESETS
from minildm.ldm import LatentDiffusion


def test_train_leaves_a_report_with_pictures(trained: Path) -> None:
    report = (trained / "report.md").read_text()
    for name in ("samples/final.png", "loss.png"):
        assert name in report
        assert Image.open(trained / name).size[0] > 100
    for said in ("Peak memory", "Fréchet distance", "never seen in training", "autoencoder + caching + denoiser + samples"):
        assert said in report


def test_evaluate_prints_one_json_object(trained: Path, capsys: pytest.CaptureFixture) -> None:
    capsys.readouterr()
    assert (
        main(["evaluate", str(trained), "--samples", "20", "--steps", "2", "--guidance", "2", "--guidance-high", "0.5", "--json"])
        == 0
    )
    judged = json.loads(capsys.readouterr().out)
    wanted = {"prompt_accuracy", "prompt_accuracy_held_out", "judge_accuracy", "reconstruction_accuracy"}
    others = {"frechet", "frechet_floor", "nearest_train_distance", "samples", "guidance", "steps", "images_per_second"}
    assert judged.keys() >= wanted | others
    assert (judged["samples"], judged["steps"], judged["guidance"], judged["guidance_high"]) == (20, 2, 2.0, 0.5)
    for name in wanted:
        low, high = judged[f"{name}_interval"]
        assert 0 <= low <= judged[name] <= high <= 1
    assert judged["frechet"] > 0 and judged["frechet_floor"] > 0 and judged["images_per_second"] > 0


def test_sample_writes_a_picture(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "two.png"
    assert main(["sample", str(trained), "a red circle", "", "--steps", "2", "--sampler", "ddim", "--out", str(out)]) == 0
    assert Image.open(out).mode == "RGB" and str(out) in capsys.readouterr().out
    assert main(["sample", str(trained), "a red circle " * 30, "--steps", "2"]) == 0
    assert "the rest was cut" in capsys.readouterr().err


def test_sample_uses_the_guidance_and_steps_of_the_run(trained: Path, tmp_path: Path) -> None:
    outs = [tmp_path / f"{name}.png" for name in ("own", "same", "other", "saved")]
    assert main(["sample", str(trained), "a red circle", "--out", str(outs[0])]) == 0
    own = ["--guidance", str(PRESETS["shapes"][1].guidance), "--steps", "3"]
    assert main(["sample", str(trained), "a red circle", "--out", str(outs[1]), *own]) == 0
    assert main(["sample", str(trained), "a red circle", "--out", str(outs[2]), "--guidance", "0.5", "--steps", "3"]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes() != outs[2].read_bytes()
    assert (
        main(["sample", str(trained), "a red circle", "--out", str(tmp_path / "high.png"), *own, "--guidance-high", "0.5"]) == 0
    )
    assert (tmp_path / "high.png").read_bytes() != outs[0].read_bytes()
    LatentDiffusion.load(trained).save(tmp_path / "model")  # no settings there: guidance 3 and 20 steps
    assert main(["sample", str(tmp_path / "model"), "a red circle", "--out", str(outs[3])]) == 0


def test_a_second_picture_of_the_same_prompt_gets_a_number(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    for seed in range(3):
        assert main(["sample", str(tmp_path / "run"), "A Red, Circle!", "--steps", "1", "--seed", str(seed)]) == 0
    made = [tmp_path / "run" / "samples" / f"a-red-circle{suffix}.png" for suffix in ("", "-2", "-3")]
    assert len({path.read_bytes() for path in made}) == 3


@pytest.mark.slow
def test_ctrl_c_while_judging_tells_how_to_go_on(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("minildm.engine.evaluate.evaluate", stop)
    with pytest.raises(SystemExit) as ended:
        main(["train", "shapes", "--out", str(tmp_path / "a run"), *TINY_FLAGS])
    said = capsys.readouterr().err
    assert ended.value.code == 130 and f"minildm train shapes --out '{tmp_path / 'a run'}' --resume" in said
    steps = []
    monkeypatch.setattr("minildm.engine.stages.Stage.step", lambda self, step: steps.append(step))
    assert main(["train", "shapes", "--out", str(tmp_path / "a run"), "--resume", "--samples", "0"]) == 0
    assert not steps, "training was finished: nothing of it is done again"


def test_the_line_that_is_offered_for_pasting_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for place in range(8):
        Image.new("RGB", (32, 32), (30 * place, 0, 0)).save(data / f"{place}.png")
    caption = "é $(touch pwned) `id` 'x'"
    lines = [json.dumps({"file_name": f"{place}.png", "text": caption}) for place in range(8)]
    (data / "metadata.jsonl").write_text("\n".join(lines))
    flags = [*TINY_FLAGS, "--samples", "0", "--batch", "4", "--autoencoder-batch", "4"]
    assert main(["train", "folder", "--data", str(data), "--out", str(tmp_path / "a b; c"), *flags]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("more"))
    assert shlex.split(line)[1:] == ["minildm", "sample", str(tmp_path / "a b; c"), caption]


@pytest.mark.slow
def test_without_a_judge_the_report_has_none(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "shapes", "--out", str(tmp_path / "run"), *TINY_FLAGS, "--samples", "0"]) == 0
    report = (tmp_path / "run" / "report.md").read_text()
    assert "judge" not in report.lower() and "Peak memory" in report
    assert not (tmp_path / "run" / "judge.safetensors").exists() and not (tmp_path / "run" / "evaluation.json").exists()


@pytest.mark.slow
def test_a_terminal_without_our_letters_still_gets_the_line(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "naïve.png"
    command = [sys.executable, "-m", "minildm", "sample", str(trained), "x", "--steps", "1", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and out.exists() and "na\\xefve" in done.stdout, done.stderr


@pytest.mark.slow
def test_a_picture_is_drawn_without_loading_torchs_compiler(trained: Path, tmp_path: Path) -> None:
    """Which takes longer than drawing: building on `meta` would load it for one normal distribution."""
    code = (
        "import sys; from minildm.engine.cli import main;"
        f"assert main(['sample', {str(trained)!r}, 'x', '--steps', '1', '--out', {str(tmp_path / 'x.png')!r}]) == 0;"
        "sys.exit(', '.join({'torch._dynamo', 'sympy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_every_command_without_torch() -> None:
    code = "import sys, minildm.engine.cli as cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("demo", "train", "sample", "evaluate", "doctor"):
        assert f"\n  {command}" in done.stdout


def test_every_field_is_a_flag(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "shapes", "--help"]) == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(PRESETS["shapes"][1]):
        if field.name != "model":
            assert f"--{field.name.replace('_', '-')}" in shown


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_prints_the_command_that_resumes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "minildm", "train", "shapes", "--out", str(out), *TINY_FLAGS]
    command[command.index("--steps") + 1] = "2000"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ})
    patience = time.monotonic() + 120
    while not (out / "latest").exists() and time.monotonic() < patience:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"minildm train shapes --out {out} --resume" in said and "Traceback" not in said
    assert (out / "latest").exists()
