"""An image classifier in PyTorch Lightning: the Keras-in-R MNIST tutorial as modular parts."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["CNN", "MLP", "Classifier", "ImageDataModule", "MNISTDataModule"]
__version__ = "0.2.0"

if TYPE_CHECKING:
    from lit_mnist.classifier import Classifier
    from lit_mnist.data import ImageDataModule, MNISTDataModule
    from lit_mnist.networks import CNN, MLP
else:

    def __getattr__(name: str) -> Any:  # PEP 562: a public name is imported when used, so --version needs no PyTorch
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        modules = [vars(import_module(f"{__name__}.{part}")) for part in ("classifier", "data", "networks")]
        return next(names[name] for names in modules if name in names)

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
