"""Checkpoints, read as data: nothing that they name is imported."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from lit_mnist import networks

FORM: dict[str, Any] = {  # entries of a checkpoint and their types
    **dict.fromkeys(("state_dict", "hyper_parameters", "datamodule_hyper_parameters"), dict),
    **{"classes": list, "image_shape": list, "dataset": str, "epoch": int, "global_step": int},
}
PRETRAINED = Path(__file__).with_name("pretrained.ckpt")  # the CNN of ladder/6_cnn


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message names it and says why."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read and check a checkpoint of Lightning as data: nothing that it names is imported.

    Of the data module's hyperparameters, only the name of the data set and numbers are kept.

    Raises:
        CheckpointError: The file is not a checkpoint of a fit, or is damaged.
    """
    try:
        file = PRETRAINED if str(path) == "pretrained" else Path(path).expanduser()
        if damaged := zipfile.ZipFile(file).testzip():  # torch.load compares no checksum
            raise ValueError(f"the checksum of {damaged} does not match")
        saved: dict[str, Any] = {"hyper_parameters": {}, "datamodule_hyper_parameters": {}, "classes": []}
        saved |= {"image_shape": [28, 28], "dataset": ""}
        saved |= torch.load(file, map_location="cpu", weights_only=True)
        saved |= {name: kind(saved[name]) for name, kind in FORM.items()}
        with torch.device("meta"):  # without memory
            networks.build(saved["hyper_parameters"])
    except Exception as error:  # torch.load raises errors of many types
        raise CheckpointError(f"{path} is not a checkpoint of a fit, or is damaged: {error}") from error
    data = saved["datamodule_hyper_parameters"].items()
    plain = {name: value for name, value in data if isinstance(value, str if name == "dataset" else int | float)}
    dataset = saved["dataset"] or plain.get("dataset", "")  # a model other than Classifier saves only the latter
    return saved | {"datamodule_hyper_parameters": plain, "dataset": dataset}
