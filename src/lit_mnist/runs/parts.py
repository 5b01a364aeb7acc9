"""Creation of data and model by class path, from a command line or the config.yaml of a run."""

from pathlib import Path
from typing import Any

import lightning.pytorch as L
import yaml
from lightning.pytorch.cli import LightningArgumentParser
from torch import nn

from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.errors import Parser, print_error
from lit_mnist.runs.folder import LOGS, find_checkpoint, run_of

NAMES = ("best", "last")  # of checkpoints of the newest run


def name_parts(parser: LightningArgumentParser) -> None:
    """Set the default classes of --model and --data, and link arguments of the model to the data."""
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


class StoredImages(L.LightningDataModule):
    """Attributes of the images from a checkpoint, to create a model without the images."""

    def __init__(self, num_classes: int, image_shape: list[int]) -> None:
        super().__init__()
        self.num_classes, self.image_shape = num_classes, image_shape


def data_of(run: Path) -> L.LightningDataModule:
    """Create the data module that is named in the config.yaml of a run."""
    parser = LightningArgumentParser(exit_on_error=False)
    parser.add_lightning_class_args(L.LightningDataModule, "data", subclass_mode=True)
    options = yaml.safe_load((run / "config.yaml").read_text())
    data: L.LightningDataModule = parser.instantiate(parser.parse_object({"data": options["data"]})).data
    return data


def load_classifier(name: str, network: nn.Module | None) -> tuple[Classifier, Path]:
    """The classifier in evaluation mode and the path of its checkpoint; without a run, the pretrained classifier.

    Args:
        name: best or last of the newest run, whose config.yaml names all parts, or the path of a checkpoint, from which
            nothing is imported.
        network: Your own network, needed if name is the path of one of its checkpoints.
    """
    if name in NAMES and not any(Path(LOGS).glob("*/config.yaml")):
        print_error(f"there is no run in {LOGS}, so the pretrained model for MNIST is used", "note")
        name = "pretrained"
    checkpoint = find_checkpoint(name)
    if name not in NAMES or network is not None:
        return Classifier.load_from_checkpoint(checkpoint, network=network), checkpoint
    run, saved = run_of(checkpoint), read_checkpoint(checkpoint)
    assert run
    parser = Parser(prog=f"{run / 'config.yaml'}")
    for part, base in (("model", L.LightningModule), ("data", L.LightningDataModule)):
        parser.add_lightning_class_args(base, part, subclass_mode=True)
    name_parts(parser)
    images = {"num_classes": len(saved["classes"]), "image_shape": saved["image_shape"]}
    data = {"class_path": f"{__name__}.StoredImages", "init_args": images}
    options = {"model": yaml.safe_load((run / "config.yaml").read_text())["model"], "data": data}
    model = parser.instantiate_classes(parser.parse_object(options)).model
    if not isinstance(model, Classifier):
        raise CheckpointError(f"{checkpoint}: its model, {type(model).__name__}, is not a Classifier")
    restore(model, saved, checkpoint)
    return model.eval(), checkpoint


def restore(model: L.LightningModule, saved: dict[str, Any], path: Path) -> None:
    """Restore a model from a checkpoint; for a Classifier also its classes, image shape and data set."""
    is_classifier = isinstance(model, Classifier)
    if isinstance(model, Classifier):
        given, name = f"{type(model.network).__module__}.{type(model.network).__qualname__}", saved.get("network")
        if name is None:
            raise CheckpointError(f"{path}: its model is not a Classifier; name its class with --model")
        if "network" not in saved["hyper_parameters"] and name != given:
            way = f"name it with --model.network {name}, or name its model with --model"
            raise CheckpointError(f"{path}: its network is {name}; {way}")
        model.restore(saved, path)
    try:
        model.load_state_dict(saved["state_dict"], strict=not is_classifier)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights do not fit {type(model).__name__}: {error}") from error
