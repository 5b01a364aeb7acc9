"""The program, as lit-mnist and as python -m lit_mnist: it can be interrupted while it is still being imported."""

import os
import signal


def main() -> None:
    """Run the command line."""
    for number in (signal.SIGINT, signal.SIGTERM):  # no traceback of an import
        signal.signal(number, lambda number, frame: os._exit(128 + number))
    from lit_mnist.main import main

    main()


if __name__ == "__main__":
    main()
