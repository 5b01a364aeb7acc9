"""The command line: LightningCLI over the classifier, the data and the Trainer."""

import contextlib
import inspect
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, get_args

from jsonargparse import Namespace
from jsonargparse.typing import NonNegativeInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from lit_mnist.checkpoint import CheckpointError, make, read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.data import MNISTDataModule
from lit_mnist.errors import fail, is_first_process, printable, quoted
from lit_mnist.fast import FastClassifier, refuse_what_does_not_combine
from lit_mnist.parser import add_tools
from lit_mnist.runs.checkpoints import RunCheckpoint, WholeCheckpointIO
from lit_mnist.runs.contradictions import CHANGEABLE, decisive, importing_nothing, refuse
from lit_mnist.runs.divergence import StopOnDivergence
from lit_mnist.runs.folder import LOGS, find_checkpoint, flat, new_run, refuse_imports_from, run_of
from lit_mnist.runs.history import History
from lit_mnist.runs.profiler import NoProfiler
from lit_mnist.runs.resume import ExactResume
from lit_mnist.runs.stop import StopInsideEpoch
from lit_mnist.views.bar import EpochBar, print_layers
from lit_mnist.views.dashboard import Dashboard, FitPart
from lit_mnist.views.evaluation import Evaluation, TestPart

COMMANDS = {
    "fit": "Train, and leave a run folder with checkpoints, metrics and curves.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
}
GROUPS = {"model": FastClassifier, "data": MNISTDataModule}


class CLI(LightningCLI):
    """LightningCLI with run folders, checkpoints by name, and options that follow from a checkpoint."""

    tools: ClassVar[dict[str, Callable[..., None]]] = {}  # commands that need no Trainer, by their names
    checkpoint: Path | None = None  # what is resumed or evaluated
    saved: Any = None  # what it holds
    steps_before: int | None = None  # what the fit that is resumed had trained
    purge_step: int | None = None  # what a stopped fit logged from here on is logged again
    run: Path | None = None  # where this run leaves its files; none with --trainer.fast_dev_run

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Methods of the Trainer, and their arguments that are no options: CLI's methods give them."""
        return {name: set(inspect.signature(getattr(Trainer, name)).parameters) for name in COMMANDS}

    def setup_parser(self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: Any) -> None:
        main_kwargs |= {"prog": "lit-mnist", "description": "Train, test and use a digit classifier."}
        subparser_kwargs |= {
            name: {"description": text, "usage": f"lit-mnist {name} [options]"} for name, text in COMMANDS.items()
        }
        for kwargs in (main_kwargs, *subparser_kwargs.values()):
            kwargs["allow_abbrev"] = False
        super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)
        subcommands: Any = self.parser._subcommands_action
        for action in subcommands._choices_actions:
            action.help = COMMANDS[action.dest]  # in place of the docstrings of the Trainer's methods
        add_tools(subcommands, self.tools)
        for name, part in (("fit", FitPart), ("test", TestPart)):
            self._parser(name).add_argument(
                "--skip",
                type=list[part],  # type: ignore[valid-type]
                default=[],
                help=f"What {name} need not draw or show in TensorBoard, as a list: {', '.join(get_args(part))}.",
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--seed_everything",
            type=NonNegativeInt | bool,
            default=self.seed_everything_default,
            help="Seed of initialisation, sample order and dropout.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        for group, component in GROUPS.items():  # first what is particular, then the Trainer's many
            parser.add_lightning_class_args(component, group)
        parser.set_defaults({"model.network": {"class_path": "lit_mnist.networks.MLP"}})  # so that its options show
        parser.add_lightning_class_args(self.trainer_class, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            help="A checkpoint: its path, or best or last for the newest run. fit continues from it (by default a new"
            " run starts); validate and test evaluate it (by default best).",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line; the options of a checkpoint come first and cannot be contradicted."""
        args = list(sys.argv[1:] if args is None else args)
        given = parser.parse_args(args, defaults=False)
        command, options = given.subcommand, given[given.subcommand]
        for name, value in vars(options.as_flat()).items():
            if "\0" in str(value):
                fail(f"--{name}: {value!r} has a NUL character, which no path or name can have")
        if command in self.tools:  # which have no use for what LightningCLI makes of the options
            self.tools[command](**parser.parse_args(args)[command].as_dict())
            sys.exit()
        name = options.get("ckpt_path") or (None if command == "fit" else "best")
        if name:
            logs = Path(options.get("trainer.default_root_dir") or ".") / LOGS
            self.checkpoint = checkpoint = find_checkpoint(name, logs)
            self.saved = saved = read_checkpoint(checkpoint, to_continue=command == "fit")
            FastClassifier.load_from_checkpoint(checkpoint)  # for its message where the options cannot be used
            make(MNISTDataModule, checkpoint, saved["datamodule_hyper_parameters"])
            trained = {"model": saved["hyper_parameters"], "data": saved["datamodule_hyper_parameters"]}
            layer = json.dumps(trained)
            if command == "fit":
                try:
                    batch = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
                    self.steps_before = saved["global_step"]
                    self.purge_step = self.steps_before - (batch["completed"] < batch["ready"])
                    trained = saved["resume"]["options"] | trained
                    layer = json.dumps(importing_nothing(trained))
                except (AttributeError, KeyError, TypeError) as error:
                    raise CheckpointError(f"{checkpoint}: the state of its fit is damaged: {error!r}") from error
                if run := run_of(checkpoint):
                    refuse_imports_from(run)
                    layer = str(run / "config.yaml")
            else:
                refuse({"model": options.get("model", Namespace()).as_dict()}, trained, checkpoint)
            position = args.index(command) + 1
            args[position:position] = ["--config", layer]
        self.config = parser.parse_args(args)
        self.config[command].ckpt_path = None  # so that a fit from the saved config starts anew
        if name and command == "fit":
            refuse(self._decisive(), trained, checkpoint)

    def _decisive(self) -> dict[str, Any]:
        """What the result of this fit depends on."""
        return decisive(json.loads(self._parser("fit").dump(self.config.fit, format="json", skip_unset=False)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with what a run shows and leaves, as far as its options do not switch that off."""
        if self.subcommand == "fit":
            self.model.configure_optimizers()  # what the optimizer refuses shows before anything starts
        options = self._get(self.config_init, "trainer")
        shown: list[Any] = []
        if options.enable_progress_bar is not False:
            shown.append(EpochBar())
        kwargs["enable_model_summary"] = False  # fit prints a table of its own
        if self.subcommand == "validate":  # which leaves nothing
            kwargs |= {"enable_checkpointing": False, "logger": options.logger not in (None, True) and options.logger}
        elif not options.fast_dev_run:
            self.run = self._choose_run(Path(options.default_root_dir or ".") / LOGS)
            if options.logger in (None, True):
                logs = self.run.parent
                kwargs["logger"] = TensorBoardLogger(
                    logs.parent,
                    logs.name,
                    self.run.name,
                    log_graph=self.subcommand == "fit" and not self.checkpoint and "graph" not in self.config.fit.skip,
                    default_hp_metric=False,
                    purge_step=self.purge_step,
                )
            if self.subcommand == "fit":
                shown += self._fit_callbacks(self.run, options)
            else:
                kwargs["enable_checkpointing"] = False
            if self.subcommand == "test" and self.checkpoint:
                shown.append(Evaluation(self.run, self.checkpoint.name, self.config.test.skip))
        kwargs["profiler"] = options.profiler or NoProfiler()
        kwargs["callbacks"] = [*shown, *as_list(options.callbacks)]
        kwargs["plugins"] = [*as_list(options.plugins), WholeCheckpointIO(self.run and self.run / "checkpoints")]
        self.save_config_callback = None  # ours writes into the run folder also where there is no logger
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            self._forget_empty_run()
            fail(f"--trainer: {error}")

    def _fit_callbacks(self, run: Path, options: Any) -> list[Any]:
        config = self.config.fit
        groups = {**config.data.as_dict(), **config.model.as_dict()}
        shown = {**dict(flat(groups)), "max_epochs": options.max_epochs, "seed": config.seed_everything}
        shown = {name: value for name, value in shown.items() if name not in CHANGEABLE}
        history = History(run, self._parser("fit").dump(config, skip_unset=False))
        result = [
            StopOnDivergence(),  # first, since nobody can show what is no number
            history,
            Dashboard(run, history, shown, config.skip),
            ExactResume(history, self._decisive()),
        ]
        if options.enable_checkpointing is not False:
            result += [
                RunCheckpoint(run, "best", monitor="val/loss"),
                RunCheckpoint(run, "last"),  # after best, so that it knows of it
                StopInsideEpoch(relative(run / "checkpoints" / "last.ckpt")),
            ]
        return result

    def _choose_run(self, logs: Path) -> Path:
        """The run folder of the checkpoint, or a new one, which the first process chooses for all."""
        if self.checkpoint and (run := run_of(self.checkpoint)) and not self._tests_other_images():
            return run
        return (new_run(logs) if is_first_process() else logs / "chosen_by_first_process").resolve()

    def _tests_other_images(self) -> bool:
        """Whether this tests another data set than the checkpoint's or a part of it, which is no result of its run."""
        if self.subcommand != "test":
            return False
        options = self.config_init.test
        limit = options.trainer.limit_test_batches  # 1 is one batch, 1.0 all of them
        part = isinstance(limit, int) or limit not in (None, 1.0)
        return part or options.data.dataset != self.saved["datamodule_hyper_parameters"]["dataset"]

    def _forget_empty_run(self) -> None:
        if self.run:
            with contextlib.suppress(OSError):  # not empty
                self.run.rmdir()

    def fit(self, model: FastClassifier, datamodule: MNISTDataModule) -> None:
        """Train, then say which checkpoint is best and how to test it."""
        try:
            datamodule.refuse_uneven_shares(self.trainer.world_size)  # before there are several processes
            if model.steps_per_execution > 1:
                refuse_what_does_not_combine(self.trainer, model.steps_per_execution)
            if self.config_init.fit.trainer.enable_model_summary is not False and is_first_process():
                print_layers(model)
            self.trainer.fit(model, datamodule, ckpt_path=self.checkpoint)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if self.checkpoint is None or self._took_a_step():
                raise
            raise CheckpointError(f"{self.checkpoint}: cannot be continued: {type(error).__name__}: {error}") from error
        finally:
            self._forget_empty_run()
        if not self.run or not self.trainer.is_global_zero:
            return
        if self.trainer.global_step == self.steps_before:
            print(f"nothing is left to train after {self.steps_before} steps; see --trainer.max_epochs and the like")
        print_run(self.run)
        best = self.trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            path = relative(best.best_model_path)
            print(f"best checkpoint  {printable(path)}  (val_loss {best.best_model_score:.4f})")
            print(f"test it with     python -m lit_mnist test --ckpt_path {quoted(path)}")

    def _took_a_step(self) -> bool:
        return any(getattr(callback, "stepped", False) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

    def validate(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate a checkpoint on the validation images."""
        model.load_state_dict(self.saved["state_dict"])  # all that is needed of the checkpoint
        self.trainer.validate(model, datamodule, verbose=False)
        self._print_metrics("val")

    def test(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate a checkpoint on the test images."""
        model.load_state_dict(self.saved["state_dict"])  # all that is needed of the checkpoint
        self.trainer.fit_loop.epoch_loop._batches_that_stepped = self.saved[
            "global_step"
        ]  # the step that loggers write
        try:
            self.trainer.test(model, datamodule, verbose=False)
        finally:
            self._forget_empty_run()
        self._print_metrics("test")

    def _print_metrics(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            loss, accuracy = (self.trainer.callback_metrics[f"{stage}/{name}"].item() for name in ("loss", "accuracy"))
            if not math.isfinite(loss):
                raise CheckpointError(f"{self.checkpoint}: its loss is {loss}, not a number")
            print(f"{stage}_loss {loss:.4f}  {stage}_accuracy {accuracy:.4f}")
            if self.run:
                print_run(self.run)
            print(f"checkpoint       {printable(relative(self.checkpoint or ''))}")


def print_run(run: Path) -> None:
    """Say where a run's files are and how to see its curves."""
    print(f"\nrun folder       {printable(relative(run))}")
    print(f"curves           tensorboard --logdir {quoted(relative(run.parent))}")


def as_list(value: Any) -> list[Any]:
    """What the Trainer takes as one, several or None, as a list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def relative(path: str | Path) -> Path:
    """A path as short as a person would type it."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
