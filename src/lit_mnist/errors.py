"""Errors as one line on stderr: the user's input, the reason and the allowed values."""

import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn

import lightning.pytorch as L
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lit_mnist.launch import speaks

LIBRARIES = ("lit_mnist", "lightning", "torch", "torchmetrics", "torchvision")
HIDDEN = ("return", "kwargs", "num_classes", "image_shape")  # not options; the last two follow from the data
KINDS = {"int": "whole number", "float": "number", "bool": "boolean", "collections.abc.Sequence": "list such as [1, 2]"}
GROUPS = {L.LightningModule: "model", L.LightningDataModule: "data", L.Callback: "trainer.callbacks"}


def print_error(message: object, level: str = "error") -> None:
    """Print a message as one line on stderr, once per host."""
    if speaks():
        print(f"lit-mnist: {level}: {' '.join(str(message).split())}", file=sys.stderr)


def fail(message: object, status: int = 2) -> NoReturn:
    """Print an error as one line and exit: with status 2 for bad input, 1 for a later failure."""
    print_error(message)
    sys.exit(status)


def program() -> str:
    """The command that started this program, for messages."""
    name = Path(sys.argv[0]).name
    if name == "lit-mnist":
        return name
    is_module = name in ("__main__.py", "ipykernel_launcher.py")
    return "python -m lit_mnist" if is_module else f"python {shlex.quote(sys.argv[0])}"


class ShortHelp(DefaultHelpFormatter):
    """Omits the list of classes that an option accepts if it is long."""

    def add_argument(self, action: Any) -> None:
        if len(getattr(action, "extra_help", str)()) > 1500:
            action.extra_help = str
        super().add_argument(action)


class Parser(LightningArgumentParser):
    """Accepts no abbreviations, and reports a parse error as one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"prog": "lit-mnist", **kwargs}, allow_abbrev=False, formatter_class=ShortHelp)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        defaults = getattr(ex, "subcommand_parser", self).get_defaults().as_flat()
        known = [f"--{name}".replace(".init_args", "").replace(".class_path", "") for name in vars(defaults)]
        if message.startswith("unrecognized arguments: --"):
            typed = message.split()[2].partition("=")[0]
            near = [name for name in known if name.startswith(typed.partition(".")[0] + ".")]
            fail(f"{typed}: there is no such option{nearest(typed, near or known)}")
        fail(shortened(message, known))

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Called by LightningCLI to create all objects that the command line names."""
        options = {str(value): name for name, value in flat(cfg.get(cfg.get("subcommand"), cfg).as_dict())}
        return self.instantiate(cfg, instantiators=[(partial(create, options), object, True)], **kwargs)


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested options to pairs of a name, as on the command line, and a value.

    {"network": {"class_path": "a.MLP", "init_args": {"dropout": 0.4}}} -> ("network", "MLP"), ("network.dropout", 0.4)
    """
    for name, value in options.items():
        if name == "class_path":
            yield prefix[:-1], str(value).rpartition(".")[2]
        elif isinstance(value, dict) and value:
            yield from flat(value, prefix if name == "init_args" else f"{prefix}{name}.")
        elif name != "init_args":
            yield prefix + name, value


def create(options: dict[str, str], part: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Create an object, or fail with the value that it rejects: "--model.network.dropout: 1.5 is not in [0, 1)".

    In a user's own class, only a ValueError is a rejection; other errors keep their traceback.
    """
    try:
        return part(*args, **kwargs)
    except Exception as error:
        if part.__module__.partition(".")[0] not in LIBRARIES and not isinstance(error, ValueError):
            raise
        option = next((option for base, option in GROUPS.items() if issubclass(part, base)), "trainer.logger")
        text = (str(error).splitlines() or [type(error).__name__])[0]
        fail(f"--{options.get(part.__name__, option)}{'.' if text.partition(':')[0] in kwargs else ': '}{text}")


def nearest(typed: str, known: Iterable[str]) -> str:
    """The end of a message: a similar name, compared by last words, or all names if fewer than 10, or --help."""

    def likeness(name: str) -> float:
        return SequenceMatcher(None, name.rpartition(".")[2].lstrip("-"), typed.rpartition(".")[2].lstrip("-")).ratio()

    names = list(dict.fromkeys(known))
    best = max(names, key=likeness, default="")
    if best and likeness(best) >= 0.6:
        return f"; did you mean {best}?"
    return f"; choose from {', '.join(names)}" if 0 < len(names) < 10 else "; see --help"


def shortened(message: str, options: Iterable[str]) -> str:
    """A message of jsonargparse as one line: the full option, the first reason and the given value."""
    option, given = "", message.partition("Given value: ")[2].partition(". Got value")[0].partition("\n")[0]
    while (found := message.partition('Parser key "'))[1]:
        key, _, message = found[2].partition('":')
        if not f".{option}".endswith(f".{key}"):  # a class repeats the end of its option
            option = f"{option}.{key}".lstrip(".")
    lines = (message.partition("Errors:")[2] or message).strip().splitlines()
    texts = [line.strip(" -") for line in lines if not line.endswith(":")]
    vague = ("Import path", "Expected a <class 'NoneType'>", "Given value")
    reason = next((text for text in texts if not text.startswith(vague)), texts[0] if texts else message)
    reason, _, value = reason.rpartition("callable class: ")[2].partition(". Got value: ")
    given = value.partition(". Got value")[0] or given
    literals = " ".join(text.partition("Expected a typing.Literal[")[2].partition("]")[0] for text in texts)
    if choices := re.findall(r"[\w-]+", literals):
        return f"--{option}: {given} is not a valid value{nearest(given, choices)}"
    if reason.startswith("Expected a <class"):
        kinds = [KINDS.get(name, name) for name in re.findall(r"a <class '(?!None)([\w.]+)", " ".join(texts))]
        reason = f"expected a {' or '.join(kinds)}".replace("whole number or number", "number")
    if reason.startswith(("No module named", "module '", "cannot import")):
        return f"--{option}: {given}: {reason}"
    if reason.startswith("Invalid content in sub-config file") and ".py" in reason:
        return f"--{option}: a Python file is not a config; name a class in it, such as my_file.{option.title()}"
    if reason.startswith("Import path does not correspond to a subclass of "):
        return f"--{option}: {given} is not a {reason.rpartition(' ')[2]}"
    if reason.startswith("Expected a dot import path"):
        return f"--{option}: there is no class {given}; name your own by its import path, such as my_file.{given}"
    if reason.startswith("Option '"):  # of a class that the message names
        name, kind = reason.split("'")[1], resolve_name(message.partition("class_path")[2].split("'")[1])
        own = [f"--{option}.{name}" for name in getattr(kind.__init__, "__annotations__", {}) if name not in HIDDEN]
        known = [*own, *(one for one in options if one.startswith(f"--{option}.") and one != f"--{option}.{name}")]
        return f"--{option}.{name}: there is no such option{nearest(name, known)}"
    if "arguments are required: " in reason:
        missing = reason.rpartition(": ")[2].rpartition(".")[2]
        if given.startswith("{"):
            return f"--{option}: {missing} is missing; write {{class_path: ..., init_args: {{{missing}: ...}}}}"
        return f"--{option}.{missing} is missing" if option else f"{missing}: at least one is missing; see --help"
    if option and given and f" {given} " not in f" {reason} " and not given.startswith(("Namespace", "NestedArg")):
        reason = f"{reason}, not {given}"
    return f"--{option}: {reason}" if option else reason
