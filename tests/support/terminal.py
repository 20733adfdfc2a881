"""A command in a real terminal: a pseudo-terminal whose screen pyte draws, as xterm would."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time

import pyte
from support import processes

KEYS = {"enter": "\r", "escape": "\x1b", "ctrl-c": "\x03", "ctrl-z": "\x1a", "down": "\x1b[B"}
SECONDS = 60
SETUP = ("setsid", "--ctty", "env", "--default-signal")
"""Makes the terminal the command's own. Under nohup, the tests ignore SIGHUP; the command must not."""


class Terminal:
    """`aragora-q ARGS` in a terminal. `output` is all that it wrote, as bytes."""

    def __init__(self, *args, columns=80, lines=24, env=None, prefix=()):
        self.master, self._slave = pty.openpty()
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self._lock = threading.Lock()
        self.output = b""
        self._set_size(columns, lines)
        self.modes_before = termios.tcgetattr(self._slave)
        environment = {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})}
        self.process = subprocess.Popen(
            [*SETUP, *prefix, *processes.cli(*args)],
            env=processes.env(**environment),
            stdin=self._slave, stdout=self._slave, stderr=self._slave,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self):
        """End the command, and the terminal."""
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self):
        """Close the terminal, as the end of an SSH connection does."""
        for descriptor in (self._slave, self.master):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self._reader.join()

    def _set_size(self, columns, lines):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65_536):
                with self._lock:
                    self.output += data
                    self._stream.feed(data)

    def resize(self, columns, lines):
        with self._lock:
            self._screen.resize(lines, columns)
        self._set_size(columns, lines)

    def press(self, *keys):
        for key in keys:
            os.write(self.master, KEYS.get(key, key).encode())

    @property
    def lines(self):
        with self._lock:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self):
        return "\n".join(self.lines)

    def wait_until(self, condition):
        """Wait until a condition is true."""
        end = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < end, self.text
            time.sleep(0.02)

    def wait_for(self, *texts, without=()):
        """Wait until the screen has all texts, and none of `without`; return it."""

        def is_shown():
            shown = self.text
            return all(text in shown for text in texts) and not any(
                text in shown for text in without
            )

        self.wait_until(is_shown)
        return self.text

    def wait_for_end(self):
        """Wait until the command has ended; return its exit code."""
        return self.process.wait(SECONDS)

    def wait_until_stopped(self):
        """Wait until the command is suspended."""
        pid, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert pid == self.process.pid
        assert os.WIFSTOPPED(status)

    def send(self, number):
        self.process.send_signal(signal.Signals(number))

    def is_as_before(self):
        """Whether the terminal is as the command found it: line mode, main screen, cursor, no reports."""
        modes = termios.tcgetattr(self._slave) == self.modes_before
        pairs = [
            (b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"),
            (b"\x1b[?2004h", b"\x1b[?2004l"), (b"\x1b[?1004h", b"\x1b[?1004l"),
            (b"\x1b[?7l", b"\x1b[?7h"), (b"\x1b[>", b"\x1b[<u"),
        ]  # fmt: skip
        with self._lock:
            return modes and all(
                self.output.rfind(off) > self.output.rfind(on) >= 0 for on, off in pairs
            )
