"""Files are whole or not there, ordinary, and their own folder's."""

import contextlib
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from minildm.files import read_json, refuse_links_out, sweep, write_text, written_whole
from minildm.tensors import fill, read_tensors, save_tensors, without_memory


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_while_writing_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), written_whole(path) as aside:
        aside.write_bytes(b"half of the n")
        raise error
    assert path.read_bytes() == b"old" and names(tmp_path) == {"x.bin"}


def test_the_file_is_synced_before_it_takes_its_place_and_the_folder_after(tmp_path, monkeypatch):
    events, real_sync, real_replace = [], os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda number: (events.append(Path(os.readlink(f"/proc/self/fd/{number}")).name), real_sync(number))[1]
    )

    def replace(self, target):
        events.append("replace")
        return real_replace(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_text(tmp_path / "x.txt", "new")
    assert events == ["x.txt", "replace", tmp_path.name]


def test_a_link_in_the_way_is_replaced_not_followed(tmp_path):
    (tmp_path / "precious").write_text("mine")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "x.txt").symlink_to(tmp_path / "precious")
    (folder / f".x.txt.{os.getpid()}.partial").symlink_to(tmp_path)
    write_text(folder / "x.txt", "new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (folder / "x.txt").read_text() == "new" and not (folder / "x.txt").is_symlink()
    assert names(folder) == {"x.txt"}


def test_a_sweep_takes_its_own_leftovers_and_nothing_else(tmp_path):
    for name in (".config.json.77.partial", ".step-12.partial", f".a.{os.getpid()}.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".tmpHalf12").write_text("x")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("x")
    (tmp_path / ".link.1.partial").symlink_to(tmp_path / "elsewhere")
    kept = {".gitignore", ".rsync.partial", ".thesis.12.partial.bak", "elsewhere", "deep"}
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".config.json.77.partial").write_text("x")
    for name in kept - {"elsewhere", "deep"}:
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    assert list((tmp_path / "deep").iterdir()) and list((tmp_path / "elsewhere").iterdir())


def test_links_within_a_folder_are_fine_and_links_out_of_it_are_not(tmp_path):
    run = tmp_path / "run"
    (run / "inner").mkdir(parents=True)
    (run / "file").write_text("{}")
    (run / "inner" / "link").symlink_to(run / "file")
    (tmp_path / "alias").symlink_to(run)
    refuse_links_out(run)
    refuse_links_out(tmp_path / "alias")  # the folder itself may be reached through a link
    (run / "inner" / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"inner/out is a link to .*elsewhere"):
        refuse_links_out(run)


def test_tensors_survive_and_may_be_read_by_whom_the_folder_lets(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "b": torch.arange(5), "c": torch.randn(2).bfloat16()}
    before = os.umask(0o027)
    try:
        with written_whole(tmp_path / "x.safetensors") as aside:
            save_tensors(tensors, aside)
    finally:
        os.umask(before)
    got = read_tensors(tmp_path / "x.safetensors")
    assert got.keys() == tensors.keys() and all(torch.equal(got[name], tensors[name]) for name in tensors)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o640


def test_what_is_filled_no_longer_needs_its_file(tmp_path):
    """The library maps files into memory; a module must not change when its file does."""
    save_tensors({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, tmp_path / "x.safetensors")
    for module in (nn.Linear(2, 1), nn.Linear(2, 1, device="meta")):
        fill(module, read_tensors(tmp_path / "x.safetensors"), tmp_path / "x.safetensors")
        with (tmp_path / "x.safetensors").open("r+b") as file:
            file.seek(-12, os.SEEK_END)
            file.write(b"\xff" * 12)
        assert module(torch.ones(1, 2)).item() == 2 and module.weight.requires_grad
        save_tensors({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, tmp_path / "x.safetensors")


def test_filling_is_all_or_nothing(tmp_path):
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    for change in ({"1.bias": torch.zeros(3)}, {"2.bias": torch.zeros(2)}):
        with pytest.raises(ValueError, match=next(iter(change))):
            fill(module, {name: torch.zeros_like(value) for name, value in before.items()} | change, tmp_path)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with pytest.raises(ValueError, match="no ordinary file"):
        read_json(tmp_path / "x.json")


def test_a_text_of_absurd_size_is_not_read(tmp_path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(100 * 2**20)  # a hole: no disk is used
    with pytest.raises(ValueError, match="104857600 bytes"):
        read_json(tmp_path / "x.json")


def test_what_is_read_lies_where_it_seems_to_lie(tmp_path):
    """Within its folder a link is fine; one that leads out is named, whoever asks."""
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "secret.json").write_text("{}")
    (folder / "real.json").write_text('{"a": 1}')
    (folder / "inner.json").symlink_to("real.json")
    (folder / "outer.json").symlink_to(tmp_path / "secret.json")
    assert read_json(folder / "inner.json") == {"a": 1}
    for read in (read_json, read_tensors):
        with pytest.raises(ValueError, match=r"outer.json is a link to .*secret.json"):
            read(folder / "outer.json")


@pytest.mark.parametrize("on_meta", [True, False])
def test_weights_take_the_type_and_the_layout_of_the_module_that_is_filled(tmp_path, on_meta):
    """A file in half precision, its axes in plain order, fills a network of float64 in channels-last."""
    given = {"weight": torch.randn(16, 16, 3, 3).half(), "bias": torch.randn(16).half()}
    with without_memory() if on_meta else contextlib.nullcontext():
        layer = nn.Conv2d(16, 16, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    fill(layer, given, tmp_path / "half.safetensors")
    assert layer.weight.dtype == torch.float64 and layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert layer.weight.device.type == "cpu" and torch.equal(layer.weight, given["weight"].double())


def test_a_network_without_memory_draws_nothing():
    """Neither numbers nor memory: the generator stands where it stood. Outside the block all is as always."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with without_memory():
        embedding = nn.Embedding(10, 4)
    assert embedding.weight.is_meta and embedding.weight.shape == (10, 4) and torch.equal(torch.get_rng_state(), before)
    assert nn.Embedding(10, 4).weight.any()
