"""A console with all roles on a Redis with their users, shared by the tests that only send requests."""

import pytest
from support import consoles, servers

from aragora_q.web.roles import Role


@pytest.fixture(scope="session")
def acl_server():
    """A Redis with a user for each role, in `urls`."""
    server = servers.Server(servers.any_server()).start()
    server.urls = consoles.make_users(server)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def console(acl_server, tmp_path_factory):
    """A console with all roles, and the `tokens` of each."""
    directory = tmp_path_factory.mktemp("console")
    tokens = consoles.write_tokens(directory / "tokens", *Role)
    variables = consoles.settings(
        acl_server.urls, ARAGORA_QUEUE_WEB_TOKENS_FILE=str(directory / "tokens")
    )
    console = consoles.ConsoleProcess(directory, **variables).start()
    console.tokens = tokens
    yield console
    console.stop()


PATIENCE = """\
from aragora_q.web import guard, server
guard.STOP_SECONDS, server.STOP_SECONDS = 30.0, 60.0
"""


@pytest.fixture
def patient(tmp_path):
    """The environment of consoles that stop when requests have ended, on a machine that stands still, too."""
    (tmp_path / "sitecustomize.py").write_text(PATIENCE)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.fixture
def start_console(tmp_path):
    """Starts consoles, and ends them after the test."""
    started = []

    def start(*args, **variables):
        started.append(consoles.ConsoleProcess(tmp_path, *args, **variables))
        return started[-1].start()

    yield start
    for each in started:
        each.stop()
