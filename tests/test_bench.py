"""The measurements of `minildm bench` count what they say they count. No test here looks at how long anything takes."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from torch import Tensor, nn

from minildm.engine import bench, device
from minildm.engine.cli import main
from minildm.engine.presets import PRESETS, Settings
from minildm.engine.stages import Stage


class Convolution(Stage):
    """Trains one convolution, 4 → 6 channels, on 2 maps of 8×8."""

    def __init__(self) -> None:
        super().__init__("one", nn.Conv2d(4, 6, 3, padding=1), 2, 10, 2, 0.1, Settings(precision="float32"))

    def loss(self, places: Tensor, generator: torch.Generator) -> Tensor:
        return self.network(torch.ones(2, 4, 8, 8)).square().mean()


def test_speed_is_compared_in_the_batches_of_the_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for MNIST's, where it is twice as large: 128, as the figures were that it began with."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    sizes = importlib.import_module("common").SIZES
    batches = {size: (batch, PRESETS[preset][1].batch) for size, (preset, _, batch) in sizes.items()}
    assert {size for size, (taken, own) in batches.items() if taken != own} == {size for size in sizes if "mnist" in size}
    assert batches["mnist"] == (128, 64) and batches["cifar10"] == (128, 128) and batches["128 pixels"] == (64, 64)


def test_a_step_of_one_convolution_is_counted_by_hand() -> None:
    forward = 2 * 9 * 4 * 6 * 8 * 8 * 2  # a multiplication and an addition for each weight, at each place of each map
    muon = 2 * 6 * 6 * (2 * 36) + 2 * 6**3 * (3 + 2 + 4)  # the 6×36 weights twice; what is 6×6, three rounds long
    assert bench.gflop(Convolution()) == pytest.approx((2 * forward + muon) / 1e9)  # the weights' gradient costs the same


def test_the_profile_finds_where_the_time_goes() -> None:
    shares = bench.profile(Convolution(), steps=2)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["convolutions"] > 0 and "softmax" not in shares
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_what_must_be_held_is_counted_from_the_tensors() -> None:
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY, batch=8, autoencoder_batch=8)
    model, _, denoiser = bench.stages(settings)
    count = sum(parameter.numel() for parameter in model.parameters())
    trained = count - sum(parameter.numel() for parameter in model.autoencoder.parameters())
    held = bench.must_hold(denoiser)
    assert held["weights and their average"] == 2 * 4 * count
    flat = sum(each.numel() for each in denoiser.optimizers[1].param_groups[0]["params"])
    assert 0 < flat < trained and held["gradients"] == 4 * trained and held["moments"] == 4 * (trained + flat)
    denoiser.places = lambda step, places=denoiser.places: places(step).repeat(2)
    twice = bench.must_hold(denoiser)["activations"]
    assert 1.8 * held["activations"] < twice < 2 * held["activations"] + 1  # twice the batch; bf16 weights stay


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_stages_compute_in_the_precision_that_is_asked_for(precision: str) -> None:
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY, batch=8, autoencoder_batch=8, precision=precision)
    seen = set()
    model, _, denoiser = bench.stages(settings)
    model.unet.first.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
    denoiser.step(0)
    assert seen == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_muon_is_in_half_precision_for_the_denoiser_where_that_is_native(
    precision: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "native_bf16", lambda device: native)
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY, batch=8, autoencoder_batch=8, precision=precision)
    _, autoencoder, denoiser = bench.stages(settings)
    (in_autoencoder, _), (in_denoiser, _) = autoencoder.optimizers, denoiser.optimizers
    assert in_autoencoder.param_groups[0]["precision"] == torch.float32
    wanted = torch.bfloat16 if native and precision == "bf16" else torch.float32
    assert in_denoiser.param_groups[0]["precision"] == wanted


def test_medians_and_extremes() -> None:
    assert bench.Timing([2.0, 1.0, 4.0]).rate(8) == "4 (2 to 8)"


@pytest.mark.slow
def test_bench_prints_a_page_and_a_document(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    settings = dataclasses.replace(PRESETS["shapes"][1], model=TINY, batch=8, autoencoder_batch=8)
    monkeypatch.setitem(PRESETS, "shapes", ("tiny", settings))
    monkeypatch.setattr(bench, "ceiling", lambda device: {"float32 convolution": 123.0})
    monkeypatch.setattr(bench, "timed", lambda work, *_, **options: (work(), bench.Timing([0.5, 0.25, 1.0]))[1])
    assert main(["bench", "shapes", "--batch", "16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["batch"] == 16 and result["denoiser"]["gflop_per_second"] == pytest.approx(2 * result["denoiser"]["gflop"])
    page = bench.page(result)
    assert "32 (16 to 64) images/s in steps of 16" in page
    assert main(["bench", "shapes"]) == 0
    assert "GFLOP/s at most" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only GNU's C library has mallopt")
def test_freed_memory_is_kept() -> None:
    """Pages that are handed out anew cause faults; blocks that are kept cause none."""
    script = """
import resource, sys
from minildm.engine.memory import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [bytearray(size << 20) for size in (40, 3, 60, 5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    before, after = map(int, run.stdout.split())
    assert after < before / 20
