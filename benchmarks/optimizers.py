"""Muon against Adam on the autoencoder of chapter 15: the same steps, three learning rates each.

    python benchmarks/optimizers.py [--steps 700] [--json benchmarks/optimizers.json]

Both have the same initial weights, pictures and noise. "Adam" is AdamW without decay for all weights, as `muon_and_adamw` has it
for biases and tables; "Muon" is that function. Processor seconds of one thread are given beside. One run a row.
"""

import argparse
import json
import time
from pathlib import Path
from unittest.mock import patch

import torch
from common import machine
from compression import WIDTHS, psnr, scenes
from torch import Tensor

from minildm import autoencoder as module
from minildm.autoencoder import Autoencoder, autoencoder_loss, train_autoencoder
from minildm.config import AutoencoderConfig
from minildm.muon import muon_and_adamw

RATES, KL_WEIGHT = (1e-3, 2e-3, 4e-3), 1e-3


def adam_alone(parts: torch.nn.Module, lr: float) -> tuple[torch.optim.Optimizer]:
    return (torch.optim.AdamW(parts.parameters(), lr, (0.9, 0.99), weight_decay=0.0, fused=True),)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--steps", type=int, default=700)
    options.add_argument("--json", type=Path, default=Path("benchmarks/optimizers.json"))
    chosen = options.parse_args()
    (train, _), (test, _) = scenes(8000, 0), scenes(2000, 1)
    rows = []
    for name, optimizers in (("Adam", adam_alone), ("Muon", muon_and_adamw)):
        for lr in RATES:
            torch.manual_seed(1)
            config = AutoencoderConfig(latent_channels=4, widths=WIDTHS[4], groups=1, middle_attention=False)
            model, generator, start = Autoencoder(config), torch.Generator().manual_seed(1), time.process_time()

            def loss(x: Tensor, noise: Tensor, model: Autoencoder = model) -> Tensor:
                return autoencoder_loss(model, x, noise, KL_WEIGHT)[0]

            with patch.object(module, "muon_and_adamw", optimizers):
                train_autoencoder(model, train, chosen.steps, generator, loss, lr=lr)
            seconds = time.process_time() - start
            with torch.no_grad():
                found = psnr(model.decode(model.encode(test).mean), test)
            rows.append({"optimizer": name, "lr": lr, "PSNR": found, "seconds": seconds})
            print(rows[-1], flush=True)
    command = f"python benchmarks/optimizers.py --steps {chosen.steps}"
    chosen.json.write_text(json.dumps({"command": command, "machine": machine(), "steps": chosen.steps, "rows": rows}) + "\n")


if __name__ == "__main__":
    main()
