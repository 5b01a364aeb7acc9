"""Images, histograms and the graph in TensorBoard, and the figures in the run folder of a fit."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from lit_mnist.runs.folder import read_metrics
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter


class Dashboard(Callback):
    """Draws history and samples into the run folder after a fit, and fills TensorBoard while it runs."""

    def __init__(self, run: str | Path) -> None:
        self.run = Path(run).expanduser()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for writer in writers(trainer):
            example = torch.zeros(1, *pl_module.image_shape, device=pl_module.device, dtype=pl_module.dtype)
            writer.add_graph(pl_module.network, example, verbose=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        images = trainer.strategy.reduce(pl_module.train_metrics["train/loss"].weight.clone(), reduce_op="sum").item()
        for writer in writers(trainer):
            row, step = read_metrics(self.run)[-1], trainer.global_step - 1  # as Lightning's values of the epoch
            writer.add_scalar("lr", row["lr"], step)
            writer.add_scalar("images_per_second", images / max(row["seconds"], 0.001), step)
            for name, parameter in pl_module.network.named_parameters():
                writer.add_histogram(name, parameter, trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        rows = read_metrics(self.run)
        if not trainer.is_global_zero or not rows:
            return
        figure = figures.history(rows)
        figures.save(figure, self.run / "history.svg")
        leave_figure(trainer, figure, self.run / "history.png")
        data: Any = getattr(trainer, "datamodule", None)
        if hasattr(data, "splits"):
            images, labels = (part[:36] for part in data.splits["train"])
            leave_figure(trainer, figures.samples(images, labels, pl_module.classes), self.run / "samples.png")


class StepLoss(Callback):
    """Logs the training loss as train/loss_step every --trainer.log_every_n_steps steps."""

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.step = trainer.global_step
        self.losses: list[torch.Tensor] = []  # of the batches since the last step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"] * trainer.accumulate_grad_batches)  # Lightning has divided it by this
        if trainer.global_step > self.step:  # the step is complete
            loss, self.step, self.losses = torch.stack(self.losses).mean(), trainer.global_step, []
            if self.step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                for logger in trainer.loggers:
                    logger.log_metrics({"train/loss_step": loss.item()}, self.step)


def writers(trainer: L.Trainer) -> list["SummaryWriter"]:
    """TensorBoard's writers of a Trainer; none in any process but the first."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def leave_figure(trainer: L.Trainer, figure: "Figure", path: Path) -> None:
    """Write a figure to the run folder, and log it to TensorBoard, W&B and MLflow."""
    from PIL import Image

    figures.save(figure, path)
    name, step = f"figures/{path.stem}", trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with Image.open(path) as image:
                logger.experiment.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [str(path)])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_artifact(logger.run_id, str(path), "figures")
