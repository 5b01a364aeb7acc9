"""The yardstick: the recipe of configs/mlp.yaml in PyTorch alone, as a bare loop over tensors in memory.

Lightning is not imported: it would have every optimizer step look for a GPU's driver anew, a tenth of the loop's time.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", help="what save_data of bench.py has written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit_batches", type=int, default=None)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    data = np.load(options.data)
    train, val, test = (
        (
            torch.from_numpy(data[f"{split}_images"]).to(device) / 255,
            torch.from_numpy(data[f"{split}_labels"]).to(device),
        )
        for split in ("train", "val", "test")
    )
    torch.manual_seed(options.seed)
    layers = nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    for layer in layers[::2]:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    model = nn.Sequential(nn.Flatten(), *layers).to(device)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)

    @torch.no_grad()
    def evaluate(pixels: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
        logits = model(pixels)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()

    pixels, labels = train
    start = time.perf_counter()
    for epoch in range(options.epochs):
        loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.long, device=device)
        for indices in torch.randperm(len(labels), device=device).split(128)[: options.limit_batches]:
            logits = model(pixels[indices])
            loss = F.cross_entropy(logits, labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(indices)
            right += (logits.detach().argmax(1) == labels[indices]).sum()
        val_loss, val_accuracy = evaluate(*val)
        train_loss, train_accuracy = loss_sum.item() / len(labels), right.item() / len(labels)
        print(f"{epoch + 1} {train_loss:.4f} {train_accuracy:.4f} {val_loss:.4f} {val_accuracy:.4f}")
    seconds = time.perf_counter() - start
    print(json.dumps({"fit_seconds": seconds, "val_loss": val_loss, "test_accuracy": evaluate(*test)[1]}))


if __name__ == "__main__":
    main()
