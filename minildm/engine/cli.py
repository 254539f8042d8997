"""The command line. Torch is imported only by the commands that need it, so help is quick."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

from minildm.engine.errors import UserError, explain, out_of_memory
from minildm.engine.memory import keep_freed_memory
from minildm.engine.presets import PRESETS, Settings

USAGE = """minildm: a textbook of latent diffusion that you can run

usage: minildm COMMAND [OPTIONS]      (minildm COMMAND --help shows the options)

  demo                      train on coloured shapes, judge the result, draw it: eight minutes on two cores with bf16
  train PRESET              train on your choice of data; presets: {presets}
  sample RUN "a prompt"     draw pictures from a trained run
  evaluate RUN              prompt accuracy, Fréchet distance, memorisation, speed
  import FOLDER RUN         make a run of Stable Diffusion 1 or 2 (a folder in diffusers' layout)
  export RUN FOLDER         make such a folder of a run, for diffusers and what is built on it
  doctor                    what this machine can run, and how fast
  bench PRESET              how fast a preset trains and samples here, and where the time goes
"""


@dataclasses.dataclass(frozen=True)
class Demo:
    """Train the shapes model, judge it and draw it."""

    out: Path = Path("runs/demo")
    """The run's folder. An unfinished run there is continued; beside a finished one a new folder is made."""
    minutes: float = PRESETS["shapes"][1].minutes
    """Time for autoencoder, caching, denoiser and the final samples."""

    def __call__(self) -> None:
        folder, count = self.out, 1
        while (folder / "report.md").exists():
            count += 1
            folder = self.out.with_name(f"{self.out.name}-{count}")
        settings = dataclasses.replace(PRESETS["shapes"][1], minutes=self.minutes)
        train_and_report("shapes", folder, settings, (folder / "config.json").exists(), samples=1000)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a model, judge it and write its report."""

    settings: Annotated[Settings, tyro.conf.arg(name="")]
    out: Path | None = None
    """The run's folder; runs/PRESET by default."""
    resume: bool = False
    """Go on with the run in --out, with the settings stored there."""
    samples: int = 2000
    """How many pictures the judge draws at the end; 0 leaves the judge out."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Draw one picture for each prompt."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    prompts: tyro.conf.Positional[tuple[str, ...]]
    """What to draw; "" is unconditional."""
    guidance: float | None = None
    """How strongly the picture follows the prompt; 1 is plain conditional sampling. By default the run's own."""
    guidance_high: float | None = None
    """The noisiest time at which to guide, as a share of all; 1 guides everywhere. By default the run's own."""
    steps: int | None = None
    """By default the run's own."""
    sampler: str = "dpmpp"
    """ddpm, ddim, euler, heun or dpmpp."""
    seed: int = 0
    """Picture i is drawn from the noise of seed + i."""
    out: Path | None = None
    """The PNG to write; by default one in the run's samples/ that is named after the first prompt."""

    def __call__(self) -> None:
        from minildm.engine import plots
        from minildm.engine.device import autocast_to_sample, choose_device
        from minildm.engine.folder import read_config
        from minildm.files import read_json, refuse_links_out
        from minildm.ldm import LatentDiffusion

        model = LatentDiffusion.load(self.run, choose_device())
        alone = "settings" not in read_json(self.run / "config.json")  # a model that was saved without its run
        settings = Settings() if alone else read_config(self.run)[0]
        options = settings.sampling(self.guidance, self.guidance_high, self.steps)
        out = self.out or self.free_name()
        if out.suffix.lower() != ".png":
            raise UserError(f"--out {out} should end in .png")
        if out.exists():
            raise UserError(f"--out {out} exists: name another file, or remove it")
        refuse_links_out(self.run)
        length = model.config.text.length - 2
        for prompt in self.prompts:
            tokens = len(model.tokenizer.encode(prompt)) if model.tokenizer else 0
            if tokens > length:
                print(f"note: {prompt!r} has {tokens} tokens, the model reads {length}: the rest was cut", file=sys.stderr)
        with autocast_to_sample(settings, choose_device()):
            images = model.generate(list(self.prompts), **options, sampler=self.sampler, seed=self.seed)
        out.parent.mkdir(parents=True, exist_ok=True)
        plots.save_grid(images, out)
        print(f"{len(images)} picture{'s' if len(images) > 1 else ''}: {out}")

    def free_name(self) -> Path:
        """A PNG in the run's samples/ that is named after the first prompt, with a number if there is one already."""
        name = re.sub(r"[^\w]+", "-", self.prompts[0].lower() if self.prompts else "").strip("-")
        name = name.encode("utf-8", "ignore")[:60].decode("utf-8", "ignore") or "unconditional"  # of any letters
        names = (f"{name}{suffix}.png" for suffix in itertools.chain([""], (f"-{number}" for number in itertools.count(2))))
        return next(path for path in (self.run / "samples" / name for name in names) if not path.exists())


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Judge a run: prompt accuracy, Fréchet distance against its floor, memorisation, speed."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    samples: int = 2000
    guidance: float | None = None
    """By default the run's own."""
    guidance_high: float | None = None
    """By default the run's own."""
    steps: int | None = None
    """By default the run's own."""
    data: str | None = None
    """Where the run's data are now, if they have moved."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def __call__(self) -> None:
        from minildm.engine.evaluate import evaluate
        from minildm.engine.report import judge_table

        if self.samples < 20:
            raise UserError(f"--samples {self.samples} is too few to judge by: at least 20")
        if not self.run.is_dir():
            raise UserError(f"{self.run} is no run folder: name one that `minildm train` or `minildm demo` made")
        judged = evaluate(self.run, self.samples, self.guidance, self.guidance_high, self.steps, self.data)
        print(json.dumps(judged) if self.json else "\n".join(judge_table(judged)))


@dataclasses.dataclass(frozen=True)
class Import:
    """Make a run of Stable Diffusion's weights, so that `sample` and `LatentDiffusion.load` open them."""

    folder: tyro.conf.Positional[Path]
    """In diffusers' layout: model_index.json, unet/, vae/, text_encoder/, tokenizer/, scheduler/."""
    run: tyro.conf.Positional[Path]
    """To make."""

    def __call__(self) -> None:
        from minildm.interop import import_folder

        notes = import_folder(self.folder, self.run)
        more = f"minildm sample {shlex.quote(str(self.run))} 'a photo of an astronaut riding a horse' --guidance 7.5"
        print("\n".join([f"{self.run}", *notes, f"draw with: {more}"]))


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a run as a folder in diffusers' layout."""

    run: tyro.conf.Positional[Path]
    """A run's folder."""
    folder: tyro.conf.Positional[Path]
    """To make."""

    def __call__(self) -> None:
        from minildm.interop import export_run

        print("\n".join([f"{self.folder}", *export_run(self.run, self.folder)]))


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Tell what this machine can run, and how fast."""

    def __call__(self) -> None:
        from minildm.engine.doctor import doctor

        print(doctor())


@dataclasses.dataclass(frozen=True)
class Bench:
    """Measure how fast a preset trains and samples here, against what the machine can do, and where the time goes."""

    preset: tyro.conf.Positional[str] = "mnist"
    """Its networks and batches are measured, on random pictures."""
    batch: int | None = None
    """Of the denoiser; by default the preset's own."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def __call__(self) -> None:
        settings = preset_named(self.preset)
        if self.batch is not None:
            settings = dataclasses.replace(settings, batch=self.batch)
        from minildm.engine.bench import bench, page

        result = bench(self.preset, settings)
        print(json.dumps(result) if self.json else page(result))


COMMANDS: dict[str, Callable] = {
    "demo": Demo,
    "sample": Sample,
    "evaluate": Evaluate,
    "import": Import,
    "export": Export,
    "doctor": Doctor,
    "bench": Bench,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0, 2 for a mistake that the user can mend, 130 after Ctrl-C."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    warnings.showwarning = lambda message, *_: print(f"note: {message}", file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that has no é still gets the line
    try:
        return run(arguments)
    except Exception as error:
        if not (isinstance(error, UserError | ValueError | OSError) or out_of_memory(error)):
            raise  # a mistake of ours: the traceback is wanted
        if debug:
            traceback.print_exc()
        print(f"minildm: {explain(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("minildm: stopped", file=sys.stderr)
        return 130


def run(arguments: list[str]) -> int:
    """Find the command and call it with its options."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE.format(presets=", ".join(PRESETS)))
        return 0
    keep_freed_memory()
    command, *rest = arguments
    if command == "train":
        return train(rest)
    if command not in COMMANDS:
        raise UserError(f"command {command!r} is unknown: choose one of demo, train, {', '.join(list(COMMANDS)[1:])}")
    options = parse(COMMANDS[command], rest, f"minildm {command}")
    if options is not None:
        options()
    return 0


def train(arguments: list[str]) -> int:
    """`minildm train PRESET ...`: the preset's fields are the options' defaults."""
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:10} {what}" for name, (what, _) in PRESETS.items()]
        print("\n".join(["usage: minildm train PRESET [OPTIONS]      (PRESET --help shows the options)", "", *lines]))
        return 0
    name, *rest = arguments
    settings = preset_named(name)
    given = {argument.split("=")[0].replace("_", "-") for argument in rest if argument.startswith("--")}
    if "--steps" in given and "--minutes" not in given:
        settings = dataclasses.replace(settings, minutes=None)
    options = parse(Train, rest, f"minildm train {name}", Train(settings))
    if options is None:
        return 0
    minutes = options.settings.minutes
    if minutes is not None and "--steps" in given:
        raise UserError(f"--steps {options.settings.steps} and --minutes {minutes:g} contradict each other: give one")
    if minutes is not None and "--autoencoder-steps" in given and not options.resume:
        raise UserError(
            f"--autoencoder-steps {options.settings.autoencoder_steps} would be planned anew from {minutes:g} minutes: "
            "give --steps too, or --autoencoder-share instead"
        )
    folder = options.out or Path("runs") / name
    if options.samples and options.samples < 20:
        raise UserError(f"--samples {options.samples} is too few to judge by: at least 20, or 0 for no judge")
    if options.resume and given - {"--out", "--resume", "--samples", "--data"}:
        extra = sorted(given - {"--out", "--resume", "--samples", "--data"})[0]
        raise UserError(f"{extra} cannot be changed by --resume, which goes on with the stored settings: leave it out")
    moved = options.settings.data if options.resume and "--data" in given else None
    return train_and_report(name, folder, options.settings, options.resume, options.samples, moved)


def preset_named(name: str) -> Settings:
    """The settings of a preset. Raises UserError when there is none of that name."""
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown: choose one of {', '.join(PRESETS)}")
    return PRESETS[name][1]


def train_and_report(preset: str, folder: Path, settings: Settings, resume: bool, samples: int, moved: str | None = None) -> int:
    """Train, judge, report, and say where everything is. `moved`: where a resumed run's data are now, if elsewhere."""
    from minildm.engine.evaluate import evaluate
    from minildm.engine.report import judge_table, write_report
    from minildm.engine.train import Interrupted, Run

    training = Run(folder, settings, resume, moved)
    again = f"minildm train {preset} --out {shlex.quote(str(folder))} --resume"
    with training.hold():
        try:
            training.train()
            judged = None
            if samples:
                print("judge: sampling and comparing", flush=True)
                with training.clock.measure("judge and evaluation"):
                    judged = evaluate(folder, samples)
            report = write_report(folder, training.settings, training.clock.seconds, judged)
        except (Interrupted, KeyboardInterrupt) as stop:
            if (folder / "config.json").exists():
                saved = "everything so far" if isinstance(stop, Interrupted) else "everything up to the last checkpoint"
                print(f"\nstopped; {saved} is saved. Continue with:\n  {again}", file=sys.stderr)
            raise SystemExit(130) from None
    prompt = "a large red circle at the centre on a white background" if settings.data == "shapes" else training.prompts[0]
    more = f"minildm sample {shlex.quote(str(folder))} {shlex.quote(prompt[:100])}"
    print("\n".join(judge_table(judged) if judged else []))
    print(f"\nreport    {report}\npictures  {folder / 'samples'}\nmore      {more}")
    return 0


def parse(kind: type, arguments: list[str], program: str, default: object = tyro.MISSING) -> object | None:
    """Options from arguments; None when help was shown.

    Raises:
        UserError: anything that cannot be parsed, with what the parser said on one line.
    """
    said = io.StringIO()
    extra = {} if default is tyro.MISSING else {"default": default}
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, args=arguments, prog=program, **extra)
    except SystemExit as stop:
        if not stop.code:
            return None
        text = re.sub(r"[╭╮╰╯│─]+", " ", said.getvalue())
        raise UserError(" ".join(text.split()).removeprefix("Parsing error ").strip()) from None
