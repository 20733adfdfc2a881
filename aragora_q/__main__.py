"""Entry point of `aragora-q` and `python -m aragora_q`.

Answers `--version` by itself, since scripts ask for it often: no other import, not even Typer's.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] == ["--version"]:
        from aragora_q import __version__  # noqa: PLC0415 - each branch pays for its own imports

        sys.stdout.write(f"aragora-q {__version__}\n")
        return
    from aragora_q import cli  # noqa: PLC0415

    sys.exit(cli.main())


if __name__ == "__main__":
    main()
