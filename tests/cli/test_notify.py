"""`notify`: the webhooks that a job or group names, by options, lines or settings; others are refused."""

import json

import pytest
from support.queue_harness import PREFIX

from aragora_q.contracts import Completed, Report

AGENTS = ("--agents", "demo:bold,demo:careful")
WEBHOOKS = """
[webhooks.ops]
url = "https://example.com/hooks"
secret_file = "ops.secret"
[webhooks.chat]
url = "https://chat.example.com/"
secret_file = "chat.secret"
"""


@pytest.fixture
def configure(tmp_path):
    """Writes a configuration with two webhooks, which commands in this directory read."""

    def write(first_line=""):
        (tmp_path / "aragora-q.toml").write_text(f"{first_line}\n{WEBHOOKS}")

    write()
    return write


def lines(*objects):
    return "".join(f"{json.dumps(each)}\n" for each in objects)


def notified(run_cli, *ids):
    return [job["notify"] for job in run_cli("status", *ids, "--json").objects]


def test_options_name_webhooks(run_cli, configure):
    """Repeated or separated by commas; shown in text and JSON; none without the option."""
    args = ("enqueue", "Tea?", *AGENTS, "--id")
    assert run_cli(*args, "a", "--notify", "ops,chat").code == 0
    assert run_cli(*args, "b", "--notify", "ops", "--notify", "chat").code == 0
    assert run_cli(*args, "c").code == 0
    assert notified(run_cli, *"abc") == [["ops", "chat"]] * 2 + [[]]
    assert "notify     ops, chat" in run_cli("status", "a").lines
    assert "notify" not in run_cli("status", "c").out


@pytest.mark.parametrize("source", ["file", "variable"])
def test_default_notify_is_for_jobs_that_name_none(run_cli, configure, monkeypatch, source):
    """Jobs of arguments and lines have it; an option wins over it, a line over both; `[]` is none."""
    if source == "file":
        configure('default_notify = "chat"')
    else:
        monkeypatch.setenv("ARAGORA_QUEUE_DEFAULT_NOTIFY", "chat")
    assert run_cli("enqueue", "Tea?", *AGENTS, "--id", "a").code == 0
    assert run_cli("enqueue", "Tea?", *AGENTS, "--id", "b", "--notify", "ops").code == 0
    text = lines({"id": "c", "payload": {}}, {"id": "d", "payload": {}, "notify": []})
    assert run_cli("enqueue", "-", stdin=text).code == 0
    text = lines({"id": "e", "payload": {}}, {"id": "f", "payload": {}, "notify": ["chat"]})
    assert run_cli("enqueue", "-", "--notify", "ops", stdin=text).code == 0
    assert notified(run_cli, *"abcdef") == [["chat"], ["ops"], ["chat"], [], ["ops"], ["chat"]]


REFUSED = {
    "unknown": (["opps"], "opps is not a webhook of this configuration (did you mean 'ops'?)"),
    "far": (["x"], "x is not a webhook of this configuration (known webhooks: chat, ops)"),
    "text": ("ops", 'notify must be a list such as ["ops"]'),
    "number": ([7], "webhook must be text, got 7"),
    "null": (None, "notify must be a list"),
    "twice": (["ops", "ops"], "at most 4 different webhooks"),
    "many": (["a", "b", "c", "d", "e"], "at most 4 different webhooks"),
    "form": (["a b"], "invalid webhook 'a b'"),
    "label": (["ops tag:x=y"], "invalid webhook 'ops tag:x=y'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_lines_that_name_no_webhook_are_refused(run_cli, configure, case):
    """The line's error says which name and which rule; the other lines are enqueued, exit 3."""
    notify, message = REFUSED[case]
    text = lines({"id": "a", "payload": {}, "notify": notify}, {"id": "b", "payload": {}})
    ended = run_cli("enqueue", "-", stdin=text)
    assert ended.code == 3
    assert message in ended.objects[0]["error"]
    assert ended.objects[1] == {"line": 2, "id": "b", "created": True}


def test_an_option_that_names_no_webhook_is_refused(run_cli, configure, redis_client):
    """Exit 65 with a hint; nothing is enqueued, not even by a host whose configuration has none."""
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--notify", "opps")
    assert (ended.code, ended.out) == (65, "")
    assert "opps is not a webhook" in ended.err
    assert "did you mean 'ops'?" in ended.err
    assert list(redis_client.scan_iter(f"{PREFIX}job:*")) == []


def test_a_configuration_without_webhooks_refuses_them(run_cli, redis_client):
    """The hint says where to declare it."""
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--notify", "ops")
    assert ended.code == 65
    assert "[webhooks]" in ended.err
    assert list(redis_client.scan_iter(f"{PREFIX}job:*")) == []


def test_a_setting_that_names_no_webhook_is_a_fault_of_the_configuration(run_cli, configure):
    """`default_notify` is checked when the configuration is read: exit 78."""
    configure('default_notify = ["nope"]')
    ended = run_cli("enqueue", "Tea?", *AGENTS)
    assert ended.code == 78
    assert "'nope' is not in webhooks" in ended.err


def test_a_quote_checks_names_too(run_cli, configure):
    """What would be refused is not quoted as if it would be enqueued."""
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--notify", "opps", "--quote")
    assert ended.code == 65
    assert "did you mean 'ops'?" in ended.err


def test_a_group_is_sealed_with_webhooks(run_cli, configure, on_queue):
    """Shown in text and JSON; sealed again with others is refused; the end leaves a message."""
    text = lines({"id": "a", "payload": {}})
    assert run_cli("enqueue", "-", "--group", "g", stdin=text).code == 0
    refused = run_cli("group", "seal", "g", "--notify", "opps")
    assert refused.code == 65
    assert "did you mean 'ops'?" in refused.err
    sealed = run_cli("group", "seal", "g", "--notify", "ops,chat")
    assert sealed.out == "g sealed; 1 live job; reported to: chat, ops\n"
    again = run_cli("group", "seal", "g", "--notify", "ops,chat", "--json")
    assert (again.object["sealed"], again.object["notify"]) == (False, ["chat", "ops"])
    other = run_cli("group", "seal", "g", "--notify", "ops")
    assert other.code == 65
    assert "with other webhooks" in other.err
    assert "notify     chat, ops" in run_cli("group", "show", "g").lines

    async def complete(harness):
        session = await harness.worker()
        await session.report([Report(await harness.start_one(session), Completed(b"{}"))])
        return await harness.queue.outbox.deliveries(["ops"], 10)

    [delivery] = on_queue(complete)
    assert (delivery.kind, delivery.subject, delivery.event) == ("group", "g", "ended")


def test_what_follows_a_group_names_webhooks(run_cli, configure, tmp_path, on_queue):
    """The job of `--then` is checked as one that is enqueued, and has the default."""
    configure('default_notify = "chat"')
    assert (
        run_cli("enqueue", "-", "--group", "g", stdin=lines({"id": "a", "payload": {}})).code == 0
    )
    then = tmp_path / "then.json"
    then.write_text(json.dumps({"payload": {}, "notify": ["nope"]}))
    refused = run_cli("group", "seal", "g", "--then", then)
    assert refused.code == 65
    assert "nope is not a webhook" in refused.err
    then.write_text(json.dumps({"payload": {}}))
    assert run_cli("group", "seal", "g", "--then", then).code == 0
    assert run_cli("cancel", "a").code == 0
    assert notified(run_cli, "g.then") == [["chat"]]


def test_debates_of_a_sweep_name_webhooks(run_cli, configure, tmp_path):
    """Each debate has those of the option, or of the setting; another run finds the same debates."""
    questions = tmp_path / "questions.jsonl"
    questions.write_text(lines({"question": "Tea?"}))
    args = ("sweep", questions, "--arm", "one rounds=1", *AGENTS, "--yes", "--json")
    assert run_cli(*args, "--group", "g", "--notify", "ops").object["enqueued"] == 1
    configure('default_notify = "chat"')
    assert run_cli(*args, "--group", "h").object["enqueued"] == 1
    assert run_cli(*args, "--group", "g").object["enqueued"] == 0
    shown = [run_cli("list", "--group", name, "--json").object["notify"] for name in "gh"]
    assert shown == [["ops"], ["chat"]]
    refused = run_cli(*args, "--group", "i", "--notify", "opps")
    assert refused.code == 65
    assert "did you mean 'ops'?" in refused.err


def test_a_fork_names_its_own_webhooks(run_cli, configure):
    """A debate made from another one reports to the webhooks of its options and settings, not the other's."""
    assert run_cli("enqueue", "Tea?", *AGENTS, "--id", "a", "--notify", "ops").code == 0
    assert run_cli("enqueue", "--from", "a", "--id", "b").code == 65  # it has no calls yet
    text = lines({"id": "c", "from": "a", "notify": ["chat"]})
    assert "no finished calls" in run_cli("enqueue", "-", stdin=text).objects[0]["error"]
