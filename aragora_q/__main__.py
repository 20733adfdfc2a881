"""Entry point of `aragora-q` and `python -m aragora_q`.

Answers `--version` by itself, since scripts ask for it often: no other import, not even Typer's.
"""

from __future__ import annotations

import gc
import sys

GC_THRESHOLD = 50_000


def main() -> None:
    """Run the command line and exit with its code."""
    # A quarter of a short command's time would go into looking for garbage among what was imported:
    # while that goes on, and once more at the end, when the process goes anyway.
    gc.set_threshold(GC_THRESHOLD)
    try:
        _run()
    finally:
        gc.freeze()


def _run() -> None:
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        from aragora_q import __version__  # noqa: PLC0415 - each branch pays for its own imports

        sys.stdout.write(f"aragora-q {__version__}\n")
        return
    from aragora_q import cli  # noqa: PLC0415

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
