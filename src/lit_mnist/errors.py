"""What went wrong in one line on stderr: what a user typed, what is wrong with it, what is allowed."""

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
HIDDEN = ("return", "kwargs", "num_classes", "image_shape")  # of a class; no options, since they follow from the data
GROUPS = {L.LightningModule: "model", L.LightningDataModule: "data", L.Callback: "trainer.callbacks"}


def print_error(message: object, level: str = "error") -> None:
    """Print one line on stderr, once on each host."""
    if speaks():
        print(f"lit-mnist: {level}: {' '.join(str(message).split())}", file=sys.stderr)


def fail(message: object, status: int = 2) -> NoReturn:
    """Say in one line what is wrong and exit: with 2 for bad input, 1 for what went wrong later."""
    print_error(message)
    sys.exit(status)


def program() -> str:
    """How this program was called, for commands in messages."""
    name = Path(sys.argv[0]).name
    if name == "lit-mnist":
        return name
    is_module = name in ("__main__.py", "ipykernel_launcher.py")
    return "python -m lit_mnist" if is_module else f"python {shlex.quote(sys.argv[0])}"


class ShortHelp(DefaultHelpFormatter):
    """Leaves out the names of all classes that an option could take where they are hundreds."""

    def add_argument(self, action: Any) -> None:
        if len(getattr(action, "extra_help", str)()) > 1500:
            action.extra_help = str
        super().add_argument(action)


class Parser(LightningArgumentParser):
    """Takes no abbreviations, and reports what it cannot parse in one line."""

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
        """Create all parts that a command line names; called by LightningCLI."""
        options = {str(value): name for name, value in flat(cfg.get(cfg.get("subcommand"), cfg).as_dict())}
        return self.instantiate(cfg, instantiators=[(partial(create, options), object, True)], **kwargs)


def flat(options: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested options as pairs of the name that the command line has for them and the value.

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
    """Create a part, or say in one line what it refuses, such as "--model.network.dropout: 1.5 is not in [0, 1)".

    In a class of the user's own only a ValueError is a refusal; other errors keep their traceback.
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
    """What a user may have meant, as the end of a message: the name whose last word is most like the last one typed."""

    def likeness(name: str) -> float:
        return SequenceMatcher(None, name.rpartition(".")[2].lstrip("-"), typed.rpartition(".")[2].lstrip("-")).ratio()

    names = list(dict.fromkeys(known))
    best = max(names, key=likeness, default="")
    if best and likeness(best) >= 0.6:
        return f"; did you mean {best}?"
    return f"; choose from {', '.join(names)}" if 0 < len(names) < 10 else "; see --help"


def shortened(message: str, options: Iterable[str]) -> str:
    """What jsonargparse says in many lines, in one: the option in full, the first reason, and what was given."""
    option, given = "", message.partition("Given value: ")[2].partition(". Got value")[0].partition("\n")[0]
    while (found := message.partition('Parser key "'))[1]:
        key, _, message = found[2].partition('":')
        if not f".{option}".endswith(f".{key}"):  # which is named twice within a class
            option = f"{option}.{key}".lstrip(".")
    lines = (message.partition("Errors:")[2] or message).strip().splitlines()
    texts = [line.strip(" -") for line in lines if not line.endswith(":")]
    vague = ("Import path", "Expected a <class 'NoneType'>", "Given value")
    reason = next((text for text in texts if not text.startswith(vague)), texts[0] if texts else message)
    reason = reason.rpartition("callable class: ")[2].partition(". Got value: Namespace")[0]
    reason = reason.replace("<class 'collections.abc.Sequence'>", "list such as [1, 2]")
    if reason.startswith(("No module named", "module '", "cannot import")):
        return f"--{option}: {given}: {reason}"
    if reason.startswith("Invalid content in sub-config file") and ".py" in reason:
        return f"--{option}: a Python file is no config; name a class in it, such as my_file.{option.title()}"
    if reason.startswith("Import path does not correspond to a subclass of "):
        return f"--{option}: {given} is not a {reason.rpartition(' ')[2]}"
    if reason.startswith("Expected a dot import path"):
        reason = f"there is no class {given}; one of your own is named by its import path, such as my_file.{given}"
        given = ""
    if reason.startswith("Option '"):  # of a class, which is named nearby
        name, kind = reason.split("'")[1], resolve_name(message.partition("class_path")[2].split("'")[1])
        own = [f"--{option}.{name}" for name in getattr(kind.__init__, "__annotations__", {}) if name not in HIDDEN]
        known = [*own, *(one for one in options if one.startswith(f"--{option}.") and one != f"--{option}.{name}")]
        return f"--{option}.{name}: there is no such option{nearest(name, known)}"
    if "arguments are required: " in reason:
        missing = reason.rpartition(": ")[2].rpartition(".")[2]
        if given.startswith("{"):
            return f"--{option}: {missing} is missing; give it by {{class_path: ..., init_args: {{{missing}: ...}}}}"
        return f"--{option}.{missing} is missing" if option else f"{missing}: at least one is missing; see --help"
    said = given in reason or "Got value" in reason
    plain = "Given value: " in message and not said and not given.startswith(("Namespace", "NestedArg"))
    return f"--{option}: {reason}{f', not {given}' if plain else ''}" if option else reason
