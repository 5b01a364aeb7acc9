"""Atomic writes: a file appears complete, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to ``path`` when the block ends without an error.

    Raises:
        OSError: The file could not be written; an existing file of that name is unchanged.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        yield part
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a full disk names no file
        raise
    finally:
        part.unlink(missing_ok=True)
