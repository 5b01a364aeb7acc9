"""Images and labels: found or downloaded, split, batched and rescaled."""

from lit_mnist.data.mnist import MNISTDataModule
from lit_mnist.data.module import DataError, ImageDataModule, name_of, rescale

__all__ = ["DataError", "ImageDataModule", "MNISTDataModule", "name_of", "rescale"]
