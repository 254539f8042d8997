"""What each decision about speed gives: our training step of the denoiser, and the same with one thing left out.

    python benchmarks/ablation.py [--size mnist] [--rounds 7] [--seconds 1.5] [--json benchmarks/ablation.json]

Processes and rounds are those of `standing.py`; what is left out, and how, is in `contender.py`.
"""

import argparse
import json
from pathlib import Path

from common import SIZES, machine
from contender import ABLATIONS
from standing import Contender, compare


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--size", choices=SIZES, default="mnist")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--seconds", type=float, default=1.5)
    options.add_argument("--json", type=Path, default=Path("benchmarks/ablation.json"))
    chosen = options.parse_args()
    found = compare({who: Contender("step", who, chosen.size) for who in ABLATIONS}, chosen.rounds, chosen.seconds)
    print("| training step | images/s | ours is faster by (least, most) | peak memory, GB |\n|---|---|---|---|")
    for name, row in found.items():
        spread = f"{row['faster_by']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        print(f"| {name} | {row['rate']:.0f} | {spread} | {row['peak'] / 1e9:.2f} |")
    command = f"python benchmarks/ablation.py --size {chosen.size!r} --rounds {chosen.rounds}"
    chosen.json.write_text(json.dumps({"command": command, "machine": machine(), "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
