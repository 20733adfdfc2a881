"""Entry point of `aragora-q` and `python -m aragora_q`.

Handles `--version` without importing the command line, because scripts call it often.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the current directory, where `python -m` looks first: it may be anyone's

import gc
import os

from aragora_q import __version__

GC_THRESHOLD = 200_000
"""New objects after which a command looks for garbage; a short one makes fewer, and saves a tenth of its time.
One that stays calls `process.stay`."""


class _RedisWithoutMetrics:
    """Hides OpenTelemetry's SDK from redis-py while redis-py is being imported.

    redis-py imports the SDK, where it is installed, for the type in one annotation, and every command would
    pay for that in time and memory. Its metrics work without that import, also those that an executor turns
    on. All other modules find the SDK.
    """

    @staticmethod
    def find_spec(name: str, _path: object = None, _target: object = None) -> None:
        if name.startswith("opentelemetry.sdk"):
            redis = sys.modules.get("redis")
            if redis is not None and not hasattr(redis, "__all__"):  # it is being imported
                raise ModuleNotFoundError(name)


def main() -> None:
    """Run the command line and exit with its code."""
    gc.set_threshold(GC_THRESHOLD)
    sys.meta_path.insert(0, _RedisWithoutMetrics)
    if "OTEL_PYTHON_CONTEXT" in os.environ:
        import logging  # noqa: PLC0415 - without the variable, no command pays for it here

        # It logs a traceback if it cannot use the variable, in each command, because redis-py imports it.
        logging.getLogger("opentelemetry.context").disabled = True
    try:
        code = _run()
    finally:
        gc.freeze()
    if sys.flags.inspect:  # PYTHONINSPECT: Python would go on with a prompt, and exit with its code
        from aragora_q import process  # noqa: PLC0415 - --version does without it

        process.end_with(code)
    sys.exit(code)


def _run() -> int:
    if sys.argv[1:] == ["--version"] and sys.stdout is not None:
        try:
            sys.stdout.write(f"aragora-q {__version__}\n")
            sys.stdout.flush()
        except OSError:
            pass  # the command line reports it
        else:
            return 0
    from aragora_q import process  # noqa: PLC0415 - --version does without it

    process.prepare()
    from aragora_q import cli  # noqa: PLC0415 - its imports must not run before signals end the process

    return cli.main()


if __name__ == "__main__":
    main()
