"""Checkpoints: written whole or not at all, and read as data that cannot run code."""

import inspect
import io
import pickle
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

CONTENTS: dict[str, type] = {  # what every checkpoint has, and of which type
    "lit_mnist": str,
    "pytorch-lightning_version": str,
    "epoch": int,
    "global_step": int,
    "state_dict": dict,
    "hyper_parameters": dict,
    "datamodule_hyper_parameters": dict,
    "loops": dict,
}
TO_CONTINUE: dict[str, type] = {"optimizer_states": list, "lr_schedulers": list, "callbacks": dict, "resume": dict}

LIBRARIES = ("torch", "torchmetrics", "torchvision", "lightning", "pytorch_lightning")

T = TypeVar("T")


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message is one line that says why and what to do."""


def read_checkpoint(path: str | Path, to_continue: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this program as data: whole, of the form that it has, and with nothing in it to run.

    Args:
        path: The file.
        to_continue: Whether it must also have what a fit needs to go on from it.

    Raises:
        CheckpointError: There is no such file, it is damaged, holds code, weights that are no numbers or options that
            no program of this name writes, or comes from another program.
    """
    try:
        if not Path(path).is_file():  # nor a pipe, which nobody may ever write to
            raise CheckpointError(f"{path}: there is no such checkpoint")
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    try:
        _refuse_damage(content)
        checkpoint = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        _refuse_other_contents(checkpoint, CONTENTS | TO_CONTINUE if to_continue else CONTENTS)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: holds code or objects other than plain data, and is not loaded") from error
    except Exception as error:  # whatever zipfile and PyTorch make of a file that is no checkpoint
        raise CheckpointError(f"{path}: is damaged or no checkpoint") from error
    return checkpoint  # type: ignore[no-any-return]


def make(component: Callable[..., T], checkpoint: str | Path, options: dict[str, Any], **parts: Any) -> T:
    """An instance with the options of a checkpoint, each of which must be of the type in the signature.

    Args:
        component: A class.
        checkpoint: The file, for the message.
        options: Those of the checkpoint, as `read_checkpoint` lets them pass.
        parts: Further arguments, as they are.

    Raises:
        CheckpointError: It does not take them; the message names the checkpoint.
    """
    try:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(component, skip=set(parts))
        return component(**parser.instantiate(parser.parse_object(options)).as_dict(), **parts)
    except Exception as error:  # whatever a wrong option leads to
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{checkpoint}: its options cannot be used: {reason}") from error


def _refuse_damage(content: bytes) -> None:
    """Raise an exception for a file with other checksums, which PyTorch ignores, or with more in it than its size."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > len(content):
            raise CheckpointError("unpacks to more than its own size, and is not loaded")
        if archive.testzip() or any(entry.external_attr for entry in archive.infolist()):
            raise ValueError("a checksum differs, or a part is marked as a folder, which PyTorch would not read")


def _refuse_other_contents(checkpoint: Any, contents: dict[str, type]) -> None:
    """Raise CheckpointError for what is not of the form of a checkpoint of this program."""
    if not isinstance(checkpoint, dict) or "lit_mnist" not in checkpoint:
        raise CheckpointError("is a checkpoint of another program, not one that lit_mnist wrote")
    for name, kind in contents.items():
        if not isinstance(checkpoint.get(name), kind):
            raise CheckpointError(f"lacks {name}, or has something else in its place")
    weights = checkpoint["state_dict"].values()
    if not weights or not all(isinstance(weight, Tensor) and weight.layout == torch.strided for weight in weights):
        raise CheckpointError("has no weights in its state_dict")
    if any(weight.nbytes > weight.untyped_storage().nbytes() for weight in weights):
        raise CheckpointError("has weights of more than its own size, and is not loaded")
    if not all(weight.isfinite().all() for weight in weights):
        raise CheckpointError("has weights that are infinite or not a number: its training diverged")
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        options = dict(checkpoint[name])
        network = options.pop("network", None) if name == "hyper_parameters" else None
        if not _is_plain(options) or not (network is None or _is_network(network)):
            raise CheckpointError(
                f"names something in its {name} that is no network known here, and is not loaded; where the network is"
                " yours, import it or name it by --model.network"
            )


def _is_plain(value: Any) -> bool:
    """Whether options are numbers, texts, and lists and dicts of them that name no class."""
    if isinstance(value, dict):
        keys_are_plain = all(isinstance(key, str) and key != "class_path" and not key.startswith("_") for key in value)
        return keys_are_plain and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return is_scalar(value)


def _is_network(spec: Any) -> bool:
    """Whether a spec names a network that is imported already, with options that can name nothing to import."""
    if not isinstance(spec, dict) or not spec.keys() <= {"class_path", "init_args"}:
        return False
    module, _, name = str(spec.get("class_path")).rpartition(".")
    network = getattr(sys.modules.get(module), name, None)
    if not isinstance(network, type) or not issubclass(network, nn.Module):
        return False
    if module.split(".")[0] in LIBRARIES and not module.startswith("torch.nn"):  # theirs do more than compute
        return False
    options = spec.get("init_args", {})
    return _is_plain(options) and all(re.fullmatch(r"[\w-]*", text) for text in _texts(options))


def _texts(value: Any) -> Iterator[str]:
    """All texts in plain options."""
    if isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def describe(network: nn.Module) -> dict[str, Any]:
    """A network as a checkpoint holds it: its class and the arguments that it keeps in attributes of their names."""
    kept = {
        name: getattr(network, name) for name in inspect.signature(type(network)).parameters if hasattr(network, name)
    }
    options = {
        name: list(value) if isinstance(value, tuple) else value for name, value in kept.items() if _is_plain(value)
    }
    return {"class_path": f"{type(network).__module__}.{type(network).__qualname__}", "init_args": options}


def is_scalar(value: Any) -> bool:
    """Whether a value is a number, a text or nothing."""
    return value is None or isinstance(value, bool | int | float | str)
