"""Entry point of `aragora-q` and `python -m aragora_q`.

Handles `--version` without importing the command line, because scripts call it often.
"""

from __future__ import annotations

import gc
import sys

GC_THRESHOLD = 50_000


def main() -> None:
    """Run the command line and exit with its code."""
    # Collecting garbage during imports and at exit takes a quarter of a short command's time.
    gc.set_threshold(GC_THRESHOLD)
    try:
        _run()
    finally:
        gc.freeze()


def _run() -> None:
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        from aragora_q import __version__  # noqa: PLC0415 - imported only when needed

        sys.stdout.write(f"aragora-q {__version__}\n")
        return
    from aragora_q import cli  # noqa: PLC0415

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
