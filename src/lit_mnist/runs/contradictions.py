"""What the result of a fit depends on, and what a continued fit may therefore not change."""

import json
from pathlib import Path
from typing import Any

from lit_mnist.checkpoint import CheckpointError, is_scalar
from lit_mnist.runs.folder import flat

CHANGEABLE = {"data_dir", "eval_batch_size"}  # of the model's and the data's options, those that change no result
SETTINGS = (  # of the Trainer's, those that do; how long, where and what is shown may change
    *("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "sync_batchnorm"),
    *("limit_train_batches", "limit_val_batches", "overfit_batches", "reload_dataloaders_every_n_epochs"),
    *("val_check_interval", "check_val_every_n_epoch"),
)
DECISIVE = (*SETTINGS, "callbacks")
SHOWING = {  # of Lightning's callbacks, those that change nothing
    *("ModelCheckpoint", "OnExceptionCheckpoint", "Timer", "LearningRateMonitor", "DeviceStatsMonitor"),
    *("ThroughputMonitor", "ModelSummary", "RichModelSummary", "TQDMProgressBar", "RichProgressBar"),
}


def decisive(options: dict[str, Any]) -> dict[str, Any]:
    """Of all options of a fit, as plain data, those that its result depends on."""
    trainer = {name: options["trainer"][name] for name in DECISIVE}
    shown = {f"lightning.pytorch.callbacks.{name}" for name in SHOWING}
    given = trainer["callbacks"] if isinstance(trainer["callbacks"], list) else [trainer["callbacks"]]
    trainer["callbacks"] = [callback for callback in given if callback and callback["class_path"] not in shown]
    return {**{name: options[name] for name in ("seed_everything", "model", "data")}, "trainer": trainer}


def importing_nothing(options: dict[str, Any]) -> dict[str, Any]:
    """Of the options that a checkpoint holds, those that name no class: without the Trainer's callbacks."""
    trainer = {name: value for name, value in options["trainer"].items() if name in SETTINGS and is_scalar(value)}
    return {name: options[name] for name in ("seed_everything", "model", "data")} | {"trainer": trainer}


def refuse(options: dict[str, Any], trained: dict[str, Any], checkpoint: Path) -> None:
    """Raise CheckpointError for an option that differs from what a checkpoint was trained with.

    Args:
        options: Those of now, in groups: {"seed_everything": 0, "model": {"lr": 0.001}}.
        trained: Those of then; what is not in it is not compared.
        checkpoint: Named in the message.
    """
    before = dict(flat(trained))
    for name, value in flat(options):
        if name.partition(".")[2] in CHANGEABLE or name not in before:
            continue
        if json.dumps(value, sort_keys=True) != json.dumps(before[name], sort_keys=True):  # 1 is not 1.0 to Lightning
            raise CheckpointError(f"--{name}: {value} contradicts {checkpoint}, trained with {before[name]}")
