"""Files that appear whole under their name, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def write_whole(path: Path) -> Iterator[Path]:
    """Give a path to write to; what was written there takes the name of ``path`` when the block ends without error.

    Raises:
        OSError: The file could not be written; a file of that name from before is as it was.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # two processes may write the same file
    try:
        yield part
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without one
        raise
    finally:
        part.unlink(missing_ok=True)
