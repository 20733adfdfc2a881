"""`aragora-q sweep`: a file of questions by arms becomes a group; a second run adds what is missing."""

import asyncio
import json
import re
import signal

import pytest
from support.proxy import Proxy
from support.queue_harness import PREFIX
from support.wait import wait_until

from aragora_q.executors.debate import estimate
from aragora_q.streams.queue import RedisStreamsQueue

CONFIG = """
default_agents = ["ann", "bob"]
max_backlog = {max_backlog}
[agents]
ann = "{ann}"
bob = {{ model = "openai:m2", effort = "high", base_url = "{url}" }}
cyd = "openai:m3"
[prices]
"openai:m1" = {{ input_usd_per_million = 3, output_usd_per_million = 15 }}
bob = {{ input_usd_per_million = 1, output_usd_per_million = 5 }}
"openai:m4" = {{ input_usd_per_million = 1, output_usd_per_million = 5 }}
"""
QUESTIONS = (
    {"question": "Tea or coffee?", "options": ["tea", "coffee"], "expected": "tea"},
    {"question": "Is 7 prime?", "expected": True, "tags": {"topic": "math"}, "tenant": "acme"},
)
ARMS = ("--arm", "quick debate=never", "--arm", "long rounds=5")
SECRET = "http://hunter2:1/v1"


@pytest.fixture
def configure(tmp_path):
    """Writes the configuration."""
    config = tmp_path / "priced.toml"

    def write(ann="openai:m1", url=SECRET, max_backlog=0):
        config.write_text(CONFIG.format(ann=ann, url=url, max_backlog=max_backlog))
        return config

    return write


@pytest.fixture
def run(run_cli, configure, tmp_path):
    """Runs `sweep` with these questions, in group `g`, unless the arguments say otherwise."""
    config = configure()

    def start(*args, questions=QUESTIONS, group="g", **options):
        file = tmp_path / "questions.jsonl"
        file.write_text("\n".join(map(json.dumps, questions)))
        result = run_cli("sweep", file, "--group", group, "--config", config, *args, **options)
        assert "hunter2" not in result.out + result.err
        return result

    return start


def ids_in(harness, group="g"):
    return {*harness.redis.hkeys(harness.keys.experiment(group))}


async def end(harness, *job_ids):
    """Cancel these jobs and delete them."""
    await harness.queue.cancel_many(job_ids)
    assert set(await harness.queue.purge_many(job_ids)) == {"purged"}


async def test_a_sweep_makes_each_question_in_each_arm(run, harness):
    """The debates are in the group, tagged and noted with arm, question and right verdicts."""
    done = run(*ARMS, "--yes", "--json", "--tag", "run=1").object
    assert done.pop("quote")["quoted"] == 4
    assert done == {
        "group": "g", "questions": 2, "arms": ["quick", "long"], "debates": 4, "existing": {},
        "others": 0, "deleted": 0, "missing": 4, "changed": [], "dry_run": False, "enqueued": 4, "held": 0,
    }  # fmt: skip
    ids = [each for each in ids_in(harness) if re.fullmatch(r"[0-9a-f]{32}", each)]
    jobs = await harness.queue.tracker.get_jobs(ids)
    assert {(job.tags["arm"], job.payload["metadata"]["experiment"]["number"]) for job in jobs} == {
        ("quick", 1), ("quick", 2), ("long", 1), ("long", 2),
    }  # fmt: skip
    for job in jobs:
        note = job.payload["metadata"]["experiment"]
        first = note["number"] == 1
        assert job.payload["answer_form"] == ("choice" if first else "boolean")
        assert note["expected"] == (["tea"] if first else [True])
        assert (job.group, job.tenant, job.tags["run"]) == ("g", None if first else "acme", "1")
        assert job.payload["rounds"] == (5 if job.tags["arm"] == "long" else 3)


async def test_another_run_adds_what_is_missing(run, harness):
    """What exists in whatever state is not sent again; what has failed can be requeued."""
    first = run(*ARMS, "--yes", "-q", questions=QUESTIONS[:1]).lines
    await harness.queue.cancel(first[0])
    more = run(*ARMS, "--yes", "--json").object
    assert (more["existing"], more["enqueued"]) == ({"cancelled": 1, "pending": 1}, 2)
    again = run(*ARMS, "--yes")
    assert again.lines == [
        "Experiment g: 2 questions in 2 arms: 4 debates",
        "1 cancelled, 3 pending, 0 to enqueue",
    ]
    assert "debates that were cancelled are not enqueued again; to run them again: " in again.err
    assert "aragora-q requeue --group g --status cancelled" in again.err
    assert "aragora-q wait" not in again.err
    moved = [QUESTIONS[1], {**QUESTIONS[0], "expected": "coffee", "metadata": {"x": 1}}]
    assert run(*ARMS, "--yes", "-q", questions=moved).out == ""


def test_warnings_about_seats_name_their_arm_once(run):
    """One agent, or one model, is what an arm may be for: no warning. Others only if debates are enqueued."""
    arms = ("one agents=ann", "same agents=ann,ann", "fast agents=demo service_tier=priority")
    given = [part for arm in arms for part in ("--arm", arm)]
    warned = [line for line in run(*given, "--yes").err.splitlines() if "warning" in line]
    assert [line.split(": no agent has")[0] for line in warned] == ["warning: arm fast"]
    assert "warning" not in run(*given, "--yes").err


async def test_what_was_deleted_is_bought_again_only_on_request(run, harness):
    """Also when the group itself is gone with its last debate."""
    ids = run(*ARMS, "--yes", "-q").lines
    await end(harness, *ids[:3])
    again = run(*ARMS, "--yes", "--json").object
    assert (again["deleted"], again["missing"]) == (3, 0)
    await end(harness, ids[3])
    assert await harness.queue.tracker.get_group("g") is None
    again = run(*ARMS, "--yes")
    assert "4 deleted, 0 to enqueue" in again.lines
    assert "--rerun buys them again" in again.err
    rerun = run(*ARMS, "--yes", "--rerun", "-q")
    assert rerun.lines == ids
    assert run(*ARMS, "--yes", "--rerun", "-q").out == ""


def test_changed_agents_are_reported_and_not_rerun(run, configure):
    """By arm and agent, with what they were; an address is never shown."""
    run(*ARMS, "--yes")
    configure(ann="openai:m4", url="http://hunter2:2/v1")
    again = run(*ARMS, "--yes", "--json").object
    assert again["missing"] == 0
    assert [each for each in again["changed"] if each["arm"] == "long"] == [
        {"arm": "long", "agent": "ann", "before": "openai:m1", "after": "openai:m4", "debates": 2},
        {"arm": "long", "agent": "bob", "before": "openai:m2, effort high as configured then",
         "after": "openai:m2, effort high as configured now", "debates": 2},
    ]  # fmt: skip
    shown = run(*ARMS, "--yes")
    assert "changed: arm quick, agent ann: openai:m1 -> openai:m4 (2 debates before)" in shown.lines
    assert shown.err.count("use a new group") == 1


def test_agents_that_are_not_configured_any_more_are_reported(run, configure):
    """Debates that are there are not refused for them; those that would be enqueued are."""
    arms = ("--arm", "old agents=cyd,bob")
    run(*arms, "--yes")
    config = configure()
    config.write_text(config.read_text().replace("cyd =", "dan ="))
    again = run(*arms, "--yes")
    assert (again.code, again.lines[1]) == (0, "2 pending, 0 to enqueue")
    assert "changed: arm old, agent cyd: openai:m3 -> unknown (2 debates before)" in again.lines
    more = run(*arms, "--arm", "new agents=cyd", "--yes")
    assert (more.code, more.err.count("unknown agent 'cyd'"), more.err.count("arm old")) == (
        65,
        1,
        0,
    )


def test_the_quote_of_the_whole_is_shown_and_asked_for(run, run_cli, monkeypatch):
    """--dry-run enqueues nothing; no answer is no; --yes is required where it cannot be asked."""
    dry = run(*ARMS, "--dry-run")
    assert (dry.code, dry.lines[1]) == (0, "4 to enqueue")
    assert dry.lines[3].startswith("Quote of 4 debates: $")
    usd = run(*ARMS, "--dry-run", "--json").object["quote"]["expected"]["usd"]
    single = run("--dry-run", "--json", "--debate", "never", questions=QUESTIONS[:1]).object[
        "quote"
    ]
    assert 0 < single["expected"]["usd"] < usd
    refused = run(*ARMS)
    assert (refused.code, refused.out) == (2, "")
    assert "add --yes to confirm, or --dry-run" in refused.err
    monkeypatch.setattr("aragora_q.cli.sweeping.check_confirmed", lambda *_: None)
    no = run(*ARMS, stdin="n\n")
    assert (no.code, run_cli("list", "-q").out) == (1, "")
    assert re.search(
        r"Enqueue 4 debates, expected to cost \$\S+ \(\$\S+ to \$\S+\), in group g, queue debates\?",
        no.err,
    )
    assert len(run(*ARMS, "-q", stdin="y\n").lines) == 4


def test_max_quote_is_for_the_whole(run, run_cli):
    """Above it, or if a price is not known, nothing is enqueued."""
    usd = run(*ARMS, "--dry-run", "--json").object["quote"]["expected"]["usd"]
    over = run(*ARMS, "--yes", "-q", "--max-quote", usd * 0.99)
    assert over.code == 65
    assert "but 4 debates are expected to cost" in over.err
    unknown = run("-a", "ann,cyd", "--yes", "--max-quote", 100)
    assert unknown.code == 65
    assert "no price for agent cyd" in unknown.err
    assert "2 of 2 debates, the first on line 1: no price for agent cyd" in unknown.out
    assert run_cli("list", "-q").out == ""
    assert run(*ARMS, "--yes", "-q", "--max-quote", usd * 1.01).code == 0


def test_debates_that_need_an_approval_are_held(run, run_cli):
    """Each that can cost more than --approve-above; the record of an experiment has them, too."""
    done = run(*ARMS, "--yes", "--json", "--approve-above", "0.000001").object
    assert (done["enqueued"], done["held"]) == (4, 4)
    assert len(run_cli("list", "--status", "held", "-q").lines) == 4
    again = run(*ARMS, "--yes", "--json", "--approve-above", "0.000001").object
    assert (again["existing"], again["held"]) == ({"held": 4}, 0)


async def test_everything_is_checked_before_anything_is_enqueued(run, harness):
    """A bad debate is named by line and arm, each reason once; even if it comes last."""
    questions = (*QUESTIONS, {"question": "C?", "options": ["a", "b"], "expected": "c"})
    bad = run(*ARMS, "--arm", "bad rounds=99", "--yes", questions=questions)
    assert (bad.code, bad.out) == (65, "")
    assert bad.err.splitlines()[:3] == [
        "aragora-q: error: 5 debates refused",
        "  line 1, arm bad: rounds is 99, must be a whole number from 0 to 20; and 2 more",
        '  line 3, arm quick: expected is "c": must be one of the options, word for word; and 1 more',
    ]
    assert harness.redis.keys(f"{harness.keys.queue_prefix}job:*") == []


def test_text_that_could_control_a_terminal_is_escaped(run, tmp_path):
    """Of questions, arms, files and models."""
    esc = "\x1b]0;x\x07"
    for args, questions in (
        (("--arm", f"a rounds={esc}"), QUESTIONS),
        (("--arm", f"{esc} rounds=1"), QUESTIONS),
        (("-a", f"{esc},ann"), QUESTIONS),
        ((), [{"question": "x", esc: 1}]),
        ((), [{"question": "x", "expected": esc, "options": [f"{esc}a", "b"]}]),
        (("--arms", tmp_path / f"{esc}.toml"), QUESTIONS),
    ):
        result = run(*args, "--yes", questions=questions)
        assert result.code in (2, 65), args
        assert "\x1b" not in result.out + result.err


async def test_a_sealed_group_takes_no_more_debates(run, harness):
    """65, before anything is asked; what is there already is still reported with 0."""
    run(*ARMS, "--yes", questions=QUESTIONS[:1])
    await harness.queue.seal_group("g")
    sealed = run(*ARMS, "--yes")
    assert sealed.code == 65
    assert "group g is sealed and takes no more jobs: 2 debates of the experiment are missing" in (
        sealed.err
    )
    assert run(*ARMS, "--yes", questions=QUESTIONS[:1]).code == 0
    await harness.queue.cancel_group("g")
    assert "group g is cancelled" in run(*ARMS, "--yes").err


def test_a_full_queue_ends_the_run_and_another_one_continues(run, configure, run_cli):
    """75; each debate is enqueued once."""
    configure(max_backlog=3)
    full = run(*ARMS, "--yes", "-q")
    assert full.code == 75
    assert "stopped after at least 3 jobs; run the command again for the rest" in full.err
    configure()
    more = run(*ARMS, "--yes", "--json").object
    assert (more["existing"], more["enqueued"]) == ({"pending": 3}, 1)
    assert len(run_cli("list", "-q").lines) == 4


@pytest.fixture
async def slow_replies(redis_url):
    """The server behind a proxy in this process, which passes replies about debates on half a second late."""
    proxy = await Proxy(int(redis_url.rpartition(":")[2])).start()
    proxy.mode, proxy.match, proxy.delay_seconds = "delay", b"prime?", 0.5
    yield proxy
    await proxy.stop()


async def test_an_interrupted_run_is_continued_by_another_one(
    start_command, configure, tmp_path, run_cli, redis_client, slow_replies
):
    """Ctrl-C while debates are sent: it says how many there are at least; each is enqueued once."""
    total, key = 3_000, f"{PREFIX}group:g"
    file = tmp_path / "many.jsonl"
    file.write_text("\n".join(json.dumps({"question": f"Is {n} prime?"}) for n in range(total)))
    args = ("sweep", file, "--group", "g", "--config", configure(), "--yes", "--json")
    process = start_command(*map(str, args), env={"REDIS_URL": slow_replies.url})
    await wait_until(lambda: redis_client.exists(key), 60, "the first debates")
    assert slow_replies.hits  # if this test stands still, so does the rest of the run
    process.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == -signal.SIGINT
    assert re.search(r"stopped after at least [\d,]+ jobs?; run the command again", err.decode())
    again = run_cli(*args).object
    assert 0 < again["enqueued"] < total
    assert again["enqueued"] + again["existing"]["pending"] == total


def test_two_runs_at_the_same_time_enqueue_each_debate_once(run, monkeypatch):
    """A debate that another run has enqueued since the plan counts as existing."""
    from aragora_q.cli import sweeping

    ids, enqueue = [], sweeping._enqueue

    async def enqueue_after_another(planner, outcome, **options):
        other = await planner.plan()
        await enqueue(planner, other, **options)
        ids.extend(other.created)
        await enqueue(planner, outcome, **options)

    monkeypatch.setattr(sweeping, "_enqueue", enqueue_after_another)
    assert run(*ARMS, "--yes", "-q").out == ""
    assert len(set(ids)) == 4


def test_an_arm_that_is_written_in_another_way_is_another_one(run):
    """Its debates are bought, and the command says that the group has others."""
    run(*ARMS, "--yes")
    changed = (*ARMS[:3], "long rounds=4", "--dry-run")
    assert run(*changed, "--json").object["others"] == 2
    assert "the group has 2 other jobs: debates whose question or arm" in run(*changed).err
    assert "other job" not in run(*ARMS, "--dry-run").err


def test_debates_that_were_not_confirmed_are_reported(run, monkeypatch):
    """75: another run adds them if they were lost, and changes nothing else."""
    enqueue = RedisStreamsQueue.enqueue_checked

    async def enqueue_unconfirmed(queue, items):
        return [each._replace(durable=False) for each in await enqueue(queue, items)]

    monkeypatch.setattr(RedisStreamsQueue, "enqueue_checked", enqueue_unconfirmed)
    result = run(*ARMS, "--yes", "-q")
    assert result.code == 75
    assert "4 debates accepted, but not confirmed in time" in result.err
    assert run(*ARMS, "--yes", "-q").code == 0


def test_questions_from_stdin_and_csv(run_cli, configure, tmp_path):
    """`-` is JSON lines; a name that ends in .csv is CSV."""
    config = configure()
    lines = "\n".join(map(json.dumps, QUESTIONS))
    of_lines = run_cli("sweep", "-", "--group", "g", "--config", config, "--yes", "-q", stdin=lines)
    csv = tmp_path / "QUESTIONS.CSV"
    csv.write_text("question,options,expected\nTea or coffee?,tea|coffee,tea\nIs 7 prime?,,TRUE\n")
    of_csv = run_cli("sweep", csv, "--group", "g", "--config", config, "--yes", "--json").object
    assert (len(of_lines.lines), of_csv["existing"], of_csv["enqueued"]) == (2, {"pending": 2}, 0)


def test_questions_of_about_the_same_length_are_quoted_once(run, monkeypatch):
    """A quote takes ms, and thousands of questions differ in a few bytes only."""
    calls = []
    quote = estimate.quote_debate
    monkeypatch.setattr(
        estimate, "quote_debate", lambda *args: (calls.append(args), quote(*args))[1]
    )
    questions = [
        {"question": f"Is {10_000 + n} a prime number, and why? {'.' * 500}"} for n in range(50)
    ]
    done = run(*ARMS, "--dry-run", "--json", questions=questions).object
    assert (done["quote"]["quoted"], len(calls)) == (100, 2)
