"""Files that are replaced as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, *, alone: bool = True) -> Iterator[Path]:
    """Where to write what is to be ``path``. At every moment that is absent, the old file or the new one.

    If the block raises, or its process is killed, ``path`` stays as it was. What a kill leaves behind is
    overwritten by the next writer; not so if processes may write at the same time (``alone`` is false), since
    each has a file of its own then.
    """
    unfinished = path.with_name(f".{path.name}.{'' if alone else f'{os.getpid()}.'}unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
