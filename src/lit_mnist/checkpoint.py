"""Checkpoints: written whole or not at all, and read as data that cannot run code."""

import io
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_mnist.atomic import write_whole

NEEDED = {"state_dict", "hyper_parameters", "datamodule_hyper_parameters", "loops", "global_step"}


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message is one line that says why and what to do."""


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its final place and moves it there once it is whole; reads it as data only."""

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

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint on the CPU, as data whatever ``weights_only`` says; see `read_checkpoint`."""
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this program without running anything that may be hidden in it.

    Raises:
        CheckpointError: There is no such file, it is damaged, holds code, or comes from another program.
    """
    path = Path(path)
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: there is no such checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except Exception as error:  # whatever PyTorch makes of a file that is no checkpoint
        if isinstance(error, pickle.UnpicklingError) and (zipfile.is_zipfile(path) or _is_pickle(path)):
            raise CheckpointError(f"{path}: holds code or objects other than plain data, and is not loaded") from error
        raise CheckpointError(f"{path}: is damaged or no checkpoint") from error
    if not isinstance(checkpoint, dict) or "lit_mnist" not in checkpoint:
        raise CheckpointError(f"{path}: is a checkpoint of another program, not one that lit_mnist wrote")
    if missing := NEEDED - checkpoint.keys():
        raise CheckpointError(f"{path}: lacks {', '.join(sorted(missing))}")
    return checkpoint


def _is_pickle(path: Path) -> bool:
    """Whether a file reads as a pickle; it is only looked through, nothing in it runs."""
    try:
        return bool(list(pickletools.genops(path.read_bytes())))
    except Exception:
        return False
