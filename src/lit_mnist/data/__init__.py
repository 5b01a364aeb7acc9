"""Images and labels: found or downloaded, split, batched and rescaled."""

from lit_mnist.data.module import DataError, MNISTDataModule, rescale

__all__ = ["DataError", "MNISTDataModule", "rescale"]
