"""The yardstick: the recipe of configs/mlp.yaml as a bare PyTorch loop over tensors in memory."""

import argparse
import json
import time

import torch
from torch.nn import functional as F

from lit_mnist import MLP, MNISTDataModule
from lit_mnist.data import rescale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--limit_batches", type=int, default=None)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"

    data = MNISTDataModule()
    data.setup()
    train, val, test = (
        (rescale(loader.images).to(device), loader.labels.to(device))
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    )
    torch.manual_seed(options.seed)
    model = MLP().to(device)
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
