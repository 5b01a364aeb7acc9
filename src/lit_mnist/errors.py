"""What went wrong in one line on stderr: what a user typed, what is wrong with it, what is allowed."""

import inspect
import sys
from collections.abc import Iterable
from difflib import SequenceMatcher
from pkgutil import resolve_name
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only


def print_error(message: object) -> None:
    """Say in one line what is wrong."""
    print(f"lit-mnist: error: {' '.join(str(message).split())}", file=sys.stderr)


def fail(message: object, status: int = 2) -> NoReturn:
    """Say in one line what is wrong, however many processes run, and exit: with 2 for bad input, 1 for bad luck."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        print_error(message)
    sys.exit(status)


class ShortHelp(DefaultHelpFormatter):
    """Leaves out the names of all classes that an option could take where they are hundreds."""

    def add_argument(self, action: Any) -> None:
        if len(getattr(action, "extra_help", str)()) > 1500:
            action.extra_help = str
        super().add_argument(action)


class Parser(LightningArgumentParser):
    """Takes no abbreviations, and reports what it cannot parse in one line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, formatter_class=ShortHelp, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if message.startswith("unrecognized arguments: --"):
            typed = message.split()[2].partition("=")[0]
            known = [f"--{name}" for name in vars(getattr(ex, "subcommand_parser", self).get_defaults().as_flat())]
            fail(f"{typed}: there is no such option{nearest(typed, known)}")
        fail(shortened(message))


def nearest(typed: str, known: Iterable[str], before: str = "") -> str:
    """What a user may have meant, as the end of a message: the name whose last word is most like the last one typed."""

    def likeness(name: str) -> float:
        return SequenceMatcher(None, name.rpartition(".")[2].lstrip("-"), typed.rpartition(".")[2].lstrip("-")).ratio()

    names = [name.replace(".class_path", "").replace(".init_args", "") for name in known]
    best = max(names, key=likeness, default="")
    return f"; did you mean {before}{best}?" if best and likeness(best) >= 0.6 else "; see --help"


def shortened(message: str) -> str:
    """What jsonargparse says in many lines, in one: the option in full, the first reason, and what was given."""
    option, given = "", message.rpartition("Given value: ")[2].partition(". Got value")[0].partition("\n")[0]
    while (found := message.partition('Parser key "'))[1]:
        key, _, message = found[2].partition('":')
        if not f".{option}".endswith(f".{key}"):  # which is named twice within a class
            option = f"{option}.{key}".lstrip(".")
    lines = (message.partition("Errors:")[2] or message).strip().splitlines()
    texts = [line.strip(" -") for line in lines if not line.endswith(":")]
    reason = next((text for text in texts if not text.startswith("Import path")), texts[0] if texts else message)
    reason = reason.rpartition("callable class: ")[2].partition(". Got value: Namespace")[0]
    if reason.startswith("Option '"):  # of a class, which is named nearby
        name, kind = reason.split("'")[1], resolve_name(message.partition("class_path")[2].split("'")[1])
        known = inspect.signature(kind).parameters
        return f"--{option}.{name}: there is no such option{nearest(name, known, f'--{option}.')}"
    if "arguments are required: " in reason:
        missing = reason.rpartition(": ")[2].rpartition(".")[2]
        return f"--{option}.{missing} is missing" if option else f"{missing}: at least one is missing; see --help"
    if reason.startswith("Unable to load config") and option in ("model", "data"):
        return (
            f"--{option}: a class of your own goes to main() in a script of your own, as docs/parts.md shows; {reason}"
        )
    plain = given not in reason and "Given value: " in message and not given.startswith(("Namespace", "NestedArg"))
    return f"--{option}: {reason}{f', not {given}' if plain else ''}" if option else reason
