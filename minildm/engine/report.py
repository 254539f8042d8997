"""report.md: what a run made, how long it took and how good it is."""

import json
from pathlib import Path
from typing import Any

import torch

from minildm.engine import plots
from minildm.engine.device import choose_device, name_of, peak_memory
from minildm.engine.presets import Settings
from minildm.files import write_text

TIMED = ("autoencoder", "caching", "denoiser", "samples")  # the parts that `--minutes` pays for
RETRIEVAL = {
    "retrieval_seen": "drawn from captions of training",
    "retrieval_seen_real": "the real ones",
    "retrieval_test": "drawn from captions of test data",
    "retrieval_test_real": "the real ones of these",
}


def write_report(folder: Path, settings: Settings, seconds: dict[str, float], judged: dict[str, Any] | None) -> Path:
    """Write report.md and the loss curves beside it, and the judge's numbers, if there are any, to evaluation.json."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    plots.loss_curves(lines, folder / "loss.png")
    if judged:
        write_text(folder / "evaluation.json", json.dumps(judged, indent=1))
    timed = sum(seconds.get(part, 0.0) for part in TIMED)
    memory, device = peak_memory(torch.device("cpu")), choose_device()
    on_card = "" if device.type == "cpu" else f"; on the card, {name_of(device)}: {peak_memory(device):.2f} GB"
    text = [
        f"# {folder.name}: {settings.data}",
        "",
        "![samples](samples/final.png)",
        "",
        "Each picture was drawn from the prompt below it, with the averaged weights, "
        f"guidance {guided(settings.guidance, settings.guidance_high)} and {settings.sample_steps} steps.",
        "",
        *(["## The judge", "", *judge_table(judged), ""] if judged else []),
        "## Time and memory",
        "",
        "| part | seconds |",
        "|---|---|",
        *(f"| {part} | {spent:.1f} |" for part, spent in seconds.items()),
        f"| **{' + '.join(TIMED)}** | **{timed:.1f}** ({timed / 60:.2f} minutes) |",
        "",
        f"Peak memory of the process: {f'{memory:.2f} GB' if memory else 'not known on this system'}{on_card}. "
        f"Autoencoder: {settings.autoencoder_steps} steps of {settings.autoencoder_batch}; "
        f"denoiser: {settings.steps} steps of {settings.batch}; {settings.precision}.",
        "",
        "## Loss",
        "",
        "![loss](loss.png)",
        "",
        f"Settings: `config.json`. All numbers: {'`evaluation.json`, ' if judged else ''}`metrics.jsonl`.",
        "",
    ]
    write_text(folder / "report.md", "\n".join(text))
    return folder / "report.md"


def guided(guidance: float, high: float) -> str:
    """How strongly, and from which time on unless always."""
    return f"{guidance:g}" if high == 1 else f"{guidance:g} from t = {high:g} T down"


def judge_table(judged: dict[str, Any]) -> list[str]:
    """The judge's numbers as a Markdown table; what does not exist for these data is left out."""
    rows = [
        ("pictures that show all of their prompt", share(judged, "prompt_accuracy")),
        ("the same for shape-colour pairs never seen in training", share(judged, "prompt_accuracy_held_out")),
        *(
            (f"captions that find their picture among {judged['retrieval_lineup']}: {name}", share(judged, key))
            for key, name in RETRIEVAL.items()
        ),
        ("Fréchet distance", number(judged["frechet"], ".3f")),
        ("its floor: real training against real test pictures", number(judged["frechet_floor"], ".3f")),
        ("Fréchet distance over floor", number(ratio(judged), ".2f")),
        ("the judge on real test pictures", share(judged, "judge_accuracy")),
        ("the judge on the autoencoder's reconstructions", share(judged, "reconstruction_accuracy")),
        ("distance to the nearest training picture", number(judged["nearest_train_distance"], ".3f")),
        ("the same for real test pictures", number(judged["nearest_train_distance_of_test"], ".3f")),
        ("pictures sampled and judged", number(judged["samples"], "d")),
        ("guidance, steps", f"{guided(judged['guidance'], judged['guidance_high'])}, {judged['steps']}"),
        ("pictures per second", number(judged["images_per_second"], ".1f")),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows if value)]


def ratio(judged: dict[str, Any]) -> float | None:
    """The Fréchet distance in units of what sampling noise alone makes of it."""
    if judged["frechet"] is None:
        return None
    return judged["frechet"] / max(judged["frechet_floor"], 1e-12)


def share(judged: dict[str, Any], name: str) -> str:
    """An accuracy in per cent with its interval, or nothing."""
    if judged[name] is None:
        return ""
    low, high = judged[f"{name}_interval"]
    return f"{judged[name]:.2%} ({low:.2%} to {high:.2%})"


def number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
