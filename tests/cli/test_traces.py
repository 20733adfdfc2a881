"""Commands that enqueue continue the trace of the shell that calls them, and send their spans if asked."""

import json
import os
import socketserver
import threading
from contextlib import ExitStack, contextmanager

import pytest
from support import servers

from aragora_q.labels import JobFilter
from aragora_q.observability import otel
from aragora_q.observability.otel.variables import GRPC_HINT

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
DEBATE = ("Tea or coffee?", "--agents", "demo,demo")
WEEKLY = "[schedules.weekly]\ncron = '0 6 * * MON'\ntime_zone = 'UTC'\njob = {payload = {}}\n"


@pytest.fixture
def patient(tmp_path, monkeypatch):
    """Commands that run as processes wait for receivers for a minute, so that a slow machine loses no span."""
    (tmp_path / "sitecustomize.py").write_text(
        "from aragora_q.observability import otel\notel.EXIT_SECONDS = otel.PROBE_SECONDS = 60.0\n"
    )
    path = (str(tmp_path), os.environ.get("PYTHONPATH"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, path)))


async def _traces(harness, *ids):
    return [(await harness.queue.get_job(each)).trace for each in ids]


async def test_jobs_carry_the_context_of_the_shell(cli_command, harness, tmp_path):
    """TRACEPARENT and TRACESTATE, in each command that enqueues, with no variable of OpenTelemetry."""
    shell = {
        "TRACEPARENT": PARENT,
        "TRACESTATE": "vendor=1",
        "ARAGORA_QUEUE_NAME": harness.config.queue,
    }
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "Tea?"}))
    (tmp_path / "weekly.toml").write_text(WEEKLY)
    sweep = ("questions.jsonl", "--group", "g", "--agents", "demo,demo", "--arm", "a", "--yes")
    commands = (
        (("enqueue", *DEBATE, "--quiet"), ""),
        (("enqueue", "-", "--quiet"), '{"payload": {}}\n'),
        (("sweep", *(str(tmp_path / each) if "." in each else each for each in sweep), "-q"), ""),
        (("schedule", "run", "weekly", "--quiet", "--config", tmp_path / "weekly.toml"), ""),
    )
    for command, stdin in commands:
        done = cli_command(*command, stdin=stdin, env=shell)
        assert done.code == 0, done.err
        [job_id] = done.lines
        assert await _traces(harness, job_id) == [f"{PARENT} vendor=1"], command


async def test_the_job_that_follows_a_group_carries_the_context_of_the_shell(cli_command, harness):
    """It is enqueued when the group ends, whichever command or worker ends it."""
    await harness.enqueue("a", group="g")
    shell = {"TRACEPARENT": PARENT, "ARAGORA_QUEUE_NAME": harness.config.queue}
    done = cli_command("group", "seal", "g", "--then", "-", stdin='{"payload": {}}', env=shell)
    assert done.code == 0, done.err
    await harness.queue.cancel("a")
    assert await _traces(harness, "g.then") == [PARENT]


async def test_the_debates_of_an_evaluation_carry_the_context_of_the_shell(
    cli_command, harness, tmp_path
):
    """No worker runs them here, so that `eval` ends at its time limit."""
    pytest.importorskip("scipy")
    (tmp_path / "questions.jsonl").write_text('{"question": "Is 2 prime?", "expected": true}')
    done = cli_command(
        "eval", tmp_path / "questions.jsonl", "--group", "g", "--agents", "demo,demo", "--yes",
        "--timeout", "0.05",
        env={"TRACEPARENT": PARENT, "ARAGORA_QUEUE_NAME": harness.config.queue},
    )  # fmt: skip
    assert done.code == 124, done.err
    ids = [job_id async for page in harness.queue.find(JobFilter()) for job_id in page]
    assert set(await _traces(harness, *ids)) == {PARENT}


async def test_a_purge_sends_its_span(cli_command, harness, receiver, patient):
    """Its span has the number of deleted jobs."""
    await harness.enqueue("a")
    await harness.queue.cancel("a")
    environment = {
        "ARAGORA_QUEUE_NAME": harness.config.queue,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
    }
    done = cli_command("purge", "--older-than", "0s", "--yes", env=environment)
    assert done.code == 0, done.err
    [span] = receiver.named(f"maintain {harness.config.queue}")
    assert span.attributes["aragora_q.purged"] == 1


@pytest.mark.parametrize("traceparent", ["", "garbage", PARENT.upper(), f"{PARENT}-x"])
async def test_an_invalid_context_is_none(cli_command, harness, traceparent):
    """The job is enqueued without a trace, and nothing is printed about it."""
    shell = {"TRACEPARENT": traceparent, "ARAGORA_QUEUE_NAME": harness.config.queue}
    done = cli_command("enqueue", *DEBATE, "--id", "job", env=shell)
    assert (done.code, done.out, done.err) == (0, "job enqueued\n", "")
    assert await _traces(harness, "job") == [""]


async def test_the_span_of_a_command_is_sent(cli_command, harness, receiver, patient):
    """It is a child of the shell's, and the job carries it."""
    shell = {
        "TRACEPARENT": PARENT,
        "ARAGORA_QUEUE_NAME": harness.config.queue,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
    }
    done = cli_command("enqueue", *DEBATE, "--id", "job", env=shell)
    assert (done.code, done.out, done.err) == (0, "job enqueued\n", "")
    [span] = receiver.named(f"enqueue {harness.config.queue}")
    assert (span.kind, span.trace_id, span.parent_id) == ("producer", TRACE, PARENT[36:52])
    assert await _traces(harness, "job") == [f"00-{TRACE}-{span.span_id}-01"]
    assert not any(b"Tea" in body for body in receiver.bodies)


CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


def _found(done):
    """Severity and detail of doctor's findings about the environment."""
    assert "SECRET" not in done.out + done.err
    return [
        (each["severity"], each["detail"])
        for each in done.object["findings"]
        if each["check"] == "environment"
    ]


def test_doctor_asks_the_receivers(cli_command, receiver, patient):
    """An empty request for each signal; notes say what goes where. No secret is in them."""
    url = receiver.url.replace("://", "://user:SECRET@") + "/SECRET"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{receiver.url}/v1/metrics?key=SECRET",
        "OTEL_METRICS_EXPORTER": "console,otlp",
        "OTEL_TRACES_SAMPLER": "always_on",
        CAPTURE: "Span_Only",
    }
    to = f"otlp at {receiver.url.removeprefix('http://')}"
    assert _found(cli_command("doctor", "--json", env=variables)) == [
        ("note", f"spans are sent: {to}, sampler always_on, content prompts and replies"),
        ("note", "metrics are sent: console"),
        ("note", f"metrics are sent: {to}"),
    ]
    assert receiver.requests == 2
    assert (receiver.spans, receiver.metrics) == ([], [])


@pytest.mark.parametrize(
    ("sampler", "ratio"),
    [("always_off", ""), ("parentbased_always_off", ""), ("parentbased_traceidratio", "0.0")],
)
def test_doctor_says_that_no_trace_begins(cli_command, receiver, patient, sampler, ratio):
    """Neither the sampler nor its ratio is a fault. The exporter may have its name in Python."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": ratio,
    }
    said = f"otlp at {receiver.url.removeprefix('http://')}, sampler {sampler} {ratio}".strip()
    assert _found(cli_command("doctor", "--json", env=variables)) == [
        ("note", f"spans are sent: {said}, so no trace begins here")
    ]
    assert receiver.requests == 1


def test_one_warning_of_each_variable_that_is_not_used(cli_command, receiver, patient):
    """By the command, and by doctor; spans go on."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_PYTHON_CONTEXT": "other",
        "OTEL_PROPAGATORS": "other",
    }
    done = cli_command("enqueue", *DEBATE, "--quiet", env=variables)
    assert [line.partition(" is not used ")[0] for line in done.err.splitlines()] == [
        "warning: OTEL_PYTHON_CONTEXT", "warning: OTEL_PROPAGATORS",
    ]  # fmt: skip
    assert len(receiver.spans) == 1
    asked = cli_command("doctor", "--json", env=variables)
    assert asked.err == ""
    warned = [detail for severity, detail in _found(asked) if severity == "warning"]
    assert [detail.partition(" is not used: ")[0] for detail in warned] == [
        "OTEL_PYTHON_CONTEXT", "OTEL_PROPAGATORS",
    ]  # fmt: skip


def test_disabled_is_one_note(cli_command):
    """Nothing else is said."""
    variables = {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_EXPORTER": "zipkin",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h",
    }
    [(severity, detail)] = _found(cli_command("doctor", "--json", env=variables))
    assert severity == "note"
    assert "OTEL_SDK_DISABLED" in detail


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (403, "HTTP 403: check OTEL_EXPORTER_OTLP_HEADERS"),
        (503, "HTTP 503"),
        ("busy", "HTTP 429"),
        ("silent", "no answer in time"),
        ("down", "ConnectionError: Connection refused"),
        ("grpc", f"no answer in HTTP: {GRPC_HINT}"),
        ("port of gRPC", GRPC_HINT),
    ],
)
def test_doctor_says_why_spans_do_not_arrive(request, cli_command, receiver, state, reason):
    """The finding has the receiver and the reason, also if the receiver never answers."""
    url = receiver.url
    if state != "silent":
        request.getfixturevalue("patient")
    with ExitStack() as stack:
        if isinstance(state, int):
            receiver.status = state
        elif state == "busy":
            receiver.status, receiver.headers = 429, {"Retry-After": "100"}
        elif state == "silent":
            receiver.may_answer.clear()
        elif state == "down":
            url = f"http://localhost:{servers.free_port()}"
        elif state == "port of gRPC":
            url = "http://receiver.invalid:4317"
        else:
            url = f"http://localhost:{stack.enter_context(_grpc_server())}"
        done = cli_command("doctor", "--json", env={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    to = url.removeprefix("http://")
    [(severity, detail)] = _found(done)
    assert severity == "warning"
    assert detail.startswith(f"spans do not arrive: otlp at {to}: ")
    assert detail.endswith(f": {reason}")
    assert done.code == 1


@contextmanager
def _grpc_server():
    """Answers as HTTP/2 does: with its settings."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(bytes.fromhex("000006040000000000000500004000"))
            self.request.recv(65536)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "SECRET"}, "no spans are sent"),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, "logs are not sent"),
        ({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_SDK_DISABLED": "yes"}, "OTEL_SDK_DISABLED is 'yes', which switches nothing off"),
        ({"OTEL_SDK_DISABLED": " False"}, None),
        ({"OTEL_PYTHON_TRACER_PROVIDER": "other"}, "OTEL_PYTHON_TRACER_PROVIDER is not used"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_PYTHON_METER_PROVIDER": "x"}, "is not used"),
        ({"OTEL_TRACES_EXPORTER": "console", CAPTURE: "yes"}, "spans have no content"),
        ({"OTEL_TRACES_EXPORTER": "console", CAPTURE: "event_only"}, None),
        (
            {
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h/v1/traces",
            },
            "ends in /v1/traces",
        ),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://h:4318"}, "has no path"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://u:SECRET\u2100@h"}, "is not a URL"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://[::1"}, "is not a URL"),
        (
            {
                "OTEL_TRACES_EXPORTER": "console",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://[x]:4318",
            },
            "no metrics are sent",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h/v1/metrics",
                "OTEL_TRACES_EXPORTER": "none",
            },
            "no metrics are sent",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPIONT": "http://h"},
            "OTEL_EXPORTER_OTLP_ENDPIONT is not a variable",
        ),
        (
            {"OTEL_EXPORTER_OLTP_ENDPOINT": "http://h", "OTEL_METRICS_EXPORTER": "console"},
            "OTEL_EXPORTER_OLTP_ENDPOINT is not a variable",
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLR": "x"}, "is not a variable"),
        ({"OTEL_METRIC_EXPORTER": "console"}, "is not a variable"),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, "OTEL_TRACES_SAMPLER does not name a receiver"),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "5"}, None),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "key=SECRET", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, None),
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "9000"}, None),
        (
            {
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h/v1/metrics",
                "OTEL_METRICS_EXPORTER": "none",
            },
            None,
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}, "seconds"),
        (
            {"OTEL_METRICS_EXPORTER": "console", "OTEL_METRIC_EXPORT_INTERVAL": "60"},
            "OTEL_METRIC_EXPORT_INTERVAL is 60 milliseconds",
        ),
        (
            {
                "OTEL_TRACES_EXPORTER": "console",
                "OTEL_TRACES_SAMPLER": "always_on",
                "OTEL_TRACES_SAMPLER_ARG": "some",
            },
            "OTEL_TRACES_SAMPLER_ARG is set, but not used",
        ),
        (
            {
                "OTEL_TRACES_EXPORTER": "console",
                "OTEL_TRACES_SAMPLER": "some",
                "OTEL_TRACES_SAMPLER_ARG": "0.1",
            },
            "no spans are sent",
        ),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_HEADERS": "SECRET"}, None),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "host"}, None),
        (
            {
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://h/v1/metrics",
                "OTEL_EXPORTER_OTLP_HEADERS": "key=SECRET",
            },
            None,
        ),
        ({"OTEL_METRICS_EXPORTER": "console", "OTEL_TRACE_EXPORTER": "otlp"}, "not a variable"),
        ({"OTEL_TRACES_EXPORTER": "console", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, "not used"),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
        ({CAPTURE: "yes"}, None),
    ],
)
def test_doctor_warns_of_what_will_not_work(run_cli, monkeypatch, variables, expected):
    """Variables that request nothing cause no warning. The test probes no receiver."""
    monkeypatch.setattr(otel, "probe", lambda _: [])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = [text for severity, text in _found(run_cli("doctor", "--json")) if severity != "note"]
    assert len(found) == (expected is not None)
    assert expected is None or expected in found[0]
