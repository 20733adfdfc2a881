"""Fixtures for all tests: real servers, emptied before every test; queues and workers on them."""

import gc
import logging
import os
import time
from collections import Counter
from types import SimpleNamespace

import pytest
from _pytest.unraisableexception import collect_unraisable
from hypothesis import HealthCheck, settings
from support import backends, processes, servers, topologies
from support.docs import SUBSTITUTES
from support.queue_harness import QueueHarness, check_and_close
from support.spans import receiving
from support.wait import stay_in_one_day
from support.worker_processes import WorkerProcess
from support.workers import WorkerPool

pytest_plugins = ["support.images"]

# An example takes as long as the machine does: by default, one that takes 0.2 s fails its test.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        choices=[*backends.BACKENDS, "any"],
        help="run the contract suite on this backend only (may be given more than once);"
        f" any: {backends.FAST}",
    )
    parser.addoption(
        "--nemesis-seconds", type=float, default=20, help="how long the nemesis injects faults"
    )
    parser.addoption("--nemesis-seed", type=int, default=None, help="repeat this seed's choices")
    parser.addoption(
        "--money-examples", type=int, default=30, help="how many histories of paid calls are tried"
    )


_pool = backends.Pool()


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        wanted = metafunc.config.getoption("--backend") or list(backends.BACKENDS)
        names = [backends.FAST if name == "any" else name for name in wanted]
        metafunc.parametrize("backend", names, indirect=True)


NEEDS = {"docker": "container", "wheels": "network", "dist": "network", "smollm2": "network"}
"""Markers that a test gets by the fixtures that it uses."""


def pytest_collection_modifyitems(items):
    _give_own_ids(items)
    for item in items:
        used = set(item.fixturenames)
        if hasattr(item, "callspec"):
            used.add(item.callspec.params.get("backend"))
        for name in used & set(NEEDS):
            item.add_marker(NEEDS[name])


def _give_own_ids(items):
    """Give every test its id: of those that share one, as Schemathesis does, `-n` runs only the first."""
    counts = Counter(item.nodeid for item in items)
    for item in items:
        if counts[item.nodeid] > 1:
            item._id = item.parent.id.child(item.name)
    shared = [nodeid for nodeid, count in Counter(i.nodeid for i in items).items() if count > 1]
    if shared:
        raise pytest.UsageError(f"several tests have the id {shared[0]}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """Collect what the test left open, so that its warning fails this test and not a later one."""
    result = yield
    item.funcargs.clear()
    gc.collect()
    gc.freeze()  # what is left, mostly modules, is not looked at after every test
    collect_unraisable(item.config)
    return result


IMAGES = ("tests/docs/", "tests/packaging/")
"""Folders that share the packages, images and containers of support/images.py."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`: each file runs in one process, and all that need images in the same, to build them once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return "images" if nodeid.startswith(IMAGES) else nodeid.partition("::")[0]

    return Files(config, log)


def pytest_sessionfinish(session):
    """Report the backends of a process of `-n` to the one that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["backends"] = _pool.used()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _used.append(getattr(node, "workeroutput", {}).get("backends", {}))


_used = []


def pytest_terminal_summary(terminalreporter):
    reports = (report for kind in terminalreporter.stats.values() for report in kind)
    if any(getattr(report, "nodeid", "").startswith("tests/docs/") for report in reports):
        for line, (substitute, reason) in SUBSTITUTES.items():
            terminalreporter.write_line(
                f"not run as printed: {line}: {reason}; instead: {substitute}"
            )
    for line in backends.summary([_pool.used(), *_used]):
        terminalreporter.write_line(line)


def pytest_unconfigure():
    _pool.stop()


@pytest.fixture
def backend(request):
    """Every backend in turn, emptied. Fails if the queue's user was denied a command."""
    backend = _pool.get(request.param)
    yield backend
    assert backend.refusals() == []


@pytest.fixture
def shared_server():
    """Returns a backend by its name, emptied; the test must not change the server itself."""
    return _pool.get


@pytest.fixture
def redis_url():
    """URL of an empty single server."""
    return _pool.get(backends.FAST).url


@pytest.fixture
def redis_client(redis_url):
    """A client on `redis_url`."""
    with servers.connect(redis_url) as client:
        yield client


@pytest.fixture
def own_server():
    """Starts servers that the test may kill or reconfigure: `own_server("--appendonly", "yes")`.

    `binary` is a function of `servers` that finds the server; skips the test if it is missing.
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


@pytest.fixture
def spans(monkeypatch):
    """Makes this process trace; `spans.get_finished_spans()` returns the spans that have ended."""
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def receiver():
    """An OTLP receiver: `receiver.url` is for OTEL_EXPORTER_OTLP_ENDPOINT."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
async def harness(redis_url):
    """An empty queue with short delays; invariant Z is checked after the test."""
    harness = QueueHarness(redis_url)
    yield harness
    await check_and_close(harness)


@pytest.fixture
async def new_harness(redis_url):
    """Makes queues with other settings; invariant Z is checked after the test."""
    made = []

    def make(**settings):
        made.append(QueueHarness(settings.pop("redis_url", redis_url), **settings))
        return made[-1]

    yield make
    await check_and_close(*made)


@pytest.fixture
async def worker_pool():
    """Starts workers in this process, and stops them after the test."""
    pool = WorkerPool()
    yield pool
    await pool.stop()


@pytest.fixture
def worker_process(tmp_path):
    """Starts worker processes on a URL or a topology, and kills them after the test."""
    started = []

    def start(server, worker_id="w1", *args, environment=None, **options):
        if isinstance(server, str):
            variables = processes.env(REDIS_URL=server)
        else:
            variables = topologies.environment(server)
        variables |= environment or {}
        started.append(WorkerProcess(tmp_path, worker_id, variables, *args, **options).start())
        return started[-1]

    yield start
    for worker in started:
        if worker.is_alive:
            worker.kill()


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, which event loops use, too: `clock.ahead_seconds` puts it forward.

    So a limit can be so long that no machine is too slow for it. The test may not wait meanwhile by
    `wait_until`, whose time would be over.
    """
    clock, real = SimpleNamespace(ahead_seconds=0.0), time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + clock.ahead_seconds)
    return clock


@pytest.fixture
def within_a_day():
    """Keep the test within one UTC day: daily budgets reset at midnight."""
    stay_in_one_day(30)


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch, tmp_path):
    """Hide the settings in this machine's environment, home and current directory from tests."""
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
