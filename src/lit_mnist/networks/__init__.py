"""Networks: PyTorch modules from images to logits, and their description in a checkpoint."""

import inspect
from typing import Any

from torch import nn

from lit_mnist.networks.cnn import CNN
from lit_mnist.networks.mlp import MLP

__all__ = ["CNN", "MLP"]


def describe(network: nn.Module) -> dict[str, Any]:
    """The class path and the arguments of one of these networks as plain data; {} for any other."""
    network_class = type(network)
    if network_class not in (globals()[name] for name in __all__):
        return {}
    arguments = {name: getattr(network, name) for name in inspect.signature(network_class).parameters}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in arguments.items()}
    return {"network": {"class_path": f"{__name__}.{network_class.__name__}", "init_args": plain}}


def build(described: dict[str, Any]) -> nn.Module | None:
    """The network that `describe` has described; None for any other."""
    spec = described.get("network", {})
    module, _, name = str(spec.get("class_path")).rpartition(".")
    is_ours = name in __all__ and module.endswith(".networks")  # under any name of the package
    return globals()[name](**spec["init_args"]) if is_ours else None
