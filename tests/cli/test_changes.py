"""`aragora-q changes`: what operators did; and `--reason` of each command that changes something for one."""

import json

import pytest

from aragora_q.cli import options

HOSTILE = "\x1b[31mred\x1b[0m\nnext\x07\u202eé"


@pytest.fixture
async def one_of_each(harness):
    """A job that waits, a held, a failed, a completed one, and a group."""
    for job_id in ("waits", "held", "gone", "bad"):
        await harness.enqueue(job_id)
    await harness.enqueue("member", group="g")
    await harness.queue.hold("held")
    await harness.queue.cancel_many(["gone", "bad"])


COMMANDS = {
    ("cancel", "waits"): ("cancel", None, ["waits"]),
    ("hold", "waits"): ("hold", None, ["waits"]),
    ("unhold", "held"): ("unhold", None, ["held"]),
    ("requeue", "gone"): ("requeue", None, ["gone"]),
    ("purge", "bad"): ("purge", None, ["bad"]),
    ("purge", "--group", "g", "--yes"): None,
    ("purge", "--older-than", "0s", "--status", "cancelled", "--yes"): (
        "purge",
        None,
        ["bad", "gone"],
    ),
    ("cancel", "--group", "g", "--yes"): ("cancel", None, ["member"]),
    ("pause",): ("pause", None, []),
    ("group", "seal", "g"): ("seal", "group:g", []),
    ("group", "cancel", "g", "--yes"): ("cancel", "group:g", ["member"]),
    ("budget", "set", "total", "5/day"): ("set", "budget:total", []),
    ("providers", "pause", "openai"): ("pause", "provider:openai", []),
}
"""What each command notes; None: nothing, because nothing changed."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_each_command_is_noted(one_of_each, run_cli, command):
    """Who ran it, as user@host, what it changed, and its --reason, whatever characters that has."""
    assert run_cli("changes", "--json").out == ""
    assert run_cli(*command, "--reason", HOSTILE).code == 0
    found = run_cli("changes", "--json").objects
    if COMMANDS[command] is None:
        assert found == []
        return
    [change] = found
    verb, subject, ids = COMMANDS[command]
    assert (change["verb"], change["subject"], sorted(change["ids"])) == (verb, subject, ids)
    assert (change["by"], change["reason"]) == (options.operator(), HOSTILE)
    assert change["count"] == len(ids)
    shown = run_cli("changes").out
    assert "\\u001b[31mred" in shown
    assert not {"\x1b", "\x07", "\u202e"} & {*shown}
    assert len(shown.splitlines()) == 2


async def test_what_ends_something_is_noted_too(harness, run_cli):
    """`resume`, `budget reset` and `providers resume` say who and why; repeated, they change nothing."""
    for verb in ("pause", "resume", "resume"):
        run_cli(verb, "--reason", "deploy")
    run_cli("budget", "set", "total", "5/day")
    run_cli("budget", "reset", "total", "--reason", "over")
    run_cli("providers", "pause", "openai")
    for _ in range(2):
        run_cli("providers", "resume", "openai", "--reason", "paid")
    found = [
        (each["verb"], each["subject"], each["reason"])
        for each in run_cli("changes", "--json").objects
    ]
    assert found == [
        ("resume", "provider:openai", "paid"), ("pause", "provider:openai", None),
        ("reset", "budget:total", "over"), ("set", "budget:total", None),
        ("resume", None, "deploy"), ("pause", None, "deploy"),
    ]  # fmt: skip


async def test_dry_runs_are_not_noted(one_of_each, run_cli):
    """What only counts changes nothing."""
    assert run_cli("purge", "--dry-run", "--older-than", "0s").code == 0
    assert run_cli("cancel", "--group", "g", "--dry-run").code == 0
    assert run_cli("group", "cancel", "g", "--dry-run").code == 0
    assert run_cli("changes", "--json").out == ""


async def test_limit_and_since(harness, run_cli):
    """The newest first, at most -n, from --since on; a wrong value is a usage error."""
    for verb in ("pause", "resume", "pause"):
        run_cli(verb)
    assert [each["verb"] for each in run_cli("changes", "-n", "2", "--json").objects] == [
        "pause",
        "resume",
    ]
    assert len(run_cli("changes", "--since", "1h").lines) == 4
    assert run_cli("changes", "--since", "2099-01-01", "--json").out == ""
    assert "no changes found in queue debates" in run_cli("changes", "--since", "2099-01-01").err
    assert run_cli("changes", "--since", "yesterday").code == 2
    assert run_cli("changes", "-n", "0").code == 2


async def test_a_user_without_rights_is_refused(harness, run_cli):
    """Who may not read the changes of budgets and providers gets exit code 77, not half of them."""
    await harness.queue.pause(by="ann")
    rules = ("on", ">secret", f"~{harness.keys.pattern}", "+@all")
    harness.redis.execute_command("ACL", "SETUSER", "half", "reset", *rules)
    url = harness.config.redis_url.replace("://", "://half:secret@")
    refused = run_cli("changes", "--redis-url", url)
    harness.redis.execute_command("ACL", "DELUSER", "half")
    assert (refused.code, refused.out) == (77, "")
    assert "secret" not in refused.err


async def test_tail_says_who_and_why(one_of_each, harness, start_command, run_cli):
    """Text and JSON of an event name the operator and the reason; the text is escaped."""
    run_cli("cancel", "waits", "--reason", HOSTILE)
    process = start_command("tail", "waits", "--after", "0", "--json")
    events = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [each["event"] for each in events] == ["enqueued", "cancelled"]
    assert (events[0]["by"], events[0]["reason"]) == (None, None)
    assert (events[1]["by"], events[1]["reason"]) == (options.operator(), HOSTILE)
    process = start_command("tail", "waits", "--after", "0")
    process.stdout.readline()
    line = process.stdout.readline().decode()
    assert f"by {options.operator()}  \\u001b[31mred" in line
    assert "\x1b" not in line
