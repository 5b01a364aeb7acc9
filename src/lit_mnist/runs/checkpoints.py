"""The checkpoints of a run: the best and the last weights, each written whole or not at all."""

import io
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_mnist.atomic import write_whole
from lit_mnist.checkpoint import read_checkpoint


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


def validation_follows(trainer: L.Trainer) -> bool:
    """Whether a validation comes after this step in a fit that does not end here."""
    loop: Any = trainer.fit_loop.epoch_loop
    should_stop, trainer.should_stop = trainer.should_stop, False  # which brings one that is not due
    due = loop._should_check_val_fx(trainer.fit_loop._data_fetcher) and not loop._skip_next_val
    trainer.should_stop = should_stop
    return bool(due)


class RunCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that keeps the weights which were measured, and finds its files again in a run that was moved.

    Args:
        run: The run folder; checkpoints go into its folder checkpoints.
        name: Name of the file without its suffix.
        monitor: Metric of the validation whose lowest value decides; None keeps the last epoch's.
    """

    _validated_at = -1  # the step whose weights the last validation measured

    def __init__(self, run: Path, name: str, monitor: str | None = None) -> None:
        super().__init__(
            dirpath=run / "checkpoints",
            filename=name,
            monitor=monitor,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint; Lightning asks for it at every hook, and its own takes long to make."""
        return f"RunCheckpoint {self.filename}"

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: it saves after a validation or at the end of an epoch only."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking or not validation_follows(trainer):
            return
        self._validated_at = trainer.global_step
        if self.monitor and not trainer.is_last_batch:
            # now, since the steps to come change the weights; and not where only the end of the fit has it validated
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save, unless the fit ends inside the epoch: that is no epoch to compare, nor the moment to continue from."""
        if trainer.is_last_batch and (not self.monitor or self._validated_at == trainer.global_step):
            super().on_train_epoch_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_model_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from the score; where the file lies follows from the run folder, never from what was read."""
        path = Path(self.format_checkpoint_name({}))
        if path.is_file():
            self.best_model_path = str(path)
            if (score := state_dict["best_score"]) is not None:
                self.best_model_score = self.kth_value = torch.as_tensor(float(score))
                self.best_k_models = {str(path): self.best_model_score}
                self.kth_best_model_path = str(path)
