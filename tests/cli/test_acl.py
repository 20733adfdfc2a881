"""`aragora-q acl ROLE`: the printed user can do everything its role does, and nothing dangerous."""

import hashlib
import shlex
import sys

import pytest
from support import paid_calls
from support.queue_harness import QueueHarness
from support.schedules import daily, minute_before, promise, toml

from aragora_q.base import Job, JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import BudgetConfig
from aragora_q.gates.book import Book
from aragora_q.history import CallHistory, CallKind, CallSums
from aragora_q.redis.acl import ROLES, rules
from aragora_q.redis.keys import QueueKeys
from aragora_q.streams.queue import RedisStreamsQueue

pytestmark = pytest.mark.usefixtures("within_a_day")

PASSWORD = "correct horse"
DANGEROUS = (
    ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("CONFIG", "GET", "*"), ("DEBUG", "JMAP"), ("SHUTDOWN",),
    ("MONITOR",), ("SCRIPT", "FLUSH"), ("FUNCTION", "FLUSH"), ("ACL", "SETUSER", "x"), ("ACL", "LIST"),
    ("MIGRATE", "h", "1", "k", "0", "1"), ("REPLICAOF", "h", "1"), ("SUBSCRIBE", "c"),
    ("GET", "another:key"), ("SET", "another:key", "1"), ("CLIENT", "KILL", "TYPE", "normal"),
    ("XGROUP", "DESTROY", "aragora:queue:debates:stream", "aragora-workers"), ("SWAPDB", "0", "1"),
)  # fmt: skip


@pytest.fixture
def server(own_server):
    """A server whose users the test may change."""
    server = own_server()
    with server.client() as client:
        yield server, client


@pytest.fixture
def as_role(server, run_cli, monkeypatch, tmp_path):
    """Creates the role's user as an operator would; commands that follow run as that user."""
    running, admin = server
    (tmp_path / "password").write_text(f"{PASSWORD}\n")

    def become(role, *args):
        made = run_cli("acl", role, "--password-file", tmp_path / "password", *args)
        assert made.code == 0, made.err
        assert admin.execute_command(*made.out.split()) in (True, "OK", b"OK")
        monkeypatch.setenv("REDIS_URL", f"redis://aragora-q-{role}@127.0.0.1:{running.port}")
        monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)

    return become


def _assert_ok(*runs):
    for ran in runs:
        assert ran.code == 0, (ran.out, ran.err)


def _refused(admin):
    """Commands that the server has refused so far, from its ACL LOG."""
    return [f"{row['username']}: {row['object']}" for row in admin.acl_log()]


def test_the_password_is_printed_as_a_hash_only(run_cli, tmp_path):
    """Neither the password itself nor a user who could log in without one is ever printed."""
    (tmp_path / "password").write_text(PASSWORD)
    made = run_cli("acl", "worker", "--password-file", tmp_path / "password")
    assert PASSWORD not in made.out
    assert f"#{hashlib.sha256(PASSWORD.encode()).hexdigest()}" in made.out
    bare = run_cli("acl", "worker")
    assert "nopass" not in bare.out
    assert "the user has no password and cannot log in: use --password-file" in bare.err


def test_wrong_uses_are_refused(run_cli, tmp_path):
    """An unknown role is a usage error; a missing password file is a configuration error."""
    assert run_cli("acl", "root").code == 2
    missing = run_cli("acl", "worker", "--password-file", tmp_path / "none")
    assert (missing.code, "cannot read" in missing.err) == (78, True)


def test_producer(as_role, run_cli, server):
    """A producer enqueues, with durability by replica if the server has replicas, and reads its jobs."""
    _, admin = server
    as_role("producer")
    made = run_cli("enqueue", "What?", "--agents", "demo,demo", "--quiet")
    later = run_cli("enqueue", "What?", "--agents", "demo,demo", "--delay", "1h", "--quiet")
    _assert_ok(made, later, run_cli("status", made.out.strip(), later.out.strip()))
    assert run_cli("wait", made.out.strip(), "--timeout", "0.1").code == 124
    assert _refused(admin) == []
    assert run_cli("cancel", made.out.strip()).code == 77, (
        "a command denied within a script also exits 77"
    )
    assert run_cli("status", made.out.strip(), "--json").object["status"] == "pending"
    assert not admin.exists(f"aragora:queue:debates:job:{made.out.strip()}:payload")
    assert len(_refused(admin)) == 1


def test_worker(as_role, run_cli, cli_command, server):
    """A worker registers, runs, retries, fails and completes jobs, does maintenance, and unregisters."""
    _, admin = server
    as_role("producer")
    _assert_ok(
        *(
            run_cli("enqueue", f"{n}?", "--agents", "demo,demo", "--id", f"job-{n}")
            for n in range(3)
        )
    )
    as_role("worker")
    script = (
        "import json,sys,time; n=json.load(sys.stdin)['id'][-1]; n != '0' and sys.exit(int(n));"
        "time.sleep(2); print('{}')"  # so long that its lease is renewed
    )
    program = f"{sys.executable} -c {shlex.quote(script)}"
    ran = cli_command(
        "worker", "--burst", "--exec", program, "--metrics-port", "0",
        env={"ARAGORA_QUEUE_RETRY_BASE_DELAY": "0", "ARAGORA_QUEUE_CLAIM_IDLE_MS": "4000"},
    )  # fmt: skip
    _assert_ok(ran)
    assert admin.hget("aragora:queue:debates:job:job-0", "status") == "completed"
    assert admin.zcard("aragora:queue:debates:workers") == 0
    assert _refused(admin) == []


def test_budgets(as_role, run_cli, server):
    """An operator sets a budget, statistics show it; who only reads or enqueues cannot change it."""
    _, admin = server
    as_role("operator")
    _assert_ok(run_cli("budget", "set", "day", "5/day", "--scope", "tenant"))
    run_cli("doctor", "--repair", "--yes")
    as_role("stats")
    _assert_ok(run_cli("budget", "list"), run_cli("budget", "show", "day"))
    as_role("reaper")
    _assert_ok(run_cli("reap"))
    assert _refused(admin) == []
    for role in ("stats", "producer"):
        as_role(role)
        assert run_cli("budget", "set", "day", "6").code == 77


def test_groups(as_role, run_cli, cli_command, server):
    """A producer seals a group, a worker ends it and so enqueues what follows; an operator cancels one."""
    _, admin = server
    as_role("producer")
    text = '{"payload": {}, "tenant": "t", "tags": {"a": "b"}}\n' * 2
    _assert_ok(*(run_cli("enqueue", "-", "--group", name, stdin=text) for name in ("a", "b")))
    _assert_ok(run_cli("group", "show", "a"), run_cli("group", "list"))
    _assert_ok(run_cli("group", "seal", "a", "--then", "-", stdin='{"payload": {}}'))
    as_role("operator")
    _assert_ok(run_cli("group", "cancel", "b", "--yes"), run_cli("group", "show", "b"))
    _assert_ok(run_cli("group", "seal", "b"))
    as_role("stats")
    _assert_ok(run_cli("group", "list"), run_cli("group", "show", "a"))
    as_role("worker")
    _assert_ok(cli_command("worker", "--burst", "--exec", "echo {}", "--metrics-port", "0"))
    assert admin.hget("aragora:queue:debates:job:a.then", "status") == "completed"
    assert _refused(admin) == []


@pytest.mark.parametrize("role", ["worker", "reaper", "operator"])
async def test_schedules(as_role, server, tmp_path, cli_command, role):
    """Workers, `reap` and operators enqueue what schedules have due; operators also change schedules."""
    running, admin = server
    harness = QueueHarness(running.url)
    at = minute_before(admin)
    due, missed = {"due": daily(at)}, {"missed": daily(at - 3 * 3_600_000)}
    promise(harness, at, "due")
    promise(harness, at - 3 * 3_600_000, "missed")
    (tmp_path / "aragora-q.toml").write_text(toml(due | missed))
    as_role(role)
    burst = ("--burst", "--metrics-port", "0", "--executor", "support.executors:make")
    _assert_ok(cli_command(*(("worker", *burst) if role == "worker" else ("reap",))))
    assert harness.counters()["ticks"] == harness.counters()["ticks_missed"] == 1
    if role == "operator":
        queue = RedisStreamsQueue(QueueConfig())
        for change in (queue.schedules.pause, queue.schedules.resume, queue.schedules.forget):
            assert await change("due", by="ann@host")
        assert await queue.schedules.run("due", Job({}, id="due@1-run"), by="ann@host")
        await queue.close()
    assert _refused(admin) == []
    await harness.close()


@pytest.mark.parametrize("role", ["producer", "purge"])
def test_who_may_not_cancel_jobs_cannot_cancel_a_group(as_role, run_cli, server, role):
    """A refused `group cancel` changes nothing: the group is not marked, and its `then` is kept."""
    as_role("producer")
    _assert_ok(run_cli("enqueue", "-", "--group", "g", stdin='{"payload": {}}'))
    _assert_ok(run_cli("group", "seal", "g", "--then", "-", stdin='{"payload": {}}'))
    as_role(role)
    assert run_cli("group", "cancel", "g", "--yes").code == 77
    as_role("stats")
    shown = run_cli("group", "show", "g", "--json").object
    assert (shown["cancelled_at"], shown["then"]["status"]) == (None, "waiting")


def test_maintenance_and_read_only_roles(as_role, run_cli, server):
    """Reaper, purge, stats and operator: each role can run all of its commands."""
    _, admin = server
    as_role("producer")
    _assert_ok(
        *(
            run_cli("enqueue", f"{n}?", "--agents", "demo,demo", "--id", f"job-{n}")
            for n in range(3)
        )
    )
    as_role("reaper")
    _assert_ok(run_cli("reap"), run_cli("reap", "--dry-run"))
    as_role("purge")
    _assert_ok(run_cli("purge"), run_cli("purge", "--dry-run"))
    as_role("stats")
    _assert_ok(run_cli("stats"), run_cli("stats", "--prometheus", "-"), run_cli("status", "job-0"))
    _assert_ok(*(run_cli("list", "--status", status, "--quiet") for status in JobStatus))
    as_role("operator")
    _assert_ok(run_cli("cancel", "job-0"), run_cli("reap"), run_cli("purge"), run_cli("stats"))
    _assert_ok(
        run_cli("requeue", "job-0"), run_cli("pause"), run_cli("resume"), run_cli("cancel", "job-1")
    )
    _assert_ok(run_cli("hold", "job-2"), run_cli("list", "-s", "held"), run_cli("unhold", "job-2"))
    _assert_ok(run_cli("purge", "--older-than", "1s", "--yes"))
    assert "may not check its own rights" not in run_cli("doctor").out
    assert _refused(admin) == []


BUDGET = BudgetConfig(limit_usd=9, window="day", scope="tenant")


async def _set_budget(url):
    queue = RedisStreamsQueue(QueueConfig(redis_url=url, redis_password=PASSWORD))
    gates = queue.connection.for_gates()
    await Book(gates).set_budget("each", BUDGET, by="me")
    await gates.close()
    await queue.close()


async def _pay(url):
    """Book calls as the process of a worker does: declared budgets, permits, a refusal, overdue calls."""
    config = QueueConfig(redis_url=url, redis_password=PASSWORD, budgets={"each": BUDGET})
    queue = RedisStreamsQueue(config)
    job = {"group": "g", "tenant": "t"}
    refused = {"outcome": "rate_limited", "retry_after_seconds": 60.0}
    await paid_calls.book(queue, (job, {}, paid_calls.ok(0.5)), ({}, {}, refused))
    gates = queue.gates("w1")
    await gates.acquire(Job(payload={}, id="open"), paid_calls.call("open/1/a", account="x@1"))
    renewer = gates.permit_renewer()
    await renewer.renew()
    await gates.refresh()
    await renewer.close()
    kind = CallKind("m", "", "propose")
    await gates.learn(CallHistory({kind: CallSums(requests=1, calls=1)}))
    assert (await gates.call_history()).counts == {kind: 1}
    await gates.close()
    await queue.close()


async def _learned(url):
    """How many debates the history has, as a client reads it for a quote."""
    queue = RedisStreamsQueue(QueueConfig(redis_url=url, redis_password=PASSWORD))
    history = await queue.call_history()
    await queue.close()
    return sum(history.counts.values())


async def test_roles_use_the_gates(as_role, run_cli, server):
    """A worker books calls and learns, an operator sets budgets, others read; a producer reads sums of groups
    and the history of its queue only.
    """
    running, admin = server
    as_role("producer")
    _assert_ok(run_cli("enqueue", "-", "--group", "g", stdin='{"payload": {}}'))
    as_role("operator")
    await _set_budget(f"redis://aragora-q-operator@127.0.0.1:{running.port}")
    as_role("worker")
    await _pay(f"redis://aragora-q-worker@127.0.0.1:{running.port}")
    as_role("producer")
    assert run_cli("group", "show", "g", "--json").object["spent"]["usd"] == 0.5
    assert await _learned(f"redis://aragora-q-producer@127.0.0.1:{running.port}") == 1
    assert _refused(admin) == []
    assert run_cli("spend").code == 77
    assert all("{gates}:spend:" in refused for refused in _refused(admin))
    admin.acl_log_reset()
    as_role("stats")
    assert run_cli("spend", "--json").object["calls"] == 2
    stats = run_cli("stats", "--json").object
    assert [each["closed_by"] for each in stats["closed_providers"]] == ["rate_limited"]
    assert "aragora_q_budget_spent_usd{" in run_cli("stats", "--prometheus", "-").out
    as_role("reaper")
    _assert_ok(run_cli("reap"))
    as_role("operator")
    _assert_ok(run_cli("spend"), run_cli("stats"), run_cli("group", "show", "g"))
    assert _refused(admin) == []


@pytest.fixture
def cluster_as_role(shared_server):
    """Returns the URL of a cluster for the user of a role; no command of the users was denied in the end."""
    cluster = shared_server("cluster")
    keys = QueueKeys("aragora:queue:", "debates", cluster=True)
    for node in cluster.nodes:
        with node.client() as admin:
            admin.acl_log_reset()
            for role in ROLES:
                admin.execute_command(
                    "ACL", "SETUSER", f"aragora-q-{role}", "reset", "on", f">{PASSWORD}",
                    *rules(role, keys).split(),
                )  # fmt: skip
    yield lambda role: cluster.url.replace("://", f"://aragora-q-{role}@")
    refused = []
    for node in cluster.nodes:
        with node.client() as admin:
            refused += _refused(admin)
            admin.execute_command("ACL", "DELUSER", *(f"aragora-q-{role}" for role in ROLES))
    assert refused == []


async def test_roles_use_the_gates_of_a_cluster(cluster_as_role, run_cli, monkeypatch):
    """The gates have their own slot there, perhaps on another node than the queue."""
    monkeypatch.setenv("REDIS_PASSWORD", PASSWORD)

    def as_role(role, *args, **options):
        monkeypatch.setenv("REDIS_URL", cluster_as_role(role))
        return run_cli(*args, **options)

    _assert_ok(as_role("producer", "enqueue", "-", "--group", "g", stdin='{"payload": {}}'))
    await _set_budget(cluster_as_role("operator"))
    await _pay(cluster_as_role("worker"))
    assert as_role("producer", "group", "show", "g", "--json").object["spent"]["usd"] == 0.5
    assert await _learned(cluster_as_role("producer")) == 1
    assert as_role("stats", "spend", "--json").object["calls"] == 2
    assert "aragora_q_budget_spent_usd{" in as_role("stats", "stats", "--prometheus", "-").out
    _assert_ok(as_role("reaper", "reap"), as_role("operator", "stats"))


@pytest.mark.parametrize("role", ROLES)
def test_no_role_may_do_what_is_dangerous(as_role, server, role):
    """No role may flush, configure, monitor, create users, or touch other keys (ACL DRYRUN)."""
    _, admin = server
    as_role(role)
    user = f"aragora-q-{role}"
    for dangerous in DANGEROUS:
        verdict = admin.execute_command("ACL", "DRYRUN", user, *dangerous)
        assert "has no permissions" in str(verdict), (dangerous, verdict)


@pytest.mark.parametrize(
    ("role", "refused"),
    [
        ("producer", ("XREADGROUP", "GROUP", "aragora-workers", "w", "STREAMS", "{}stream", ">")),
        ("producer", ("XACK", "{}stream", "aragora-workers", "1-1")),
        ("stats", ("EVAL", "return 1", "0")),
        ("stats", ("HSET", "{}job:x", "status", "completed")),
        ("stats", ("SET", "aragora:queue:{{gates}}:policy", "")),
        ("producer", ("GET", "aragora:queue:{{gates}}:policy")),
        ("producer", ("HGETALL", "aragora:queue:{{gates}}:spend:2026-11-28")),
        ("producer", ("GET", "aragora:queue:{{gates}}:group:debate/x")),
        ("producer", ("HGETALL", "aragora:queue:{{gates}}:history:other")),
        ("producer", ("HSET", "aragora:queue:{{gates}}:history:debates", "x", "1")),
        ("purge", ("GET", "aragora:queue:{{gates}}:policy")),
        ("purge", ("XREADGROUP", "GROUP", "aragora-workers", "w", "STREAMS", "{}stream", ">")),
        ("worker", ("XTRIM", "{}stream", "MAXLEN", "0")),
        ("worker", ("GET", "aragora:queue:other:job:x")),
    ],
)
def test_a_role_may_not_do_the_work_of_another(as_role, server, role, refused):
    """A producer starts no jobs, a reader changes nothing, no role reaches another queue (ACL DRYRUN)."""
    _, admin = server
    as_role(role)
    call = [part.format("aragora:queue:debates:") for part in refused]
    verdict = admin.execute_command("ACL", "DRYRUN", f"aragora-q-{role}", *call)
    assert "has no permissions" in str(verdict)


def test_rights_hold_for_the_configured_prefix_literally(as_role, server, monkeypatch):
    """Wildcards in a prefix give no right to keys that only match them."""
    _, admin = server
    monkeypatch.setenv("ARAGORA_QUEUE_PREFIX", "a*:")
    as_role("purge")
    dry = lambda key: str(  # noqa: E731
        admin.execute_command("ACL", "DRYRUN", "aragora-q-purge", "UNLINK", key)
    )
    assert "has no permissions" not in dry("a*:debates:job:x")
    assert "has no permissions" in dry("abc:debates:job:x")


def test_cluster_keys_have_a_hash_tag(run_cli):
    """On a cluster the keys have a hash tag, and so has the pattern in the rules."""
    made = run_cli("acl", "worker", "--redis-url", "redis+cluster://127.0.0.1:7000")
    assert " ~aragora:queue:{debates}:* " in made.out
