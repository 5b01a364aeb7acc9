"""Data and model by their class paths: what a command line, or the config.yaml of a run, names."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from lit_mnist.classifier import CheckpointError, Classifier, read_checkpoint
from lit_mnist.errors import Parser
from lit_mnist.runs.folder import find_checkpoint, run_of


def name_parts(parser: LightningArgumentParser) -> None:
    """Set the classes of --model and --data where none is named, and what of the model follows from the data."""
    network = {"class_path": "lit_mnist.networks.MLP"}  # so that its options show
    parser.set_defaults({"model": {"class_path": "lit_mnist.Classifier", "init_args": {"network": network}}})
    parser.set_defaults({"data": {"class_path": "lit_mnist.MNISTDataModule"}})
    for target in ("num_classes", "network.init_args.num_classes", "network.init_args.image_shape"):
        take = _image_shape if target.endswith("shape") else _num_classes
        parser.link_arguments("data", f"model.init_args.{target}", take, apply_on="instantiate")


def _num_classes(data: L.LightningDataModule) -> int:
    return int(getattr(data, "num_classes", 10))


def _image_shape(data: L.LightningDataModule) -> list[int]:
    return list(getattr(data, "image_shape", (28, 28)))


def parts_of(run: Path) -> tuple[L.LightningModule, L.LightningDataModule]:
    """The model and the data that the config.yaml of a run names, as they were before the fit."""
    parser = Parser(prog=f"{run / 'config.yaml'}")
    for name, base in (("model", L.LightningModule), ("data", L.LightningDataModule)):
        parser.add_lightning_class_args(base, name, subclass_mode=True)
    name_parts(parser)
    options = yaml.safe_load((run / "config.yaml").read_text())
    parts = parser.instantiate_classes(parser.parse_object({name: options[name] for name in ("model", "data")}))
    return parts.model, parts.data


def load_classifier(name: str, network: nn.Module | None) -> tuple[Classifier, Path, L.LightningDataModule | None]:
    """A trained classifier in evaluation mode, its checkpoint and, where its run is your own, the data of its fit.

    Args:
        name: best or last of the newest run, of which config.yaml names all parts, or the path of a checkpoint, of
            which nothing is imported.
        network: The network of the checkpoint, where it is none of `lit_mnist.networks` and was given by its path.
    """
    checkpoint = find_checkpoint(name)
    if name not in ("best", "last") or network is not None:
        return Classifier.load_from_checkpoint(checkpoint, network=network), checkpoint, None
    run = run_of(checkpoint)
    assert run
    model, data = parts_of(run)
    if not isinstance(model, Classifier):
        raise CheckpointError(f"{checkpoint}: its model, {type(model).__name__}, is not a Classifier")
    restore(model, read_checkpoint(checkpoint), checkpoint)
    return model.eval(), checkpoint, data


def restore(model: L.LightningModule, saved: dict[str, Any], path: Path) -> None:
    """Give a model what a checkpoint holds of it: a classifier its network and the names of its classes."""
    is_classifier = isinstance(model, Classifier)
    if isinstance(model, Classifier):
        kind, name = type(model.network), saved.get("network")
        if "network" not in saved["hyper_parameters"] and name != f"{kind.__module__}.{kind.__qualname__}":
            raise CheckpointError(f"{path}: its network is {name}; name it by --model.network {name}")
        model.restore(saved, path)
    try:
        model.load_state_dict(saved["state_dict"], strict=not is_classifier)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights are not of {type(model).__name__}: {error}") from error
