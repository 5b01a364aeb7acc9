"""A digit classifier in PyTorch Lightning: the Keras-in-R MNIST tutorial as modular parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_mnist.classifier import Classifier
    from lit_mnist.data import MNISTDataModule
    from lit_mnist.model import MLP

__all__ = ["MLP", "Classifier", "MNISTDataModule"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name once it is asked for, so that the program can first set its process up."""
    modules = {"MLP": "model", "Classifier": "classifier", "MNISTDataModule": "data"}
    if name not in modules:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"lit_mnist.{modules[name]}"), name)
