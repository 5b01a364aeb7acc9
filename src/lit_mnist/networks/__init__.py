"""Networks: plain PyTorch modules, images in, logits out."""

from lit_mnist.networks.cnn import CNN
from lit_mnist.networks.mlp import MLP

__all__ = ["CNN", "MLP"]
