"""Images and labels: found or downloaded, split, batched and rescaled."""

from lit_mnist.data.module import DataError, MNISTDataModule, class_names, rescale

__all__ = ["DataError", "MNISTDataModule", "class_names", "rescale"]
