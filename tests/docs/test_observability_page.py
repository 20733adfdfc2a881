"""docs/observability.md as printed, with a receiver: its debates are whole trees."""

import json
import os
import re
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml
from support.docs import blocks, script, shell, write_files
from support.paths import ROOT

from aragora_q.observability.worker_metrics import WorkerMetrics

PAGE = "docs/observability.md"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

pytestmark = pytest.mark.timeout(180)


def run(commands, directory, **variables):
    """Run commands of the page in a directory; return what they print."""
    done = subprocess.run(
        ["bash", "-c", commands],
        capture_output=True, text=True, check=False, timeout=150, cwd=directory,
        env={
            **os.environ, **variables,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def path_to(receiver, name, trace_id):
    """The names of the spans above one of these, in a trace."""
    return receiver.parents(next(s for s in receiver.named(name) if s.trace_id == trace_id))


def test_the_commands_work(receiver, tmp_path):
    """From a shell, and from a program with its own tracer, a debate is one tree down to the model calls; a
    program of `--exec` continues the tree of its attempt.
    """
    write_files(PAGE, tmp_path)
    for program in tmp_path.glob("*.py"):  # the receiver shares its process with the tests
        program.write_text(re.sub(r"Exporter\(timeout=\d\)", "Exporter()", program.read_text()))
    printed = script(shell(PAGE, "")).replace("http://127.0.0.1:4318", receiver.url)
    said = run(printed, tmp_path, XDG_STATE_HOME=str(tmp_path / "state"))
    [order] = receiver.named("order")
    in_shell = {
        span.attributes["messaging.message.id"]: span.trace_id
        for span in receiver.named("run debates")
    }
    assert path_to(receiver, "count words", in_shell["words"]) == ["run debates"]  # from lines
    for trace_id, root in ((in_shell["tea"], []), (order.trace_id, ["order"])):
        above = path_to(receiver, "chat demo:careful", trace_id)
        assert above == [
            *("call demo:careful", "debate propose", "run debates", "enqueue debates"), *root
        ]  # fmt: skip
    assert in_shell["tea"] in said, "status names the trace"


def test_the_collector_reads_what_lines_have():
    """The fields that its configuration takes from a line are fields of the line that the page shows."""
    [collector] = [block.text for block in blocks(PAGE) if block.language == "yaml"]
    assert yaml.safe_load(collector)["service"]
    line = next(
        line for block in blocks(PAGE) for line in block.text.splitlines() if line[0] == "{"
    )
    taken = set(re.findall(r"attributes\.(\w+)", collector))
    assert taken == {"level", "trace_id", "span_id"} <= set(json.loads(line))


def test_the_objective_has_all_buckets():
    """The page and the comment in rules.yml list the buckets that the histogram has."""
    [latency] = WorkerMetrics("debates").queue_latency.collect()
    bounds = [float(sample.labels["le"]) for sample in latency.samples if "le" in sample.labels]
    for path in (PAGE, "deploy/prometheus/rules.yml"):
        text = (ROOT / path).read_text(encoding="utf-8")
        listed = re.search(r"\b([0-9][0-9., ]+) or ([0-9]+)", text)
        numbers = [*listed[1].split(", "), listed[2]]
        assert [*map(float, numbers)] == bounds[:-1]


def test_the_shell_program_passes_the_trace_on(redis_url, tmp_path):
    """forward.sh sends the header of its attempt, also from a worker that does not trace."""
    for program in ("jq", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {program}")
    write_files(PAGE, tmp_path)
    (tmp_path / "forward.sh").chmod(0o755)
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append(self.headers["traceparent"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"final_answer": "to be"}')

        def log_message(self, *_args):
            """No log."""

    with HTTPServer(("127.0.0.1", 0), Handler) as service:
        thread = Thread(target=service.serve_forever)
        thread.start()
        try:
            commands = """
                echo '{"payload": {"question": "To be?"}}' | aragora-q enqueue - --quiet
                aragora-q worker --exec ./forward.sh --burst
            """
            run(
                commands, tmp_path, REDIS_URL=redis_url,
                TRACEPARENT=TRACE,
                SERVICE_URL=f"http://127.0.0.1:{service.server_port}",
            )  # fmt: skip
        finally:
            service.shutdown()
            thread.join()
    assert received == [TRACE]
