"""Judging a run by numbers: does the picture show what the prompt says, and do the pictures look like the data?"""

import dataclasses
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minildm import metrics
from minildm.engine import shapes
from minildm.engine.data import Data, balanced, draw_shapes, fingerprint, load, to_bytes, to_float
from minildm.engine.device import autocast_to_sample, choose_device
from minildm.engine.folder import read_config
from minildm.engine.judges import SMALLEST_JUDGED, Judge, roughen, train_judge, verdicts
from minildm.engine.presets import Settings
from minildm.engine.retrieval import captioned, find_clip, retrieval
from minildm.engine.seeds import seeded
from minildm.engine.sources import located
from minildm.files import written_whole
from minildm.ldm import LatentDiffusion
from minildm.tensors import fill, read_tensors, save_tensors

JUDGE_STEPS, JUDGE_BATCH = 1200, 128


def evaluate(
    folder: Path,
    samples: int,
    guidance: float | None = None,
    guidance_high: float | None = None,
    steps: int | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Sample, judge and compare.

    Args:
        folder: a run folder.
        samples: how many pictures; for shapes half of them have shape-colour pairs that training never showed. Where
            there are captions and no classes, half of them are drawn from training captions, half from test captions.
        guidance, guidance_high, steps: of sampling; by default the run's own.
        data: where the run's data are now, if they have moved.

    Returns: plain values, ready for JSON. Accuracies are shares of pictures with every attribute right, each with its
    95% interval; distances to the nearest training picture are root mean squared differences of pixels in [-1, 1].
    """
    settings, origin = read_config(folder)
    settings = settings if data is None else dataclasses.replace(settings, data=located(data))
    options = settings.sampling(guidance, guidance_high, steps)
    device = choose_device()
    model = LatentDiffusion.load(folder, device)
    train, test = load(settings)
    if fingerprint(train, test) != origin.fingerprint:
        warnings.warn(f"data {settings.data!r} have changed since the run began: it is judged by others", stacklevel=2)
    judge = find_judge(folder, train, settings) if test.attributes is not None else None
    result: dict[str, Any] = dict.fromkeys(KEYS)

    held_out = draw_shapes(samples // 2, shapes.HELD_OUT, settings, "held out") if settings.data == "shapes" else None
    clip = find_clip(folder, train, settings, model.tokenizer) if test.attributes is None else None
    seen = balanced(train.select(captioned(train)), samples // 2, settings.seed) if clip is not None else None
    more = held_out or seen
    wanted = balanced(test, samples - (len(more) if more else 0), settings.seed)
    count = len(wanted)
    prompts = wanted.captions(settings.seed) + (more.captions(settings.seed) if more else [])
    start = time.monotonic()
    with autocast_to_sample(settings, device):
        images = model.generate(prompts, **options, seed=settings.seed).cpu()
    seconds = time.monotonic() - start
    result |= {"samples": len(prompts), **options, "images_per_second": len(prompts) / seconds}

    real = to_float(test.images)
    if judge is not None:
        result |= accuracy("judge_accuracy", verdicts(judge, real, test.attributes))
        some = to_float(test.images[:2000])
        result |= accuracy("reconstruction_accuracy", verdicts(judge, reconstruct(model, some), test.attributes[:2000]))
        result |= accuracy("prompt_accuracy", verdicts(judge, images[:count], wanted.attributes))
        result["attribute_accuracy"] = by_attribute(verdicts(judge, images[:count], wanted.attributes), wanted)
        if held_out is not None:
            right = verdicts(judge, images[count:], held_out.attributes)
            result |= accuracy("prompt_accuracy_held_out", right)
            result["attribute_accuracy_held_out"] = by_attribute(right, held_out)
    if clip is not None:
        result |= retrieval(
            clip, model.tokenizer, {"seen": (images[count:], seen), "test": (images[:count], wanted)}, settings.seed
        )
    features = judge_features(judge) if judge is not None else latent_features(model)
    reference, comparison = to_float(balanced(test, count, 1).images), to_float(balanced(train, count, 1).images)
    if count >= 2:  # a covariance needs two
        at_reference = features(reference)
        result["frechet"] = metrics.frechet_distance(features(images[:count]), at_reference)
        result["frechet_floor"] = metrics.frechet_distance(features(comparison), at_reference)
        result["frechet_features"] = "judge" if judge is not None else "autoencoder"
    size = min(500, count)
    result["nearest_train_distance"] = nearest(images[:size], train)
    result["nearest_train_distance_of_test"] = nearest(reference[:size], train)
    return result


KEYS = (
    "prompt_accuracy", "prompt_accuracy_interval", "prompt_accuracy_held_out", "prompt_accuracy_held_out_interval",
    "frechet", "frechet_floor", "frechet_features", "judge_accuracy", "judge_accuracy_interval",
    "reconstruction_accuracy", "reconstruction_accuracy_interval", "nearest_train_distance",
    "nearest_train_distance_of_test", "attribute_accuracy", "attribute_accuracy_held_out",
    "retrieval_seen", "retrieval_seen_interval", "retrieval_test", "retrieval_test_interval", "retrieval_seen_real",
    "retrieval_seen_real_interval", "retrieval_test_real", "retrieval_test_real_interval", "retrieval_lineup",
    "samples", "guidance", "guidance_high", "steps", "images_per_second",
)  # fmt: skip


def accuracy(name: str, right: Tensor) -> dict[str, Any]:
    """An accuracy under its name, and its interval beside it."""
    value, interval = metrics.prompt_accuracy(right)
    return {name: value, f"{name}_interval": list(interval)}


def by_attribute(right: Tensor, asked: Data) -> dict[str, float | None]:
    """The accuracy of each attribute among the pictures to which it applies."""
    shares = {}
    for name, said, wanted in zip(asked.classes, right.T, asked.attributes.T, strict=True):
        applies = wanted >= 0
        shares[name] = float(said[applies].float().mean()) if applies.any() else None
    return shares


@torch.no_grad()
def reconstruct(model: LatentDiffusion, images: Tensor) -> Tensor:
    """Through the autoencoder and back, at the mean latent."""
    device = next(model.parameters()).device
    return torch.cat([model.autoencoder.decode(model.encode(some.to(device)).mean).cpu() for some in images.split(250)])


def nearest(images: Tensor, train: Data) -> float:
    """The mean distance to the nearest training picture, in units of [-1, 1]."""
    distance, _ = metrics.nearest_distances(to_bytes(images), train.images)
    return float(distance.mean()) / 127.5


@torch.no_grad()
def in_batches(function, images: Tensor) -> Tensor:
    return torch.cat([function(some) for some in images.split(500)])


def judge_features(judge: Judge):
    """The judge's last hidden layer, N×128."""
    device = next(judge.parameters()).device
    return lambda images: in_batches(lambda some: judge.features(some.to(device)).cpu(), images)


def latent_features(model: LatentDiffusion):
    """Without labels there is no judge: the latent means, averaged over quarters of the picture, N×16·channels."""
    device, pool = next(model.parameters()).device, torch.nn.functional.adaptive_avg_pool2d
    return lambda images: in_batches(lambda some: pool(model.encode(some.to(device)).mean, 4).flatten(1).cpu(), images)


def find_judge(folder: Path, train: Data, settings: Settings) -> Judge | None:
    """The run's judge, trained on first use and kept in judge.safetensors; None without attributes
    to judge by, and for pictures too small.

    For shapes it is trained on fresh renders of every shape-colour pair, also those held out; else on the training data.
    """
    if train.attributes is None or settings.model.image_size < SMALLEST_JUDGED:
        return None
    labelled = torch.nonzero((train.attributes >= 0).any(1))[:, 0]
    torch.manual_seed(settings.seed)
    device = choose_device()
    judge = Judge(train.images.shape[1], train.images.shape[2], tuple(train.classes.values())).to(device)
    path = folder / "judge.safetensors"
    if path.exists():
        fill(judge, read_tensors(path), path)
        return judge.eval()

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        generator = seeded(settings.seed, "judge", step)
        if settings.data == "shapes":
            attributes = shapes.sample_scenes(JUDGE_BATCH, shapes.ALL_PAIRS, generator)
            images = shapes.render(attributes, generator, settings.model.image_size)
        else:
            places = labelled[torch.randint(len(labelled), (JUDGE_BATCH,), generator=generator)]
            images, attributes = train.images[places], train.attributes[places]
        return roughen(to_float(images).to(device), generator), attributes.to(device)

    train_judge(judge, batch_of, JUDGE_STEPS, precision=autocast_to_sample(settings, device))
    with written_whole(path) as aside:
        save_tensors(judge.state_dict(), aside)
    return judge
