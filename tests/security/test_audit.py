"""`make audit`: what it says where an advisory is known, none is known, or nobody can be asked."""

import importlib.metadata
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
ADVISORY = {
    "id": "PYSEC-0000-1",
    "affected": [{"package": {"name": "redis", "ecosystem": "PyPI"}}],
}


def audit(*advisories):
    """Run it on the packages of this environment, without setting anything up."""
    return subprocess.run(
        ["make", "--old-file", "setup", "audit", f"BIN={TOOLS}", f"ADVISORIES={' '.join(advisories)}"],
        cwd=TREE, capture_output=True, text=True, check=False,
    )  # fmt: skip


class Advisories(ThreadingHTTPServer):
    """Speaks OSV's protocol, and knows of the packages that it is told of."""

    def __init__(self, known):
        self.known, self.asked = known, {}
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def options(self):
        url = f"http://127.0.0.1:{self.server_port}/v1/query"
        return "--vulnerability-service", "osv", "--osv-url", url

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = asked["package"]["name"]
        self.server.asked[name] = asked["version"]
        vulnerable = [ADVISORY] if name in self.server.known else []
        body = json.dumps({"vulns": vulnerable} if vulnerable else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_every_package_is_asked_about():
    """All packages, those of run time and those of development, each in the version installed."""
    with Advisories(known=()) as service:
        done = audit(*service.options)
        assert done.returncode == 0, done.stdout + done.stderr
        for name in ("redis", "hiredis", "uvloop", "pydantic-core", "pytest", "matplotlib"):
            assert service.asked[name] == importlib.metadata.version(name)
        assert "aragora-q" not in service.asked


def test_advisory_fails_the_audit():
    """A vulnerable package is named, with its advisory, and the exit code tells."""
    with Advisories(known={"redis"}) as service:
        done = audit(*service.options)
    assert done.returncode != 0
    assert "redis" in done.stdout
    assert ADVISORY["id"] in done.stdout


def test_silence_is_no_answer():
    """Where nobody answers, the audit fails: it does not say that all is well."""
    with Advisories(known=()) as service:
        options = service.options
    done = audit(*options)
    assert done.returncode != 0
    assert "No known vulnerabilities" not in done.stdout + done.stderr


@pytest.mark.parametrize("service", ["pypi", "osv"])
def test_no_vulnerability_is_known(service, tmp_path):
    """The public advisories know nothing against any of our packages."""
    canary = tmp_path / "requirements.txt"
    canary.write_text("requests==2.19.1\n")  # its advisories are years old
    known = subprocess.run(
        [TOOLS / "pip-audit", "--requirement", canary, "--no-deps", "--disable-pip", "--strict",
         "--progress-spinner", "off", "--timeout", "5", "--vulnerability-service", service],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "PYSEC-" not in known.stdout + known.stderr:
        pytest.skip(f"{service} does not answer here: {known.stderr.strip().splitlines()[-1]}")
    done = audit("--vulnerability-service", service)
    assert done.returncode == 0, done.stdout
