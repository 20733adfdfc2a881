"""Spans and metrics are sent as `OTEL_*` variables say; a receiver that does not take them costs nothing."""

import json
import signal
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from itertools import pairwise

import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import processes, servers
from support.llm_stub import Stub
from support.wait import wait_until_sync
from support.worker_processes import run_burst_worker

from aragora_q.observability import otel
from aragora_q.observability.otel import variables

SECONDS = 25
"""Time limit of a program; with `PATIENT`, the SDK itself would wait for 30 s at the end."""

PATIENT = {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}

SPANS = """
import sys
from aragora_q import tracing
from aragora_q.observability import otel
with otel.exporting():
    for _ in range(int(sys.argv[1])):
        with tracing.span("work"):
            pass
    print("done")
"""


BOTH = """
from prometheus_client import CollectorRegistry, Gauge
from aragora_q import tracing
from aragora_q.observability import otel
registry = CollectorRegistry()
Gauge("size", "Size.", registry=registry)
otel.add_registry(registry)
with otel.exporting(), tracing.span("work"):
    print("done")
"""


UNREADABLE = BOTH.replace(
    'Gauge("size", "Size.", registry=registry)',
    """
import time
class Collector:
    def collect(self):
        FAILURE
registry.register(Collector())
""",
)


def run(program, *args, **variables):
    """Run a program that sends; return what it wrote to stderr. It never fails."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, args)],
        env=processes.env(**variables), check=False, capture_output=True, text=True,
        timeout=SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    return done.stderr


@contextmanager
def running(command, **variables):
    """A process; if the test fails, it is killed, not waited for."""
    with subprocess.Popen(
        command, env=processes.env(**variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def sending(receiver, **variables):
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, **variables}


class TestConfiguration:
    """The standard variables, and nothing else."""

    def test_spans_arrive_with_what_the_variables_say_of_their_program(self, receiver):
        variables = {
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,team=a%20b",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "2",
        }
        assert run(SPANS, 5, **sending(receiver, **variables)) == ""
        assert len(receiver.named("work")) == 5
        assert receiver.requests == 3
        resource = receiver.spans[0].resource
        assert resource["service.name"] == "aragora-q"
        assert resource["service.version"]
        assert resource["service.instance.id"]
        assert resource["deployment.environment.name"] == "test"
        assert resource["team"] == "a b"
        assert receiver.metrics == []

    def test_names_and_samplers(self, receiver):
        variables = {
            "OTEL_SERVICE_NAME": "debates",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.5",
        }
        assert run(SPANS, 200, **sending(receiver, **variables)) == ""
        assert 0 < len(receiver.spans) < 200
        assert receiver.spans[0].resource["service.name"] == "debates"

    def test_the_console_is_standard_error(self):
        """Standard output is for what a command returns."""
        assert '"name": "work"' in run(SPANS, 1, OTEL_TRACES_EXPORTER="console")

    @pytest.mark.parametrize(
        ("name", "value", "advice"),
        [
            ("OTEL_TRACES_EXPORTER", "zipkin", "otlp, console or none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "opentelemetry-exporter-otlp-proto-grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "smtp", "http/protobuf"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "parentbased_traceidratio"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "whole number"),
            ("OTEL_BSP_SCHEDULE_DELAY", "99999999999999", "at most 9 digits"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "1e300", "number of seconds"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "5000", "OTEL_BSP_MAX_QUEUE_SIZE"),
            ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "-1", "whole number"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "number of seconds"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip"),
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere", "no such file"),
            ("OTEL_TRACES_SAMPLER", "always_on ", "always_on"),
            ("OTEL_TRACES_EXPORTER", "otlp_proto_grpc", "opentelemetry-exporter-otlp-proto-grpc"),
        ],
    )
    def test_a_wrong_value_is_named(self, name, value, advice, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
        monkeypatch.setenv(name, value)
        reason = variables.fault("traces")
        assert name in reason
        assert value in reason
        assert advice in reason

    @pytest.mark.parametrize(
        ("name", "value", "stops"),
        [
            ("OTEL_METRICS_EXPORTER", "prometheus", "metrics"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "0", "metrics"),
            ("OTEL_METRICS_EXEMPLAR_FILTER", "some", "metrics"),
            ("OTEL_TRACES_SAMPLER_ARG", "some", ""),
            ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", "many", ""),
            ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s", "metrics"),
            ("OTEL_TRACES_EXPORTER", "zipkin", "traces"),
            ("OTEL_TRACES_SAMPLER", "sometimes", "traces"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "many", "traces"),
            ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", "many", "traces"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "localhost", "traces"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "traces metrics"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "{} ", "traces metrics"),
        ],
    )
    def test_a_fault_stops_only_the_signals_that_need_the_variable(
        self, receiver, name, value, stops
    ):
        """The other signal is sent; for each signal that is not, there is a warning."""
        given = sending(receiver, OTEL_METRICS_EXPORTER="otlp")
        given[name] = value.format(receiver.url)
        warned = run(BOTH, **given).splitlines()
        assert [line.partition(" reason=")[0] for line in warned] == [
            f"warning: no {variables.SENT[signal]} are sent" for signal in stops.split()
        ]
        assert bool(receiver.spans) == ("traces" not in stops)
        assert bool(receiver.metrics) == ("metrics" not in stops)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", " 10 "),
            ("OTEL_BSP_MAX_QUEUE_SIZE", " 2048 "),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", " gzip "),
            ("OTEL_TRACES_EXPORTER", " otlp , otlp "),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf "),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a = b c , ,x=%22y%22,"),
            ("OTEL_RESOURCE_ATTRIBUTES", ' a = "b c" , ,'),
        ],
    )
    def test_spaces_and_empty_parts_that_do_not_matter(self, receiver, name, value):
        assert run(SPANS, 1, **sending(receiver, **{name: value})) == ""
        assert receiver.spans

    def test_a_value_of_a_span_is_cut(self, receiver):
        """A provider may answer with a name of any length; a variable may set another limit."""
        program = SPANS.replace('span("work")', 'span("work", attributes={"name": "x" * 5_000})')
        assert run(program, 1, **sending(receiver)) == ""
        limit = {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "2000"}
        assert run(program, 1, **sending(receiver, **limit)) == ""
        assert [len(span.attributes["name"]) for span in receiver.spans] == [1_000, 2_000]

    def test_propagators_that_are_not_installed_stop_nothing(self, receiver):
        """There is one warning, and a later import of OpenTelemetry's own propagation works."""
        self._is_not_used("OTEL_PROPAGATORS", SPANS + "import opentelemetry.propagate\n", receiver)

    @pytest.mark.parametrize("part", ["TRACER_PROVIDER", "METER_PROVIDER"])
    def test_parts_that_are_not_installed_stop_nothing(self, receiver, part):
        """There is one warning, and what asks OpenTelemetry for its providers later works."""
        program = SPANS + (
            "from opentelemetry import metrics, trace\n"
            "trace.get_tracer_provider(), metrics.get_meter_provider()\n"
        )
        self._is_not_used(f"OTEL_PYTHON_{part}", program, receiver)

    @staticmethod
    def _is_not_used(name, program, receiver):
        [warning] = run(program, 1, **sending(receiver, **{name: "b3"})).splitlines()
        assert warning.startswith(f"warning: {name} is not used reason=")
        assert receiver.spans
        assert run(program, 1, **{name: "b3"}) == ""
        assert run(program, 1, **{name: ""}) == ""

    @pytest.mark.slow
    @pytest.mark.parametrize("is_traced", [True, False])
    def test_propagators_that_are_not_installed_fail_no_job(
        self, receiver, redis_url, tmp_path, is_traced
    ):
        """A provider's client that imports propagators during a call works."""
        pytest.importorskip("pydantic_ai", reason="the extra `llm` is not installed")
        with closing(Stub()) as stub:
            agent = [f"{key} = {value!r}" for key, value in stub.agent("anthropic", "m").items()]
            path = tmp_path / "aragora-q.toml"
            path.write_text("\n".join(["[agents.ann]", *agent]))
            given = {"STUB_KEY": "key", "OTEL_PROPAGATORS": "b3"}
            debate = ("Tea or coffee?", "--agents", "ann,ann", "--rounds", "1", "--id", "job")
            config = ("--config", path)
            added = processes.run_command("enqueue", *debate, *config, url=redis_url, **given)
            assert added.returncode == 0, added.stderr
            log = run_burst_worker(
                redis_url, *config, **given, **(sending(receiver) if is_traced else {})
            )
        assert "job completed" in log
        assert log.lower().count("propagator") == is_traced
        assert bool(receiver.named("chat m")) == is_traced

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "user:secret@localhost:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318/secret "),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@localhost:secret"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://[secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "Bearer secret"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=b,secret"),
            ("OTEL_EXPORTER_OTLP_HEADERS", 'a="secret"'),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a secret=b"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret\u00e4"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=secret;b=c"),
        ],
    )
    def test_a_wrong_value_that_may_be_secret_is_not_shown(self, name, value, monkeypatch):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318")
        monkeypatch.setenv(name, value)
        reason = variables.fault("traces")
        assert name in reason
        assert "secret" not in reason

    @pytest.mark.parametrize(
        "off", [{}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}]
    )
    def test_what_is_off_has_no_faults(self, off):
        assert run(SPANS, 1, OTEL_TRACES_SAMPLER="sometimes", **off) == ""

    @pytest.mark.parametrize(
        ("before", "reason"),
        [
            ("", "OTEL_TRACES_SAMPLER is 'sometimes'"),
            ("import sys; sys.modules['opentelemetry.sdk.trace'] = None", "aragora-q[otel]"),
        ],
    )
    def test_a_program_goes_on_without(self, receiver, before, reason):
        """It warns once, if the variables are wrong or a package is missing."""
        variables = sending(receiver, **({} if before else {"OTEL_TRACES_SAMPLER": "sometimes"}))
        [warning] = run(before + SPANS, 1, **variables).splitlines()
        assert warning.startswith("warning: no spans are sent reason=")
        assert reason in warning
        assert receiver.requests == 0


class TestReceiversThatDoNotTakeThem:
    """No failure, no long exit, no growing memory; one line says what is lost, without secrets."""

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (500, "HTTP 500"),
            pytest.param(503, "HTTP 503", marks=pytest.mark.slow),
            (401, "HTTP 401: check OTEL_EXPORTER_OTLP_HEADERS"),
            (404, "HTTP 404: check the path of the endpoint"),
            ("silent", "no answer in time"),
            pytest.param("down", "ConnectionError: Connection refused", marks=pytest.mark.slow),
        ],
    )
    def test_the_end_is_soon(self, receiver, status, reason):
        assert otel.EXIT_SECONDS <= 5
        if status == "silent":
            receiver.may_answer.clear()
        elif status == "down":
            receiver.close()
        else:
            receiver.status = status
        seconds = 0.5 if status == "silent" else otel.EXIT_SECONDS
        program = SPANS.replace("with", f"otel.EXIT_SECONDS = {seconds}\nwith", 1)
        endpoint = receiver.url.replace("://", "://user:secret@") + "/v1/traces?key=secret"
        warned = run(
            program, 3, **PATIENT,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_HEADERS="authorization=secret",
        )  # fmt: skip
        [line] = warned.splitlines()
        to = receiver.url.removeprefix("http://")
        assert line == f'warning: spans not sent count=3 to="otlp at {to}" reason="{reason}"'

    def test_no_more_spans_wait_than_the_queue_takes(self, receiver):
        """Spans beyond it are dropped at once; the others arrive when the receiver answers."""
        receiver.may_answer.clear()
        answers = threading.Timer(60, receiver.may_answer.set)
        program = SPANS.replace('print("done")', 'print("done", flush=True); sys.stdin.read()')
        variables = {"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "5"}
        program = [sys.executable, "-c", program, "1000"]
        with running(program, **sending(receiver, **variables)) as process:
            assert process.stdout.readline() == "done\n"
            receiver.may_answer.set()
            _, warned = process.communicate(timeout=60)
        answers.cancel()
        assert len(receiver.spans) == 10
        first, last = warned.splitlines()  # the first loss is told of at once
        assert "spans not sent count=1 " in first
        assert "spans not sent count=990 " in last

    @pytest.mark.slow
    def test_a_job_is_enqueued_and_run(self, receiver, redis_url):
        """Whatever the receiver does, `enqueue` and a worker end with exit code 0, soon."""
        receiver.may_answer.clear()
        variables = sending(receiver, OTEL_METRICS_EXPORTER="otlp", **PATIENT)
        added = processes.run_command(
            "enqueue", "Tea or coffee?", "--agents", "demo,demo", "--id", "job", url=redis_url,
            **variables,
        )  # fmt: skip
        assert added.returncode == 0, added.stderr
        assert "spans not sent" in added.stderr
        log = run_burst_worker(redis_url, **variables)
        assert "spans not sent" in log
        assert "metrics not sent" in log
        shown = processes.run_command("status", "job", "--json", url=redis_url)
        assert json.loads(shown.stdout)["status"] == "completed"


METRICS = """
import sys
import opentelemetry.metrics
from prometheus_client import generate_latest
from aragora_q.observability import otel
from aragora_q.observability.worker_metrics import WorkerMetrics
metrics = WorkerMetrics("q")
otel.add_registry(metrics.registry)
metrics.attempts["completed"].inc()
for seconds in (0.3, 70, 99999):
    metrics.attempt_duration.observe(seconds)
metrics.active.set(2)
with otel.exporting():
    opentelemetry.metrics.get_meter("test").create_counter("gen_ai.calls").add(3)
    tokens = opentelemetry.metrics.get_meter("pydantic-ai").create_counter("gen_ai.tokens")
    for answered in ("m-1", "m-2"):
        tokens.add(1.0, {"gen_ai.request.model": "m", "gen_ai.response.model": answered})
    print("done", flush=True)
    sys.stdin.readline()
    metrics.attempts["completed"].inc()
    metrics.attempt_duration.observe(2, {"trace_id": f"{7:032x}", "span_id": f"{8:016x}"})
sys.stderr.write(generate_latest(metrics.registry).decode())
"""


def _samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def _received(metrics):
    """The metrics as samples of /metrics."""
    samples = {}
    for metric in metrics:
        for point in getattr(metric, metric.WhichOneof("data")).data_points:
            labels = {each.key: each.value.string_value for each in point.attributes}

            def add(suffix, value, name=metric.name, labels=labels, **more):
                samples[name + suffix, tuple(sorted({**labels, **more}.items()))] = value

            if metric.WhichOneof("data") == "histogram":
                add("_sum", point.sum)
                add("_count", point.count)
                below = 0
                bounds = [*map(str, point.explicit_bounds), "+Inf"]
                for bound, count in zip(bounds, point.bucket_counts, strict=True):
                    below += count
                    add("_bucket", below, le=bound)
            else:
                add("", point.as_double)
    return samples


class TestMetrics:
    """`OTEL_METRICS_EXPORTER=otlp` sends those of /metrics."""

    def test_they_are_those_of_metrics(self, receiver):
        """They have the same names, labels and values; counters never fall; an exemplar names its trace.

        Metrics of OpenTelemetry's instruments, such as pydantic-ai's, are sent with them.
        """
        variables = {"OTEL_METRICS_EXPORTER": "otlp", "OTEL_METRIC_EXPORT_INTERVAL": "100"}
        program = [sys.executable, "-W", "error", "-c", METRICS]
        with running(program, **sending(receiver, **variables)) as process:
            wait_until_sync(lambda: receiver.requests >= 3, 30, "metrics to be sent")
            _, text = process.communicate("\n", timeout=60)
        assert process.returncode == 0, text
        names = [metric.name for metric in receiver.metrics]
        last = receiver.metrics[-len(set(names)) :]
        own = {key: value for key, value in _samples(text).items() if "process" not in key[0]}
        received = _received(last)
        assert {key: value for key, value in received.items() if key in own} == own
        assert {name for name, _ in received} == {name for name, _ in _samples(text)} | {
            "gen_ai.calls",
            "gen_ai.tokens",
        }
        # The name of the model in a response, which a provider chooses, makes no further series.
        assert received["gen_ai.tokens", (("gen_ai.request.model", "m"),)] == 2

        counts = [
            point
            for metric in receiver.metrics
            if metric.name == "aragora_q_attempts_total"
            for point in metric.sum.data_points
            if point.attributes[1].value.string_value == "completed"
        ]
        assert [counts[0].as_double, counts[-1].as_double] == [1, 2]
        assert all(one.as_double <= other.as_double for one, other in pairwise(counts))
        assert len({point.start_time_unix_nano for point in counts}) == 1
        assert 0 < counts[0].start_time_unix_nano < counts[0].time_unix_nano
        [histogram] = [each for each in last if each.name == "aragora_q_attempt_duration_seconds"]
        [exemplar] = histogram.histogram.data_points[0].exemplars
        assert (exemplar.as_double, exemplar.trace_id[-1], exemplar.span_id[-1]) == (2, 7, 8)

    @pytest.mark.parametrize("failure", ["raise TimeoutError", "time.sleep(60)"])
    def test_metrics_that_cannot_be_read_are_not_the_fault_of_the_receiver(self, receiver, failure):
        """The registry may wait for Redis, for example. There is one warning, which says so."""
        program = UNREADABLE.replace("FAILURE", failure)
        [warning] = run(program, **sending(receiver, OTEL_METRICS_EXPORTER="otlp")).splitlines()
        assert warning.startswith("warning: metrics not sent count=1 ")
        assert warning.endswith('reason="they could not be read"')
        assert len(receiver.spans) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["exporter", "web"])
    def test_the_state_of_the_queue_is_sent(self, receiver, redis_url, command):
        """At each interval, while /metrics is served, too. The first line says where spans and metrics go.

        The exporter makes no spans.
        """
        variables = {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "100",
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_ONLY",
        }
        command = processes.cli(command, "--listen", f"127.0.0.1:{servers.free_port()}")
        given = sending(receiver, REDIS_URL=redis_url, **variables)
        with running(command, **given) as process:
            to = f"otlp at {receiver.url.removeprefix('http://')}"
            spans = {"exporter": ""}.get(command[-3], f' spans="{to}"')
            content = ' content="prompts and replies"' if spans else ""
            started = f'OpenTelemetry is on{spans} metrics="{to}"{content}\n'
            assert process.stderr.readline().endswith(started)
            assert "serving" in process.stderr.readline()
            seen = receiver.requests
            wait_until_sync(lambda: receiver.requests > seen + 1, 30, "metrics to be sent")
            receiver.metrics.clear()  # the last time is after this
            process.terminate()
            _, text = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGTERM
        assert "not sent" not in text
        sent = _received(receiver.metrics)
        assert sent["aragora_q_queue_scrape_success", (("queue", "debates"),)] == 1
        assert sent["aragora_q_queue_jobs", (("queue", "debates"), ("state", "waiting"))] == 0
