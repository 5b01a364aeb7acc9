"""Images and labels: found or downloaded, verified, split, batched and rescaled."""

from lit_mnist.data.files import DataError
from lit_mnist.data.module import MNISTDataModule, rescale

__all__ = ["DataError", "MNISTDataModule", "rescale"]
