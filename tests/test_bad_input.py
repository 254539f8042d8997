"""Whatever is wrong with the input: one line that names the thing, the value and the remedy; exit code 2; nothing lost.

Each row of REFUSED makes its mistake in a folder of its own and says which words the line must hold. Each row of ACCEPTED
is odd but fine: it must work, and say what it noticed.
"""

import contextlib
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import TINY_FLAGS
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file, save_file

from minildm import tensors as weights
from minildm.engine.cli import main
from minildm.engine.stages import AutoencoderStage, DenoiserStage

Make = Callable[[Path, Path], list[str]]  # from an empty folder and a trained run (not to be changed) to arguments
REFUSED: dict[str, tuple[Make, list[str]]] = {}
ACCEPTED: dict[str, tuple[Make, list[str]]] = {}
LEAVES: list[str] = []  # folders that a row may leave, because what it does is refused only after a while


def refused(*words: str) -> Callable[[Make], Make]:
    """A row of the table: the function's name is the case's."""

    def enter(make: Make) -> Make:
        REFUSED[make.__name__] = (make, list(words))
        return make

    return enter


def accepted(*words: str) -> Callable[[Make], Make]:
    def enter(make: Make) -> Make:
        ACCEPTED[make.__name__] = (make, list(words))
        return make

    return enter


def plain(name: str, line: str, *words: str) -> None:
    """A row that needs no preparation; RUN is the trained run, OUT a folder that does not exist, EMPTY an empty one."""

    def make(folder: Path, run: Path) -> list[str]:
        (folder / "empty").mkdir()
        places = {"RUN": str(run), "OUT": str(folder / "out"), "EMPTY": str(folder / "empty"), "NOTHING": ""}
        return [places.get(word, word) for word in line.split()]

    REFUSED[name] = (make, list(words))


# Commands, presets, flags, numbers

plain("an unknown command", "fly", "'fly'", "choose one of")
plain("an unknown preset", "train imagenet", "'imagenet'", "choose one of")
plain("an unknown flag", "train shapes --no-such-flag 3", "no-such-flag")
plain("an unknown sampler", "sample RUN x --sampler magic", "'magic'", "choose one of")
plain("an unknown precision", "train shapes --out OUT --precision int3", "int3")
plain("no steps", "train shapes --out OUT --steps 0", "steps=0", "at least 1")
plain("steps that are no number", "train shapes --out OUT --steps many", "many")
plain("steps and minutes", "train shapes --out OUT --steps 3 --minutes 1", "contradict", "give one")
plain("a learning rate of NaN", "train shapes --out OUT --lr nan", "lr=nan", "positive")
plain("a learning rate of infinity", "train shapes --out OUT --lr inf", "lr=inf", "positive")
plain("a negative learning rate", "train shapes --out OUT --lr -1", "lr=-1", "positive")
plain("endless minutes", "train shapes --out OUT --minutes inf", "minutes=inf", "positive")
plain("a negative weight", "train shapes --out OUT --kl-weight -0.5", "kl_weight=-0.5", "at least 0")
plain("a share above one", "train shapes --out OUT --drop-caption 1.5", "drop_caption=1.5", "[0, 1)")
plain("steps and the autoencoder's from minutes", "train shapes --out OUT --autoencoder-steps 9", "9", "planned", "--steps")
plain("minutes for ever", "train shapes --out OUT --minutes 1e307", "minutes=1e+307", "million")
plain("an embedding that nothing fills", "train shapes --out OUT --model.unet.extra-width 5", "extra_width=5", "leave it out")
plain("guidance beyond numbers", "sample RUN x --guidance 1e300", "finite", "lower the guidance")
plain("a negative seed of training", "train shapes --out OUT --seed -1", "seed=-1", "at least 0")
plain("a seed of many digits", "train shapes --out OUT --seed 99999999999999999999", "seed=9999", "at most")
plain("a size that the factor does not divide", "train shapes --out OUT --model.image-size 30", "image_size=30", "multiple of 8")
plain("a preset to bench that does not exist", "bench minst", "preset 'minst'", "mnist")
plain("groups that do not divide", "train shapes --out OUT --model.unet.groups 7", "groups=7", "divisor")
plain("too many levels", f"train shapes --out OUT --model.unet.widths {'32 ' * 11}", "widths")
plain("a model for a larger machine", "train shapes --out OUT --model.unet.widths 1048576 1048576", "parameters", "GB", "smaller")
plain("too small a vocabulary", "train shapes --out OUT --model.text.vocabulary 100", "vocabulary=100", "514")
plain("a template with an unknown hole", "train mnist --out OUT --templates {lable}", "{lable}", "{label}")
plain("a template that looks inside", "train mnist --out OUT --templates {label.__class__}", "{label.__class__}", "{label}")
plain("grey shapes", "train shapes --out OUT --model.autoencoder.image-channels 1", "3 channels")
plain("pictures of two channels", "train folder --out OUT --model.autoencoder.image-channels 2", "image_channels=2")
plain("too few pictures to judge by", "train shapes --out OUT --samples 3", "--samples 3", "at least 20")
plain(
    "a batch of more pictures than there are",
    "train shapes --out OUT --limit 20 --batch 21",
    "batch=21",
    "20 training",
    "smaller",
)

# Where a run goes

plain("a folder that holds another run", "train shapes --out RUN", "another run", "--resume", "--out")
plain("nothing to resume", "train shapes --out EMPTY --resume", "no run to resume", "without --resume")
plain("nowhere to resume", "train shapes --out OUT --resume", "no run to resume", "without --resume")
plain("another setting for a resumed run", "train shapes --out RUN --resume --lr 1", "--lr", "leave it out")


@refused("in use by another process", "--out")
def a_folder_that_another_process_holds(folder: Path, run: Path) -> list[str]:
    shutil.copytree(run, folder / "run")
    code = "import filelock, sys; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=1); sys.stdin.read()"
    lock = str(folder / "run" / ".minildm.lock")
    other = subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
    other.stdout.readline()
    CLEAN.callback(other.kill)
    return ["train", "shapes", "--out", str(folder / "run"), "--resume"]


@refused("not a directory", "another place")
def a_file_where_the_run_should_go(folder: Path, run: Path) -> list[str]:
    (folder / "notes").write_text("mine")
    return ["train", "shapes", "--out", str(folder / "notes" / "run"), *TINY_FLAGS]


@refused("notes", "not a directory", "another place")
def a_file_as_the_run(folder: Path, run: Path) -> list[str]:
    (folder / "notes").write_text("mine")
    return ["train", "shapes", "--out", str(folder / "notes"), *TINY_FLAGS]


@refused("name too long", "shorter")
def a_name_too_long(folder: Path, run: Path) -> list[str]:
    return ["train", "shapes", "--out", str(folder / ("x" * 300)), *TINY_FLAGS]


@refused("locked", "permissions|can be written")
def a_read_only_folder(folder: Path, run: Path) -> list[str]:
    (folder / "locked").mkdir(mode=0o555)
    if os.geteuid():
        return ["train", "shapes", "--out", str(folder / "locked" / "run"), *TINY_FLAGS]
    (folder / "locked").chmod(0o755)  # the superuser may write there all the same: say no as a read-only disk does
    real = Path.mkdir

    def refuse(self: Path, *args, **options) -> None:
        if self.is_relative_to(folder / "locked"):
            raise OSError(30, os.strerror(30), str(self))
        real(self, *args, **options)

    PATCH.setattr(Path, "mkdir", refuse)
    return ["train", "shapes", "--out", str(folder / "locked" / "run"), *TINY_FLAGS]


# Data


def training(folder: Path, *more: str) -> list[str]:
    """Arguments that train on the pictures in `folder/data`."""
    return ["train", "folder", "--data", str(folder / "data"), "--out", str(folder / "out"), *TINY_FLAGS, "--samples", "0", *more]


def pictures(folder: Path, count: int = 12, mode: str = "RGB", size: tuple[int, int] = (40, 40)) -> list[Path]:
    """`count` pictures of noise in `folder/data`."""
    data, noise = folder / "data", np.random.default_rng(0)
    data.mkdir(exist_ok=True)
    paths = [data / f"{place:02d}.png" for place in range(count)]
    for path in paths:
        Image.fromarray(noise.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)
    return paths


def captions(folder: Path, texts: list) -> None:
    """A metadata.jsonl for `pictures`."""
    lines = [json.dumps({"file_name": f"{place:02d}.png", "text": text}) for place, text in enumerate(texts)]
    (folder / "data" / "metadata.jsonl").write_text("\n".join(lines))


def parquet(folder: Path, rows: dict, **features) -> Path:
    """A parquet file in `folder/data`."""
    (folder / "data").mkdir()
    path = folder / "data" / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(datasets.Dataset.from_dict(rows, features=datasets.Features(features)).data.table, path)
    return path


def png(colour: int = 0) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


plain("data that do not exist", "train folder --out OUT --data /no/such/folder", "/no/such/folder", "--data DIR")
plain("data without a name", "train folder --out OUT --data NOTHING", "data=''", "folder")
plain("data on a hub that cannot be reached", "train folder --out OUT --data nobody/nothing", "nobody/nothing", "--data DIR")
plain("an empty folder of data", "train folder --out OUT --data EMPTY", "empty folder", "name a folder")


@refused("is a file", "name a folder")
def a_file_of_data(folder: Path, run: Path) -> list[str]:
    pictures(folder, 1)
    (folder / "data").rename(folder / "other")
    (folder / "other" / "00.png").rename(folder / "data")
    return training(folder)


@refused("no picture column", "columns a, b", "exactly one")
def data_without_pictures(folder: Path, run: Path) -> list[str]:
    (folder / "data").mkdir()
    (folder / "data" / "notes.csv").write_text("a,b\n1,2\n")
    return training(folder)


@refused("2 picture columns", "left, right", "exactly one")
def data_with_two_picture_columns(folder: Path, run: Path) -> list[str]:
    parquet(folder, {"left": [png()], "right": [png()]}, left=datasets.Image(), right=datasets.Image())
    return training(folder)


@refused("single picture", "at least 2")
def a_single_picture(folder: Path, run: Path) -> list[str]:
    pictures(folder, 1)
    return training(folder)


@refused("7 of 12 pictures cannot be read", "00.png", "no picture in a known format")
def more_than_half_broken(folder: Path, run: Path) -> list[str]:
    for path in pictures(folder)[:7]:
        path.write_bytes(b"no picture at all")
    return training(folder)


@refused("12 of 12 pictures cannot be read", "64000000 pixels")
def image_bombs(folder: Path, run: Path) -> list[str]:
    """80 million pixels in 78 kilobytes."""
    paths = pictures(folder)
    Image.new("1", (10_000, 8_000)).save(paths[0])
    for path in paths[1:]:
        shutil.copy(paths[0], path)
    return training(folder)


@refused("12 of 12 pictures cannot be read", "no picture in a known format")
def pictures_that_are_programs(folder: Path, run: Path) -> list[str]:
    """PostScript, which Pillow would hand to Ghostscript."""
    for path in pictures(folder):
        Image.open(path).save(path.with_suffix(".eps"))
        path.unlink()
    return training(folder)


@refused("'label'", "label 5", "names 2 classes", "mend")
def labels_without_a_name(folder: Path, run: Path) -> list[str]:
    path = parquet(folder, {"image": [png()] * 4, "label": [0, 1, 1, 0]}, image=datasets.Image(), label=datasets.ClassLabel(2))
    table = pyarrow.parquet.read_table(path)
    pyarrow.parquet.write_table(table.set_column(1, table.schema.field("label"), [pyarrow.array([0, 1, 5, 0])]), path)
    return training(folder)


@refused("'text'", "int64", "strings")
def captions_that_are_numbers(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    captions(folder, list(range(12)))
    return training(folder)


@refused("'text'", "strings|cannot be read")
def captions_that_are_lists(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    captions(folder, [["a", "b"]] * 12)
    return training(folder)


@refused("cannot be read")
def metadata_that_are_no_json(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    (folder / "data" / "metadata.jsonl").write_text('{"file_name": "00.png", "text": \n{{{')
    return training(folder)


@refused("cannot be read", "secret.png")
def metadata_that_lead_out_of_the_folder(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    line = json.dumps({"file_name": "../secret.png", "text": "x"})
    (folder / "data" / "metadata.jsonl").write_text(line)
    return training(folder)


@refused("4 of 4 pictures cannot be read", "secret.png", "out of the data's folder")
def rows_that_lead_out_of_the_folder(folder: Path, run: Path) -> list[str]:
    Image.new("RGB", (8, 8)).save(folder / "secret.png")
    parquet(folder, {"image": [{"bytes": None, "path": str(folder / "secret.png")}] * 4}, image=datasets.Image())
    return training(folder)


@refused("4 of 4 pictures cannot be read", "neither a file's nor one in an archive")
def rows_that_lead_to_the_network(folder: Path, run: Path) -> list[str]:
    paths = [f"{way}://example.org/x.png::{folder}/data/x" for way in ("https", "ssh", "git", "ftp")]
    parquet(folder, {"image": [{"bytes": None, "path": path} for path in paths]}, image=datasets.Image())
    return training(folder)


@refused("data", "cannot be read|break off")
def a_truncated_parquet_file(folder: Path, run: Path) -> list[str]:
    path = parquet(folder, {"image": [png(place) for place in range(20)]}, image=datasets.Image())
    path.write_bytes(path.read_bytes()[:-200])
    return training(folder)


@refused("data", "cannot be read")
def a_script_in_place_of_data(folder: Path, run: Path) -> list[str]:
    (folder / "data").mkdir()
    (folder / "data" / "data.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    return training(folder)


# A run that is damaged


def damaged(folder: Path, run: Path, command: str = "sample", *more: str) -> list[str]:
    """A copy of the trained run, to be damaged, and what is to be done with it."""
    shutil.copytree(run, folder / "run")
    place = str(folder / "run")
    return {
        "sample": ["sample", place, "x", *more],
        "resume": ["train", "shapes", "--out", place, "--resume", *more],
        "evaluate": ["evaluate", place, "--samples", "20", *more],
    }[command]


def refused_after_damage(*words: str, to: str = "sample") -> Callable[[Callable[[Path], None]], None]:
    """A row of the table: what the function does to a copy of the trained run makes the command refuse it."""

    def enter(damage: Callable[[Path], None]) -> None:
        def make(folder: Path, run: Path) -> list[str]:
            arguments = damaged(folder, run, to)
            damage(folder / "run")
            return arguments

        REFUSED[damage.__name__] = (make, list(words))

    return enter


def change_json(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_tensors(path: Path, change: Callable[[dict], dict]) -> None:
    save_file(change(load_file(path)), path)


plain("a run that does not exist", "sample OUT x", "config.json does not exist", "run folder")
plain("an empty run", "sample EMPTY x", "config.json does not exist", "run folder")
plain("judging a run that does not exist", "evaluate OUT", "no run folder", "minildm train")


@refused_after_damage("model.safetensors does not exist", "--resume")
def a_half_written_run(run: Path) -> None:
    (run / "model.safetensors").unlink()


@refused_after_damage("layout 99", "update minildm")
def a_run_of_a_newer_layout(run: Path) -> None:
    change_json(run / "config.json", layout=99)


@refused_after_damage("layout None", "run folder?")
def a_run_of_no_layout(run: Path) -> None:
    (run / "config.json").write_text("{}")


@refused_after_damage("config.json", "no readable JSON", "restore")
def a_configuration_cut_short(run: Path) -> None:
    path = run / "config.json"
    path.write_text(path.read_text()[:50])


@refused_after_damage("config.json", "no readable JSON", "restore")
def a_configuration_of_a_thousand_brackets(run: Path) -> None:
    (run / "config.json").write_text("[" * 100_000)


@refused_after_damage("config.json", "UTF-8", "restore")
def a_configuration_that_is_no_text(run: Path) -> None:
    (run / "config.json").write_bytes(b"\xff\xfe{}")


@refused_after_damage("config.json", "lr='fast'", "float", to="resume")
def a_configuration_of_another_type(run: Path) -> None:
    path = run / "config.json"
    change_json(path, settings=json.loads(path.read_text())["settings"] | {"lr": "fast"})


@refused_after_damage("config.json", "no field 'speed'", "lr", to="resume")
def a_configuration_with_an_unknown_field(run: Path) -> None:
    path = run / "config.json"
    change_json(path, settings=json.loads(path.read_text())["settings"] | {"speed": 1})


@refused_after_damage("model.safetensors does not fit", "shape")
def weights_of_another_shape(run: Path) -> None:
    path = run / "config.json"
    model = json.loads(path.read_text())["model"]
    model["unet"]["widths"] = [8, 32]
    change_json(path, model=model)


@refused_after_damage("model.safetensors does not fit", "lacks weight", "text.norm.bias")
def weights_of_which_one_is_missing(run: Path) -> None:
    change_tensors(run / "model.safetensors", lambda weights: {k: v for k, v in weights.items() if k != "text.norm.bias"})


@refused_after_damage("model.safetensors", "no whole safetensors file", "restore")
def truncated_weights(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@refused_after_damage("model.safetensors", "no whole safetensors file", "other formats are refused")
def pickled_weights(run: Path) -> None:
    (run / "model.safetensors").write_bytes(pickle.dumps({"a": [1, 2, 3]}))


@refused("model.safetensors", "is a link to", "outside", "copy")
def weights_that_are_a_link_out_of_the_folder(folder: Path, run: Path) -> list[str]:
    arguments = damaged(folder, run)
    (folder / "run" / "model.safetensors").rename(folder / "elsewhere")
    (folder / "run" / "model.safetensors").symlink_to(folder / "elsewhere")
    return arguments


@refused("is not empty", "--out")
def a_folder_of_other_things(folder: Path, run: Path) -> list[str]:
    """Whatever they are called, and wherever they lead: none is touched."""
    (folder / "mine" / "deep").mkdir(parents=True)
    (folder / "mine" / "deep" / ".thesis.1.partial").write_text("precious")
    for name in (".rsync.7.partial", ".step-3.partial", ".minildm.lock", "step-3"):
        (folder / "mine" / name).mkdir()
        (folder / "mine" / name / "file").write_text("precious")
    (folder / "mine" / "link").symlink_to("/")
    return ["train", "shapes", "--out", str(folder / "mine"), *TINY_FLAGS]


@refused_after_damage("circle", "remove")
def a_link_that_leads_in_a_circle(run: Path) -> None:
    (run / "loop").symlink_to("loop")


@refused_after_damage("config.json does not exist|no config.json", "in another folder", to="resume")
def a_run_without_its_configuration(run: Path) -> None:
    (run / "config.json").unlink()


@refused("lies in the folder of data", "outside")
def a_run_inside_its_data(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    return [*training(folder), "--out", str(folder / "data" / "run")]


@refused("secret.parquet", "outside")
def a_readme_that_names_other_files(folder: Path, run: Path) -> list[str]:
    parquet(folder, {"image": [png()] * 4}, image=datasets.Image()).rename(folder / "secret.parquet")
    (folder / "data" / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files: {folder}/secret.parquet\n---\n"
    )
    return training(folder)


@refused("train.parquet", "outside")
def data_that_are_a_link_out_of_their_folder(folder: Path, run: Path) -> list[str]:
    parquet(folder, {"image": [png()] * 4}, image=datasets.Image()).rename(folder / "secret.parquet")
    (folder / "data" / "train.parquet").symlink_to(folder / "secret.parquet")
    return training(folder)


@refused("webdataset", "unpacked")
def an_archive_that_can_hold_objects(folder: Path, run: Path) -> list[str]:
    paths = pictures(folder, 4)
    with tarfile.open(folder / "data" / "train-0.tar", "w") as archive:
        for path in paths:
            archive.add(path, path.name)
            path.unlink()
    return training(folder)


@refused_after_damage("line 1 is no line of metrics", "restore", to="resume")
def metrics_of_another_kind(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text("[]\n" + "".join(path.read_text().splitlines(keepends=True)[1:]))


@refused_after_damage("state.json", "lacks a part", to="resume")
def a_checkpoint_with_a_loss_of_many_digits(run: Path) -> None:
    path = next((run).glob("step-*")) / "state.json"
    change_json(path, facts=json.loads(path.read_text())["facts"] | {"losses": [10**400]})


@refused_after_damage("step 1000000", "restore", to="resume")
def a_checkpoint_beyond_the_end(run: Path) -> None:
    change_json(next((run).glob("step-*")) / "state.json", step=1_000_000)


@refused_after_damage("latest is missing", "step-3", "step-9", "write into it", to="resume")
def two_checkpoints_and_no_pointer(run: Path) -> None:
    shutil.copytree(run / "step-9", run / "step-3")
    (run / "latest").unlink()


@refused("no finite number", "step 1", "lower --lr")
def a_learning_rate_that_is_absurd(folder: Path, run: Path) -> list[str]:
    """The loss is fine; what the last step makes of the weights is not."""
    arguments = ["train", "shapes", "--out", str(folder / "out"), *TINY_FLAGS, "--lr", "1e38", "--steps", "1"]
    LEAVES.append("out")
    return arguments


@refused("memory does not suffice", "--limit")
def more_pictures_than_memory(folder: Path, run: Path) -> list[str]:
    return ["train", "shapes", "--out", str(folder / "out"), *TINY_FLAGS, "--limit", str(2**40)]


@refused("samples", "is a link to", "outside", "copy")
def pictures_that_would_be_written_through_a_link(folder: Path, run: Path) -> list[str]:
    arguments = damaged(folder, run, "resume")
    shutil.rmtree(folder / "run" / "samples")
    (folder / "elsewhere").mkdir()
    (folder / "run" / "samples").symlink_to(folder / "elsewhere")
    return arguments


@refused_after_damage("model.safetensors", "no ordinary file")
def weights_that_are_a_pipe(run: Path) -> None:
    """Opening it would wait for ever."""
    (run / "model.safetensors").unlink()
    os.mkfifo(run / "model.safetensors")


@refused_after_damage("vocab.json", "whole number")
def a_vocabulary_without_numbers(run: Path) -> None:
    path = run / "vocab.json"
    change_json(path, a="seven")


@refused_after_damage("vocab.json", "token 70000", "640")
def a_vocabulary_larger_than_the_encoder(run: Path) -> None:
    change_json(run / "vocab.json", extra=70000)


@refused_after_damage("merges.txt", "two pieces")
def merges_of_three(run: Path) -> None:
    with (run / "merges.txt").open("a") as file:
        file.write("a b c\n")


@refused_after_damage("judge.safetensors", "restore|remove", to="evaluate")
def a_damaged_judge(run: Path) -> None:
    (run / "judge.safetensors").write_bytes(b"guilty")


@refused_after_damage("step-99", "does not exist", to="resume")
def a_pointer_to_no_checkpoint(run: Path) -> None:
    (run / "latest").write_text("step-99")


@refused_after_damage("latest", "../elsewhere", "no checkpoint's name", to="resume")
def a_pointer_out_of_the_run(run: Path) -> None:
    (run / "latest").write_text("../elsewhere")


@refused_after_damage("state.safetensors", "no whole safetensors file", to="resume")
def a_truncated_checkpoint(run: Path) -> None:
    path = next((run).glob("step-*")) / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


@refused_after_damage("step-9", "no state of the denoiser", "restore", to="resume")
def a_checkpoint_of_other_moments(run: Path) -> None:
    path = next((run).glob("step-*")) / "state.safetensors"
    change_tensors(path, lambda weights: weights | {"optimizer/0/average": weights["optimizer/1/average"].clone()[:1]})


@refused_after_damage("state.json", "lacks a part", to="resume")
def a_checkpoint_without_its_step(run: Path) -> None:
    change_json(next((run).glob("step-*")) / "state.json", step=None)


@refused_after_damage("metrics.jsonl", "1 lines", "restore", to="resume")
def metrics_that_were_cut(run: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])


@refused("have changed since the run began", "11 training pictures", "--data")
def data_that_changed_since_the_run_began(folder: Path, run: Path) -> list[str]:
    paths = pictures(folder)
    assert main(training(folder)) == 0
    shutil.copy(paths[0], paths[1])
    return ["train", "folder", "--out", str(folder / "out"), "--resume", "--samples", "0"]


# Sampling

plain("no prompt", "sample RUN", "no prompt")
plain("no steps of a sampler", "sample RUN x --steps 0", "steps=0")
plain("more steps than T", "sample RUN x --steps 51", "steps=51", "50")
plain("negative guidance", "sample RUN x --guidance -1", "guidance=-1", "at least 0")
plain("guidance that is no number", "sample RUN x --guidance nan", "guidance=nan", "finite")
plain("infinite guidance", "sample RUN x --guidance inf", "guidance=inf", "finite")
plain("guidance up to beyond T", "sample RUN x --guidance-high 1.1", "guidance_high=1.1", "[0, 1]")
plain("guidance up to beyond T, in training", "train shapes --out OUT --guidance-high 900", "guidance_high=900", "[0, 1]")
plain("a negative seed", "sample RUN x --seed -5", "seed=-5", "at least 0")
plain("a seed out of range", "sample RUN x --seed 99999999999999999999", "seed=9999", "below")
plain("a picture that is no PNG", "sample RUN x --out x.gif", "x.gif", ".png")
plain("too few to judge by", "evaluate RUN --samples 1", "--samples 1", "at least 20")
plain("judging at negative guidance", "evaluate RUN --samples 20 --guidance -3", "guidance=-3", "at least 0")


@refused("mine.png exists", "another file")
def a_picture_in_the_place_of_another(folder: Path, run: Path) -> list[str]:
    (folder / "mine.png").write_bytes(b"precious")
    return ["sample", str(run), "x", "--steps", "1", "--out", str(folder / "mine.png")]


@refused("folder stands where|exists", "another")
def a_picture_in_the_place_of_a_folder(folder: Path, run: Path) -> list[str]:
    (folder / "mine.png").mkdir()
    return ["sample", str(run), "x", "--steps", "1", "--out", str(folder / "mine.png")]


# Odd, but fine


@accepted("no caption")
def data_that_have_moved(folder: Path, run: Path) -> list[str]:
    """The same pictures elsewhere: --data says where, and the run goes on."""
    pictures(folder)
    assert main(training(folder)) == 0
    (folder / "data").rename(folder / "elsewhere")
    return ["train", "folder", "--out", str(folder / "out"), "--resume", "--data", str(folder / "elsewhere"), "--samples", "0"]


@accepted("have changed since the run began")
def judging_by_data_that_changed(folder: Path, run: Path) -> list[str]:
    paths = pictures(folder, 40)
    captions(folder, ["a cat"] * 40)
    assert main(training(folder)) == 0
    shutil.copy(paths[0], paths[1])
    shutil.copy(paths[0], paths[2])
    return ["evaluate", str(folder / "out"), "--samples", "20", "--steps", "1"]


@accepted()
def judging_by_data_that_have_moved(folder: Path, run: Path) -> list[str]:
    pictures(folder, 40)
    captions(folder, ["a cat"] * 40)
    assert main(training(folder)) == 0
    (folder / "data").rename(folder / "elsewhere")
    return ["evaluate", str(folder / "out"), "--samples", "20", "--steps", "1", "--data", str(folder / "elsewhere")]


@accepted()
def a_backup_beside_the_checkpoint(folder: Path, run: Path) -> list[str]:
    arguments = damaged(folder, run, "resume", "--samples", "0")
    shutil.copytree(folder / "run" / "step-9", folder / "run" / "step-9-backup")
    (folder / "run" / "step-notes.txt").write_text("mine")
    CLEAN.callback(lambda: (folder / "run" / "step-9-backup" / "state.json").read_text())
    CLEAN.callback(lambda: (folder / "run" / "step-notes.txt").read_text())
    return arguments


@accepted()
def captions_that_look_like_formulas(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    captions(folder, ["$_$ x", r"$\foo$", "${$ and }", "100 $"] * 3)
    return training(folder)


@accepted("no caption")
def too_few_pictures_for_a_covariance(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    return [*training(folder)[:-1], "20"]


@accepted("no caption")
def pictures_whose_test_labels_are_secret(folder: Path, run: Path) -> list[str]:
    """As where the labels of a test split are kept secret."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    path = parquet(folder, {"image": [png(place) for place in range(12)], "label": [0, 1] * 6}, **kinds)
    path.rename(folder / "train.parquet")
    path.parent.rmdir()
    parquet(folder, {"image": [png(place) for place in range(12)], "label": [-1] * 12}, **kinds).rename(
        folder / "data" / "test-00000-of-00001.parquet"
    )
    (folder / "train.parquet").rename(path)
    return [*training(folder)[:-1], "20"]


@accepted()
def two_labels_among_many_pictures(folder: Path, run: Path) -> list[str]:
    """Most batches that the judge could draw would have none."""
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    parquet(folder, {"image": [png(place % 256) for place in range(600)], "label": [1, 0] + [-1] * 598}, **kinds)
    PATCH.setattr("minildm.engine.evaluate.JUDGE_STEPS", 6)
    return [*training(folder)[:-1], "20"]


@accepted("the rest was cut")
def a_prompt_of_letters_of_four_bytes(folder: Path, run: Path) -> list[str]:
    shutil.copytree(run, folder / "run")
    return ["sample", str(folder / "run"), "𠀀" * 60, "--steps", "1"]


@accepted()
def an_empty_prompt(folder: Path, run: Path) -> list[str]:
    return ["sample", str(run), "", "--steps", "1", "--out", str(folder / "x.png")]


@accepted("tokens", "the rest was cut")
def a_prompt_too_long(folder: Path, run: Path) -> list[str]:
    return ["sample", str(run), "a red circle " * 30, "--steps", "1", "--out", str(folder / "x.png")]


@accepted()
def a_prompt_of_unknown_characters(folder: Path, run: Path) -> list[str]:
    return ["sample", str(run), "𝔮🐉 ẞ", "ﷺ", "--steps", "1", "--out", str(folder / "x.png")]


@accepted()
def a_prompt_of_control_characters(folder: Path, run: Path) -> list[str]:
    return ["sample", str(run), "\x07\x1b[31m\x00\u202e", "--steps", "1", "--out", str(folder / "x.png")]


@accepted("the rest was cut")
def a_prompt_that_is_no_unicode(folder: Path, run: Path) -> list[str]:
    """As Python hands over arguments whose bytes are no UTF-8."""
    return ["sample", str(run), "\udcff\udc80" * 50, "--steps", "1", "--out", str(folder / "x.png")]


@accepted("2 pictures were skipped", "03.png", "05.png")
def some_pictures_that_are_broken(folder: Path, run: Path) -> list[str]:
    paths = pictures(folder)
    paths[3].write_bytes(paths[3].read_bytes()[:60])
    paths[5].write_bytes(b"")
    return training(folder)


@accepted("2 pictures were skipped", "row 3")
def some_streamed_pictures_that_are_broken(folder: Path, run: Path) -> list[str]:
    cells = [png(place) for place in range(16)]
    cells[3] = cells[9] = {"bytes": b"no", "path": None}
    parquet(folder, {"image": cells, "text": ["x"] * 16}, image=datasets.Image(), text=datasets.Value("string"))
    return training(folder, "--stream")


@accepted("1 picture was skipped", "64000000 pixels")
def one_image_bomb(folder: Path, run: Path) -> list[str]:
    Image.new("1", (10_000, 8_000)).save(pictures(folder)[2])
    return training(folder)


@accepted("3 of 12 pictures have no caption")
def captions_of_which_some_are_missing(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    captions(folder, ["a cat", None, "", *["a dog"] * 8, None])
    return training(folder)


@accepted("12 of 12 pictures have no caption")
def no_captions_at_all(folder: Path, run: Path) -> list[str]:
    pictures(folder)
    return training(folder)


@accepted("16 of 16 pictures have no caption")
def pictures_of_every_kind(folder: Path, run: Path) -> list[str]:
    """16 bits, palettes, grey, black and white, transparent, CMYK, one pixel, one column, animated."""
    for path, mode in zip(pictures(folder), ("P", "L", "1", "RGBA", "LA", "I;16"), strict=False):
        picture = Image.open(path)
        picture.load()
        if mode == "I;16":
            Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
        else:
            picture.convert(mode).save(path)
    data = folder / "data"
    Image.new("CMYK", (9, 9), (9, 8, 7, 6)).save(data / "cmyk.jpg")
    Image.new("RGB", (1, 1)).save(data / "pixel.png")
    Image.new("RGB", (1, 400)).save(data / "column.png")
    frames = [Image.new("P", (9, 9), colour) for colour in (1, 2)]
    frames[0].save(data / "animated.gif", save_all=True, append_images=frames[1:])
    return training(folder)


# The checks


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory):
    """No hub, a cache of its own, and a place for what a row needs undone."""
    global CLEAN, PATCH
    monkeypatch.setattr("minildm.engine.sources.hub_answers", lambda: False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    with contextlib.ExitStack() as CLEAN, pytest.MonkeyPatch.context() as PATCH:
        yield


def contents(*folders: Path) -> dict[Path, str]:
    """Every file below with a hash of what it holds, and every folder."""
    paths = [path for folder in folders for path in folder.rglob("*")]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "" for path in paths}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make, words = REFUSED[case]
    LEAVES.clear()
    arguments = make(tmp_path, trained)
    before = contents(tmp_path, trained)
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith("note: ") and "%|" not in line]
    assert len(lines) == 1 and lines[0].startswith("minildm: ") and said.rstrip().endswith(lines[0]), said
    print(lines[0])
    for word in words:
        assert any(choice.lower() in lines[0].lower() for choice in word.split("|")), f"{word!r} not in: {lines[0]}"
    after = contents(tmp_path, trained)
    assert {path: after.get(path) for path in before} == before, "something was overwritten"
    left = {path for path in after.keys() - before.keys() if path.relative_to(tmp_path).parts[0] not in LEAVES}
    assert not left, "something was left behind"


@pytest.mark.slow
@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted_with_a_word(case: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    make, words = ACCEPTED[case]
    arguments = make(tmp_path, trained)
    capsys.readouterr()
    assert main(arguments) == 0, capsys.readouterr().err
    said = capsys.readouterr().err
    notes = " ".join(line for line in said.splitlines() if line.startswith("note: "))
    assert all(word in notes for word in words), said
    assert words or not notes, f"nothing to note, yet it says {notes}"


def test_the_table_is_long_enough() -> None:
    assert len(REFUSED) >= 40
    print(f"{len(REFUSED)} kinds of bad input are refused, {len(ACCEPTED)} odd ones accepted")


# A disk that is full, a loss that is no number: the last good checkpoint stays


def last_line(said: str) -> str:
    return said.strip().splitlines()[-1]


@pytest.mark.slow
def test_no_space_during_a_checkpoint(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    """The third checkpoint finds the disk full; with space again, --resume ends as if nothing had been."""
    train = ["train", "shapes", "--out", str(tmp_path / "run"), *TINY_FLAGS, "--samples", "0"]
    assert main([*train[:3], str(tmp_path / "whole"), *train[4:]]) == 0
    real, calls = weights.save_file, []

    def full(tensors, path, metadata):
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half a che")
            raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "save_file", full)
        assert main(train) == 2
    said = last_line(capsys.readouterr().err)
    assert "No space left on device" in said and "--resume" in said and str(tmp_path / "run") in said
    assert (tmp_path / "run" / "latest").read_text() == "step-4" and not list((tmp_path / "run").rglob(".*"))
    assert main([*train[:4], "--resume", "--samples", "0"]) == 0
    same = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_files_that_may_not_grow(tmp_path: Path) -> None:
    """The system's own limit on the size of files: a write that really fails, in the library that writes tensors."""
    command = [sys.executable, "-m", "minildm", "train", "shapes", "--out", str(tmp_path / "run"), *TINY_FLAGS, "--samples", "0"]
    limit = 200_000  # bytes: enough for everything but tensors
    limited = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **limited)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "File too large" in last_line(done.stderr) and "--resume" in last_line(done.stderr)
    assert not list((tmp_path / "run").glob(".*")) and not list((tmp_path / "run").glob("step-*"))
    again = subprocess.run([*command[:7], "--resume", "--samples", "0"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize("stage", [AutoencoderStage, DenoiserStage])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number(stage: type, value: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    """It stops at once, with the weights of the checkpoint before it, and says what to try."""
    real, steps = stage.loss, []

    def diverge(self, *args):
        steps.append(1)
        return real(self, *args) * (float(value) if len(steps) == 4 else 1)

    monkeypatch.setattr(stage, "loss", diverge)
    run = tmp_path / "run"
    assert main(["train", "shapes", "--out", str(run), *TINY_FLAGS, "--samples", "0"]) == 2
    said = last_line(capsys.readouterr().err)
    assert f"loss became {value} at step 4" in said and "lr" in said and "--precision float32" in said and len(steps) == 4
    kept = "step-2" if stage is AutoencoderStage else "step-6"
    assert (run / "latest").read_text() == kept
    assert all(tensor.isfinite().all() for tensor in load_file(run / kept / "state.safetensors").values())


def test_a_gradient_that_is_no_number_is_noticed_before_it_reaches_the_weights(tmp_path: Path, monkeypatch, capsys) -> None:
    """A finite loss with an infinite slope, as the square root has at 0."""
    real, steps = DenoiserStage.loss, []

    def steep(self, *args):
        steps.append(1)
        loss = real(self, *args)
        return loss + (((loss - loss).sqrt()) if len(steps) == 4 else 0)

    monkeypatch.setattr(DenoiserStage, "loss", steep)
    assert main(["train", "shapes", "--out", str(tmp_path / "run"), *TINY_FLAGS, "--samples", "0"]) == 2
    said = last_line(capsys.readouterr().err)
    assert "at step 4" in said and "gradient" in said and (tmp_path / "run" / "latest").read_text() == "step-6"


@pytest.mark.slow
def test_two_processes_cannot_have_one_folder(tmp_path: Path) -> None:
    """Whichever comes second is refused, and the first one's hold ends with it."""
    lock = FileLock(tmp_path / ".minildm.lock", timeout=0)
    with lock:
        command = [sys.executable, "-m", "minildm", "train", "shapes", "--out", str(tmp_path), *TINY_FLAGS, "--samples", "0"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "in use by another process" in last_line(done.stderr)
