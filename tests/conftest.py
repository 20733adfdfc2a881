"""Fixtures for all: real servers, one of each kind per run, flushed before every test."""

import logging
import os

import backends
import pytest
import redis
import servers


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        choices=list(backends.BACKENDS),
        help="run the contract suite on this backend only (may be given more than once)",
    )
    parser.addoption(
        "--nemesis-seconds", type=float, default=20, help="how long the nemesis breaks things"
    )
    parser.addoption("--nemesis-seed", type=int, default=None, help="repeat this seed's choices")


_pool = backends.Pool()


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--backend") or list(backends.BACKENDS)
        metafunc.parametrize("backend", wanted, indirect=True)


def pytest_terminal_summary(terminalreporter):
    for line in _pool.summary():
        terminalreporter.write_line(line)


def pytest_unconfigure():
    _pool.stop()


@pytest.fixture
def backend(request):
    """Every backend in turn, emptied; whatever a test does, its user is refused nothing."""
    backend = _pool.get(request.param)
    yield backend
    assert backend.refusals() == []


@pytest.fixture
def shared():
    """Gives a backend by its name, emptied, which the test must leave as it found it."""
    return _pool.get


@pytest.fixture
def redis_url():
    """URL of an empty, fast, single server."""
    return _pool.get(backends.FAST).url


@pytest.fixture
def raw(redis_url):
    """A plain client on `redis_url`."""
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield client


@pytest.fixture
def own_server():
    """Starts servers of the test's own, which it may kill: `own_server("--appendonly", "yes")`.

    `binary` finds another server than the usual one; the test is skipped where that is missing.
    """
    started = []

    def start(*args, binary=servers.any_server):
        try:
            server = servers.Server(binary(), *args)
        except servers.Unavailable as reason:
            pytest.skip(str(reason))
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.stop()


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch, tmp_path):
    """Nothing from the machine's environment, home or current directory reaches a test."""
    for name in list(os.environ):
        if name.startswith(("REDIS_", "ARAGORA_", "XDG_")) or name in {"NOTIFY_SOCKET", "NO_COLOR"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    yield
    from aragora_q.config.settings import set_queue_config

    set_queue_config(None)
    logging.getLogger("aragora_q").setLevel(logging.NOTSET)
