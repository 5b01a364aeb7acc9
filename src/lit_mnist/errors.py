"""Bad input in one line: what a user typed, what is wrong with it, what is allowed."""

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import NoReturn

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
