"""Commands that enqueue continue the trace of the shell that calls them, and send their spans if asked."""

import json

import pytest

from aragora_q.labels import JobFilter

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
DEBATE = ("Tea or coffee?", "--agents", "demo,demo")
WEEKLY = "[schedules.weekly]\ncron = '0 6 * * MON'\ntime_zone = 'UTC'\njob = {payload = {}}\n"


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


async def test_the_debates_of_an_evaluation_carry_the_context_of_the_shell(
    cli_command, harness, tmp_path
):
    """Though nothing runs them here."""
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


async def test_a_purge_sends_its_span(cli_command, harness, receiver):
    """It may be the only command that deletes, from cron."""
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
    """The job is enqueued without a trace, and nothing is said."""
    shell = {"TRACEPARENT": traceparent, "ARAGORA_QUEUE_NAME": harness.config.queue}
    done = cli_command("enqueue", *DEBATE, "--id", "job", env=shell)
    assert (done.code, done.out, done.err) == (0, "job enqueued\n", "")
    assert await _traces(harness, "job") == [""]


async def test_the_span_of_a_command_is_sent(cli_command, harness, receiver):
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


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:SECRET@otel:4318/SECRET?q=SECRET"},
            "to otel:4318",
        ),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, "to the exporter console and localhost"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        ({"OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_doctor_says_where_spans_go(run_cli, monkeypatch, variables, expected):
    """A note, or a warning if they go nowhere; nothing if none are asked for. No secret is in it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    done = run_cli("doctor", "--json")
    found = [each for each in done.object["findings"] if each["check"] == "environment"]
    assert [each["severity"] for each in found] == (
        [] if expected is None else ["warning" if "pip" in expected else "note"]
    )
    assert expected is None or expected in found[0]["detail"]
    assert "SECRET" not in done.out
