"""`aragora-q stats`: a screen, JSON and a Prometheus file, in constant time."""

import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import time

import pytest
from support.paid_calls import book, ok
from support.queue_harness import PREFIX

from aragora_q.base import Job
from aragora_q.config.tables import BudgetConfig
from aragora_q.contracts import ClaimRequest, Completed, Failed, Plan, ScheduleState, Settled
from aragora_q.gates import overview
from aragora_q.gates.book import Book

pytestmark = pytest.mark.usefixtures("within_a_day")


async def _a_busy_queue(harness):
    """Two jobs wait (one in the high lane), one is delayed, one runs, one failed, one completed."""
    worker = await harness.worker("worker-1", lease_seconds=60)
    for job_id in ("done", "bad", "runs"):
        await harness.enqueue(job_id)
    done, bad = (await worker.start(2)).jobs
    await harness.report(worker, done, Completed(b"{}"))
    await harness.report(worker, bad, Failed("no"))
    await harness.renew(worker, await harness.start_one(worker))
    await harness.enqueue("waits")
    await harness.enqueue("urgent", priority=5)
    await harness.enqueue("later", delay_seconds=1040)


def test_the_screen_shows_what_an_operator_needs(run_cli, on_queue):
    """Backlog by lane, next due, running jobs, ended jobs, failures, workers, last maintenance."""
    on_queue(_a_busy_queue)
    ended = run_cli("stats")
    assert ended.code == 0
    rows = {line.split()[0]: line for line in ended.lines if line.strip()}
    assert "1 high, 1 normal; oldest" in rows["waiting"]
    assert "next due in 17 min" in rows["delayed"]
    assert "runs" in rows["running"]
    assert rows["completed"].split() == ["completed", "1", "1", "1", "1"]
    assert rows["failed"].split() == ["failed", "1", "1", "1", "1"]
    assert rows["worker-1"].split()[-4:-2] == ["1/?", "runs"]
    assert "last reap never, last purge never" in ended.out
    assert "! 1 job failed within 15 min" in ended.out
    assert max(map(len, ended.lines)) <= 80


def test_json_is_one_object(run_cli, on_queue):
    """--json: counts, ages, workers, running jobs with their start, and warnings."""
    on_queue(_a_busy_queue)
    seen = run_cli("stats", "--json").object
    assert seen["waiting"] == {"high": 1, "normal": 1, "low": 0}
    assert [seen[state] for state in ("running", "delayed", "completed", "failed")] == [1, 1, 1, 1]
    [running] = seen["running_jobs"]
    assert (running["id"], running["worker_id"]) == ("runs", "worker-1")
    assert 0 <= seen["now"] - running["started_at"] < 60_000
    assert seen["counters"]["enqueued"] == 6
    assert seen["server"]["eviction_policy"] == "noeviction"


def test_an_empty_server_is_not_an_error(run_cli):
    """Before first use: zeros, no workers, no warnings."""
    seen = run_cli("stats", "--json").object
    assert (seen["stream_length"], seen["pending_count"], seen["groups"]) == (0, 0, [])
    assert (seen["workers"], seen["warnings"]) == ([], [])


def test_warnings_are_shown_first(run_cli, on_queue, redis_client):
    """Paused, no live worker, a worker without heartbeat: one line each above everything else."""
    on_queue(_a_busy_queue)
    redis_client.hset(f"{PREFIX}control", "paused", 1)
    redis_client.zadd(f"{PREFIX}workers", {"worker-1": 1})
    paused, no_worker, silent, *_ = run_cli("stats", "--json").object["warnings"]
    assert paused.endswith("no jobs start: to resume, run aragora-q resume")
    assert no_worker == "no live worker: jobs will not run until one starts"
    assert silent.startswith("worker worker-1: no heartbeat for ")
    assert silent.endswith(", 1 job leased")


def test_a_worker_is_alive_for_as_long_as_its_own_lease(run_cli, on_queue, redis_client):
    """Heartbeats come every quarter of a lease: stats, doctor and the metric use each worker's own lease."""

    async def two_leases(harness):
        await harness.worker("patient", lease_seconds=300)
        await harness.worker("hasty", lease_seconds=60)
        await harness.enqueue("waits")

    on_queue(two_leases)

    def alive(age_seconds):
        for name in ("patient", "hasty"):
            redis_client.zadd(
                f"{PREFIX}workers", {name: redis_client.time()[0] * 1000 - age_seconds * 1000}
            )
        seen = run_cli("stats", "--json").object
        names = {worker["worker_id"] for worker in seen["workers"] if worker["is_alive"]}
        metrics = run_cli("stats", "--prometheus", "-").out
        assert f'aragora_q_queue_workers{{queue="debates",state="alive"}} {len(names)}.0' in metrics
        found = run_cli("doctor", "--json").object["findings"]
        is_in_doctor = any("no worker is alive" in finding["detail"] for finding in found)
        is_in_stats = any(warning.startswith("no live worker") for warning in seen["warnings"])
        assert is_in_stats == is_in_doctor == (not names)
        return names

    assert alive(10) == {"patient", "hasty"}
    assert alive(75) == {"patient"}
    assert alive(400) == set()


def test_a_worker_whose_event_loop_stands_is_named(run_cli, on_queue):
    """It keeps its leases, so no other worker runs its jobs: stats and doctor say so, with the time."""

    async def a_stalled_worker(harness):
        for name, lag_seconds in (("slow", 2.0), ("stalled", 34.0)):
            session = await harness.worker(name, lease_seconds=60)
            renewer = session.lease_renewer()
            await renewer.renew([], loop_lag_seconds=lag_seconds)
            await renewer.close()

    on_queue(a_stalled_worker)
    seen = run_cli("stats", "--json").object
    assert {w["worker_id"]: w["event_loop_lag_seconds"] for w in seen["workers"]} == {
        "slow": 2.0,
        "stalled": 34.0,
    }
    [warning] = [text for text in seen["warnings"] if "event loop" in text]
    assert warning == (
        "worker stalled: its event loop did not respond for 34 s; its jobs stand still"
    )
    assert "event loop of worker stalled did not respond for 34 s" in run_cli("doctor").out


@pytest.mark.parametrize(
    ("key", "field"),
    [("counters", "completed"), ("counters", "last_reap_at"), ("control", "paused"),
     ("control", "grace_until"), ("worker:worker-1", "lease_ms"), ("job:runs", "started_at")],
)  # fmt: skip
def test_an_invalid_number_affects_only_itself(run_cli, on_queue, redis_client, key, field):
    """All other values are shown, on the screen, as JSON and to Prometheus."""
    on_queue(_a_busy_queue)
    redis_client.hset(f"{PREFIX}{key}", field, "garbled")
    seen = run_cli("stats", "--json").object
    assert (seen["running"], seen["counters"]["failed"]) == (1, 1)
    assert run_cli("stats").code == 0
    assert 'state="running"} 1.0' in run_cli("stats", "--prometheus", "-").out


def test_hostile_names_reach_the_terminal_escaped(run_cli, redis_client):
    """Control characters in a worker's record cannot act on the terminal."""
    redis_client.zadd(f"{PREFIX}workers", {"evil\x1b]52;c;eA==\x07": 9e12})
    ended = run_cli("stats", terminal=True)
    assert "\x1b]" not in ended.out
    assert "evil\\u001b]52" in ended.out


def test_the_number_of_commands_does_not_depend_on_the_queue(run_cli, on_queue, redis_client):
    """O(1): the number of commands does not grow with the number of jobs, and none scans keys."""

    def commands():
        redis_client.config_resetstat()
        assert run_cli("stats").code == 0
        calls = redis_client.info("commandstats")
        ours = {n: c["calls"] for n, c in calls.items() if "config" not in n and "info" not in n}
        assert not {"cmdstat_scan", "cmdstat_keys"} & set(ours)
        return ours

    on_queue(lambda harness: harness.enqueue())
    commands()  # loads the scripts
    small = commands()

    async def many(harness):
        from aragora_q.base import Job

        await harness.queue.enqueue_many([Job(payload={}) for _ in range(2000)])

    on_queue(many)
    assert commands() == small


async def _spend_and_be_refused(harness):
    refused = {"outcome": "rate_limited", "retry_after_seconds": 600.0}
    new = {"account": "new@1", "provider": "new", "model": "new:m", "max_cost_usd": None}
    used_up = {"account": "other@2", "provider": "other"}
    await book(
        harness.queue,
        ({}, {}, ok(0.25)),
        ({}, {}, {"outcome": "timeout"}),
        ({}, new, ok(None)),
        ({}, {}, refused),
        ({}, used_up, {"outcome": "credit_exhausted"}),
    )


def test_money_and_closed_providers(run_cli, on_queue):
    """What the queue spent today, what of it is not known, and which providers take no calls, and why."""
    on_queue(_spend_and_be_refused)
    seen = run_cli("stats", "--json").object
    spent = seen["spent_today"]
    assert (spent["calls"], spent["faults"], spent["usd"]) == (5, 3, 1.25)
    assert (spent["estimated_usd"], spent["unpriced_calls"]) == (1.0, 1)
    assert [(each["account"], each["closed_by"]) for each in seen["closed_providers"]] == [
        ("anthropic@0a1b2c3d", "rate_limited"),
        ("other@2", "credit"),
    ]
    assert 540 < seen["closed_providers"][0]["seconds"] < 670
    limited, used_up, *_ = [text for text in seen["warnings"] if text.startswith("provider ")]
    assert limited.endswith(": the provider's rate limit")
    assert used_up == (
        "provider other@2 takes no calls until aragora-q providers resume other@2: "
        "the account's credit is used up"
    )
    [row] = [line for line in run_cli("stats").lines if line.startswith("spent ")]
    assert row.split(maxsplit=2)[1:] == [
        "$1.25",
        "today (UTC): 5 calls, 3 faults, $1.00 estimated, 1 without a price",
    ]
    assert run_cli("stats", "--queue", "another", "--json").object["spent_today"]["calls"] == 0


def test_without_rights_on_the_gates_all_else_is_shown(run_cli, own_server, monkeypatch):
    """What cannot be read is null and a warning, never 0; to Prometheus it is absent."""
    server = own_server()
    with server.client() as client:
        client.execute_command(
            "ACL", "SETUSER", "old", "on", ">pw", "~aragora:queue:debates:*", "+@all"
        )
    url = ("--redis-url", f"redis://old:pw@127.0.0.1:{server.port}")
    seen = run_cli("stats", "--json", *url).object
    assert (seen["spent_today"], seen["closed_providers"], seen["running"]) == (None, None, 0)
    assert any(
        text.startswith("spending and providers cannot be read") for text in seen["warnings"]
    )
    metrics = run_cli("stats", "--prometheus", "-", *url).out
    assert 'aragora_q_gates_scrape_success{queue="debates"} 0.0' in metrics
    assert "aragora_q_queue_spent_today_usd" not in metrics


WEBHOOK = {"url": "https://hooks.example.com/", "secret_file": "/nonexistent"}


async def _fail_schedules_and_webhooks(harness):
    """Schedules are overdue, due, refused and paused; webhooks are late, disabled, new and idle."""
    schedules, outbox = harness.queue.schedules, harness.queue.outbox
    now = int((await schedules.read()).now * 1000)
    for name, due_ms, missed, error in (
        ("late", now - 300_000, 2, ""),
        ("soon", now - 30_000, 0, ""),
        ("wrong", now + 60_000, 1, "group g is sealed"),
        ("rests", now - 300_000, 0, ""),
    ):
        plan = Plan(ScheduleState(name), due_ms, last_at=1, missed=missed, error=error)
        assert await schedules.plan([plan]) == [True]
    await schedules.pause("rests", by="ann@host", reason="holidays")
    queue = harness.other_client(webhooks=dict.fromkeys(("slow", "gone", "new", "idle"), WEBHOOK))
    for name in ("slow", "gone", "new"):
        await queue.enqueue(Job({}, id=name, notify=(name,)))
        await queue.cancel(name)
    await outbox.disable("gone", by="bob@host", reason="moved")
    claimed = await outbox.claim([ClaimRequest("slow", 1, 60)])
    await outbox.settle([Settled(claimed.deliveries[0], "retry", "answered 500", 60)])
    [waiting] = await outbox.deliveries(["slow"], 1)
    harness.redis.hset(harness.keys.delivery(waiting.id), "queued_at", now - 1_200_000)


def test_schedules_and_webhooks_that_fail(run_cli, on_queue):
    """Those that need an operator, with a warning each, whatever this host's configuration; no others."""
    on_queue(_fail_schedules_and_webhooks)
    seen = run_cli("stats", "--json").object
    late, wrong = seen["failing_schedules"]
    assert (late["schedule"], late["error"]) == ("late", None)
    assert 300 <= late["overdue_seconds"] < 360
    assert wrong == {"schedule": "wrong", "overdue_seconds": 0, "error": "group g is sealed"}
    slow, gone = seen["failing_webhooks"]
    assert 1_200 <= slow.pop("oldest_waiting_seconds") < 1_260
    assert slow == {
        "webhook": "slow", "waiting": 1, "failures": 1, "last_error": "answered 500", "disabled": None,
    }  # fmt: skip
    assert (gone["webhook"], gone["disabled"]["by"]) == ("gone", "bob@host")
    warnings = [text for text in seen["warnings"] if text.startswith(("schedule ", "webhook "))]
    assert warnings == [
        "schedule late was due 5 min ago, and its job is not enqueued: see aragora-q schedule list",
        "schedule wrong: its last job was refused: group g is sealed",
        "webhook slow: 1 message waiting, the oldest for 20 min: answered 500",
        (
            "webhook gone is disabled by bob@host (moved), 1 message waiting: to enable it, "
            "run aragora-q webhook enable gone"
        ),
    ]
    assert "! schedule late was due 5 min ago" in run_cli("stats").out


def test_warnings_about_many_schedules_are_few(run_cli, redis_client):
    """Five are named, and the others counted."""
    redis_client.hset(f"{PREFIX}schedules", mapping={f"next:s{n}": 1 for n in range(7)})
    warnings = run_cli("stats", "--json").object["warnings"]
    assert len(warnings) == 6
    assert warnings[-1] == "2 more schedules need attention: see aragora-q schedule list"


@pytest.mark.slow
def test_watching_repeats_until_it_is_stopped(start_command):
    """--watch --json writes objects repeatedly; Ctrl-C ends it by the signal."""
    process = start_command("stats", "--watch", "--json")
    for _ in range(2):
        assert json.loads(process.stdout.readline())["queue"] == "debates"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert process.stderr.read() == b""


class TestPrometheus:
    """--prometheus FILE."""

    def test_the_file_appears_in_one_step_and_is_readable_to_all(self, run_cli, on_queue, tmp_path):
        """Replaced by a rename: readers of the old file see all of it, and no temporary file remains."""
        on_queue(_a_busy_queue)
        path = tmp_path / "queue.prom"
        path.write_text("old")
        with path.open() as old:
            assert run_cli("stats", "--prometheus", path).code == 0
            assert old.read() == "old"
        assert 'aragora_q_queue_jobs{queue="debates",state="waiting"} 2.0' in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert [file.name for file in tmp_path.iterdir() if "prom" in file.name] == ["queue.prom"]

    def test_money_and_providers(self, run_cli, on_queue):
        """Today's spending, and of each account whether and why it is closed, and its calls."""
        on_queue(_spend_and_be_refused)
        text = run_cli("stats", "--prometheus", "-").out
        account = 'account="anthropic@0a1b2c3d",provider="anthropic"'
        for sample in (
            'queue_spent_today_usd{queue="debates"} 1.25',
            'queue_spent_today_estimated_usd{queue="debates"} 1.0',
            'queue_unpriced_calls_today{queue="debates"} 1.0',
            f'provider_closed{{{account},why="rate_limited"}} 1.0',
            f'provider_closed{{{account},why="credit"}} 0.0',
            'provider_closed{account="new@1",provider="new",why="outage"} 0.0',
            f'provider_calls{{{account},state="under_way"}} 0.0',
            'gates_scrape_success{queue="debates"} 1.0',
        ):
            assert f"aragora_q_{sample}" in text

    def test_budgets_by_the_values_of_their_scopes(self, run_cli, on_queue, monkeypatch):
        """Limit, spent, reserved, estimated and time left; at most PAGE values of a budget."""
        monkeypatch.setattr(overview, "PAGE", 3)

        async def spend(harness):
            gates = harness.queue.connection.for_gates()
            books = Book(gates)
            limits = {"limit_usd": 100, "window": "day"}
            await books.set_budget("each", BudgetConfig(**limits, scope="tenant"), by="me")
            await books.set_budget("all", BudgetConfig(limit_usd=5, window="total"), by="me")
            await gates.close()
            await book(
                harness.queue,
                ({"tenant": "t0"}, {}, None),
                *(({"tenant": f"t{n}", "id": f"t{n}"}, {}, ok(0.5)) for n in range(5)),
                ({"tenant": "t0"}, {"agent": "x"}, {"outcome": "timeout"}),
            )

        on_queue(spend)
        text = run_cli("stats", "--prometheus", "-").out
        every = 'budget="all",scope="all",window="total"'
        for sample in (
            f"limit_usd{{{every}}} 5.0",
            f"spent_usd{{{every}}} 3.5",
            f"reserved_usd{{{every}}} 1.0",
            f"estimated_usd{{{every}}} 1.0",
            'spent_usd{budget="each",scope="tenant:t1",window="day"} 0.5',
        ):
            assert f"aragora_q_budget_{sample}" in text
        assert text.count("aragora_q_budget_limit_usd{") == 4
        assert "window_left_seconds{" + every not in text
        [left] = re.findall(r'budget_window_left_seconds{.*"tenant:t1".*} (.*)', text)
        assert 0 <= float(left) <= 86_400

    def test_schedules_and_webhooks(self, run_cli, on_queue):
        """Of all that Redis knows, although this host's configuration has none."""
        on_queue(_fail_schedules_and_webhooks)
        text = run_cli("stats", "--prometheus", "-").out

        def value(metric, **labels):
            pairs = ",".join(f'{name}="{labels[name]}"' for name in sorted(labels))
            [found] = re.findall(rf"(?m)^aragora_q_queue_{metric}\{{{pairs}\}} (.*)$", text)
            return float(found)

        def schedule(metric, name):
            return value(f"schedule_{metric}", queue="debates", schedule=name)

        def webhook(metric, name):
            return value(f"webhook_{metric}", queue="debates", webhook=name)

        assert 300 <= schedule("overdue_seconds", "late") < 360
        assert 30 <= schedule("overdue_seconds", "soon") < 90
        assert schedule("overdue_seconds", "rests") == schedule("overdue_seconds", "wrong") == 0
        assert schedule("missed_total", "late") == 2
        assert schedule("missed_total", "rests") == 0
        assert (schedule("refused", "wrong"), schedule("refused", "late")) == (1, 0)
        assert (schedule("paused", "rests"), schedule("paused", "late")) == (1, 0)
        assert 0 < schedule("next_timestamp_seconds", "wrong") - time.time() < 61
        assert [webhook("waiting", name) for name in ("slow", "gone", "new")] == [1, 1, 1]
        assert 1_200 <= webhook("oldest_waiting_age_seconds", "slow") < 1_260
        assert (webhook("failures", "slow"), webhook("failures", "new")) == (1, 0)
        assert (webhook("disabled", "gone"), webhook("disabled", "slow")) == (1, 0)
        for result in ("delivered", "failed", "dropped"):
            assert value("webhook_deliveries_total", queue="debates", result=result) == 0

    def test_names_are_few(self, run_cli, redis_client):
        """Of the states in Redis, as many are exported as a configuration may have: 100 of each."""
        for kind, field in (("schedule", "next"), ("webhook", "since")):
            names = {f"{field}:n{n:03}": 1 for n in range(120)}
            redis_client.hset(f"{PREFIX}{kind}s", mapping=names)
        text = run_cli("stats", "--prometheus", "-").out
        assert text.count("aragora_q_queue_schedule_paused{") == 100
        assert text.count("aragora_q_queue_webhook_disabled{") == 100

    def test_promtool_accepts_it(self, run_cli, on_queue):
        """promtool accepts names, types and help texts."""
        promtool = shutil.which("promtool")
        if promtool is None:
            pytest.skip("no promtool: apt-get install prometheus")
        on_queue(_a_busy_queue)
        on_queue(_spend_and_be_refused)
        on_queue(_fail_schedules_and_webhooks)
        text = run_cli("stats", "--prometheus", "-").out
        ended = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

    def test_a_missing_directory(self, run_cli, tmp_path):
        """One line, exit 78; nothing is written."""
        ended = run_cli("stats", "--prometheus", tmp_path / "none" / "x.prom")
        assert (ended.code, "cannot write" in ended.err) == (78, True)

    def test_no_device_is_replaced(self, run_cli, tmp_path):
        """Files that are not regular, such as /dev/null, are not replaced."""
        device = tmp_path / "device"
        os.mkfifo(device)
        ended = run_cli("stats", "--prometheus", device)
        assert (ended.code, "not a regular file" in ended.err) == (78, True)
        assert device.is_fifo()

    def test_a_full_disk_keeps_the_old_file_and_nothing_else(self, start_command, tmp_path):
        """Exit 78, and no partial file remains."""
        path = tmp_path / "queue.prom"
        path.write_text("old")
        process = start_command(
            "stats", "--prometheus", path,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
        )  # fmt: skip
        _, err = process.communicate(timeout=60)
        assert (process.returncode, b"File too large" in err) == (78, True)
        assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
            ("queue.prom", "old")
        ]

    def test_it_excludes_other_formats(self, run_cli):
        """--prometheus with --json or --watch is a usage error."""
        assert run_cli("stats", "--prometheus", "-", "--json").code == 2
