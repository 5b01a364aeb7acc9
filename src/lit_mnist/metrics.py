"""What is measured beside accuracy: metrics of logits and labels, as torchmetrics has them."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class CrossEntropy(Metric):
    """The mean cross-entropy of all images of an epoch, on all devices together, in nats."""

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


class ClippedCrossEntropy(CrossEntropy):
    """What Keras 2 prints: of probabilities clipped to [1e-7, 1 - 1e-7], so that no image costs over 16.1."""

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, C), labels (B,) int64."""
        # as categorical_crossentropy in keras/backend/tensorflow_backend.py of Keras 2.1
        self.total += F.nll_loss(logits.float().softmax(1).clamp(1e-7, 1 - 1e-7).log(), labels, reduction="sum")
        self.count += len(labels)
