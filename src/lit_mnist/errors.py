"""What went wrong in one line on stderr: what a user typed, what is wrong with it, what is allowed."""

import sys
from typing import NoReturn

from lightning.pytorch.utilities import rank_zero_only


def print_error(message: object) -> None:
    """Say in one line what is wrong."""
    print(f"lit-mnist: error: {' '.join(str(message).split())}", file=sys.stderr)


def fail(message: object, status: int = 2) -> NoReturn:
    """Say in one line what is wrong, however many processes run, and exit: with 2 for bad input, 1 for bad luck."""
    if getattr(rank_zero_only, "rank", 0) == 0:
        print_error(message)
    sys.exit(status)
