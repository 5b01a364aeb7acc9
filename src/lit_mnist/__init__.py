"""A digit classifier in PyTorch Lightning: the Keras-in-R MNIST tutorial as modular parts."""

from lit_mnist.classifier import Classifier
from lit_mnist.data import MNISTDataModule
from lit_mnist.networks import CNN, MLP

__all__ = ["CNN", "MLP", "Classifier", "MNISTDataModule"]
__version__ = "0.2.0"
