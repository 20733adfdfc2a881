"""The JSON of every command has the fields that docs/reference/cli-json.md promises, no fewer and no more."""

import json
import re

import pytest
from support import experiments
from support.paid_calls import book, ok
from support.paths import ROOT
from support.queue_harness import PREFIX
from support.sample_debates import SAMPLES

from aragora_q.contracts import Completed, Failed

PAGE = ROOT / "docs/reference/cli-json.md"
AGENTS = "demo:bold,demo:careful"


def _documented():
    """Fields by heading: the names in the first column of its tables."""
    fields, heading = {}, ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| `"):
            names = re.findall(r"`(\w+)`", line.split("|")[1])
            fields.setdefault(heading, []).extend(names)
    return fields


def _names_of_parts(heading, name):
    """Names in the row of a field, and in the rows of its parts (`name[].part`)."""
    section = PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    if parts := re.findall(rf"`{name}\[\]\.(\w+)`", section):
        return set(parts)
    row = re.search(rf"^\| `{name}` .*$", section, re.MULTILINE)[0].partition("|")[2]
    return set(re.findall(r"`(\w+)`", row.partition("|")[2]))


DOCUMENTED = _documented()
OF_STATUS = {"quote_usd", "history"}
JOB = {*DOCUMENTED["A job"]} - OF_STATUS
SUM = set(re.findall(r"`sum\.(\w+)`", PAGE.read_text()))
"""Numbers of the sum of quotes."""
SPENT = {*DOCUMENTED["spend"]} - {
    "day",
    "queue",
    "tenant",
    "group",
    "agent",
    "provider",
    "model",
    "is_other",
}
"""Numbers of what was spent."""
COUNTED = {"cancel": {"dry_run", "jobs"}}
"""Fields of what is printed with --dry-run instead."""


@pytest.fixture
def jobs(on_queue):
    """`done` has completed, `bad` failed, `waits` waits."""

    async def make(harness):
        worker = await harness.worker("w1")
        await harness.enqueue("done")
        await harness.enqueue("bad")
        done, bad = (await worker.start(2)).jobs
        await harness.report(worker, done, Completed(b"{}"))
        await harness.report(worker, bad, Failed("no"))
        await harness.enqueue("waits")

    on_queue(make)


@pytest.mark.parametrize("args", [("wait", "done"), ("list", "--status", "failed")])
def test_jobs(run_cli, jobs, args):
    """wait and list print jobs."""
    for job in run_cli(*args, "--json").objects:
        assert set(job) == JOB


def test_status(run_cli, jobs):
    """A job and its history of errors."""
    shown = run_cli("status", "bad", "--json").object
    assert set(shown) == JOB | OF_STATUS
    assert {name for event in shown["history"] for name in event} <= {
        "at", "cause", "attempt", "worker", "error",
    }  # fmt: skip


def test_a_held_job(run_cli, jobs):
    """What holds it, and the line of its history."""
    run_cli("hold", "waits", "--reason", "look first")
    shown = run_cli("status", "waits", "--json").object
    assert set(shown["hold"]) == _names_of_parts("A job", "hold")
    assert set(shown["history"][-1]) == {"at", "cause", "attempt", "by", "reason"}


def test_show(run_cli, on_queue):
    """A debate: the job without its result, the result, and each phase with its calls."""

    async def run(harness):
        made, entries = SAMPLES["agreeing"]()
        await harness.enqueue_payload("debate", made.payload)
        worker = await harness.worker("w1")
        job = await harness.start_one(worker)
        for entry in entries.items():
            await worker.checkpoint(job, *entry)

    on_queue(run)
    shown = run_cli("show", "debate", "--format", "json").object
    assert set(shown) == set(DOCUMENTED["show"])
    assert set(shown["job"]) == JOB - {"result"}
    for phase in shown["rounds"]:
        assert set(phase) == _names_of_parts("show", "rounds")
        for reply in phase["replies"]:
            assert set(reply) == _names_of_parts("show", "replies")


def test_receipt(run_cli, jobs):
    """A receipt, and what `receipt verify` says of it."""
    written = run_cli("receipt", "bad")
    assert set(written.object) == set(DOCUMENTED["receipt"])
    [row] = written.object["degradation"]
    assert set(row) == {"code", "text"} == _names_of_parts("receipt", "degradation")
    verified = run_cli("receipt", "verify", "-", "--json", stdin=written.out).object
    assert set(verified) == set(DOCUMENTED["receipt verify"])
    section = PAGE.read_text().partition("\n## receipt\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z_, ]+) \|", section.partition("| fact |")[2], re.MULTILINE)
    facts = {name for row in rows for name in row.split(", ")}
    assert set(written.object["receipt"]) == facts


def test_enqueue(run_cli):
    """One debate; lines of which one is refused."""
    assert set(run_cli("enqueue", "What?", "--agents", AGENTS, "--json").object) == {
        "id",
        "created",
    }
    good = json.dumps({"question": "What?", "agents": AGENTS.split(",")})
    text = f'{good}\n[]\n{{"id": "w", "payload": 1}}\n'
    fine, refused, named = run_cli("enqueue", "-", "--json", stdin=text).objects
    assert (set(fine), set(refused)) == ({"line", "id", "created"}, {"line", "error"})
    assert set(named) == {"line", "id", "error"}


def test_quote(run_cli):
    """Of one debate; of lines, of which one is refused, and their sum."""
    heading, args = "enqueue --quote", ("--agents", AGENTS, "--quote", "--json")
    numbers = _names_of_parts(heading, "expected")
    quote = run_cli("enqueue", "What?", *args).object
    assert set(quote) == set(DOCUMENTED[heading])
    assert set(quote["least"]) == set(quote["expected"]) == set(quote["most"]) == numbers
    for part in quote["lines"]:
        assert set(part) == _names_of_parts(heading, "lines")
    lines = f"{json.dumps({'question': 'What?', 'id': 'w'})}\n[]\n"
    fine, refused, last = run_cli("enqueue", "-", *args, stdin=lines).objects
    assert (set(fine), set(refused)) == ({"line", "id", "quote"}, {"line", "error"})
    assert (set(fine["quote"]), set(last)) == (set(quote), {"sum"})
    assert set(last["sum"]) == SUM


def test_sweep(run_cli, monkeypatch):
    """What is missing, its quote, and what has changed."""
    for agents in (AGENTS, f"{AGENTS},demo"):
        monkeypatch.setenv("ARAGORA_QUEUE_DEFAULT_AGENTS", agents)
        args = ("sweep", "-", "--group", "g", "--yes", "--json")
        shown = run_cli(*args, stdin='{"question": "What?"}').object
        assert set(shown) == set(DOCUMENTED["sweep"])
        assert shown["quote"] is None or set(shown["quote"]) == SUM - {"refused"}
    [change] = shown["changed"]
    assert set(change) == {"arm", "agent", "before", "after", "debates"}


@pytest.mark.parametrize(
    ("heading", "args"),
    [
        ("cancel", ("cancel", "waits")),
        ("hold", ("hold", "waits")),
        ("unhold", ("unhold", "waits")),
        ("requeue", ("requeue", "bad")),
        ("purge", ("purge",)),
        ("stats", ("stats",)),
        ("doctor", ("doctor",)),
        ("reap", ("reap", "--dry-run")),
    ],
)
def test_commands(run_cli, jobs, heading, args):
    """Each prints one object with the documented fields."""
    printed = run_cli(*args, "--json").object
    assert set(printed) == set(DOCUMENTED[heading]) - COUNTED.get(heading, set())
    for name, value in printed.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict) and name not in ("groups", "counters", "spent_today"):
                assert set(item) <= _names_of_parts(heading, name), name


def test_providers(run_cli):
    """A provider that is paused, and what pause and resume print."""
    paused = run_cli("providers", "pause", "stub", "--json").object
    assert set(paused) == set(DOCUMENTED["providers pause"])
    [row] = run_cli("providers", "list", "--json").objects
    assert set(row) == set(DOCUMENTED["providers list"])
    assert set(row["pause"]) == _names_of_parts("providers list", "pause")
    resumed = run_cli("providers", "resume", "stub", "--json").object
    assert set(resumed) == set(paused)


def test_schedules(run_cli, tmp_path):
    """A schedule that is paused, what show adds, and what the commands print that change it."""
    configuration = tmp_path / "aragora-q.toml"
    configuration.write_text("[schedules.s]\ncron = '0 6 * * *'\njob = {payload = {}}\n")
    printed = {
        name: run_cli("schedule", name, "s", "--json").object
        for name in ("run", "resume", "pause", "show")
    }
    for name, heading in (("run", "run"), ("pause", "pause"), ("resume", "pause")):
        assert set(printed[name]) == set(DOCUMENTED[f"schedule {heading}"])
    assert set(printed["show"]) == set(DOCUMENTED["schedule"])
    [row] = run_cli("schedule", "list", "--json").objects
    assert set(row) == set(DOCUMENTED["schedule"]) - {"times", "job"}
    assert set(row["paused"]) == _names_of_parts("schedule", "paused")
    configuration.unlink()
    forgotten = run_cli("schedule", "forget", "s", "--json").object
    assert set(forgotten) == set(DOCUMENTED["schedule forget"])


def test_webhooks(run_cli, tmp_path):
    """A webhook that is disabled, its messages, and what the commands print that change them."""
    secret = tmp_path / "hook"
    secret.write_text(f"whsec_{'QUJD' * 8}")
    (tmp_path / "aragora-q.toml").write_text(
        f"[webhooks.w]\nurl = 'https://127.0.0.1:1/'\nsecret_file = '{secret}'\n"
    )
    run_cli("enqueue", "-", stdin='{"payload": {}, "id": "j", "notify": ["w"]}')
    run_cli("cancel", "j")
    disabled = run_cli("webhook", "disable", "w", "--json").object
    assert set(disabled) == set(DOCUMENTED["webhook disable"])
    [row] = run_cli("webhook", "list", "--json").objects
    assert set(row) == set(DOCUMENTED["webhook"])
    assert set(row["disabled"]) == {"by", "reason", "at"}
    assert set(run_cli("webhook", "enable", "w", "--json").object) == set(disabled)
    [message] = run_cli("webhook", "deliveries", "--json").objects
    assert set(message) == set(DOCUMENTED["webhook deliveries"])
    again = run_cli("webhook", "redeliver", message["id"], "--json").object
    assert set(again) == set(DOCUMENTED["webhook redeliver"])
    tested = run_cli("webhook", "test", "w", "--json").object
    assert set(tested) == set(DOCUMENTED["webhook test"])


def test_groups(run_cli):
    """A group, in the output of show, list, seal and cancel."""
    line = json.dumps({"payload": {}})
    run_cli("enqueue", "-", "--group", "nightly", stdin=line)
    sealed = run_cli("group", "seal", "nightly", "--then", "-", "--json", stdin=line).object
    shown = run_cli("group", "show", "nightly", "--json").object
    assert set(sealed) == set(DOCUMENTED["group"]) - {"spent"}
    assert set(shown) == set(DOCUMENTED["group"]) - {"sealed"}
    assert set(shown.pop("spent")) == SPENT
    assert set(shown["counts"]) == _names_of_parts("group", "counts")
    assert set(shown["then"]) | {shown["then"]["status"]} <= _names_of_parts("group", "then")
    assert run_cli("group", "list", "--json").object == shown
    cancelled = run_cli("group", "cancel", "nightly", "--yes", "--json").object
    assert set(cancelled) == set(DOCUMENTED["group cancel"])


def _shape(value, path=""):
    """The paths of fields in JSON, as the page writes them."""
    if isinstance(value, list):
        return {each for part in value for each in _shape(part, f"{path}[]")}
    if isinstance(value, dict):
        names = {f"{path}.{name}".removeprefix("."): part for name, part in value.items()}
        return {*names}.union(*(_shape(part, name) for name, part in names.items()))
    return set()


def test_tables(run_cli, on_queue):
    """A row of `table`, and a comparison with its parts."""
    jobs = [
        (experiments.job(arm, 1), verdict)
        for arm, verdict in (("vote", "Mars"), ("debate", "Jupiter"))
    ]
    on_queue(lambda harness: experiments.fill(harness, jobs))
    for row in run_cli("table", "trivia", "-f", "jsonl").objects:
        assert [*row] == DOCUMENTED["table"]
    section = PAGE.read_text().partition("\n## compare\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    documented = {name for cell in cells for name in re.findall(r"`([\w.\[\]]+)`", cell)}
    parts = {f"differences[].verdicts[].{name}" for name in ("arm", "verdict", "right")}
    assert _shape(run_cli("compare", "trivia", "--json").object) == documented | parts


def test_spend(run_cli, on_queue):
    """Rows by every name, and by day only."""
    on_queue(lambda harness: book(harness.queue, ({}, {}, ok(0.5))))
    names = ("day", "queue", "tenant", "group", "agent", "provider", "model")
    assert set(run_cli("spend", "--by", ",".join(names), "--json").object) == set(
        DOCUMENTED["spend"]
    )
    assert set(run_cli("spend", "--json").object) == {"day", "is_other"} | SPENT


def test_money_of_stats(run_cli, on_queue):
    """What was spent today, and a provider that takes no calls."""
    refused = {"outcome": "rate_limited", "retry_after_seconds": 60.0}
    on_queue(lambda harness: book(harness.queue, ({}, {}, refused)))
    stats = run_cli("stats", "--json").object
    assert set(stats["spent_today"]) == SPENT
    [closed] = stats["closed_providers"]
    described = _names_of_parts("stats", "closed_providers")
    assert set(closed) | {closed["closed_by"]} <= described


def test_what_fails_in_stats(run_cli, redis_client):
    """A schedule whose job was refused, and a webhook that is disabled."""
    disabled = json.dumps({"at": 1_000, "by": "ann@host", "reason": "moved"})
    redis_client.hset(f"{PREFIX}schedules", "error:nightly", "too large")
    redis_client.hset(f"{PREFIX}webhooks", "disabled:acme", disabled)
    stats = run_cli("stats", "--json").object
    [schedule], [webhook] = stats["failing_schedules"], stats["failing_webhooks"]
    assert set(schedule) == _names_of_parts("stats", "failing_schedules")
    described = _names_of_parts("stats", "failing_webhooks")
    assert set(webhook) | set(webhook["disabled"]) == described


@pytest.mark.usefixtures("within_a_day")
def test_budgets(run_cli):
    """A budget, in the output of set, show, list and reset."""
    made = run_cli("budget", "set", "day", "5/day", "--json").object
    assert set(made) == set(DOCUMENTED["budget"])
    for name in ("override", "spending"):
        [part] = made[name] if name == "spending" else [made[name]]
        assert set(part) == _names_of_parts("budget", name) - {name}
    assert run_cli("budget", "show", "day", "--json").object == made
    assert run_cli("budget", "list", "--json").object == made
    assert set(run_cli("budget", "reset", "day", "--json").object) == set(
        DOCUMENTED["budget reset"]
    )


def test_a_dry_run_of_a_filter(run_cli, jobs):
    """The commands that change jobs print one object with the number of jobs."""
    for command in ("cancel", "hold", "unhold", "requeue"):
        counted = run_cli(command, "--since", "1h", "--dry-run", "--json").object
        assert set(counted) == COUNTED["cancel"]


def test_workers_of_stats(run_cli, on_queue):
    """A registered worker has every documented field."""
    on_queue(lambda harness: harness.worker("w1"))
    [worker] = run_cli("stats", "--json").object["workers"]
    optional = {"version", "concurrency", "metrics_port"}  # what `aragora-q worker` registers
    assert set(worker) | optional == _names_of_parts("stats", "workers")


def test_tail(start_command, jobs):
    """Each event as one object."""
    process = start_command("tail", "--after", "0", "--json")
    assert set(json.loads(process.stdout.readline())) == set(DOCUMENTED["tail"])


def test_config_show(run_cli):
    """Every setting with value, origin and default."""
    for setting in run_cli("config", "show", "--json").object.values():
        assert set(setting) == set(DOCUMENTED["config show"])
