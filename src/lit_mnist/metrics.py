"""What is measured beside accuracy: metrics of logits and labels, as torchmetrics has them."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class CrossEntropy(Metric):
    """The mean cross-entropy of all images of an epoch, on all devices together, in nats."""

    full_state_update = False
    total: Tensor  # sum over the images, () float32
    count: Tensor  # of images, () int64

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,) int64."""
        self.total += F.cross_entropy(logits.float(), labels, reduction="sum")
        self.count += len(labels)

    def compute(self) -> Tensor:
        """The mean over all images so far, () float32."""
        return self.total / self.count
