"""Makes src/lit_mnist/pretrained.ckpt, the weights alone, of a run of ladder/6_cnn: python docs/pretrained.py RUN."""

import sys
from pathlib import Path

import torch

from lit_mnist.checkpoint import FORM, PRETRAINED, read_checkpoint


def main(run: Path) -> None:
    saved = read_checkpoint(run / "checkpoints" / "last.ckpt")
    kept = {name: saved[name] for name in (*FORM, "network")}
    kept["state_dict"] = {name: weight for name, weight in saved["state_dict"].items() if name.startswith("network.")}
    torch.save(kept, PRETRAINED)
    print(f"{PRETRAINED}: {PRETRAINED.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
