"""A digit classifier in PyTorch Lightning: the Keras-in-R MNIST tutorial as modular parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_mnist.classifier import Classifier
    from lit_mnist.data import MNISTDataModule
    from lit_mnist.networks import CNN, MLP

__all__ = ["CNN", "MLP", "Classifier", "MNISTDataModule"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for: the program has to be there for Ctrl-C before torch is."""
    module = {"CNN": "networks", "MLP": "networks", "Classifier": "classifier", "MNISTDataModule": "data"}.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)
