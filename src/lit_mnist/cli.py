"""fit, validate and test: LightningCLI with run folders, and with checkpoints whose options become defaults."""

import argparse
import inspect
import json
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
import yaml
from filelock import FileLock, Timeout
from jsonargparse.typing import NonNegativeInt, register_type
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as stock
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.distributed import DistError

from lit_mnist import networks
from lit_mnist.atomic import write_whole
from lit_mnist.augment import RandomWarp  # noqa: F401  # for --data.augment RandomWarp
from lit_mnist.checkpoint import CheckpointError, read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.data import name_of
from lit_mnist.data.mnist import SETS
from lit_mnist.errors import Parser, fail, flat, print_error, program
from lit_mnist.fast import FastClassifier  # noqa: F401  # for --model FastClassifier
from lit_mnist.folder import ImageFolderDataModule  # noqa: F401  # for --data ImageFolderDataModule
from lit_mnist.launch import trainer_options
from lit_mnist.runs.callbacks import run_callbacks
from lit_mnist.runs.checks import check_callbacks, mode_of
from lit_mnist.runs.folder import LOGS, find_checkpoint, find_config, new_run, read_test, run_of
from lit_mnist.runs.history import metrics_of
from lit_mnist.runs.parts import NAMES, name_parts, restore
from lit_mnist.views.dashboard import Dashboard, StepLoss
from lit_mnist.views.evaluation import Evaluation
from lit_mnist.views.terminal import EpochBar, NetworkSummary

# For --model.loss.weight '[1, 8]'
register_type(torch.Tensor, torch.Tensor.tolist, lambda numbers: torch.tensor(numbers, dtype=torch.float32))
# Prefixes of options that a resumed fit may not change.
DECISIVE = ("model", "data", "best", "seed_everything", "float32_precision")
LINKED = ("num_classes", "image_shape")  # arguments of a network that follow from the data
CHANGEABLE = ("data.data_dir", "data.root", "data.eval_batch_size", "model.weights")  # exceptions


class CLI(LightningCLI):
    """LightningCLI with numbered or named run folders; --ckpt_path takes best, last, pretrained or a path."""

    checkpoint: Path | None = None  # path of the checkpoint to resume from or evaluate
    saved: Any = None  # its content
    run: Path | None = None  # folder for the files of this run; None if it saves none
    named: Path | None = None  # the folder of --name
    created = False  # whether this process has created the run folder

    def __init__(self, command: str, study: Sequence[L.Callback] | None, *args: Any, **kwargs: Any) -> None:
        self.command, self.study = command, study
        super().__init__(*args, **kwargs)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command, with arguments of its Trainer method that are not options; one only, since parsers are slow."""
        return {self.command: set(inspect.signature(getattr(Trainer, self.command)).parameters)}

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        about = "Seed of the initial weights, the sample order, dropout and augmentation."
        parser.add_argument("--seed_everything", type=NonNegativeInt, default=self.seed_everything_default, help=about)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        name_parts(parser)
        about = "Whether to draw figures, and to log images, histograms and the graph to TensorBoard."
        parser.add_argument("--figures", type=bool, default=True, help=about)
        about = "Metric that selects best.ckpt, such as val/accuracy."
        parser.add_argument("--best", type=str, default="val/loss", help=about)
        about = "Precision of float32 matrix products; with medium, a CPU with bfloat16 trains in bf16-mixed."
        levels = Literal["highest", "high", "medium"]
        parser.add_argument("--float32_precision", type=levels, default="highest", help=about)
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="A checkpoint: its path, or best or last of the run that was started or resumed last. fit resumes from"
            " it, or starts a new run if none is given. validate and test also take pretrained; the default is best.",
        )
        if self.command == "fit":
            about = "Name of the run and its folder in lightning_logs; the same command starts and resumes it."
            parser.add_argument("--name", type=str, help=about)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line on top of the run's config.yaml, or of the options in a checkpoint."""
        for option in (arg.partition("=")[0] for arg in args if arg.startswith("--model.")):
            name = option.rpartition(".")[2]
            if name in LINKED:
                fail(f"{option}: it follows from the attribute {name} of the data and cannot be given")
        early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        early.add_argument("--ckpt_path")
        early.add_argument("--name")
        early.add_argument("--data")
        early.add_argument("--config", "-c", action="append", default=[])
        early.add_argument("--trainer.default_root_dir", dest="root", default=".")
        try:
            typed, _ = early.parse_known_args(args)  # options that affect the parsing of others
        except argparse.ArgumentError as error:
            fail(f"{error.argument_name}: {error.message}")
        if typed.name is not None and self.command == "fit":
            typed.ckpt_path = self._last_of_named_run(typed)
        if not {"-h", "--help"}.intersection(args) and (typed.ckpt_path or self.command != "fit"):
            self.checkpoint = self._find_checkpoint(typed)
            self.saved = read_checkpoint(self.checkpoint)
            if self.command == "fit" or typed.ckpt_path in (*NAMES, None):
                run = run_of(self.checkpoint)
                if run is None:
                    why = "config.yaml of its fit is missing, so it cannot be resumed; use --model.weights"
                    raise CheckpointError(f"{self.checkpoint}: {why}")
                base = [self.command, "--config", str(run / "config.yaml")]
            else:
                base = [self.command, "--config", self._options_of_checkpoint(typed.data, typed.config)]
            args = args if self.named else [*base, *args[1:]]  # the command of a named run is complete
        self.config = parser.parse_args(args)
        self.config[self.command].ckpt_path = None  # so that a fit from the saved config starts anew
        if self.command == "fit":
            if self.config.fit.name != typed.name:
                fail("--name: it belongs on the command line, not in a file")
            if self.named and self.config.fit.trainer.fast_dev_run:
                self.checkpoint = self.saved = None
            if self.checkpoint:
                self._refuse_changes(parser, base)

    def _last_of_named_run(self, typed: argparse.Namespace) -> str | None:
        """The checkpoint from which --name resumes; None for a new run."""
        if not re.fullmatch(r"\w[\w.-]*", typed.name):
            fail(f"--name: {typed.name!r} is not a word of letters, digits, _, - and .")
        if typed.ckpt_path:
            fail("--name: a named run resumes from its own checkpoint, so --ckpt_path cannot be given")
        self.named = Path(typed.root).expanduser().resolve() / LOGS / typed.name
        last = self.named / "checkpoints" / "last.ckpt"
        return str(last) if last.is_file() else None

    def _find_checkpoint(self, typed: argparse.Namespace) -> Path:
        """The checkpoint of --ckpt_path; best and last are of the run whose config.yaml is given, if any."""
        folders = [Path(config).expanduser().parent for config in typed.config]
        run = next((folder for folder in folders if (folder / "checkpoints").is_dir()), None)
        return find_checkpoint(typed.ckpt_path, Path(typed.root).expanduser() / LOGS, run)

    def _options_of_checkpoint(self, data: str | None, configs: list[str]) -> str:
        """Options that follow from a checkpoint, as a value of --config; nothing named in it is imported."""
        options: dict[str, Any] = {}
        dataset, hparams = self.saved["dataset"], self.saved["hyper_parameters"]
        if dataset in ("", *SETS, "digits") and data is None:
            options["data"] = self.saved["datamodule_hyper_parameters"]
        elif data is None and not configs:
            raise CheckpointError(f"{self.checkpoint}: it was trained on {dataset}; name these images with --data")
        network = networks.build(hparams)
        if network:  # only one of ours, since the parser imports its class
            spec = networks.describe(network)["network"]
            arguments = {name: value for name, value in spec["init_args"].items() if name not in LINKED}
            options["model"] = {"network": {**spec, "init_args": arguments}}
        return json.dumps(options)

    def _options(self, config: Any) -> dict[str, Any]:
        """All options of a fit as plain data, as in config.yaml."""
        options: dict[str, Any] = yaml.safe_load(self.parser.dump(config, skip_unset=False))["fit"]
        return {name: value for name, value in options.items() if name != "name"}  # the folder has that name

    def _refuse_changes(self, parser: LightningArgumentParser, args: list[str]) -> None:
        """Refuse options that contradict those of the resumed fit."""
        before, now = (dict(flat(self._options(config))) for config in (parser.parse_args(args), self.config))
        for name in before | now:
            if name.startswith(DECISIVE) and name not in CHANGEABLE and before.get(name) != now.get(name):
                fail(
                    f"--{name}: {now.get(name)} differs from {before.get(name)}, the value of {self.checkpoint};"
                    f" to start a new fit from its weights: --model.weights {self.checkpoint}"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the Trainer with the callbacks and the logger of a run, unless options disable them."""
        config = self.config_init[self.command]
        options = config.trainer
        torch.set_float32_matmul_precision(config.float32_precision)
        mode = mode_of(config.best, self.model) if self.command == "fit" else ""
        try:
            kwargs |= trainer_options(options, self.command == "fit" and config.float32_precision == "medium")
        except RuntimeError as error:  # about SLURM's variables
            fail(error)
        if self.named and options.enable_checkpointing is False:
            fail("--name: a named run needs checkpoints; omit --trainer.enable_checkpointing false")
        if isinstance(self.model, Classifier):
            for name in (name for name in LINKED if not hasattr(self.datamodule, name)):
                fail(f"--data: {type(self.datamodule).__name__} has no attribute {name}, which a Classifier needs")
        if options.barebones:
            return Trainer(**{**options.as_dict(), **kwargs, "num_sanity_val_steps": None})
        logs = Path(options.default_root_dir or ".").expanduser() / LOGS
        user_callbacks = options.callbacks or []
        user_callbacks = user_callbacks if isinstance(user_callbacks, list) else [user_callbacks]
        callbacks: list[Any] = []
        if self.command == "validate" or options.fast_dev_run:  # they save nothing
            kwargs |= {"enable_checkpointing": False, "logger": options.logger or False}
        else:
            self.run = self._choose_run(logs)
            if options.logger in (None, True):
                kwargs["logger"] = self._tensorboard(self.run)
            if self.command == "fit":
                callbacks = self._callbacks_of_fit(self.run, config, mode)
                kwargs |= {"enable_model_summary": False} if isinstance(self.model, Classifier) else {}
            else:
                callbacks = [self._evaluation(self.run, config.figures)]
                kwargs["enable_checkpointing"] = False
            for callback in user_callbacks:
                if isinstance(callback, stock.ModelCheckpoint) and callback.dirpath is None:
                    callback.dirpath = str(self.run / "checkpoints")
        has_bar = any(isinstance(callback, stock.ProgressBar) for callback in user_callbacks)
        if options.enable_progress_bar is None and not has_bar:
            kwargs["enable_progress_bar"] = sys.stdout.isatty()
            callbacks += [EpochBar(refresh_rate=25)] if sys.stdout.isatty() else []
        kwargs["default_root_dir"] = str(self.run or logs / "none")  # searched for checkpoints of SLURM jobs
        try:
            all_callbacks = [*callbacks, *user_callbacks, *(self.study or [])]
            trainer = super().instantiate_trainer(callbacks=all_callbacks, **kwargs)
            environment = getattr(trainer.strategy, "cluster_environment", None)
            if environment:  # raises if options and launcher contradict each other
                environment.validate_settings(trainer.num_devices, trainer.num_nodes)
            return trainer
        except Exception as error:  # the Trainer's options raise errors of many types
            self._forget_unbegun_run()
            fail(f"--trainer: {error}")

    def _tensorboard(self, run: Path) -> TensorBoardLogger:
        """TensorBoard's logger in a run folder; a resumed fit overwrites values from after its checkpoint."""
        purge = self.saved["global_step"] if self.saved and self.command == "fit" else None
        root, name = run.parent.parent, run.parent.name
        return TensorBoardLogger(root, name, run.name, default_hp_metric=False, purge_step=purge)

    def _callbacks_of_fit(self, run: Path, config: Any, mode: str) -> list[Any]:
        """The callbacks of a fit; figures and summary are only for a Classifier."""
        options = config.trainer
        has_checkpoints = options.enable_checkpointing is not False
        callbacks: list[Any] = run_callbacks(run, has_checkpoints, best=config.best, mode=mode)
        if isinstance(self.model, Classifier):
            callbacks += [Dashboard(run)] if config.figures else []
            callbacks += [NetworkSummary()] if options.enable_model_summary is not False else []
            callbacks += [StepLoss()] if options.log_every_n_steps else []
        return callbacks

    def _evaluation(self, run: Path, figures: bool) -> Evaluation:
        """The callback that writes the results of a test and the name of its checkpoint."""
        assert self.checkpoint
        when = {"epoch": self.saved["epoch"] + 1, "global_step": self.saved["global_step"]}
        draw = figures and isinstance(self.model, Classifier)
        return Evaluation(run, {"checkpoint": self.checkpoint.name, **when}, draw)

    def _choose_run(self, logs: Path) -> Path:
        """The run folder of the checkpoint, or a new one, which the first process chooses for all processes."""
        run = self.checkpoint and run_of(self.checkpoint)
        same = self.saved and self.saved["dataset"] in ("", name_of(self.datamodule))
        if run and (same or self.command == "fit"):  # a test on other images does not belong to that run
            return run
        if self.named:
            self.created = not self.named.exists()
            self.named.mkdir(parents=True, exist_ok=True)
            return self.named
        self.created = getattr(rank_zero_only, "rank", 0) == 0
        return new_run(logs).resolve() if self.created else logs / "of_the_first_process"

    def fit(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Train, and save a run folder with checkpoints, metrics and curves."""
        self.lock = FileLock((self.run or Path()) / ".lock")
        try:
            if self.run and self.trainer.is_global_zero:
                self.lock.acquire(timeout=0)
        except Timeout:
            fail(f"{quoted(self.run)}: another fit is running in this folder")
        try:
            check_callbacks(self.trainer, model)
            if self.run and self.trainer.is_global_zero:
                with write_whole(self.run / "config.yaml") as part:
                    part.write_text(yaml.safe_dump(self._options(self.config), sort_keys=False, allow_unicode=True))
            self.trainer.fit(model, datamodule, ckpt_path=self.checkpoint, weights_only=True)
        except SystemExit as end:
            if end.code == 2 or not (self.trainer.received_sigterm or self.trainer.interrupted):
                raise
            signal, number = ("SIGTERM", 15) if self.trainer.received_sigterm else ("Ctrl-C", 2)
            if self.trainer.is_global_zero:
                print(f"\nstopped by {signal}{self._advice()}", file=sys.stderr)
            sys.exit(128 + number)
        except RuntimeError as error:
            if not isinstance(error, DistError) and "gloo" not in str(error):
                raise
            fail(f"another process of this fit was lost{self._advice()}", status=1)
        finally:
            self.lock.release()
            self._forget_unbegun_run()
        if not self.trainer.is_global_zero:
            return
        if self.config.fit.trainer.fast_dev_run:
            print("fast_dev_run passed: training and validation ran, and nothing was saved")
        if self.saved and self.saved["global_step"] == self.trainer.global_step:
            limits = {name: getattr(self.trainer, name) for name in ("max_epochs", "max_steps")}
            ended = " or ".join(f"--trainer.{name} ({value})" for name, value in limits.items() if value != -1)
            print(f"the fit was already complete; to extend it, raise {ended}")
        self._print_run()
        if self.run and self._saved and is_overridden("test_step", self.model):
            print(f"test with   {program()} test --config {quoted(self.run / 'config.yaml')}")

    def _advice(self) -> str:
        """The end of a message: how to resume a stopped fit."""
        if self.named:
            return "; the same command resumes it"
        if self.study is not None:
            return ""
        last = self._saved.get("last")
        resume = f"resume with: {program()} fit --ckpt_path {quoted(last)}" if last else "no epoch was finished"
        return f"; {resume}" if self.trainer.is_global_zero else ""  # other processes do not know the run folder

    @property
    def _saved(self) -> dict[str, Path]:
        """The checkpoints of this run by name, best and last."""
        paths = [self.run / "checkpoints" / f"{name}.ckpt" for name in NAMES] if self.run else []
        return {path.stem: path for path in paths if path.is_file()}

    def _print_run(self) -> None:
        """Print the run folder and the command that shows its curves."""
        if self.run and self.trainer.is_global_zero:
            print(f"\nrun folder  {quoted(self.run)}")
            if any(self.run.glob("events.out.tfevents.*")):
                print(f"curves      tensorboard --logdir {quoted(self.run.parent)}")

    def _forget_unbegun_run(self) -> None:
        """Remove the run folder if this process has created it and finished neither an epoch nor a test."""
        if self.created and self.run and not any((self.run / name).exists() for name in ("metrics.csv", "test.json")):
            shutil.rmtree(self.run, ignore_errors=True)

    def validate(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Evaluate a checkpoint on the validation images."""
        self._evaluate(self.trainer.validate, model, datamodule)

    def test(self, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        """Evaluate a checkpoint on the test images."""
        self._evaluate(self.trainer.test, model, datamodule)

    def _evaluate(self, evaluate: Any, model: L.LightningModule, datamodule: L.LightningDataModule) -> None:
        assert self.checkpoint
        try:
            if isinstance(model, Classifier):
                self._compare_images(datamodule)
            restore(model, self.saved, self.checkpoint)
            if self.trainer.is_global_zero:
                print(f"checkpoint  {quoted(self.checkpoint)}")
            evaluate(model, datamodule, verbose=False)
            if self.trainer.is_global_zero:
                measured = {name: value.item() for name, value in self.trainer.callback_metrics.items()}
                parts = [f"{name} {measured[name]:.4f}" for name in metrics_of([measured])]
                if self.run and isinstance(model, Classifier):  # a test has just written this file
                    images = read_test(self.run)["images"]
                    parts.append(f"({round(measured['test/accuracy'] * images):,} of {images:,})")
                print("  ".join(parts))
        finally:
            self._forget_unbegun_run()
        self._print_run()

    def _compare_images(self, data: L.LightningDataModule) -> None:
        """Refuse data with another image shape or number of classes; warn of other class names."""
        classes = self.saved["classes"]
        if not classes:  # not in the checkpoint
            return
        before = self.saved["image_shape"], len(classes)
        now = list(getattr(data, "image_shape", before[0])), getattr(data, "num_classes", before[1])
        if before != now:
            images = [f"images of {tuple(shape)} in {count} classes" for shape, count in (before, now)]
            raise CheckpointError(f"{self.checkpoint}: it was trained on {images[0]}, but the data are {images[1]}")
        if getattr(data, "classes", classes) != classes:
            print_error(f"the names of the classes are not those of {self.checkpoint}", "warning")


def run_command(args: list[str], study: Sequence[L.Callback] | None = None) -> CLI:
    """Run fit, validate or test.

    Args:
        args: The command and its options; --config also takes the name of a shipped config.
        study: Callbacks of the study that this fit belongs to; None for a single fit.
    """
    for place, word in enumerate(args):
        option, equals, name = word.partition("=")
        if option in ("--config", "-c") and equals:
            args = [*args[:place], f"{option}={find_config(name)}", *args[place + 1 :]]
        elif place and args[place - 1] in ("--config", "-c"):
            args = [*args[:place], find_config(word), *args[place + 1 :]]
    usage = f"lit-mnist {args[0]} [options]"
    return CLI(
        args[0],
        study,
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        parser_class=Parser,
        parser_kwargs={args[0]: {"description": getattr(CLI, args[0]).__doc__, "usage": usage}},
        save_config_callback=None,
        trainer_defaults={"max_epochs": 10, "num_sanity_val_steps": 0},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


def quoted(path: Any) -> str:
    """A path as one word of a command line, relative if it is below the current folder."""
    path = Path(path).resolve()
    return shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
