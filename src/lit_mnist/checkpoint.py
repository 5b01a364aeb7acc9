"""Checkpoints: written whole or not at all, and read as data that cannot run code."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from jsonargparse import ArgumentParser
from lightning.fabric.plugins import TorchCheckpointIO
from torch import Tensor

from lit_mnist.atomic import write_whole

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


T = TypeVar("T")


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message is one line that says why and what to do."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and moves it there once it is whole; reads it as data only.

    Args:
        folder: Where the run keeps its checkpoints; what lies there may be removed when a better one comes.
    """

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self.folder = folder
        self._written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint; whatever goes wrong, a file of that name from before stays as it was.

        Raises:
            OSError: The disk is full or the folder cannot be written.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # first, since torch.save hides why a file cannot be written
        torch.save(checkpoint, content)
        with write_whole(path) as part, part.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        self._written.add(path.absolute())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU, as data whatever ``weights_only`` says; see `read_checkpoint`."""
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint of this run; any other path, which a checkpoint that was read may name, is left alone."""
        path = Path(path).absolute()
        own = path in self._written or (
            self.folder is not None and path.suffix == ".ckpt" and path.parent.resolve() == self.folder.resolve()
        )
        if own and path.is_file() and not path.is_symlink():
            path.unlink()


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


def make(component: Callable[..., T], checkpoint: str | Path, options: dict[str, Any]) -> T:
    """An instance with the options of a checkpoint, each of which must be of the type in the signature.

    Raises:
        CheckpointError: It does not take them; the message names the checkpoint.
    """
    try:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(component)
        return component(**parser.parse_object(options).as_dict())
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
        if not _is_plain(checkpoint[name]):
            raise CheckpointError(f"names something to make in its {name}, and is not loaded")


def _is_plain(value: Any) -> bool:
    """Whether options are numbers, texts, and lists and dicts of them that name no class."""
    if isinstance(value, dict):
        keys_are_plain = all(isinstance(key, str) and key != "class_path" and not key.startswith("_") for key in value)
        return keys_are_plain and all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return is_scalar(value)


def is_scalar(value: Any) -> bool:
    """Whether a value is a number, a text or nothing."""
    return value is None or isinstance(value, bool | int | float | str)
