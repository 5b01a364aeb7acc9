"""A digit classifier in PyTorch Lightning: the Keras-in-R MNIST tutorial as modular parts."""

from lit_mnist.classifier import Classifier
from lit_mnist.data import ImageDataModule, MNISTDataModule
from lit_mnist.networks import CNN, MLP

__all__ = ["CNN", "MLP", "Classifier", "ImageDataModule", "MNISTDataModule"]
__version__ = "0.2.0"
