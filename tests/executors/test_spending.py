"""Executors that pay: each call is booked once, and a program is stopped when the gates refuse its job."""

import asyncio
import json
import logging
import signal
import sys
import time
from decimal import Decimal

import pytest
from support.gates import Gates, micros, new_call
from support.queue_harness import LEASE_MS, decisions
from support.wait import wait_until

from aragora_q.base import JobStatus
from aragora_q.config.settings import QueueConfig
from aragora_q.config.tables import BudgetConfig
from aragora_q.context import DetachedAttempt, current_attempt
from aragora_q.contracts import Granted
from aragora_q.errors import LeaseLost, PermanentError
from aragora_q.executors import command, process_group, spending
from aragora_q.gates.accounts import Accounts
from aragora_q.gates.book import Book
from aragora_q.ledger import LEDGER, CallLedger
from aragora_q.maintenance import reap_pass
from aragora_q.worker import runner
from aragora_q.worker.attempt import Attempt
from aragora_q.worker.paid_calls import PaidCalls

pytestmark = pytest.mark.usefixtures("within_a_day")

DAY = {"limit_usd": 1.0, "window": "day"}
SPEND = """echo '{"spent": {"provider": "acme", "usd": 0.6, "model": "m"}}' >&3"""
COUNT = """echo $ARAGORA_JOB_ATTEMPT >>"$STARTS" """


class Payers:
    """A queue whose worker runs one program or function, with its gates and its spending."""

    def __init__(self, harness, pool, write):
        self.harness, self.gates = harness, Gates(harness)
        self._pool, self._write = pool, write

    def run(self, text, interpreter="/bin/sh"):
        """Start a worker that runs this program."""
        config = QueueConfig(exec_command=self._write(text, interpreter))
        return self._pool.start(self.harness, command.create(config))

    def call(self, executor):
        """Start a worker that runs this function."""
        return self._pool.start(self.harness, executor)

    async def job(self, *statuses, job_id="j1", **fields):
        """Enqueue a job, and return it when it has one of these statuses."""
        await self.harness.enqueue(job_id, **fields)
        return await self.harness.wait_for_status(job_id, *statuses)

    async def operate(self, act):
        """Do what an operator does, over a connection to the gates; return the result."""
        connection = self.harness.queue.connection.for_gates()
        try:
            return await act(connection)
        finally:
            await connection.close()

    def spent(self):
        """Micro-dollars by provider and model, and the number of calls."""
        rows = self.gates.spend()
        return {(row[4], row[5]): (each["usd"], each["calls"]) for row, each in rows.items()}


@pytest.fixture
async def payers(new_harness, worker_pool, program, monkeypatch, tmp_path):
    """Makes `Payers` whose worker has these budgets. What it stops has a minute to end and to be booked."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 60.0)
    monkeypatch.setattr(spending, "FINISH_SECONDS", 60.0)
    monkeypatch.setattr(runner, "CANCEL_TIMEOUT_SECONDS", 60.0)
    made = []

    def make(*, settings=None, **budgets):
        made.append(Payers(new_harness(budgets=budgets, **(settings or {})), worker_pool, program))
        return made[-1]

    yield make
    await worker_pool.stop()
    for each in made:
        await each.gates.client.close()


def trapping(on_term, text):
    """A shell program that runs `on_term` when it gets SIGTERM."""
    return f"on_term() {{ {on_term}; }}; trap on_term TERM\n{text}"


def starts(tmp_path):
    return (tmp_path / "starts").read_text().split()


async def test_what_a_program_reports_is_booked_at_once(payers, tmp_path):
    """While it runs, without any budget, with tokens and labels; a second report is another call."""
    payers = payers()
    report = {
        "provider": "acme", "usd": 0.012, "model": "m", "account": "acme@1", "agent": "writer",
        "input_tokens": 100, "output_tokens": 20, "cached_tokens": 50,
    }  # fmt: skip
    line = json.dumps({"spent": report})
    payers.run(f"echo '{line}' >&3; while [ ! -e {tmp_path}/go ]; do sleep 0.05; done; "
               f"""echo '{{"spent": {{"provider": "acme", "usd": null}}}}' >&3; echo '{{}}'""")  # fmt: skip
    await payers.job(JobStatus.PROCESSING, tenant="t")
    [(row, numbers)] = (await wait_until(payers.gates.spend)).items()
    assert row == ("debates", "t", "", "writer", "acme", "m")
    assert list(numbers.values()) == [1, 0, 100, 20, 50, 12_000, 0, 0]
    (tmp_path / "go").touch()
    await payers.harness.wait_for_status("j1", JobStatus.COMPLETED)
    assert (payers.gates.total("unpriced_calls"), payers.gates.total("calls")) == (1, 2)
    assert payers.gates.reservations() == set()


async def test_a_full_budget_holds_the_job_until_there_is_room(payers, tmp_path):
    """The program is stopped and nothing is charged; its checkpoints stay, and it goes on when it is freed."""
    payers = payers(day=DAY)
    payers.run(
        f"""{COUNT}
        if grep -q '"first"'; then echo '{{"done": true}}'; exit; fi
        echo '{{"checkpoint": "first", "value": {{}}}}' >&3
        {SPEND}; {SPEND}; exec sleep 1000"""
    )
    job = await payers.job(JobStatus.HELD)
    assert (job.hold.cause, job.hold.by, job.attempts) == ("budget", "day", 0)
    assert "$1.20 of $1.00 spent" in job.hold.reason
    assert payers.gates.counter("day") == {"spent": micros(1.2)}
    raised = BudgetConfig(**{**DAY, "limit_usd": 10})
    await payers.operate(lambda gates: Book(gates).set_budget("day", raised, by="me"))
    await reap_pass(payers.harness.queue, "reaper")
    job = await payers.harness.wait_for_status("j1", JobStatus.COMPLETED)
    assert (job.result, job.attempts) == ({"done": True}, 1)
    assert payers.spent() == {("acme", "m"): (micros(1.2), 2)}


async def test_a_budget_that_fails_jobs_fails_it(payers):
    """The error names the budget."""
    payers = payers(day={**DAY, "limit_usd": 0.5, "on_full": "fail"})
    payers.run(f"{SPEND}; exec sleep 1000")
    job = await payers.job(JobStatus.FAILED)
    assert "budget day: $0.60 of $0.50 spent" in job.error


async def test_a_budget_that_warns_stops_nothing(payers):
    """Nor does one in which others' reservations are in the way."""
    payers = payers(day={**DAY, "limit_usd": 0.5, "on_full": "warn"})
    payers.run(f"{SPEND}; echo '{{}}'")
    await payers.job(JobStatus.COMPLETED)


@pytest.mark.slow
async def test_a_program_that_ignores_sigterm_is_killed(payers, monkeypatch):
    """What it still reported was spent."""
    payers = payers(day={**DAY, "limit_usd": 0.5})
    monkeypatch.setattr(process_group, "GRACE_SECONDS", 6.0)
    payers.run(trapping(SPEND.replace("acme", "late"), f"{SPEND}; while :; do sleep 0.02; done"))
    await payers.job(JobStatus.HELD)
    assert payers.spent() == {("acme", "m"): (600_000, 1), ("late", "m"): (600_000, 1)}


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("echo '{\"paid\": 1}'; exit 0", JobStatus.COMPLETED),
        ("exit 0", JobStatus.HELD),
        ("echo '{\"paid\": 1}'; exit 1", JobStatus.HELD),
        ("exit 65", JobStatus.HELD),
    ],
)
async def test_a_result_within_the_grace_counts(payers, end, status):
    """It was paid for. Any other end of a program that is stopped says nothing of the job."""
    payers = payers(day={**DAY, "limit_usd": 0.5})
    payers.run(trapping(end, f"{SPEND}; while :; do sleep 0.02; done"))
    job = await payers.job(status)
    assert job.attempts == (status is JobStatus.COMPLETED)


@pytest.mark.parametrize(
    ("end", "status"),
    [("echo '{}'", JobStatus.COMPLETED), ("exit 65", JobStatus.FAILED)],
)
async def test_the_exit_code_of_a_program_that_ended_by_itself_counts(
    payers, end, status, monkeypatch
):
    """Although the budget is full when the gates are asked."""
    payers, check, started = payers(day={**DAY, "limit_usd": 0.5}), PaidCalls.check, []
    start = process_group.ProcessGroup.start

    async def note(*args):
        started.append(await start(*args))
        return started[0]

    async def late(self, call):
        await started[0].exited
        await check(self, call)

    monkeypatch.setattr(process_group.ProcessGroup, "start", note)
    monkeypatch.setattr(PaidCalls, "check", late)
    payers.run(f"{SPEND}; {end}")
    await payers.job(status)


async def test_a_cooldown_puts_the_job_off_and_closes_the_gate_for_all(payers, tmp_path):
    """Uncharged; if the job comes back too early, its program is not started again."""
    payers = payers()
    payers.run(
        f"""{COUNT}
        echo '{{"cooldown": {{"provider": "acme", "seconds": 300, "why": "overloaded"}}}}' >&3
        exec sleep 1000"""
    )
    job = await payers.job(JobStatus.RETRYING)
    assert job.attempts == 0
    assert job.due_at - time.time() > 200
    assert "acme: the provider is overloaded" in job.error
    [account] = await payers.operate(lambda gates: Accounts(gates).accounts())
    assert (account.name, account.provider, account.state) == ("acme", "acme", "closed")
    payers.harness.redis.zadd(payers.harness.keys.delayed, {"j1": 0})

    async def is_put_off_again():
        job = await payers.harness.queue.get_job("j1")
        return job.status is JobStatus.RETRYING and (job.due_at or 0) > time.time() + 100

    await wait_until(is_put_off_again)
    assert len(starts(tmp_path)) == 1
    await payers.operate(lambda gates: Accounts(gates).resume("acme"))
    answer = await payers.gates.client.ask(payers.gates.job, new_call(account="acme"))
    assert answer == Granted()


async def test_a_short_cooldown_is_not_worth_stopping(payers):
    """A gate that opens within two seconds stops no program."""
    payers = payers()
    cooldown = '{"cooldown": {"provider": "acme", "seconds": 1}}'
    payers.run(f"echo '{cooldown}' >&3; sleep 0.4; echo '{{}}'")
    await payers.job(JobStatus.COMPLETED)


async def test_credit_that_is_used_up_holds_the_job(payers):
    """Until an operator resumes the account."""
    payers = payers()
    cooldown = '{"cooldown": {"provider": "acme", "account": "acme@1", "why": "credit_exhausted"}}'
    payers.run(
        f"""[ -e "$STARTS" ] && {{ echo '{{}}'; exit; }}
        {COUNT}; echo '{cooldown}' >&3; exec sleep 1000"""
    )
    job = await payers.job(JobStatus.HELD)
    assert (job.hold.cause, job.hold.by, job.attempts) == ("provider", "acme@1", 0)
    await payers.operate(lambda gates: Accounts(gates).resume("acme@1"))
    await reap_pass(payers.harness.queue, "reaper")
    await payers.harness.wait_for_status("j1", JobStatus.COMPLETED)


INVALID = {
    '{"spent": {"provider": "acme"}}': "usd is missing",
    '{"spent": {"usd": 1}}': "provider is missing",
    '{"spent": {"provider": "acme", "usd": -1}}': "usd must be greater than or equal to 0, not -1",
    '{"spent": {"provider": "acme", "usd": "1"}}': "usd must be a number, not '1'",
    '{"spent": {"provider": "acme", "usd": true}}': "usd must be a number, not True",
    '{"spent": {"provider": "acme", "usd": 1e30}}': "usd must be less than or equal to 100000000",
    '{"spent": {"provider": "acme", "usd": 1, "input_tokens": -5}}': "input_tokens",
    '{"spent": {"provider": "acme", "usd": 1, "input_tokens": 1.5}}': "input_tokens",
    '{"spent": {"provider": "acme", "usd": 1, "usb": 1}}': "unknown field 'usb'; the fields are provider, ",
    '{"spent": {"provider": "", "usd": 1}}': "provider is ''",
    '{"spent": {"provider": "acme", "account": "", "usd": 1}}': "account is ''",
    '{"spent": {"provider": "a\\u0000b", "usd": 1}}': "printable",
    '{"spent": {"provider": "acme", "usd": 1}, "x": 1}': "not a valid",
    '{"spent": {"provider": "acme", "usd": NaN}}': "not a valid",
    '{"spent": 1}': "not a valid",
    '{"cooldown": {"provider": "acme", "seconds": -1}}': "seconds",
    '{"cooldown": {"provider": "acme", "seconds": 2592001}}': "seconds must be less than",
    '{"cooldown": {"provider": "acme", "why": "tired"}}': "why must be 'rate_limited'",
    '{"checkpoint": "spent/ledger", "value": {"calls": []}}': "not a valid",
}


async def test_invalid_messages_change_nothing(payers, tmp_path, caplog):
    """Each is a warning that says what is wrong."""
    payers = payers()
    (tmp_path / "lines").write_text("\n".join(INVALID) + "\n")
    payers.run(f"cat {tmp_path}/lines >&3; echo '{{}}'")
    with caplog.at_level(logging.WARNING):
        await payers.job(JobStatus.COMPLETED)
    warnings = [each.getMessage() for each in caplog.records if "fd 3" in each.getMessage()]
    assert len(warnings) == len(INVALID)
    for (line, fault), warning in zip(INVALID.items(), warnings, strict=True):
        assert fault in warning, (line, warning)
    assert payers.gates.spend() == {}
    assert payers.gates.keys_of("account:") == []


async def test_a_flood_is_booked_in_full(payers):
    """In few calls, under a bounded number of names; the largest amounts do not overflow. A cooldown of a name
    that is not kept closes no other gate.
    """
    payers = payers()
    payers.run(
        """import json, os
with os.fdopen(3, "w") as messages:
    for n in range(3000):
        spent = {"provider": f"p{n % 300}", "usd": 0.001, "input_tokens": 1}
        messages.write(json.dumps({"spent": spent}) + "\\n")
    for n in range(30):
        messages.write('{"spent": {"provider": "p1", "usd": 90000000}}\\n')
    messages.write('{"cooldown": {"provider": "p299", "seconds": 60}}\\n')
print("{}")""",
        sys.executable,
    )
    await payers.job(JobStatus.COMPLETED)
    assert payers.gates.total("usd") == micros(3 + 30 * 90_000_000)
    assert payers.gates.total("input_tokens") == 3000
    assert payers.gates.total("calls") < 1500
    assert len(payers.gates.spend()) == 101
    assert ("other", "") in payers.spent()
    accounts = await payers.operate(lambda gates: Accounts(gates).accounts())
    assert not any(account.is_closed for account in accounts)


@pytest.mark.parametrize("executor", ["program", "function"])
@pytest.mark.slow
async def test_a_worker_killed_before_the_settlement(
    new_harness, redis_url, worker_process, program, tmp_path, executor
):
    """The next attempt books what the killed one had spent, and nothing counts twice."""
    harness = new_harness()
    environment = {
        "CRASH_FILE": str(tmp_path / "crashed"),
        "PROGRAM": program(
            """grep -q "spent" && exit 65  # the ledger is not the program's
            usd=0.25; [ -e "$CRASH_FILE" ] && usd=0.125
            printf '{"spent": {"provider": "acme", "usd": %s}}\\n' $usd >&3
            echo '{}'"""
        ),
    }
    options = {
        "environment": environment, "executor": f"support.crashing_payers:{executor}", "lease_ms": LEASE_MS,
    }  # fmt: skip
    await harness.enqueue("j1")
    crashed = worker_process(redis_url, "w1", **options)
    await wait_until(lambda: crashed.process.poll() is not None, what="the crash")
    assert crashed.process.returncode == -signal.SIGKILL
    assert LEDGER in await harness.queue.tracker.checkpoints("j1")
    harness.backdate("j1")
    assert decisions(await harness.queue.reclaim()) == [("j1", "reclaimed")]
    worker_process(redis_url, "w2", **options)
    job = await harness.wait_for_end("j1")
    assert (job.status, job.crashes) == (JobStatus.COMPLETED, 1), job.error
    gates = Gates(harness)
    assert (gates.total("usd"), gates.total("calls"), gates.total("estimated")) == (375_000, 2, 0)
    assert gates.reservations() == set()
    await gates.client.close()


async def test_spending_is_booked_before_it_is_kept(payers, monkeypatch):
    """A worker killed in between takes nothing away, although its job may have no other attempt."""
    kept, checkpoint = asyncio.Event(), Attempt.checkpoint

    async def hang(self, name, value):
        await kept.wait()
        await checkpoint(self, name, value)

    payers = payers()
    monkeypatch.setattr(Attempt, "checkpoint", hang)
    payers.run(f"{SPEND}; echo '{{}}'")
    await payers.harness.enqueue("j1")
    await wait_until(lambda: payers.spent() == {("acme", "m"): (600_000, 1)})
    kept.set()
    await payers.harness.wait_for_status("j1", JobStatus.COMPLETED)
    assert LEDGER in await payers.harness.queue.tracker.checkpoints("j1")


async def test_reports_wait_while_redis_is_away(own_server, payers, tmp_path):
    """They are booked once when it is back, before the job ends."""
    server = own_server()
    payers = payers(settings={"redis_url": server.url})
    payers.run(f"""touch {tmp_path}/runs; while [ ! -e {tmp_path}/go ]; do sleep 0.02; done
        {SPEND}; {SPEND}; touch {tmp_path}/spent; echo '{{}}'""")
    await payers.harness.enqueue("j1")
    await wait_until((tmp_path / "runs").exists)
    server.process.send_signal(signal.SIGSTOP)
    (tmp_path / "go").touch()
    await wait_until((tmp_path / "spent").exists)
    await asyncio.sleep(0.3)
    server.process.send_signal(signal.SIGCONT)
    await payers.harness.wait_for_status("j1", JobStatus.COMPLETED)
    assert payers.spent() == {("acme", "m"): (micros(1.2), 2)}


async def test_a_program_without_money_keeps_no_ledger(payers):
    """Its job has the checkpoints that it saved, and no others."""
    payers = payers()
    payers.run("""echo '{"checkpoint": "first", "value": {}}' >&3; echo '{}'""")
    await payers.job(JobStatus.COMPLETED)
    assert await payers.harness.queue.tracker.checkpoints("j1") == {"first": {}}


@pytest.mark.parametrize("end", ["worker stopped", "job cancelled"])
async def test_what_a_stopped_program_still_reports_is_booked(payers, tmp_path, end):
    """Although its job is released, or has ended."""
    payers = payers(settings={"claim_idle_ms": 12_000})  # cancels are noticed each quarter
    runs = f"touch {tmp_path}/runs; while :; do sleep 0.02; done"
    worker = payers.run(trapping(f"{SPEND}; exit 1", runs))
    await payers.harness.enqueue("j1")
    await wait_until((tmp_path / "runs").exists)
    if end == "job cancelled":
        await payers.harness.queue.cancel("j1")
        await wait_until(lambda: payers.gates.total("usd"))
    else:
        await worker.stop(immediately=True)
        assert (await payers.harness.queue.get_job("j1")).attempts == 0
    assert payers.spent() == {("acme", "m"): (600_000, 1)}


async def test_spending_is_booked_although_it_cannot_be_kept(payers, monkeypatch, caplog):
    """A job without room for another checkpoint goes on; one warning says so."""

    async def fail(self, name, value):
        raise PermanentError("full")

    payers = payers()
    monkeypatch.setattr(Attempt, "checkpoint", fail)
    payers.run(f"{SPEND}; sleep 0.3; {SPEND}; echo '{{}}'")
    await payers.job(JobStatus.COMPLETED)
    assert payers.spent() == {("acme", "m"): (micros(1.2), 2)}
    assert caplog.text.count("not kept with the job") == 1


# -- functions


async def test_a_function_pays_what_it_reports(payers):
    """Reserved while the body runs, then booked; each call has its own id; the ledger is kept with the job."""
    payers = payers(day=DAY)
    seen = []

    async def pay(job):
        attempt = current_attempt()
        for usd in (0.25, 0.125):
            async with attempt.call(
                "acme",
                key="draft",
                max_cost_usd=0.5,
                model="m",
                account="acme@1",
                max_output_tokens=9,
            ) as call:
                seen.append((call.id, payers.gates.counter("day")["reserved"]))
                call.spent(cost_usd=usd, input_tokens=3, output_tokens=2, cached_tokens=1)
        return {}

    payers.call(pay)
    job = await payers.job(JobStatus.COMPLETED)
    assert {reserved for _, reserved in seen} == {micros(0.5)}
    assert len({call_id for call_id, _ in seen}) == 2
    assert payers.gates.counter("day") == {"spent": micros(0.375)}
    assert payers.spent() == {("acme", "m"): (375_000, 2)}
    assert payers.gates.permits("acme@1") == set()
    [entry] = (await payers.harness.queue.tracker.checkpoints(job.id))[LEDGER]["calls"]
    assert (entry["usd"], entry["in"], entry["out"], entry["cached"]) == (0.125, 3, 2, 1)


@pytest.mark.parametrize("end", ["returns", "raises", "is cancelled"])
async def test_a_call_that_is_not_reported_counts_with_its_reservation(payers, end, caplog):
    """As estimated, at once, with a warning; it says nothing of the provider."""
    payers, entered = payers(day=DAY), asyncio.Event()

    async def pay(job):
        async with current_attempt().call("acme", key="draft", max_cost_usd=0.5):
            entered.set()
            if end == "raises":
                raise PermanentError("no")
            if end == "is cancelled":
                await asyncio.sleep(1000)
        return {}

    worker = payers.call(pay)
    await payers.harness.enqueue("j1")
    await entered.wait()
    if end == "is cancelled":
        await worker.stop(immediately=True)
    else:
        await payers.harness.wait_for_end("j1")
    assert payers.gates.counter("day") == {"spent": micros(0.5), "estimated": micros(0.5)}
    assert "was not reported" in caplog.text
    assert payers.gates.redis.hget(payers.gates.keys.account("acme"), "faults") is None


async def test_a_call_that_is_reported_and_then_cancelled_is_booked(payers):
    """Its price, not its reservation."""
    payers, entered = payers(day=DAY), asyncio.Event()

    async def pay(job):
        async with current_attempt().call("acme", key="draft", max_cost_usd=0.5) as call:
            call.spent(cost_usd=0.1)
            entered.set()
            await asyncio.sleep(1000)

    worker = payers.call(pay)
    await payers.harness.enqueue("j1")
    await entered.wait()
    await worker.stop(immediately=True)
    assert payers.gates.counter("day") == {"spent": micros(0.1)}


async def test_a_call_of_a_lost_job_is_booked(payers):
    """The provider bills it, whichever worker has the job now; the executor gets LeaseLost."""
    payers, raised = payers(day=DAY), []

    async def pay(job):
        try:
            async with current_attempt().call("acme", key="draft", max_cost_usd=0.5) as call:
                payers.harness.redis.hincrby(payers.harness.keys.job(job.id), "fence", 1)
                call.spent(cost_usd=0.1)
        finally:
            payers.harness.redis.hincrby(payers.harness.keys.job(job.id), "fence", -1)
            raised.append(sys.exc_info()[0])

    payers.call(pay)
    await payers.harness.enqueue("j1")
    await wait_until(lambda: raised)
    assert raised == [LeaseLost]
    assert payers.gates.counter("day") == {"spent": micros(0.1)}


async def test_a_refused_call_closes_the_gate(payers):
    """It costs nothing; the next call puts the job off, uncharged, without running its body."""
    payers, bodies = payers(day=DAY), []

    async def pay(job):
        while True:
            async with current_attempt().call("acme", key="draft", max_cost_usd=0.5) as call:
                bodies.append(call.id)
                call.refused("rate_limited", retry_after_seconds=30)

    payers.call(pay)
    job = await payers.job(JobStatus.RETRYING)
    assert (job.attempts, len(bodies)) == (0, 1)
    assert payers.gates.counter("day") == {}


async def test_a_call_without_room_holds_the_job(payers):
    """Its body does not run."""
    payers = payers(day=DAY)

    async def pay(job):
        for n in range(3):
            async with current_attempt().call("acme", key=f"part {n}", max_cost_usd=0.4) as call:
                call.spent(cost_usd=0.4)

    payers.call(pay)
    job = await payers.job(JobStatus.HELD)
    assert (job.hold.by, job.attempts) == ("day", 0)
    assert payers.gates.counter("day") == {"spent": micros(0.8)}


@pytest.mark.parametrize(
    ("is_paid", "step"), [(True, "checkpoint"), (True, "settle"), (False, "settle")]
)
async def test_a_cancel_while_a_call_is_booked(is_paid, step):
    """What was being sent is sent again: it may not have arrived, and there may be no later attempt."""
    done, is_sending = [], asyncio.Event()

    class Slow(DetachedAttempt):
        async def send(self, name):
            if name == step and not is_sending.is_set():
                is_sending.set()
                await asyncio.Event().wait()
            done.append(name)

        async def checkpoint(self, name, value):
            await self.send("checkpoint")

        async def settle(self, call, settlement):
            await self.send("settle")

    async def pay():
        async with CallLedger(Slow(), None).call("acme", key="draft", max_cost_usd=0.5) as call:
            call.spent(cost_usd=0.1) if is_paid else call.refused("rejected")

    task = asyncio.create_task(pay())
    await is_sending.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert set(done) == {*(["checkpoint"] if is_paid else []), "settle"}


@pytest.mark.parametrize(
    "arguments",
    [
        {"provider": ""}, {"provider": "x" * 65}, {"key": ""}, {"key": "k" * 101}, {"account": "a\n"},
        {"max_cost_usd": -1.0}, {"max_cost_usd": float("nan")}, {"max_input_tokens": -1},
        {"timeout_seconds": 0}, {"timeout_seconds": "60"}, {"max_cost_usd": Decimal("0.5")}, {"model": None},
    ],
)  # fmt: skip
async def test_arguments_that_break_a_rule(arguments):
    """Raise ValueError, also where no worker runs the executor."""
    [name] = arguments
    arguments = {"provider": "acme", "key": "draft", "max_cost_usd": 0.5, **arguments}
    with pytest.raises(ValueError, match=name):
        async with current_attempt().call(**arguments):
            pass


async def test_reports_that_break_a_rule():
    """Raise ValueError, and what was reported before stays."""
    async with DetachedAttempt().call("acme", key="draft", max_cost_usd=0.5) as call:
        call.spent(cost_usd=0.1)
        for amount in (-0.1, Decimal("0.1"), "0.1", True):  # they could not be kept and sent
            with pytest.raises(ValueError, match="cost_usd"):
                call.spent(cost_usd=amount)
        with pytest.raises(ValueError, match="retry_after_seconds is '30'"):
            call.refused("rate_limited", retry_after_seconds="30")
        with pytest.raises(ValueError, match="must be one of rate_limited"):
            call.refused("ok")
        assert call.settlement.cost_usd == 0.1
