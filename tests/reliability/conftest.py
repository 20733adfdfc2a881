"""Shims compiled once per run, and servers that run under them."""

import os
import subprocess
from pathlib import Path

import pytest
from support import servers

SHIMS = Path(__file__).parent / "shims"


@pytest.fixture(scope="session")
def shim(tmp_path_factory):
    """Returns the path of a compiled shim by its name; skips the test if there is no C compiler."""
    directory = tmp_path_factory.mktemp("shims")

    def compiled(name):
        target = directory / f"{name}.so"
        if not target.exists():
            command = ["gcc", "-O2", "-shared", "-fPIC", "-o", target, SHIMS / f"{name}.c", "-ldl"]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except FileNotFoundError:
                pytest.skip("no gcc: apt-get install gcc libc6-dev")
        return str(target)

    return compiled


@pytest.fixture
def preloaded_server(shim):
    """Starts servers under a shim: `preloaded_server("clock", binary, *args, VARIABLE=…)`."""
    started = []

    def start(name, binary, *args, **variables):
        try:
            server = servers.Server(binary(), *args)
        except servers.Unavailable as reason:
            pytest.skip(str(reason))
        server.environment = {**os.environ, **variables, "LD_PRELOAD": shim(name)}
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()
