"""A small convolutional network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CNN(nn.Module):
    """Five convolutions with batch norm and ReLU, global average pooling, and a linear layer.

    Args:
        channels: Channels of the first two convolutions, at least 2; the next two have 1.5, the last 2 times as many.
        dropout: Share of features dropped before the linear layer, in [0, 1).
        num_classes: Number of logits, at least 1.
        image_shape: Shape of an image: (H, W) or (C, H, W).
    """

    def __init__(
        self, channels: int = 16, dropout: float = 0.0, num_classes: int = 10, image_shape: Sequence[int] = (28, 28)
    ) -> None:
        for name, value, least in (("channels", channels, 2), ("num_classes", num_classes, 1)):
            if value < least:
                raise ValueError(f"{name}: {value} is not at least {least}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: {dropout} is not in [0, 1)")
        super().__init__()
        self.channels, self.dropout, self.num_classes, self.image_shape = channels, dropout, num_classes, image_shape
        self.in_channels = image_shape[0] if len(image_shape) == 3 else 1
        self.layers = nn.Sequential(
            *_convolve(self.in_channels, channels, kernel_size=5, stride=2),  # (B, 1, 28, 28) -> (B, C, 14, 14)
            *_convolve(channels, channels),
            *_convolve(channels, 3 * channels // 2, stride=2),  # -> (B, 1.5C, 7, 7)
            *_convolve(3 * channels // 2, 3 * channels // 2),
            *_convolve(3 * channels // 2, 2 * channels),  # -> (B, 2C, 7, 7)
            nn.AdaptiveAvgPool2d(1),  # -> (B, 2C, 1, 1)
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(2 * channels, num_classes),  # -> (B, num_classes)
        )
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, *image_shape) float32 in [0, 1] -> (B, num_classes) float32."""
        # (B, H, W) -> (B, 1, H, W)
        return self.layers(images.view(-1, self.in_channels, *images.shape[-2:]))  # type: ignore[no-any-return]


def _convolve(in_channels: int, out_channels: int, kernel_size: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps or halves the size, without a bias, since batch norm has one."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
