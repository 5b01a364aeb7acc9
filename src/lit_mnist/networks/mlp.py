"""A multilayer perceptron: the network of the tutorial."""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU and optional dropout; initial weights are Glorot uniform, biases 0, as in Keras.

    Args:
        hidden_sizes: Width of each hidden layer, at least 1; an empty list makes a linear classifier.
        dropout: Share of activations dropped after each hidden layer, in [0, 1): one for all or one per layer.
        num_classes: Number of logits.
        batch_norm: Whether each hidden layer has batch norm before its ReLU.
        image_shape: Shape of an image: (H, W) or (C, H, W).
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (256, 128),
        dropout: float | Sequence[float] = 0.0,
        num_classes: int = 10,
        batch_norm: bool = False,
        image_shape: Sequence[int] = (28, 28),
    ) -> None:
        shares = list(dropout) if isinstance(dropout, Sequence) else [dropout] * len(hidden_sizes)
        if min(hidden_sizes, default=1) < 1:
            raise ValueError(f"hidden_sizes: {min(hidden_sizes)} is not at least 1")
        for share in shares:
            if not 0 <= share < 1:
                raise ValueError(f"dropout: {share} is not in [0, 1)")
        if len(shares) != len(hidden_sizes):
            raise ValueError(f"dropout: {shares} has {len(shares)} values, not one for each of {list(hidden_sizes)}")
        super().__init__()
        self.hidden_sizes, self.dropout = hidden_sizes, dropout
        self.num_classes, self.batch_norm, self.image_shape = num_classes, batch_norm, image_shape
        layers: list[nn.Module] = []
        in_features = math.prod(image_shape)
        for size, share in zip(hidden_sizes, shares, strict=True):
            norm = [nn.BatchNorm1d(size)] if batch_norm else []
            layers += [nn.Linear(in_features, size), *norm, nn.ReLU()]
            layers += [nn.Dropout(share)] if share > 0 else []
            in_features = size
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, num_classes))

        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, *image_shape) float32 in [0, 1] -> (B, num_classes) float32."""
        return self.layers(images.flatten(1))  # type: ignore[no-any-return]  # (B, 28, 28) -> (B, 784)
