"""webhook: what operators see of webhooks and their messages; test, redeliver, enable, disable."""

import json
import re

import pytest

pytest.importorskip("standardwebhooks", reason="receivers verify with it: requirements/dev.txt")

from support.certificates import Certificates
from support.receivers import answer, new_secret, receiving, trickle
from support.servers import Unavailable

from aragora_q.contracts import ClaimRequest, Settled

TARGET = "url = 'https://hooks.example.com/services/hush'\nsecret_file = 'hook'\n"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    try:
        return Certificates(tmp_path_factory.mktemp("certificates"))
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def receiver(certificates):
    """A target on loopback."""
    with receiving(certificates) as receiver:
        yield receiver


@pytest.fixture
def configured(tmp_path):
    """A configuration with the webhook `ops`; the file may be written again."""
    path = tmp_path / "aragora-q.toml"  # the current directory is tmp_path
    path.write_text(f"[webhooks.ops]\n{TARGET}")
    return path


@pytest.fixture
def local(tmp_path, receiver, certificates):
    """A configuration whose webhook `ops` leads to the receiver; returns the file of the secret."""
    secret = tmp_path / "hook"
    secret.write_text(f"{receiver.secret}\n")
    (tmp_path / "aragora-q.toml").write_text(
        f"[webhooks.ops]\nurl = '{receiver.url}'\nsecret_file = '{secret}'\n"
        f"ca_file = '{certificates['ca.crt']}'\nallow_networks = ['127.0.0.0/8']\ntimeout_seconds = 60\n"
    )
    return secret


@pytest.fixture
def cancelled(run_cli, configured):
    """Cancel jobs that name `ops`: each leaves a message."""

    def cancel(*ids):
        for job_id in ids:
            line = {"payload": {}, "id": job_id, "notify": ["ops"]}
            run_cli("enqueue", "-", stdin=json.dumps(line))
            assert run_cli("cancel", job_id).code == 0
        return [row["id"] for row in run_cli("webhook", "deliveries", "--json").objects]

    return cancel


@pytest.fixture
def settle(on_queue):
    """Take the messages that are due, and end the attempt so; `answers`: a result for each."""

    def run(*results, text="answered 503"):
        async def work(harness):
            for result in results:
                [delivery] = (
                    await harness.queue.outbox.claim([ClaimRequest("ops", 1, 30.0)])
                ).deliveries
                await harness.queue.outbox.settle([Settled(delivery, result, text, 60.0)])

        on_queue(work)

    return run


def _age(harness, hours):
    """Let all messages that wait be so old."""
    for key in harness.redis.scan_iter("*:delivery:*"):
        queued = int(harness.redis.hget(key, "queued_at"))
        harness.redis.hset(key, "queued_at", queued - hours * 3_600_000)


def test_without_webhooks_the_list_says_how_to_add_one(run_cli):
    """An empty list says so on stderr; stdout stays empty."""
    ended = run_cli("webhook", "list")
    assert (ended.code, ended.out) == (0, "")
    assert (
        "to add one: a table [webhooks.NAME] with url and secret_file in aragora-q.toml"
        in ended.err
    )
    for args in (("list", "--json"), ("list", "--quiet"), ("deliveries", "--json")):
        ended = run_cli("webhook", *args)
        assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert "no message in queue" in run_cli("webhook", "deliveries").err


def test_a_webhook_that_sent_nothing_yet(run_cli, configured):
    """Its host is shown, not the rest of its address."""
    ended = run_cli("webhook", "list")
    assert re.search(r"^ops +ok +0 +never +0 +hooks\.example\.com$", ended.out, re.MULTILINE)
    assert len(ended.lines) == 2
    for args in (("list",), ("list", "--json")):
        assert "hush" not in run_cli("webhook", *args).out


def test_what_waits_and_fails_is_shown_with_its_reason(run_cli, cancelled, settle):
    """The last error as the target's answer was, escaped."""
    cancelled("a", "b")
    settle("retry", text="answered 503 \x1b[31m")
    ended = run_cli("webhook", "list")
    assert re.search(
        r"^ops +failing +2 +\d.* +never +1 +hooks\.example\.com$", ended.out, re.MULTILINE
    )
    assert re.search(
        r"^ops: last error .* ago: answered 503 \\u001b\[31m$", ended.out, re.MULTILINE
    )
    row = run_cli("webhook", "list", "--json").object
    assert (row["state"], row["waiting"], row["failures"]) == ("failing", 2, 1)


def test_deliveries_newest_first(run_cli, cancelled, settle):
    """With what became of each; --limit and --failed cut the list; ids only with --quiet."""
    cancelled("a", "b")
    settle("ok", text="answered 204")
    rows = run_cli("webhook", "deliveries", "--json").objects
    assert [(row["subject"], row["result"]) for row in rows] == [
        ("b", "waiting"),
        ("a", "delivered"),
    ]
    shown = run_cli("webhook", "deliveries", "ops")
    assert re.search(r"^\S+ +ops +cancelled +b +\S+ s ago +waiting, due$", shown.out, re.MULTILINE)
    assert re.search(r"^\S+ +ops +cancelled +a +\S+ s ago +delivered$", shown.out, re.MULTILINE)
    assert run_cli("webhook", "deliveries", "-q", "-n", "1").lines == [rows[0]["id"]]
    ended = run_cli("webhook", "deliveries", "--failed")
    assert (ended.out, ended.err) == ("", "no failed message in queue debates\n")


def test_deliveries_fit_a_terminal(run_cli, cancelled, settle):
    """Those of a schedule fit 80 columns; attempts and answers are shown where there is more to say."""
    cancelled("nightly@1795936080", "nightly@1796022480", "nightly@1796108880")
    settle("ok", text="answered 204")
    head, *rows = run_cli("webhook", "deliveries").lines
    assert max(map(len, [head, *rows])) <= 80
    settle("retry")
    results = [row.partition(" ago  ")[2] for row in run_cli("webhook", "deliveries").lines[1:]]
    assert re.fullmatch(r"waiting, next in \S+ (s|min), 1 attempt: answered 503", results[1])
    assert (results[0], results[2]) == ("waiting, due", "delivered")


def test_a_message_is_sent_again(run_cli, cancelled, settle):
    """By id, once for an id that is given twice; one that waits is due at once; an unknown id is named."""
    [first] = cancelled("a")
    settle("ok")
    ended = run_cli("webhook", "redeliver", first, first, "--reason", "lost there")
    assert (ended.code, ended.out, ended.err) == (0, "1 message to be sent now\n", "")
    settle("retry")
    assert run_cli("webhook", "redeliver", first, "--json").objects == [
        {"id": first, "result": "waiting"}
    ]
    ended = run_cli("webhook", "redeliver", "9-9\x1b[31m", first)
    assert (ended.code, ended.out) == (3, "1 message to be sent now\n")
    assert ended.err == "message 9-9\\u001b[31m: not found; it may be too old\n"


def test_all_that_wait_are_tried_now(run_cli, cancelled, settle):
    """After the target is back: no confirmation is needed."""
    cancelled("a", "b")
    settle("retry")
    ended = run_cli("webhook", "redeliver", "--webhook", "ops")
    assert (ended.code, ended.out) == (0, "2 messages to be sent now\n")
    due = [row["due_at"] for row in run_cli("webhook", "deliveries", "--json").objects]
    settle("ok", "ok")
    assert None not in due
    assert run_cli("webhook", "redeliver", "--webhook", "ops").out == "0 messages to be sent now\n"


def test_all_that_were_given_up_are_sent_again_when_confirmed(run_cli, cancelled, settle, on_queue):
    """--yes is required where no person can be asked; --dry-run counts."""
    first, second = cancelled("a", "b")

    async def age(harness):
        _age(harness, 25)

    on_queue(age)
    settle("retry", "retry")
    failed = run_cli("webhook", "deliveries", "--failed", "-q").lines
    assert set(failed) == {first, second}
    assert "messages of this queue: 0 delivered, 2 given up" in run_cli("webhook", "list").lines
    args = ("webhook", "redeliver", "--webhook", "ops", "--failed")
    ended = run_cli(*args)
    assert (ended.code, ended.out) == (2, "")
    assert "--yes" in ended.err
    assert run_cli(*args, "--dry-run").out == "would send again: 2 messages\n"
    assert run_cli(*args, "--dry-run", "--json").object == {"dry_run": True, "messages": 2}
    assert run_cli(*args, "--yes").out == "2 messages to be sent now\n"
    assert run_cli("webhook", "list", "--json").object["waiting"] == 2
    assert run_cli(*args).out == "0 messages to be sent now\n", "nothing to confirm"


def test_disable_and_enable(run_cli, cancelled):
    """Who and why; both may be repeated; the number of messages that wait."""
    cancelled("a")
    ended = run_cli("webhook", "disable", "ops", "--reason", "the receiver moves")
    assert (ended.code, ended.out) == (0, "ops is disabled; 1 message waiting\n")
    assert run_cli("webhook", "disable", "ops").out.startswith("ops was already disabled")
    shown = run_cli("webhook", "list").out
    assert re.search(r"^ops +disabled +1 ", shown, re.MULTILINE)
    assert re.search(r"^ops: disabled by \S+@\S+ .* ago: the receiver moves$", shown, re.MULTILINE)
    assert "ops: to send what waits: aragora-q webhook enable ops" in shown
    listed = run_cli("webhook", "deliveries", "ops")
    assert " waiting, disabled" in listed.out
    ended = run_cli("webhook", "redeliver", run_cli("webhook", "deliveries", "-q").out.strip())
    assert ended.code == 0
    assert "webhook ops is disabled: its messages wait until aragora-q webhook enable" in ended.err
    assert run_cli("webhook", "enable", "ops", "-q").out == ""
    assert run_cli("webhook", "enable", "ops").out == "ops was not disabled; 1 message to be sent\n"
    assert run_cli("webhook", "enable", "ops", "--json").object == {
        "name": "ops",
        "enabled": True,
        "changed": False,
    }


def test_forget(run_cli, cancelled, configured):
    """A configured webhook stays; of a removed one, state and messages are deleted after a yes."""
    cancelled("a")
    refused = run_cli("webhook", "forget", "ops", "--yes")
    assert (refused.code, "ops is configured here: nothing is forgotten" in refused.err) == (
        65,
        True,
    )
    configured.write_text("")
    assert (
        "if no worker has it any more: aragora-q webhook forget ops"
        in run_cli("webhook", "list").out
    )
    asked = run_cli("webhook", "forget", "ops")
    assert (asked.code, "delete 1 message waiting for ops: add --yes" in asked.err) == (2, True)
    assert (
        run_cli("webhook", "forget", "ops", "--yes", "--reason", "moved").out
        == "ops is forgotten\n"
    )
    assert run_cli("webhook", "list", "-q").out == ""
    assert run_cli("webhook", "forget", "ops").code == 3
    change = run_cli("changes", "--jsonl").objects[0]  # the newest
    assert (change["verb"], change["subject"], change["reason"]) == (
        "forget",
        "webhook:ops",
        "moved",
    )


def test_a_target_that_wants_no_more_messages(run_cli, cancelled, settle):
    """It is shown who disabled the webhook, and why."""
    cancelled("a")
    settle("gone", text="answered 410")
    assert re.search(
        r"^ops: disabled by the target .* ago: answered 410$",
        run_cli("webhook", "list").out,
        re.MULTILINE,
    )


def test_a_removed_webhook_is_listed(run_cli, cancelled, configured):
    """As long as the queue has a state of it."""
    cancelled("a")
    run_cli("webhook", "disable", "ops")
    configured.unlink()
    shown = run_cli("webhook", "list").out
    assert re.search(r"^ops +disabled +1 ", shown, re.MULTILINE)
    assert "ops: not in the configuration here; workers that have it send its messages" in shown
    assert run_cli("webhook", "enable", "ops").code == 0


@pytest.mark.parametrize(
    "args",
    [
        ("test", "opz"),
        ("deliveries", "opz"),
        ("redeliver", "--webhook", "opz"),
        ("redeliver", "--webhook", "opz", "--failed", "--yes"),
        ("enable", "opz"),
        ("disable", "opz"),
    ],
)
def test_an_unknown_name_is_not_found(run_cli, configured, args):
    """Exit code 3, and the nearest name."""
    ended = run_cli("webhook", *args)
    assert (ended.code, ended.out) == (3, "")
    assert "did you mean 'ops'?" in ended.err


@pytest.mark.parametrize(
    "args",
    [
        ("redeliver",),
        ("redeliver", "1-1", "--webhook", "ops"),
        ("redeliver", "--failed"),
        ("redeliver", "1-1", "--failed", "--yes"),
        ("deliveries", "-n", "0"),
        ("test",),
    ],
)
def test_usage_errors(run_cli, configured, args):
    """Exit code 2, nothing on stdout."""
    ended = run_cli("webhook", *args)
    assert (ended.code, ended.out) == (2, "")


def test_test_sends_one_signed_message(run_cli, receiver, local, monkeypatch):
    """Without Redis; the receiver verifies it with the specification's library."""
    ended = run_cli("--redis-url", "redis://127.0.0.1:1", "webhook", "test", "ops")
    assert (ended.code, ended.err) == (0, "")
    assert re.fullmatch(r"ops: answered 200 \(.* s\)\n", ended.out)
    [message] = receiver.verified()
    assert (message["type"], message["data"]) == ("test", {"queue": "debates", "webhook": "ops"})
    assert run_cli("webhook", "test", "ops", "--quiet").out == ""
    first, second = receiver.requests
    assert first.id != second.id
    sent = run_cli("webhook", "test", "ops", "--json").object
    assert (sent["delivered"], sent["status"], sent["host"]) == (True, 200, "127.0.0.1")


@pytest.mark.parametrize(
    ("behave", "texts"),
    [
        (
            answer(503, body=b"down \x1b[31m<b>"),
            ["answered 503", "its answer begins: down \\u001b[31m<b>"],
        ),
        (answer(410), ["answered 410"]),
        (
            answer(302, "Location: https://127.0.0.1/\r\n"),
            ["answered 302: a redirect, which is not followed"],
        ),
        (trickle(b"HTTP/1.1 200 OK\r\n" * 9), ["no answer within 60 s"]),
    ],
)
def test_test_says_what_came_back(run_cli, receiver, local, clock, behave, texts):
    """Anything but 2xx is exit code 1, also with --quiet and --json."""

    def late(connection):
        clock.ahead_seconds += 60
        behave(connection)

    receiver.behave = late if "no answer within 60 s" in texts else behave
    ended = run_cli("webhook", "test", "ops", "--quiet")
    assert ended.code == 1
    assert all(text in ended.out for text in texts), ended.out
    assert receiver.secret not in ended.out + ended.err
    ended = run_cli("webhook", "test", "ops", "--json")
    assert (ended.code, ended.object["delivered"]) == (1, False)


def test_test_refuses_what_must_not_be_reached(run_cli, receiver, local, tmp_path):
    """A private address that is not allowed: exit code 1, and nothing was sent."""
    path = tmp_path / "aragora-q.toml"
    path.write_text(path.read_text().replace("allow_networks = ['127.0.0.0/8']\n", ""))
    ended = run_cli("webhook", "test", "ops")
    assert ended.code == 1
    assert "127.0.0.1 is neither public nor in allow_networks" in ended.out
    assert receiver.connections == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("", "must have one or two secrets, got 0"),
        ("hush-hush", "must begin with whsec_"),
        ("whsec_hush-hush!", "must be whsec_ and base64"),
        ("whsec_aHVzaA==", "must be 24 to 64 bytes in base64, got 4"),
    ],
)
def test_test_says_what_is_wrong_with_a_secret(run_cli, local, text, message):
    """Exit code 78, with the rule and how to make one, and nothing of the secret."""
    local.unlink()
    if text is not None:
        local.write_text(text)
    ended = run_cli("webhook", "test", "ops")
    assert (ended.code, ended.out) == (78, "")
    assert message in ended.err
    assert 'hint: one secret a line: printf "whsec_%s' in ended.err
    assert "hush" not in ended.err.replace(str(local), "")
    assert "aHVzaA" not in ended.err


def test_both_secrets_sign_while_one_is_changed(run_cli, receiver, local):
    """A receiver that knows only the old one still verifies."""
    local.write_text(f"{new_secret()}\n{receiver.secret}\n")
    assert run_cli("webhook", "test", "ops").code == 0
    assert len(receiver.verified()) == 1
