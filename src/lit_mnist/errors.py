"""Bad input in one line: what a user typed, what is wrong with it, what is allowed."""

import difflib
import logging
import os
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only


def is_first_process() -> bool:
    """Whether this is the process that speaks for all, also before they have met."""
    return getattr(rank_zero_only, "rank", 0) == 0


def printable(text: object) -> str:
    """A text from elsewhere for a terminal: what would steer it, break the line or turn its direction is escaped."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in str(text))


def quoted(path: str | Path) -> str:
    """A path as one word of a command line that can be copied into bash or zsh, and as safe to print."""
    word = str(path)
    if word.startswith("-"):
        word = f"./{word}"  # no option
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(one if one.isprintable() and one not in "'\\" else _bytes(one) for one in word) + "'"


def _bytes(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))


class OneLine(logging.Formatter):
    """A record of a log as one line of printable text, without a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(record.getMessage())


def one_line(message: str) -> str:
    """A message of any origin in one line of printable text."""
    return printable(" ".join(message.split()))


def print_error(message: str) -> None:
    """Say in one line on stderr what is wrong."""
    print(f"lit-mnist: error: {one_line(message)}", file=sys.stderr)


def fail(message: str, status: int = 2, once: bool = True) -> NoReturn:
    """Say in one line what is wrong and exit: with 2 for bad input, 1 for bad luck.

    Args:
        message: What is wrong and what to do.
        status: Exit status.
        once: Leave the line to the first process, however many run.
    """
    if is_first_process() or not once:
        print_error(message)
    sys.exit(status)


class Parser(LightningArgumentParser):
    """Reports what it cannot parse in one line."""

    def parse_path(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().parse_path(path, *args, **kwargs)
        except UnicodeDecodeError as error:
            fail(f"--config: {path} is not text in UTF-8: {error.reason} at byte {error.start}")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        if message.startswith(("Problems parsing config", "Unexpected config")):
            files = [file for option, file in pairwise(sys.argv) if option in ("-c", "--config")]
            message = f"--config: {', '.join(files)}: {message}"
        fail(explain(message, getattr(ex, "subcommand_parser", None) or self))


def explain(message: str, parser: LightningArgumentParser) -> str:
    """Turn a message of jsonargparse into one that names the option, the value and what is allowed."""
    options = {action.dest: action for action in parser._actions}
    if found := re.search(r"nrecognized arguments: (?:--)?([^\s=]*)|does not accept option '([^']*)'", message):
        name = found[1] or found[2]
        near = difflib.get_close_matches(name, options, n=1)
        return f"--{name}: there is no such option; " + (f"did you mean --{near[0]}?" if near else "see --help")
    if found := re.search(r"arguments are required: (?:\w+\.)?(\w+)", message):
        return f"{found[1].upper()} is missing; see --help"
    if not (found := re.search(r'Parser key "([^"]*)":(.*)', message, re.DOTALL)):
        return message
    name, reason = found[1], found[2]
    value = re.search(r"(?:Got|Given) value: (.*)", reason)
    hint = getattr(options.get(name), "_typehint", None)
    return f"--{name}: {value[1]} is not {readable(hint)}" if value and hint else f"--{name}: {reason}"


def readable(hint: Any) -> str:
    """A type hint in words: Literal['a', 'b'] -> 'one of a, b', int -> 'of type int'."""
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is list and get_origin(inner := get_args(hint)[0]) is Literal:
        names = get_args(inner)
        return f"a list of any of {', '.join(names)}, such as [{names[0]}]"
    words = str(hint).replace("jsonargparse.NonNegativeInt", "int of 0 or above")
    return "of type " + re.sub(r"typing\.|collections\.abc\.|<class '|'>", "", words)
