"""A browser, and a console with all roles in front of it. Both are shared by the tests of a file."""

import asyncio
import threading

import pytest
from support import chromium as browsers
from support import consoles, servers

from aragora_q.config.settings import QueueConfig
from aragora_q.streams.queue import create_redis_queue
from aragora_q.web.roles import Role


def pytest_collection_modifyitems(items):
    """Skip where there is nothing to test with."""
    if browsers.find_chromium() is None:
        reason = pytest.mark.skip(reason="no Chromium: apt-get install chromium")
        for item in items:
            if "/browser/" in str(item.path):
                item.add_marker(reason)


@pytest.fixture(scope="module")
def chromium():
    """The browser. Not of the session: its event loop is in this thread, where other tests run theirs."""
    with browsers.running_chromium(browsers.find_chromium()) as browser:
        yield browser


class Desk:
    """A Redis with a user for each role, a console on it, and what the browser needs to log in."""

    def __init__(self, directory):
        self.server = servers.Server(servers.any_server()).start()
        self.urls = consoles.make_users(self.server)
        self.redis = self.server.client()
        self.tokens = consoles.write_tokens(directory / "tokens", *Role)
        variables = consoles.settings(
            self.urls,
            ARAGORA_QUEUE_WEB_TOKENS_FILE=str(directory / "tokens"),
            ARAGORA_QUEUE_DEFAULT_AGENTS="demo:bold,demo:careful,demo:curious",
        )
        self.console = consoles.ConsoleProcess(directory, **variables)
        self.admin_url = f"redis://admin:admin@127.0.0.1:{self.server.port}"
        self._states = {}

    @property
    def address(self):
        return f"http://127.0.0.1:{self.console.port}"

    def start(self):
        self.console.start()
        return self

    def state(self, role):
        """The cookies of a browser that is logged in as `role`; one login is used by all."""
        if role not in self._states:
            cookie = self.console.post("/login", token=self.tokens[role]).cookie
            name, _, value = cookie.partition("=")
            cookies = [{"name": name, "value": value, "domain": "127.0.0.1", "path": "/", "expires": -1,
                        "httpOnly": True, "secure": False, "sameSite": "Strict"}]  # fmt: skip
            self._states[role] = {"cookies": cookies, "origins": []}
        return self._states[role]

    def run(self, use):
        """Run an async function of a queue with every right to its end; return what it returns."""

        async def run():
            queue = await create_redis_queue(QueueConfig(redis_url=self.admin_url))
            try:
                return await use(queue)
            finally:
                await queue.close()

        return in_thread(run)

    def stop(self):
        self.console.stop()
        self.redis.close()
        self.server.stop()


def in_thread(function):
    """Run an async function in a thread: this one has the event loop of the browser."""
    answers, errors = [], []

    def run():
        try:
            answers.append(asyncio.run(function()))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A console with all roles."""
    desk = Desk(tmp_path_factory.mktemp("console"))
    try:
        yield desk.start()
    finally:
        desk.stop()


@pytest.fixture
def new_window(chromium):
    """Opens windows; after the test, none of their pages may have said or done what none may."""
    opened = []

    def open_window(address, **options):
        opened.append(browsers.Window(chromium, address, **options))
        return opened[-1]

    yield open_window
    for window in opened:
        window.close()
    assert [problem for window in opened for problem in window.problems] == []


@pytest.fixture
def window(desk, new_window):
    """The window of an operator."""
    return new_window(desk.address, state=desk.state(Role.OPERATOR))
