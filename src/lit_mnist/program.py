"""All commands together, and one line for what went wrong."""

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.classifier import ModelError
from lit_mnist.cli import run_command
from lit_mnist.data import DataError
from lit_mnist.errors import Parser, fail
from lit_mnist.runs.history import DivergedError
from lit_mnist.trials.reproduce import reproduce
from lit_mnist.use.demo import demo
from lit_mnist.use.export import export
from lit_mnist.use.predict import predict
from lit_mnist.views.report import report

TOOLS: dict[str, Callable[..., None]] = {tool.__name__: tool for tool in (predict, export, demo, report, reproduce)}


def run(args: list[str]) -> None:
    """Run a command with its options; bad input ends in one line and exit status 2, what goes wrong later in 1."""
    set_up()
    try:
        if args[0] in TOOLS:
            run_tool(TOOLS[args[0]], args[1:])
        else:
            run_command(args)
    except ModelError as error:
        fail(f"--model.{error}")
    except DataError as error:  # of an argument or of a file
        fail(f"--data.{error}" if str(error).partition(":")[0].isidentifier() else error)
    except (CheckpointError, DivergedError) as error:
        fail(error, status=1 if isinstance(error, DivergedError) else 2)
    except MisconfigurationException as error:
        fail(f"--trainer: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error, status=1)
    except ValueError as error:  # such as Lightning's "`val_check_interval` (9) must be less than or equal to ..."
        name = str(error).lstrip(" `").partition("`")[0]
        if name not in inspect.signature(Trainer).parameters:
            raise
        fail(f"--trainer.{name}: {error}")


def run_tool(tool: Callable[..., None], args: list[str]) -> None:
    """Call a command that is a function; its first parameter, if a list, are the positional arguments."""
    summary = str(inspect.getdoc(tool)).partition("\n")[0]
    parser = Parser(prog=f"lit-mnist {tool.__name__}", description=summary)
    name, first = next(iter(inspect.signature(tool).parameters.items()))
    skip: set[str | int] = {name} if first.annotation == list[str] else set()
    if skip:
        about = str(inspect.getdoc(tool)).partition(f"{name}: ")[2].partition("\n")[0]
        parser.add_argument(name, nargs="+", type=str, help=about)
    parser.add_function_arguments(tool, as_group=False, skip=skip)
    tool(**parser.instantiate_classes(parser.parse_args(args)).as_dict())


def set_up() -> None:
    """Quiet what needs no user, and set what PyTorch and matplotlib take from the process."""
    if str(Path.cwd()) not in sys.path:  # where --data my_data.Halves is found, as with python -m
        sys.path.insert(0, str(Path.cwd()))
    os.environ["MPLBACKEND"] = "agg"  # figures are files
    if not torch.cuda.is_available():  # Lightning has set this, and every optimizer step would look for a driver anew
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_flush_denormal(True)  # averages of gradients that stay zero fade into numbers a CPU is slow with
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no tips, no list of absent accelerators
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for name in ("profilers.profiler", "callbacks.timer"):
        logging.getLogger(f"lightning.pytorch.{name}").setLevel(logging.INFO)  # what they say was asked for
    yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_str(str(value.value)))
    for text in (
        "smaller than the logging interval",  # one value per epoch is logged
        "torch.jit.trace",  # TensorBoard's graph
        "LeafSpec",  # between Lightning and PyTorch
        "exists and is not empty",  # the folder of a run that goes on
        "could not find the monitored key",  # no validation yet, nothing to compare
        "Unable to serialize instance",  # a device in the options of a callback
        "trying to `self.log",  # with --trainer.barebones
        "`srun` command is available",  # on a login node
        "not supported by the model summary",  # bf16-mixed, whose size it then estimates
    ):
        warnings.filterwarnings("ignore", f".*{text}.*")
