"""The program, as lit-mnist and as python -m lit_mnist: what a process needs before all the rest is imported."""

import os
import signal
import sys
from pathlib import Path


def run() -> None:
    """Run the program, whatever the environment says of matplotlib, and with output streams that may be closed."""
    for number in (signal.SIGINT, signal.SIGTERM):  # no traceback of an import
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    os.environ["MPLBACKEND"] = "agg"  # figures are files
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115, as it stays open
    from lit_mnist.program import main

    main()


if __name__ == "__main__":
    run()
