"""The process of a command: what it inherits from its caller, and how a signal ends it.

`__main__` calls `prepare` before it imports the command line. From then on SIGTERM and SIGINT end the
process at once; within `interruptible` they raise an exception, so that a command can clean up. The
launcher replaces both while a worker runs. Imports almost nothing, because it comes first.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

CLEAN_UP_SECONDS = 5
"""How long a command that a signal interrupts may take to clean up; then it ends without."""


GC_THRESHOLD = 50_000
"""New objects after which a process that stays looks for garbage."""


class Interrupted(KeyboardInterrupt):
    """Signal `number` arrived within `interruptible`. Event loops let this exception through."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


def prepare() -> None:
    """Undo what a caller may have left behind that would make a command lose data or signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the exit codes of children are lost
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in stop_signals():  # instead of a KeyboardInterrupt in the middle of an import
        signal.signal(number, signal.SIG_DFL)
    if os.getpid() == 1:
        _run_in_child()
    _forget_current_directory()
    _restore_standard_streams()


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return SIGTERM and SIGINT; without SIGINT if it is ignored, as in background jobs of a script."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return (signal.SIGTERM,)
    return signal.SIGTERM, signal.SIGINT


def stay() -> None:
    """Look for garbage more often from now on; what is there now stays, too."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise Interrupted when a stop signal arrives. A second signal ends the process at once.

    So does the end of CLEAN_UP_SECONDS: for example, a look-up of a name cannot be interrupted.
    """
    previous = {number: signal.signal(number, _interrupt) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, _frame: object) -> NoReturn:
    for each in stop_signals():
        signal.signal(each, signal.SIG_DFL)
    end_soon(number)
    # The exception may arise between the call of a coroutine and its await.
    warnings.simplefilter("ignore", RuntimeWarning)
    raise Interrupted(signal.Signals(number))


def end_soon(number: int) -> None:
    """End by signal `number` in CLEAN_UP_SECONDS, if the process has not ended until then."""
    signal.signal(signal.SIGALRM, lambda *_: _die(number))
    signal.alarm(CLEAN_UP_SECONDS)


def end_by(number: signal.Signals) -> NoReturn:
    """Write what is buffered and end by signal `number`: shells report 128 + `number`.

    Threads that still run are not waited for.
    """
    _flush()
    _die(number)


def end_with(code: int) -> NoReturn:
    """Write what is buffered and end with exit code `code`, without waiting for threads."""
    _flush()
    os._exit(code)


def _flush() -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    if logging := sys.modules.get("logging"):
        logging.shutdown()


def _die(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # if the caller is process 1, which signals do not end


def child_environment() -> dict[str, str]:
    """Return the environment for a Python that runs a module of this package, or of one it needs.

    It finds the modules that this process finds, and none in the current directory.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONINSPECT"}
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)  # noqa: PTH100 - keeps links
    return {**environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _forget_current_directory() -> None:
    """Undo an empty entry of PYTHONPATH, such as `$PYTHONPATH:/opt/x` makes: modules there may be anyone's."""
    path = os.environ.get("PYTHONPATH")
    if not path or "" not in (entries := path.split(os.pathsep)):
        return
    wanted = {os.path.dirname(os.path.dirname(__file__)), os.path.dirname(os.__file__)}  # noqa: PTH120 - pathlib is slow
    with suppress(OSError, ValueError):  # deleted, or not on the path
        here = os.getcwd()  # noqa: PTH109 - likewise
        if here not in wanted.union(map(os.path.abspath, filter(None, entries))):
            sys.path.remove(here)


def _run_in_child() -> None:
    """Return in a child process; this one, process 1 of a container, only looks after it.

    The kernel gives process 1 no default action for signals, and all orphans of the container. So it
    passes every signal on, reaps every child, and ends as the command does.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        command = os.fork()
    except OSError as error:
        sys.exit(
            f"aragora-q: error: cannot start a second process: {error.strerror}\n"
            "  hint: see the limits of the container"
        )
    if command == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return
    while True:
        arrived = signal.sigwaitinfo(signal.valid_signals())
        if arrived.si_signo != signal.SIGCHLD:
            is_from_process = arrived.si_code <= 0  # those of a terminal reach the command, too
            if is_from_process:
                os.kill(command, arrived.si_signo)
            continue
        for pid, status in _ended_children():
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                os._exit(code if code >= 0 else 128 - code)


def _ended_children() -> Iterator[tuple[int, int]]:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            yield ended


def _restore_standard_streams() -> None:
    """Make standard streams blocking, and open those that the caller closed (`>&-`).

    On a stream that does not block, Python takes "nothing yet" for the end of the input, and drops
    output that does not fit. The number of a closed one would go to the next file or socket.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.set_blocking(descriptor, True)
        except OSError:
            # For writing only, also in place of stdin: reading from a closed stdin is an error.
            os.set_inheritable(os.open(os.devnull, os.O_WRONLY), True)  # the lowest number is free
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - stays open
