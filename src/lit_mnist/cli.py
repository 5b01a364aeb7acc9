"""The command line: LightningCLI over the classifier, the data and the Trainer."""

import contextlib
import inspect
import json
import sys
from pathlib import Path
from typing import Any, get_args

from jsonargparse.typing import NonNegativeInt
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from lit_mnist import callbacks
from lit_mnist.checkpoint import CheckpointError, WholeCheckpointIO, read_checkpoint
from lit_mnist.classifier import Classifier
from lit_mnist.dashboard import Dashboard, FitPart
from lit_mnist.data import MNISTDataModule
from lit_mnist.errors import fail, is_first_process, printable, quoted
from lit_mnist.evaluation import Evaluation, TestPart
from lit_mnist.fast import refuse_what_does_not_combine
from lit_mnist.resume import ExactResume, StopOnSignal
from lit_mnist.runs import LOGS, find_checkpoint, new_run, run_of
from lit_mnist.tools import TOOLS, add_tools

COMMANDS = {
    "fit": "Train, and leave a run folder with checkpoints, metrics and curves.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
}
GROUPS = {"model": Classifier, "data": MNISTDataModule}
CHANGEABLE = {"data_dir", "eval_batch_size"}  # what does not change the result, so that a continued fit may change it


class CLI(LightningCLI):
    """LightningCLI with run folders, checkpoints by name, and options that follow from a checkpoint."""

    checkpoint: Path | None = None  # what is resumed or evaluated
    resumed_step: int | None = None  # what a killed fit logged from here on is logged again
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
        add_tools(subcommands)
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
        if command in TOOLS:  # which have no use for what LightningCLI makes of the options
            TOOLS[command](**parser.parse_args(args)[command].as_dict())
            sys.exit()
        name = options.get("ckpt_path") or (None if command == "fit" else "best")
        if name:
            logs = Path(options.get("trainer.default_root_dir") or ".") / LOGS
            self.checkpoint = find_checkpoint(name, logs)
            saved = read_checkpoint(self.checkpoint)
            self.resumed_step = saved["global_step"] if command == "fit" else None
            known = {"model": saved["hyper_parameters"], "data": saved["datamodule_hyper_parameters"]}
            self._refuse_contradictions(command, options, known)
            run = run_of(self.checkpoint)
            layer = str(run / "config.yaml") if command == "fit" and run else json.dumps(known)
            position = args.index(command) + 1
            args[position:position] = ["--config", layer]
        self.config = parser.parse_args(args)
        self.config[command].ckpt_path = None  # so that a fit from the saved config starts anew

    def _refuse_contradictions(self, command: str, options: Any, known: dict[str, dict[str, Any]]) -> None:
        """Raise CheckpointError for an option that differs from the checkpoint's where it cannot."""
        for group in ("model", "data") if command == "fit" else ("model",):  # other data can be tested on
            for key, value in options.get(group, {}).items():
                if key not in CHANGEABLE and plain(value) != plain(known[group].get(key, value)):
                    raise CheckpointError(
                        f"--{group}.{key}: {value} contradicts {self.checkpoint}, trained with {known[group][key]}"
                    )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The Trainer with what a run shows and leaves, as far as its options do not switch that off."""
        if self.subcommand == "fit":
            self.model.configure_optimizers()  # what the optimizer refuses shows before anything starts
        options = self._get(self.config_init, "trainer")
        shown: list[Any] = []
        if options.enable_progress_bar is not False:
            shown.append(callbacks.EpochBar())
        kwargs["enable_model_summary"] = False  # fit prints a table of its own
        if not options.fast_dev_run:
            self.run = self._choose_run(Path(options.default_root_dir or ".") / LOGS)
            if options.logger in (None, True):
                logs = self.run.parent
                kwargs["logger"] = TensorBoardLogger(
                    logs.parent,
                    logs.name,
                    self.run.name,
                    log_graph=self.subcommand == "fit" and not self.checkpoint and "graph" not in self.config.fit.skip,
                    default_hp_metric=False,
                    purge_step=self.resumed_step,
                )
            if self.subcommand == "fit":
                shown += self._fit_callbacks(self.run, options)
            else:
                kwargs["enable_checkpointing"] = False
            if self.subcommand == "test" and self.checkpoint:
                shown.append(Evaluation(self.run, self.checkpoint.name, self.config.test.skip))
        kwargs["profiler"] = options.profiler or callbacks.NoProfiler()
        kwargs["callbacks"] = [*shown, *as_list(options.callbacks)]
        kwargs["plugins"] = [*as_list(options.plugins), WholeCheckpointIO()]
        self.save_config_callback = None  # ours writes into the run folder also where there is no logger
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError) as error:
            self._forget_empty_run()
            fail(f"--trainer: {error}")

    def _fit_callbacks(self, run: Path, options: Any) -> list[Any]:
        config = self.config.fit
        shown = {**config.data, **config.model, "max_epochs": options.max_epochs, "seed": config.seed_everything}
        shown = {name: value for name, value in shown.items() if name not in CHANGEABLE}
        history = callbacks.History(run, self._parser("fit").dump(config, skip_unset=False))
        result = [
            history,
            Dashboard(run, history, shown, config.skip),
            callbacks.StopOnDivergence(),
            ExactResume(),
        ]
        if options.enable_checkpointing is not False:
            result += [
                StopOnSignal(relative(run / "checkpoints" / "last.ckpt")),
                callbacks.RunCheckpoint(run, "best", monitor="val/loss"),
                callbacks.RunCheckpoint(run, "last"),  # after best, so that it knows of it
            ]
        return result

    def _choose_run(self, logs: Path) -> Path:
        """The run folder of the checkpoint, or a new one, which the first process chooses for all."""
        if self.checkpoint and (run := run_of(self.checkpoint)):
            return run
        return (new_run(logs) if is_first_process() else logs / "chosen_by_first_process").resolve()

    def _forget_empty_run(self) -> None:
        if self.run:
            with contextlib.suppress(OSError):  # not empty
                self.run.rmdir()

    def fit(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Train, then say which checkpoint is best and how to test it."""
        try:
            datamodule.refuse_uneven_shares(self.trainer.world_size)  # before there are several processes
            if model.steps_per_execution > 1:
                refuse_what_does_not_combine(self.trainer, model.steps_per_execution)
            if self.config_init.fit.trainer.enable_model_summary is not False and is_first_process():
                callbacks.print_layers(model)
            self.trainer.fit(model, datamodule, ckpt_path=self.checkpoint)
        finally:
            self._forget_empty_run()
        if not self.run or not self.trainer.is_global_zero:
            return
        print_run(self.run)
        best = self.trainer.checkpoint_callback
        if isinstance(best, ModelCheckpoint) and best.best_model_path:
            path = relative(best.best_model_path)
            print(f"best checkpoint  {printable(path)}  (val_loss {best.best_model_score:.4f})")
            print(f"test it with     python -m lit_mnist test --ckpt_path {quoted(path)}")

    def validate(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate a checkpoint on the validation images."""
        self.trainer.validate(model, datamodule, ckpt_path=self.checkpoint, verbose=False)
        self._print_metrics("val")

    def test(self, model: Classifier, datamodule: MNISTDataModule) -> None:
        """Evaluate a checkpoint on the test images."""
        self.trainer.test(model, datamodule, ckpt_path=self.checkpoint, verbose=False)
        self._print_metrics("test")

    def _print_metrics(self, stage: str) -> None:
        if self.trainer.is_global_zero:
            loss, accuracy = (self.trainer.callback_metrics[f"{stage}/{name}"].item() for name in ("loss", "accuracy"))
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


def plain(value: Any) -> Any:
    """A value in the form in which it compares equal, however it was given."""
    return list(value) if isinstance(value, tuple | list) else value


def relative(path: str | Path) -> Path:
    """A path as short as a person would type it."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
