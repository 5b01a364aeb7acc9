"""A CNN of 7,698 parameters: a network of your own, which a config names by its import path."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SmallCNN(nn.Module):
    """Eight narrow convolutions with batch norm and ReLU, on images of 28x28, 14x14 and 7x7 pixels.

    `CNN(channels=10)`, of 7,575 parameters, has wider layers, but only five, and halves the images in the first.
    """

    def __init__(self, num_classes: int = 10, image_shape: Sequence[int] = (28, 28)) -> None:
        super().__init__()
        self.in_channels = image_shape[0] if len(image_shape) == 3 else 1
        self.layers = nn.Sequential(
            *_convolve(self.in_channels, 8),  # (B, 1, 28, 28) -> (B, 8, 28, 28)
            *_convolve(8, 8),
            nn.MaxPool2d(2),  # -> (B, 8, 14, 14)
            *_convolve(8, 11),
            *_convolve(11, 11),
            *_convolve(11, 11),
            nn.MaxPool2d(2),  # -> (B, 11, 7, 7)
            *_convolve(11, 12),
            *_convolve(12, 12),
            *_convolve(12, 12),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),  # -> (B, 12)
            nn.Linear(12, num_classes),
        )
        self.to(memory_format=torch.channels_last)  # the faster layout for convolutions

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch: (B, *image_shape) float32 in [0, 1] -> (B, num_classes) float32."""
        logits: Tensor = self.layers(images.view(-1, self.in_channels, *images.shape[-2:]))
        return logits


def _convolve(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A 3x3 convolution that keeps the size, without a bias, since batch norm has one."""
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]
