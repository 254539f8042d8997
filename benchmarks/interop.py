"""What a model of Stable Diffusion 1.5's size takes to be imported, opened and asked once: memory against the file, and seconds.

    python benchmarks/interop.py FOLDER [--half] [--calls 0]

A folder in diffusers' layout is written to FOLDER, with random numbers: about 4.3 GB, or half of that. It is removed again.
Each command runs in a process of its own, whose peak of memory is read from the operating system.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from common import machine

from minildm.files import write_text
from minildm.interop import documents_of, parts_of
from minildm.layout import PARTS
from minildm.names import renamed
from minildm.sizes import SD15
from minildm.tensors import save_tensors
from minildm.tokenizer import Tokenizer

MEASURED = """
import json, sys, time
from pathlib import Path
import torch
from minildm.interop import import_folder
from minildm.ldm import LatentDiffusion

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

command, folder, run, calls = sys.argv[1], *map(Path, sys.argv[2:4]), int(sys.argv[4])
before, start = peak(), time.perf_counter()
if command == "import":
    import_folder(folder, run)
else:
    model = LatentDiffusion.load(run)
result = {"bytes": peak() - before, "seconds": time.perf_counter() - start}
if command == "open":
    result["weights"] = sum(p.numel() * p.element_size() for p in model.parameters())
    start = time.perf_counter()
    with torch.no_grad():
        for _ in range(calls):
            model.unet(torch.randn(1, 4, 64, 64), torch.tensor([500]), torch.randn(1, 77, 768))
    result["seconds a call of the U-Net, 64×64"] = (time.perf_counter() - start) / max(calls, 1)
print(json.dumps(result))
"""


def write_folder(folder: Path, half: bool) -> int:
    """Stable Diffusion 1.5 in diffusers' layout, of random numbers. Returns the bytes of its weights."""
    tokenizer = Tokenizer.train(["a photo of an astronaut riding a horse"] * 2, 530)
    kind, size = torch.float16 if half else torch.float32, 0
    for path, document in documents_of(SD15, tokenizer, 0.18215).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, json.dumps(document))
    tokenizer.save(folder / "tokenizer")
    for part, (_, module, rules) in parts_of(SD15).items():
        shapes = {renamed(name, rules): value.shape for name, value in module.state_dict().items() if name != "scale"}
        path = folder / part / f"{PARTS[part]}.safetensors"
        save_tensors({name: torch.empty(shape, dtype=kind).normal_(std=0.02) for name, shape in shapes.items()}, path)
        size += path.stat().st_size
    return size


def measured(command: str, folder: Path, calls: int) -> dict[str, float]:
    """One command in a process of its own."""
    arguments = [sys.executable, "-c", MEASURED, command, str(folder / "sd"), str(folder / "run"), str(calls)]
    return json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--half", action="store_true", help="store 16 bits a number")
    parser.add_argument("--calls", type=int, default=0, help="of the U-Net, timed")
    options = parser.parse_args()
    options.folder.mkdir()
    try:
        size = write_folder(options.folder / "sd", options.half)
        print(machine(), f"\nfile {size / 1e9:.2f} GB, {16 if options.half else 32} bits a number")
        for command in ("import", "open"):
            result = measured(command, options.folder, options.calls)
            peak = result["bytes"]
            more = f", {peak / result['weights']:.2f} of the weights in float32" if "weights" in result else ""
            print(f"{command}: peak {peak / 1e9:.2f} GB, {peak / size:.2f} of the file{more}, {result['seconds']:.1f} s")
        if options.calls:
            print(f"a call of the U-Net on latents of 64×64: {result['seconds a call of the U-Net, 64×64']:.1f} s")
    finally:
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
