"""Dispatch of all commands, and one line for each expected error."""

import inspect
import shlex
import sys
from collections.abc import Callable

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer

from lit_mnist.checkpoint import CheckpointError
from lit_mnist.classifier import ModelError
from lit_mnist.cli import run_command
from lit_mnist.data import DataError
from lit_mnist.errors import Parser, fail, program
from lit_mnist.launch import set_up
from lit_mnist.runs.history import DivergedError
from lit_mnist.trials.reproduce import reproduce
from lit_mnist.trials.tune import tune
from lit_mnist.use.demo import demo
from lit_mnist.use.export import export
from lit_mnist.use.predict import predict
from lit_mnist.views.report import report

TOOLS: dict[str, Callable[..., None]] = {
    tool.__name__: tool for tool in (predict, export, demo, report, reproduce, tune)
}
STUDIES = ("reproduce", "tune")  # commands that run many fits


def run(args: list[str]) -> None:
    """Run a command with its options; bad input gives one line and exit status 2, a later failure exit status 1."""
    set_up()
    try:
        if args[0] in TOOLS:
            run_tool(TOOLS[args[0]], args[1:])
        else:
            run_command(args)
    except ModelError as error:
        fail(f"--model.{error}")
    except DataError as error:  # about an argument or a file
        fail(f"--data.{error}" if str(error).partition(":")[0].isidentifier() else error)
    except (CheckpointError, DivergedError) as error:
        fail(error, status=1 if isinstance(error, DivergedError) else 2)
    except MisconfigurationException as error:
        fail(f"--trainer: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}" if error.filename else error, status=1)
    except ValueError as error:  # for example, Lightning's "`val_check_interval` (9) must be less than or equal to ..."
        name = str(error).lstrip(" `").partition("`")[0]
        if name not in inspect.signature(Trainer).parameters:
            raise
        fail(f"--trainer.{name}: {error}")


def run_tool(tool: Callable[..., None], args: list[str]) -> None:
    """Call a command that is a function; a first parameter of type list takes the positional arguments."""
    summary = str(inspect.getdoc(tool)).partition("\n")[0]
    parser = Parser(prog=f"lit-mnist {tool.__name__}", description=summary)
    name, first = next(iter(inspect.signature(tool).parameters.items()))
    skip: set[str | int] = {name} if first.annotation == list[str] else set()
    if skip:
        about = str(inspect.getdoc(tool)).partition(f"{name}: ")[2].partition("\n")[0]
        parser.add_argument(name, nargs="+", type=str, help=about)
    parser.add_function_arguments(tool, as_group=False, skip=skip)
    try:
        tool(**parser.instantiate_classes(parser.parse_args(args)).as_dict())
    except (KeyboardInterrupt, SystemExit) as end:
        if tool.__name__ in STUDIES and getattr(end, "code", 130) in (130, 143):
            print(f"resume with: {program()} {shlex.join([tool.__name__, *args])}", file=sys.stderr)
        raise
