"""Cross-entropy as a metric of torchmetrics, also in the form that Keras 2 printed."""

from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MeanMetric


class CrossEntropy(MeanMetric):
    """The mean cross-entropy of all images of an epoch, on all devices together, in nats."""

    higher_is_better: bool = False  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(nan_strategy="disable")  # the loss of a diverged fit is NaN

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Count a batch: logits (B, C), labels (B,) int64."""
        super().update(F.cross_entropy(logits.float(), labels, reduction="none"))  # (B,)


class ClippedCrossEntropy(CrossEntropy):
    """The loss that Keras 2 printed: probabilities are clipped to [1e-7, 1 - 1e-7], so no image costs over 16.12."""

    def update(self, logits: Tensor, labels: Tensor) -> None:  # type: ignore[override]
        """Count a batch: logits (B, C), labels (B,) int64."""
        # as categorical_crossentropy in keras/backend/tensorflow_backend.py of Keras 2.1
        logs = logits.float().softmax(1).clamp(1e-7, 1 - 1e-7).log()  # (B, C)
        MeanMetric.update(self, F.nll_loss(logs, labels, reduction="none"))
