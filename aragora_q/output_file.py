"""Write a file that an operator names, so that its readers never see half of it.

Used by `stats --prometheus` and `show --output`.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from aragora_q.errors import ConfigError


def write_file(path: Path, data: bytes, mode: int | None = None) -> None:
    """Write `data`, UTF-8 text, to a file, atomically; `-` is standard output. As `open_file`."""
    with open_file(path, mode) as write:
        write(data)


@contextmanager
def open_file(path: Path, mode: int | None = None) -> Iterator[Callable[[bytes], object]]:
    """Yield a function that writes UTF-8 text, in parts that are whole characters; `-` is standard output.

    The file appears at the end, whole; after an exception, what was there before is left. A file that exists is
    replaced; a link to it is kept. Without `mode`, its permissions follow the umask.

    Raises:
        ConfigError: the file cannot be written.
    """
    if str(path) == "-":
        yield lambda data: sys.stdout.write(data.decode())
        return
    try:
        path = path.resolve()
        # Replacing a device would break it for every program.
        if path.exists() and not path.is_file():
            raise ConfigError(
                f"cannot write {path}: not a regular file", hint="use - for standard output"
            )
        temporary = path.with_name(f".aragora-q.{secrets.token_hex(8)}")
        try:
            with temporary.open("xb") as file:
                yield file.write
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # leave no partial file on a full disk
    except OSError as error:
        raise ConfigError(
            f"cannot write {path}: {error.strerror}",
            hint="check that the directory exists and is writable",
        ) from None
