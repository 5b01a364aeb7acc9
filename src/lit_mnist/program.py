"""The program: set the process up, run the command line, and turn what goes wrong into one line."""

import inspect
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.cli import CLI, GROUPS
from lit_mnist.data import DataError, MNISTDataModule
from lit_mnist.errors import OneLine, fail
from lit_mnist.fast import FastClassifier
from lit_mnist.parser import Parser
from lit_mnist.runs.divergence import DivergedError
from lit_mnist.trials.reproduce import reproduce
from lit_mnist.use.demo import demo
from lit_mnist.use.export import export
from lit_mnist.use.predict import predict
from lit_mnist.views.report import report

log = logging.getLogger(__name__)

TOOLS: dict[str, Callable[..., None]] = {tool.__name__: tool for tool in (predict, export, demo, report, reproduce)}


class Program(CLI):
    """All commands together."""

    tools = TOOLS


def main() -> None:
    """Run the command line; bad input ends in one line and exit status 2, what goes wrong later in status 1."""
    for number in (signal.SIGINT, signal.SIGTERM):  # rather than a traceback, and with what is half written removed
        signal.signal(number, lambda number, frame: sys.exit(128 + number))
    torch.set_flush_denormal(True)  # averages of gradients that stay zero fade into numbers a CPU is slow with
    threading.excepthook = lambda failure: log.warning(f"{failure.exc_value}")  # TensorBoard's writer on a full disk
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # no tips, no list of absent accelerators
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(handlers=[handler])
    logging.getLogger("lit_mnist").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", ".*callbacks used to create the checkpoint.*")  # a test needs none of a fit's
    warnings.filterwarnings("ignore", ".*could not find the monitored key.*")  # no validation yet, nothing to compare
    warnings.filterwarnings("ignore", ".*exists and is not empty.*")  # the folder of a run that is resumed
    warnings.filterwarnings("ignore", ".*not supported by the model summary.*")  # a size in MB that is not shown
    warnings.filterwarnings("ignore", ".*no pre-optimization state.*")  # a checkpoint is of after its step, as ever
    warnings.filterwarnings("ignore", ".*contains the key.*monitor.*")  # the fast path steps schedulers itself
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # between Lightning and PyTorch
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")  # one value per epoch is logged
    warnings.filterwarnings("ignore", ".*missing from font.*")  # letters of a run's name, boxes in the report's curves
    warnings.filterwarnings("ignore", module="PIL")  # of damage that does not hinder reading an image
    warnings.filterwarnings("ignore", ".*`torch.jit.trace.*` is deprecated.*")  # TensorBoard's graph
    try:
        try:
            Program(
                FastClassifier,
                MNISTDataModule,
                parser_class=Parser,
                trainer_defaults={"max_epochs": 10, "num_sanity_val_steps": 0},
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
            )
        finally:
            sys.stdout.flush()  # while there can still be a line about it
    except (DataError, CheckpointError) as error:
        fail(str(error))
    except MisconfigurationException as error:
        fail(f"--trainer: {error}")
    except DivergedError as error:
        fail(str(error), status=1)
    except BrokenPipeError:  # as when the output goes through head
        drop_output()
        sys.exit(1)
    except OSError as error:
        drop_output()
        fail(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error), status=1)
    except RuntimeError as error:
        if "without overflow" in str(error):
            fail("--model: a number of the optimizer or its scheduler has become too large for float32", status=1)
        if not re.search(r"by peer|gloo|NCCL", str(error)):
            raise
        lost = "another process of this run stopped; continue with: python -m lit_mnist fit --ckpt_path last"
        fail(lost, status=1, once=False)
    except UnicodeEncodeError as error:
        fail(f"{error.object}: this name is not UTF-8, which TensorBoard asks of a folder")
    except ValueError as error:
        argument = str(error).partition(":")[0]
        for group, component in GROUPS.items():
            if any(argument in inspect.signature(base).parameters for base in component.__mro__[:2]):
                fail(f"--{group}.{error}")
        if isinstance(error.__cause__, ValueError):  # what the network itself said
            fail(f"--model.network.{error.__cause__}")
        raise


def drop_output() -> None:
    """Send what stdout could not take nowhere, or else Python complains of it at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
