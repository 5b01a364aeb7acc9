"""fit, validate and test: LightningCLI with run folders and checkpoints by name, from which options follow."""

import argparse
import inspect
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse.typing import NonNegativeInt
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as stock
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_mnist import networks
from lit_mnist.atomic import write_whole
from lit_mnist.augment import RandomWarp  # noqa: F401  # for --data.augment RandomWarp
from lit_mnist.classifier import CheckpointError, Classifier, read_checkpoint
from lit_mnist.data import MNISTDataModule
from lit_mnist.errors import Parser, fail, flat, nearest
from lit_mnist.fast import FastClassifier
from lit_mnist.runs.callbacks import run_callbacks
from lit_mnist.runs.folder import LOGS, find_checkpoint, new_run, run_of
from lit_mnist.views.dashboard import Dashboard, StepLoss
from lit_mnist.views.evaluation import Evaluation

COMMANDS = {
    "fit": "Train, and leave a run folder with checkpoints, metrics and curves.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
}
# How options begin that a fit which continues may not change.
DECISIVE = ("model.", "data.", "seed_everything", "matmul_precision")
CHANGEABLE = ("data.data_dir", "data.eval_batch_size", "model.weights")  # of these, those that may


class CLI(LightningCLI):
    """LightningCLI with run folders, checkpoints by name, and options that follow from a checkpoint."""

    checkpoint: Path | None = None  # what is continued or evaluated
    saved: Any = None  # what it holds
    run: Path | None = None  # where this run leaves its files; None where it leaves none

    def __init__(self, command: str, *args: Any, **kwargs: Any) -> None:
        self.command = command
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The Trainer's method, alone since parsers take time, and its arguments that CLI's methods give."""
        return {self.command: set(inspect.signature(getattr(Trainer, self.command)).parameters)}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        about = "Seed of initialisation, sample order and dropout."
        parser.add_argument("--seed_everything", type=NonNegativeInt, default=self.seed_everything_default, help=about)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({"model.network": {"class_path": "lit_mnist.networks.MLP"}})  # so that its options show
        parser.link_arguments("data.num_classes", "model.num_classes", apply_on="instantiate")
        parser.link_arguments("data.num_classes", "model.network.init_args.num_classes", apply_on="instantiate")
        about = "Whether to draw figures, and show more than curves in TensorBoard."
        parser.add_argument("--figures", type=bool, default=True, help=about)
        about = "Of float32 products: with medium, factors may be rounded to bfloat16 where that is faster."
        levels = Literal["highest", "high", "medium"]
        parser.add_argument("--matmul_precision", type=levels, default="highest", help=about)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="A checkpoint: its path, or best or last for the newest run. fit continues from it (by default a new"
            " run starts); validate and test evaluate it (by default best).",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; the options of a checkpoint come first."""
        ahead = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        ahead.add_argument("--ckpt_path")
        ahead.add_argument("--config", "-c", action="append", default=[])
        ahead.add_argument("--trainer.default_root_dir", dest="root", default=".")
        known, _ = ahead.parse_known_args(args)
        if not {"-h", "--help"}.intersection(args) and (known.ckpt_path or self.command != "fit"):
            folders = [Path(config).expanduser().parent for config in known.config]
            run = next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)  # of its config.yaml
            self.checkpoint = find_checkpoint(known.ckpt_path, Path(known.root).expanduser() / LOGS, run)
            self.saved = read_checkpoint(self.checkpoint)
            args = [self.command, "--config", self._options_of(self.checkpoint), *args[1:]]
        self.config = parser.parse_args(args)
        self.config[self.command].ckpt_path = None  # so that a fit from the saved config starts anew
        if self.checkpoint and self.command == "fit":
            self._refuse_changes(parser, args[:3])

    def _options_of(self, checkpoint: Path) -> str:
        """What follows from a checkpoint, as a value of --config."""
        if self.command == "fit":
            if (run := run_of(checkpoint)) is None:
                raise CheckpointError(f"{checkpoint}: there is no config.yaml of its fit, so that it cannot continue")
            return str(run / "config.yaml")
        kind: Any = self.datamodule_class
        taken = inspect.signature(kind).parameters  # a subclass may have other options
        data = self.saved["datamodule_hyper_parameters"].items()
        options: dict[str, Any] = {"data": {name: value for name, value in data if name in taken}}
        if networks.build(own := self.saved["hyper_parameters"]):  # the parser imports what it is given
            arguments = {name: value for name, value in own["network"]["init_args"].items() if name != "num_classes"}
            options["model"] = {"network": {**own["network"], "init_args": arguments}}
        return json.dumps(options)

    def _options(self, config: Any) -> dict[str, Any]:
        """All options of a fit as plain data, such as config.yaml holds."""
        options: dict[str, Any] = yaml.safe_load(self.parser.dump(config, skip_unset=False))["fit"]
        return options

    def _refuse_changes(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Fail for options that contradict those of the fit that continues."""
        before, now = (dict(flat(self._options(config))) for config in (parser.parse_args(args), self.config))
        for name in before | now:
            if name.startswith(DECISIVE) and name not in CHANGEABLE and before.get(name) != now.get(name):
                fail(
                    f"--{name}: {now.get(name)} contradicts {before.get(name)}, with which {self.checkpoint} was made;"
                    f" to start a new fit from its weights: --model.weights {self.checkpoint}"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with what a run shows and leaves, as far as its options do not switch that off."""
        command = self.command
        torch.set_float32_matmul_precision(self.config_init[command].matmul_precision)
        options, draw = self.config_init[command].trainer, self.config_init[command].figures
        given = [] if options.callbacks is None else options.callbacks
        given = given if isinstance(given, list) else [given]
        if options.barebones:
            return Trainer(**{**options.as_dict(), "num_sanity_val_steps": None})
        callbacks: list[Any] = []
        if options.enable_progress_bar is None and not any(isinstance(one, stock.ProgressBar) for one in given):
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
            given = [*given, stock.TQDMProgressBar(refresh_rate=25)] if sys.stdout.isatty() else given
        if command == "validate" or options.fast_dev_run:  # which leave nothing
            kwargs |= {"enable_checkpointing": False, "logger": options.logger or False}
        else:
            self.run = self._choose_run(Path(options.default_root_dir or ".").expanduser() / LOGS)
            if options.logger in (None, True):
                purge = self.saved["global_step"] if self.saved and command == "fit" else None  # is logged again
                logs = self.run.parent
                kwargs["logger"] = TensorBoardLogger(
                    logs.parent, logs.name, self.run.name, default_hp_metric=False, purge_step=purge
                )
            if command == "fit":
                callbacks = run_callbacks(self.run, options.enable_checkpointing is not False)
                callbacks += [Dashboard(self.run)] if draw else []
                callbacks += [StepLoss()] if options.log_every_n_steps else []
            else:
                kwargs["enable_checkpointing"] = False
                assert self.checkpoint
                when = {"epoch": self.saved["epoch"] + 1, "global_step": self.saved["global_step"]}
                callbacks = [Evaluation(self.run, {"checkpoint": self.checkpoint.name, **when}, draw)]
        for callback in given:
            if isinstance(callback, stock.ModelCheckpoint) and callback.dirpath is None and self.run:
                callback.dirpath = str(self.run / "checkpoints")
        try:
            return super().instantiate_trainer(callbacks=[*callbacks, *given], **kwargs)
        except Exception as error:  # of many kinds, by the options of the Trainer
            self._forget_unbegun_run()
            fail(f"--trainer: {error}")

    def _choose_run(self, logs: Path) -> Path:
        """The run folder of the checkpoint, or a new one, which the first process chooses for all."""
        run = self.checkpoint and run_of(self.checkpoint)
        trained = self.saved and self.saved["datamodule_hyper_parameters"].get("dataset")
        if run and trained == self.datamodule.hparams.get("dataset"):  # another one is no test of that run
            return run
        return new_run(logs).resolve() if getattr(rank_zero_only, "rank", 0) == 0 else logs / "of_the_first_process"

    def fit(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Train, then say which checkpoint is best and how to test it."""
        last = self.run and self.run / "checkpoints" / "last.ckpt"
        try:
            self._check_callbacks(model)
            if self.run and self.trainer.is_global_zero:
                with write_whole(self.run / "config.yaml") as part:
                    part.write_text(yaml.safe_dump(self._options(self.config), sort_keys=False, allow_unicode=True))
            self.trainer.fit(model, datamodule, ckpt_path=self.checkpoint, weights_only=True)
        except SystemExit as end:
            number = 15 if self.trainer.received_sigterm else 2 if self.trainer.interrupted else 0
            if end.code == 2 or not number:
                raise
            if self.trainer.is_global_zero:
                way = f"continue with: {program()} fit --ckpt_path {quoted(last)}" if last and last.exists() else ""
                why = {15: "SIGTERM", 2: "Ctrl-C"}[number]
                print(f"\nstopped by {why}; {way or 'no epoch was finished'}", file=sys.stderr)
            sys.exit(128 + number)
        finally:
            self._forget_unbegun_run()
        if self.config.fit.trainer.fast_dev_run and self.trainer.is_global_zero:
            print("fast_dev_run passed: training and validation ran, and nothing is kept")
        if self.saved and self.saved["global_step"] == self.trainer.global_step and self.trainer.is_global_zero:
            limits = {name: getattr(self.trainer, name) for name in ("max_epochs", "max_steps")}
            ended = " or ".join(f"--trainer.{name} ({value})" for name, value in limits.items() if value != -1)
            print(f"the fit had ended before; to resume it, raise {ended}")
        self._print_run()
        best = self.run and self.run / "checkpoints" / "best.ckpt"
        if self.trainer.is_global_zero and (left := next((one for one in (best, last) if one and one.is_file()), None)):
            known = "network" in self.model.hparams and not self.config.fit.model.metrics  # by the checkpoint
            config = "" if known else f" --config {quoted(left.parents[1] / 'config.yaml')}"
            print(f"test with   {program()} test --ckpt_path {quoted(left)}{config}")

    def _check_callbacks(self, model: Classifier) -> None:
        """Refuse what would fail after an epoch, or do nothing."""
        metrics: dict[Any, Any] = {**dict(model.train_metrics.items()), **dict(model.val_metrics.items())}
        names = [*map(str, metrics), "epoch", "step"]
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            kind, monitor = type(callback).__name__, getattr(callback, "monitor", None)
            if monitor and monitor not in names and type(model) is FastClassifier:  # a subclass may log others
                fail(f"--trainer.callbacks: {kind} monitors {monitor}, which is not measured{nearest(monitor, names)}")
            higher = getattr(metrics.get(monitor), "higher_is_better", None)
            wanted = {True: "max", False: "min", None: getattr(callback, "mode", None)}[higher]
            if wanted != getattr(callback, "mode", wanted):
                fail(f"--trainer.callbacks: {kind} has the wrong mode for {monitor}, {callback.mode}; choose {wanted}")
            if isinstance(callback, stock.BackboneFinetuning) and not hasattr(model, "backbone"):
                fail(f"--trainer.callbacks: {kind} needs a model with a backbone")
            if isinstance(callback, stock.StochasticWeightAveraging):
                fail(f"--trainer.callbacks: no checkpoint would hold the weights of {kind}; take EMAWeightAveraging")
            if isinstance(callback, stock.BatchSizeFinder | stock.LearningRateFinder):
                fail(f"--trainer.callbacks: config.yaml would not know what {kind} sets; give the value itself")

    def _print_run(self) -> None:
        """Say where the files of a run are and how to see its curves."""
        if self.run and self.trainer.is_global_zero:
            print(f"\nrun folder  {quoted(self.run)}")
            if any(self.run.glob("events.out.tfevents.*")):
                print(f"curves      tensorboard --logdir {quoted(self.run.parent)}")

    def _forget_unbegun_run(self) -> None:
        """Remove a new run folder in which nothing was finished."""
        new = self.run and not (self.checkpoint and self.run == run_of(self.checkpoint))
        if new and self.run and not any((self.run / name).exists() for name in ("metrics.csv", "test.json")):
            shutil.rmtree(self.run, ignore_errors=True)

    def validate(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate the checkpoint on the validation images."""
        self._evaluate(self.trainer.validate, model, datamodule)

    def test(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate the checkpoint on the test images."""
        self._evaluate(self.trainer.test, model, datamodule)

    def _evaluate(self, evaluate: Any, model: Classifier, datamodule: MNISTDataModule) -> None:
        assert self.checkpoint
        try:
            given, name = self.config[self.command].model.network.class_path, self.saved.get("network")
            if "network" not in self.saved["hyper_parameters"] and name != given:
                raise CheckpointError(f"{self.checkpoint}: its network is {name}; name it by --model.network {name}")
            model.load_network(self.saved, self.checkpoint)
            if self.trainer.is_global_zero:
                print(f"checkpoint  {quoted(self.checkpoint)}")
            evaluate(model, datamodule, verbose=True)
        finally:
            self._forget_unbegun_run()
        self._print_run()


def run_command(args: list[str], model: Any = FastClassifier, data: Any = MNISTDataModule) -> CLI:
    """Run fit, validate or test with its options, which configure a class of model and one of data."""
    usage = f"lit-mnist {args[0]} [options]"
    return CLI(
        args[0],
        model,
        data,
        parser_class=Parser,
        parser_kwargs={args[0]: {"description": COMMANDS[args[0]], "usage": usage}},
        save_config_callback=None,
        trainer_defaults={"max_epochs": 10, "num_sanity_val_steps": 0},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


def program() -> str:
    """How this program was called."""
    name = Path(sys.argv[0]).name
    return (
        "python -m lit_mnist"
        if name in ("__main__.py", "lit-mnist", "ipykernel_launcher.py")
        else f"python {shlex.quote(sys.argv[0])}"
    )


def quoted(path: Any) -> str:
    """A path as one word of a command line, as short as a person would type it."""
    path = Path(path).resolve()
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
