"""What TensorBoard shows of a fit beside its curves, and the figures that a fit leaves in the run folder."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from lit_mnist.runs.history import METRICS, History
from lit_mnist.views import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

FitPart = Literal["history", "samples", "weights", "graph", "charts", "histograms", "throughput", "hparams"]


class Dashboard(Callback):
    """Draws history, samples and weights after a fit, and fills TensorBoard while it runs.

    Args:
        run: Folder for the figures.
        history: The rows of the epochs; it has to stand before this callback in the Trainer's list.
        options: Names and values for HParams, where those of the optimizer join them.
        skip: What to leave out.
    """

    def __init__(self, run: Path, history: History, options: dict[str, Any], skip: Collection[FitPart] = ()) -> None:
        self.run = run
        self.history = history
        self.options = options
        self.skip = frozenset(skip)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for writer in writers(trainer):
            if "charts" not in self.skip:
                pairs = {name: [f"train/{name}", f"val/{name}"] for name in ("loss", "accuracy")}
                writer.add_custom_scalars({"fit": {name: ["Multiline", tags] for name, tags in pairs.items()}})
            if "hparams" not in self.skip:
                self._add_hparams(writer, trainer)

    def _add_hparams(self, writer: "SummaryWriter", trainer: L.Trainer) -> None:
        from torch.utils.tensorboard.summary import hparams

        options = self.options | {f"optimizer/{key}": value for key, value in trainer.optimizers[0].defaults.items()}
        plain = {key: value if isinstance(value, int | float | str) else str(value) for key, value in options.items()}
        # The names alone: TensorBoard takes the values from the curves of the same names.
        for summary in hparams(plain, dict.fromkeys(("test/accuracy", "test/loss", *reversed(METRICS)))):
            writer._get_file_writer().add_summary(summary)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        if not trainer.is_last_batch:
            return  # the fit ends inside the epoch; one that continues from there shows it whole
        row = self.history.rows[-1]
        step = trainer.global_step - 1  # where Lightning logs the metrics of the epoch
        images = torch.tensor(sum(len(labels) for *_, labels in pl_module.uncounted), device=pl_module.device)
        images = trainer.strategy.reduce(images, reduce_op="sum")
        for writer in writers(trainer):
            if "throughput" not in self.skip:
                writer.add_scalar("lr", row["lr"], step)
                writer.add_scalar("images_per_second", images.item() / max(row["seconds"], 0.001), step)
            if "histograms" not in self.skip:
                for name, parameter in pl_module.named_parameters():
                    writer.add_histogram(name.removeprefix("network."), parameter, trainer.current_epoch + 1)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero or not self.history.rows:
            return
        if "history" not in self.skip:
            figure = figures.history(self.history.rows)
            figures.save(figure, self.run / "history.svg")
            leave_figure(trainer, figure, self.run / "history.png")
        if "samples" not in self.skip:
            images, labels = trainer.datamodule.images("train")  # type: ignore[attr-defined]
            leave_figure(trainer, figures.samples(images[:36], labels[:36]), self.run / "samples.png")
        if "weights" not in self.skip:
            first = next(pl_module.parameters())
            if first.shape[1:] == (28 * 28,):  # a unit for whole images
                leave_figure(trainer, figures.weights(first), self.run / "weights.png")


def writers(trainer: L.Trainer) -> list["SummaryWriter"]:
    """TensorBoard's writers of a Trainer; none in processes other than the first."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, TensorBoardLogger)]


def leave_figure(trainer: L.Trainer, figure: "Figure", path: Path) -> None:
    """Write a figure into the run folder and show it in TensorBoard."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    figures.save(figure, path)
    with Image.open(path) as image:
        width, height = image.size
    picture = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=path.read_bytes())
    for writer in writers(trainer):  # whose add_image would decode and encode it anew
        summary = Summary(value=[Summary.Value(tag=f"figures/{path.stem}", image=picture)])
        writer._get_file_writer().add_summary(summary, trainer.fit_loop.epoch_loop._batches_that_stepped)
