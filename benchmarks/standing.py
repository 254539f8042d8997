"""Where we stand: our training steps and sampler against diffusers' and transformers', paired, on one machine, in one run.

    python benchmarks/standing.py [--rounds 7] [--seconds 1.5] [--json benchmarks/standing.json] [--only WORK_OR_SIZE]

Every contender is a process of its own (`contender.py`) that works only when asked. A round asks each of them in turn for
some seconds of steps, so that a machine whose speed wanders meets all alike; a ratio is taken within a round, then the median
over rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from common import machine, start_up

from minildm.engine.bench import ceiling
from minildm.engine.device import choose_device

WHO = ("ours", "default", "settings")
ROWS = (  # work, size, batch (None: the size's own)
    ("unet", "mnist", None),
    ("unet", "demo", None),
    ("unet", "demo, widths 64 and 128", None),
    ("unet", "mnist, widths 64 and 128", None),
    ("unet", "mnist, widths 64 and 128, attention on the second level", None),
    ("unet", "mnist, widths 64 and 128, attention on both levels", None),
    ("unet", "cifar10", None),
    ("unet", "cifar10", 64),
    ("unet", "128 pixels", None),
    ("unet", "128 pixels", 16),
    ("autoencoder", "mnist", 16),
    ("autoencoder", "cifar10", 16),
    ("text", "mnist", 128),
    ("sampler", "mnist", 50),
    ("sampler", "cifar10", 25),
)


class Contender:
    """A process of `contender.py`, ready to be asked."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, str(Path(__file__).with_name("contender.py")), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.built = json.loads(self.process.stdout.readline())
        self.rounds: list[list[float]] = []
        self.peak = 0

    def ask(self, repeats: int) -> list[float]:
        """Have it work, and return the seconds of each repeat."""
        print(repeats, file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        self.peak = answer["peak"]
        return answer["seconds"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def compare(contenders: dict[str, Contender], rounds: int, seconds: float) -> dict[str, dict]:
    """Rounds of every contender in turn. Each: the median rate of its rounds, their extremes, and ratios to the first."""
    repeats = {}
    for name, contender in contenders.items():
        contender.ask(2)  # to warm up
        repeats[name] = max(1, round(seconds / statistics.median(contender.ask(3))))
    medians: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(contenders) if number % 2 == 0 else list(reversed(contenders))  # no one always follows the same one
        for name in names:
            medians[name].append(statistics.median(contenders[name].ask(repeats[name])))
    first = next(iter(contenders))
    result = {}
    for name, contender in contenders.items():
        rates = [contender.built["batch"] / took for took in medians[name]]
        ratios = [other / own for other, own in zip(medians[name], medians[first], strict=True)]
        result[name] = {
            **contender.built,
            "rate": statistics.median(rates),
            "rates": rates,
            "faster_by": statistics.median(ratios),
            "ratios": ratios,
            "gflop_per_second": contender.built["gflop"] * statistics.median(rates) / contender.built["batch"],
            "peak": contender.peak,
        }
        contender.close()
    return result


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=1.5)
    options.add_argument("--json", type=Path, default=Path("benchmarks/standing.json"))
    options.add_argument("--only", help="one of unet, autoencoder, text, sampler, or a size")
    chosen = options.parse_args()
    top = ceiling(choose_device())
    document = {"command": "python benchmarks/standing.py", "machine": machine(), "ceiling": top, "start": start_up(), "rows": []}
    print(", ".join(f"{name} {rate:.0f} GFLOP/s" for name, rate in top.items()), flush=True)
    heads = (
        "work, size, batch, ours, default, with our settings, ours over default, over settings, GFLOP/s, a convolution's, share"
    )
    print(f"| {' | '.join(heads.split(', '))} |\n|{'---|' * 11}", flush=True)
    for work, size, batch in ROWS:
        if chosen.only in (None, work, size):
            extra = [] if batch is None else [str(batch)]
            contenders = {who: Contender(work, who, size, *extra) for who in WHO}
            contenders["ceiling"] = Contender("convolution", "ours", size)
            found = compare(contenders, chosen.rounds, chosen.seconds)
            document["rows"].append({"work": work, "size": size, **found})
            print(row(work, size, found), flush=True)
    chosen.json.write_text(json.dumps(document, indent=1) + "\n")


def row(work: str, size: str, found: dict[str, dict]) -> str:
    """A line of the table: rates with their spread over the rounds, ratios with theirs."""

    def rate(who: str) -> str:
        return f"{found[who]['rate']:.0f} ({min(found[who]['rates']):.0f} to {max(found[who]['rates']):.0f})"

    def ratio(who: str) -> str:
        return f"{found[who]['faster_by']:.2f} ({min(found[who]['ratios']):.2f} to {max(found[who]['ratios']):.2f})"

    cells = [work, size, str(found["ours"]["batch"]), *map(rate, WHO), ratio("default"), ratio("settings")]
    reached, most = found["ours"]["gflop_per_second"], found["ceiling"]["gflop_per_second"]
    return f"| {' | '.join([*cells, f'{reached:.0f}', f'{most:.0f}', f'{reached / most:.0%}'])} |"


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
