"""Kill training runs at random moments, resume each, and compare it bit by bit with a run that was never killed.

    python benchmarks/kills.py [--each 3] [--writes 8] [--json benchmarks/kills.json]

`each` kills in every part (tokenizer, autoencoder, caching, denoiser) of a run on shapes and of one on streamed pictures,
`writes` inside the write of a checkpoint, on a disk made slow, and two runs that are killed three times over. The moments
are drawn afresh each time.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from common import machine

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from kill_and_resume import PARTS, TINY, Trials, make_pictures


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--each", type=int, default=3)
    options.add_argument("--writes", type=int, default=8)
    options.add_argument("--json", type=Path, default=Path("benchmarks/kills.json"))
    chosen = options.parse_args()
    seed, start, records = time.time_ns() % 2**32, time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / "pictures")
        streamed = ["folder", "--data", f"{folder}/pictures", "--stream"]
        kinds = {"shapes": ["shapes"], "streamed pictures": streamed}
        for name, arguments in kinds.items():
            (Path(folder) / name).mkdir()
            trials = Trials(Path(folder) / name, [*arguments, *TINY], seed)
            aims = [*((part,) for part in PARTS for _ in range(chosen.each)), *[("write",)] * (chosen.writes // 2)]
            for aim in [*aims, ("autoencoder", "write", "denoiser")]:
                for record in trials.kill(*aim):
                    records.append({"run": name, **record})
                    print(json.dumps(records[-1]), flush=True)
    summary = {
        "kills": len(records),
        "inside a checkpoint's write": sum(record["in_write"] for record in records),
        "runs resumed to the end": sum("wrong" in record for record in records),
        "wrong": sum(bool(record.get("wrong")) for record in records),
        "minutes": round((time.monotonic() - start) / 60, 1),
    }
    result = {"machine": machine(), "command": "python benchmarks/kills.py", "seed": seed, **summary, "records": records}
    chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
