"""A small convolutional network."""

from torch import Tensor, nn


class CNN(nn.Module):
    """Three 5x5 convolutions with stride 2, each with batch norm and ReLU, and a linear layer that gives the logits.

    Args:
        channels: Channels after the first convolution, at least 1; each of the other two doubles them.
        dropout: Share of the features dropped before the last layer, 0 to below 1.
        num_classes: Number of logits, at least 1.
    """

    def __init__(self, channels: int = 8, dropout: float = 0.25, num_classes: int = 10) -> None:
        for name, value in (("channels", channels), ("num_classes", num_classes)):
            if value < 1:
                raise ValueError(f"{name}: {value} is not at least 1")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} is not in [0, 1)")
        super().__init__()
        self.channels, self.dropout, self.num_classes = channels, dropout, num_classes
        self.layers = nn.Sequential(
            *_halve(1, channels),  # (B, 1, 28, 28) -> (B, C, 14, 14)
            *_halve(channels, 2 * channels),  # -> (B, 2C, 7, 7)
            *_halve(2 * channels, 4 * channels),  # -> (B, 4C, 4, 4)
            nn.Flatten(),  # -> (B, 64C): where a stroke lies matters, so no average over the image
            nn.Dropout(dropout),
            nn.Linear(4 * channels * 4 * 4, num_classes),  # -> (B, num_classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, 28, 28) float32 in [0, 1] -> (B, num_classes) float32."""
        return self.layers(images.unsqueeze(1))  # type: ignore[no-any-return]  # (B, 28, 28) -> (B, 1, 28, 28)


def _halve(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Layers that halve height and width, rounding up; batch norm has the bias that the convolution leaves out."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size=5, stride=2, padding=2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
