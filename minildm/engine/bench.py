"""`minildm bench`: how fast a preset trains and samples here, against what the machine can do, and where the time goes."""

import copy
import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minildm.engine.data import Data
from minildm.engine.device import autocast, autocast_to_sample, choose_device, native_bf16, peak_memory
from minildm.engine.presets import Settings
from minildm.engine.stages import AutoencoderStage, DenoiserStage, Stage
from minildm.gaussian import Gaussian
from minildm.ldm import LatentDiffusion
from minildm.muon import Muon
from minildm.tokenizer import Tokenizer

KINDS = {  # of operators, by what their names begin with; the first that fits counts
    "convolutions": ("mkldnn_convolution", "convolution", "cudnn_convolution", "_slow_conv"),
    "matrix products, Muon's too": ("mm", "addmm", "bmm", "baddbmm", "mkldnn_linear"),
    "norms": ("native_group_norm", "native_layer_norm"),
    "fused attention": ("_scaled_dot_product", "_flash_attention", "_efficient_attention", "_cudnn_attention"),
    "softmax": ("_softmax", "masked_fill"),
    "activations": ("silu", "gelu", "sigmoid"),
    "copies and casts": ("copy_", "cat", "_to_copy", "clone", "upsample", "index"),
    "optimizer, average, gradient's length": ("_fused_adam", "_foreach", "linalg_vector_norm", "Optimizer", "lerp"),
    "sums and products": ("add", "mul", "sub", "div", "sum", "mean", "pow", "rsub", "neg"),
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """The seconds of repeated calls."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def rate(self, amount: float) -> str:
        """`amount` a second: the median, and the slowest and the fastest call."""
        return f"{amount / self.median:.0f} ({amount / max(self.seconds):.0f} to {amount / min(self.seconds):.0f})"


def timed(work: Callable[[], object], device: torch.device, seconds: float = 2.0, warm: int = 3) -> Timing:
    """Call `work` for some seconds, at least five times, after a few calls to warm up."""
    times: list[float] = []
    while len(times) < warm + 5 or sum(times[warm:]) < seconds:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return Timing(times[warm:])


def ceiling(device: torch.device, seconds: float = 0.3) -> dict[str, float]:
    """The most GFLOP/s that one convolution or one matrix product reaches here, forward, by precision.

    Sizes are of the kind that the book's networks have, and larger ones, which a card needs; each counts by its median.
    """
    card = device.type == "cuda"
    products = (512, 1024, 2048, *((4096, 8192) if card else ()))
    maps = ((128, 64, 8), (128, 128, 8), (128, 128, 4), (128, 256, 8), (64, 256, 16), *(((256, 512, 32),) if card else ()))
    best: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        for n in products:
            a, b = torch.randn(2, n, n, device=device).to(dtype)
            rate = 2 * n**3 / timed(lambda a=a, b=b: a @ b, device, seconds).median / 1e9
            best[f"{name} matrix product"] = max(rate, best.get(f"{name} matrix product", 0))
        for batch, width, side in maps:
            for layout in (torch.contiguous_format, torch.channels_last):
                layer = torch.nn.Conv2d(width, width, 3, padding=1, device=device, dtype=dtype).to(memory_format=layout)
                x = torch.randn(batch, width, side, side, device=device).to(dtype).to(memory_format=layout)
                with torch.no_grad():
                    took = timed(lambda layer=layer, x=x: layer(x), device, seconds).median
                rate = 2 * layer.weight.numel() * side**2 * batch / took / 1e9
                best[f"{name} convolution"] = max(rate, best.get(f"{name} convolution", 0))
    return best


def stages(settings: Settings) -> tuple[LatentDiffusion, AutoencoderStage, DenoiserStage]:
    """A preset's model and both stages of its training, on random pictures under its first template's captions."""
    if settings.precision == "auto":
        settings = dataclasses.replace(settings, precision="bf16" if native_bf16(choose_device()) else "float32")
    config, count = settings.model, max(settings.batch, settings.autoencoder_batch) * 4
    generator = torch.Generator().manual_seed(0)
    shape = (count, config.autoencoder.image_channels, config.image_size, config.image_size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    texts = [settings.templates[0].replace("{label}", word).replace("{word}", word) for word in ("cat", "dog", "frog", "ship")]
    data = Data(images, texts, torch.arange(count)[:, None] % len(texts))
    torch.manual_seed(0)
    model = LatentDiffusion(config, Tokenizer.train(texts, config.text.vocabulary)).to(choose_device())
    side = config.image_size // config.autoencoder.factor
    mean, log_var = torch.randn(2, count, config.unet.in_channels, side, side, generator=generator)
    autoencoder = AutoencoderStage(copy.deepcopy(model), data, settings)  # the denoiser's stage freezes its model's
    return model, autoencoder, DenoiserStage(model, Gaussian(mean, log_var), data, settings)


def gflop(stage: Stage) -> float:
    """Of one step: what its convolutions and matrix products, forward, backward and of the optimizer, multiply and add."""
    with FlopCounterMode(display=False) as counter:
        stage.step(0)
    return counter.get_total_flops() / 1e9


def profile(stage: Stage, steps: int = 10) -> dict[str, float]:
    """The share of the operators' time that each kind takes, the largest first: of the card's time, if they run on one."""
    card = stage.device.type == "cuda"
    with torch.profiler.profile(activities=torch.profiler.supported_activities()) as profiler:
        for step in range(steps):
            stage.step(step)
    shares: Counter[str] = Counter()
    for event in profiler.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a card's kernel: its time stands beside the operator that started it as well
        name = event.key.removeprefix("aten::")
        kind = next((kind for kind, starts in KINDS.items() if name.startswith(starts)), "the rest")
        shares[kind] += event.self_device_time_total if card else event.self_cpu_time_total
    return {kind: amount / shares.total() for kind, amount in shares.most_common()}


def seconds_for_data(stage: DenoiserStage) -> float:
    """Seconds that a step spends on choosing and gathering its examples, before any network runs."""

    def gather() -> None:
        places = stage.places(0)
        Gaussian(stage.latents.mean[places].float(), stage.latents.log_var[places].float()).sample()
        stage.tokens[stage.wordings[places, 0]]

    return timed(gather, torch.device("cpu"), 0.2).median


def must_hold(stage: DenoiserStage) -> dict[str, int]:
    """Bytes that a training step cannot do without, by what they are for."""
    weights = sum(parameter.numel() * parameter.element_size() for parameter in stage.network.parameters())
    trained = sum(parameter.numel() * parameter.element_size() for parameter in stage.parameters)
    matrices = sum(each.numel() * each.element_size() for each, optimizer in stage.owners if isinstance(optimizer, Muon))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(stage.settings, stage.device):
        loss = stage.loss(stage.places(0), torch.Generator().manual_seed(0))
    own = {parameter.untyped_storage().data_ptr() for parameter in stage.network.parameters()}
    activations = sum(size for place, size in kept.items() if place not in own)
    del loss
    moments = 2 * trained - matrices  # Muon keeps one average, AdamW two
    return {"weights and their average": 2 * weights, "gradients": trained, "moments": moments, "activations": activations}


def bench(name: str, settings: Settings) -> dict:
    """All of it, as one document of plain values; `page` makes it readable."""
    device = choose_device()
    before = peak_memory(device)
    model, autoencoder, denoiser = stages(settings)
    result: dict = {"preset": name, "batch": settings.batch, "autoencoder_batch": settings.autoencoder_batch}
    held = must_hold(denoiser)
    for stage in (denoiser, autoencoder):
        count, work = iter(range(10**9)), gflop(stage)
        took = timed(lambda stage=stage, count=count: stage.step(next(count)), device, 6.0)
        result[stage.name] = {"seconds": took.seconds, "gflop": work, "gflop_per_second": work / took.median}
        if stage is denoiser:  # before the other stage adds its own
            peak = None if before is None else round((peak_memory(device) - before) * 1e9)
    result["memory"] = {**held, "peak beyond the start": peak}
    result["profile"] = profile(denoiser)
    result["data"] = seconds_for_data(denoiser)
    texts = ["a cat"] * 32
    with autocast_to_sample(denoiser.settings, device):
        draw = timed(lambda: model.generate(texts, **settings.sampling(steps=20)), device, 4.0, warm=1)
    result["sampling"] = {"seconds": draw.seconds, "images": len(texts)}
    result["ceiling"] = ceiling(device)
    return result


def page(result: dict) -> str:
    """The document as a page to read."""
    top = max(result["ceiling"].values())
    lines = [f"preset {result['preset']}", ""]
    for name, rate in result["ceiling"].items():
        lines.append(f"{name:28} {rate:7.0f} GFLOP/s at most")
    lines.append("")
    for name, batch in (("denoiser", result["batch"]), ("autoencoder", result["autoencoder_batch"])):
        stage, took = result[name], Timing(result[name]["seconds"])
        lines.append(
            f"{name:12} {took.rate(batch):>22} images/s in steps of {batch}: "
            f"{stage['gflop_per_second']:.0f} GFLOP/s, {stage['gflop_per_second'] / top:.0%} of the most"
        )
    sampling = result["sampling"]
    lines.append(f"{'sampling':12} {Timing(sampling['seconds']).rate(sampling['images']):>22} images/s, guided, 20 steps")
    step = Timing(result["denoiser"]["seconds"]).median
    lines += ["", f"a denoiser step, {1000 * step:.0f} ms, by kind of operator:"]
    lines += [f"  {kind:40} {share:5.1%}" for kind, share in result["profile"].items()]
    lines += ["", f"choosing and gathering its examples takes {result['data'] / step:.1%} of a step"]
    memory = dict(result["memory"])
    peak, needed = memory.pop("peak beyond the start"), sum(memory.values())
    were = "" if peak is None else f", {peak / 1e6:.0f} MB were, beyond the start"
    lines += ["", f"memory: {needed / 1e6:.0f} MB must be held by a denoiser step{were}"]
    lines += [f"  {what:40} {size / 1e6:5.0f} MB" for what, size in memory.items()]
    return "\n".join(lines)
