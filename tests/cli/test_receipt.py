"""`aragora-q receipt`: receipts of real jobs, the same everywhere, and `receipt verify`."""

import json
import re
import shutil
import stat
import subprocess
from hashlib import sha256

import pytest
from support.paths import ROOT
from support.sample_debates import SAMPLES

from aragora_q import codec
from aragora_q.contracts import Completed, Failed
from aragora_q.report.receipt import key_id

ID = "5c1d0e9a"
KEY = "a key with blanks, and ümlauts: 32 chars or more"
VARIABLE = "ARAGORA_QUEUE_RECEIPT_KEY"
HOSTILE = "\x1b[2J\x9b31m\u202eevil\x7f"


@pytest.fixture
def key(monkeypatch):
    """The configured key."""
    monkeypatch.setenv(VARIABLE, KEY)
    return KEY


@pytest.fixture
def leave(on_queue):
    """Leaves a sample debate as a worker does; or a job with `payload`, and what `end` makes of it."""

    def run(name=None, *, end=None, payload=None, job_id=ID, **labels):
        async def work(harness):
            made, entries = SAMPLES[name]() if name else (None, {})
            await harness.enqueue_payload(job_id, made.payload if made else payload, **labels)
            session = await harness.worker("w1")
            job = await harness.start_one(session)
            for entry in entries.items():
                await session.checkpoint(job, *entry)
            outcome = end or (
                Failed(made.error, codec.encode(made.result) if made.result else None)
                if made.error
                else Completed(codec.encode(made.result))
            )
            await harness.report(session, job, outcome)

        on_queue(work)

    return run


@pytest.fixture
def receipt(leave, run_cli, key):
    """The receipt of a completed debate, signed, as text."""
    leave("agreeing")
    written = run_cli("receipt", ID)
    assert (written.code, written.err) == (0, "")
    return written.out


@pytest.mark.parametrize("args", [(ID,), ("show", ID), (ID, "--queue", "debates")])
def test_a_receipt(leave, run_cli, key, args):
    """`receipt ID` writes one line that `receipt verify` verifies; `receipt show ID` is the same."""
    leave("agreeing", group="nightly", tags={"env": "prod"})
    written = run_cli("receipt", *args)
    assert (written.code, written.err, len(written.lines)) == (0, "", 1)
    found = written.object
    assert (found["receipt"]["id"], found["receipt"]["status"]) == (ID, "completed")
    assert (found["receipt"]["group"], found["receipt"]["tags"]) == ("nightly", {"env": "prod"})
    assert found["key_id"] == key_id(KEY)
    verified = run_cli("receipt", "verify", "-", "--require-signature", stdin=written.out)
    assert verified.code == 0, verified.out
    assert verified.lines[0] == "degraded   no"
    assert [line.split()[0] for line in verified.lines[1:]] == [
        "job",
        "form",
        "digest",
        "signature",
    ]


def test_options_before_the_command(leave, run_cli):
    """Queue and server may be named before `receipt`, too, though no subcommand is named."""
    leave("agreeing")
    assert run_cli("--queue", "debates", "receipt", ID).code == 0
    assert run_cli("--queue", "other", "receipt", ID).code == 3
    assert run_cli("--queue", "other", "receipt", "show", ID).code == 3


def test_the_same_bytes_on_every_host(leave, cli_command, key):
    """Locale, time zone, hash seed and width of the terminal change no byte."""
    leave("agreeing", end=Completed(codec.encode({"text": "Zürich, 東京, \x7f\x9b"})))
    hosts = [
        {},
        {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        {"TZ": "America/St_Johns", "LC_ALL": "de_DE.ISO-8859-1", "PYTHONHASHSEED": "2", "COLUMNS": "20"},
        {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0", "LANG": "C"},
    ]  # fmt: skip
    made = {cli_command("receipt", ID, env=host).out for host in hosts}
    assert len(made) == 1
    assert "東京" in made.pop()


def test_the_file(leave, run_cli, key, tmp_path):
    """--output writes the same bytes to a file; a file that cannot be written is an error."""
    leave("agreeing")
    path = tmp_path / "receipt.json"
    written = run_cli("receipt", ID, "-o", path)
    assert (written.code, written.out) == (0, "")
    assert path.read_text(encoding="utf-8") == run_cli("receipt", ID, "-o", "-").out
    assert run_cli("receipt", "-o", path, ID).code == 0
    assert not stat.S_IMODE(path.stat().st_mode) & 0o002
    assert run_cli("receipt", "verify", path).code == 0
    assert run_cli("receipt", ID, "-o", tmp_path / "none" / "x").code == 78


def test_a_failed_debate(leave, run_cli, key, tmp_path):
    """How it failed stands first, in the file and in what `verify` prints; the partial result is there."""
    leave("agreeing", end=Failed("no seat could vote", b'{"verdict":null,"confidence":0}'))
    path = tmp_path / "receipt.json"
    assert run_cli("receipt", ID, "-o", path).code == 0
    assert path.read_bytes().startswith(
        b'{"degradation":[{"code":"failed","text":"the job failed: no'
    )
    found = json.loads(path.read_text())["receipt"]
    assert (found["status"], found["error"]) == ("failed", "no seat could vote")
    assert found["result"] == {"verdict": None, "confidence": 0}
    shown = run_cli("receipt", "verify", path)
    assert shown.code == 0  # it is the receipt of a failed job, as it was written
    assert shown.lines[0] == "degraded   failed: the job failed: no seat could vote"
    assert shown.lines[1].startswith("degraded   partial: ")


def test_a_debate_that_was_cancelled(leave, run_cli, on_queue, key):
    """What it took until then is in its receipt."""

    async def work(harness):
        made, entries = SAMPLES["running"]()
        await harness.enqueue_payload(ID, made.payload)
        session = await harness.worker("w1")
        job = await harness.start_one(session)
        for entry in entries.items():
            await session.checkpoint(job, *entry)
        await harness.queue.cancel(ID)

    on_queue(work)
    found = run_cli("receipt", ID).object
    assert found["degradation"][0] == {"code": "cancelled", "text": "the job was cancelled"}
    assert found["receipt"]["result"] is None
    assert len(found["receipt"]["calls"]) > 3
    assert found["receipt"]["cost_usd"] > 0


def test_who_cancelled_a_job(run_cli, on_queue, key):
    """A receipt says who cancelled the job, and why: also `verify`, first. An earlier cancel, from before a
    requeue, is not taken for the one that ended it.
    """

    async def cancel(harness, **who):
        if await harness.queue.get_job(ID) is None:
            await harness.enqueue_payload(ID, {"n": 1})
        else:
            await harness.queue.requeue([ID])
        await harness.queue.cancel(ID, **who)

    def cancelled(**who):
        on_queue(lambda harness: cancel(harness, **who))
        found = run_cli("receipt", ID)
        assert run_cli("receipt", ID).out == found.out  # the same bytes each time
        facts = found.object["receipt"]
        shown = run_cli("receipt", "verify", "-", stdin=found.out)
        assert shown.code == 0
        return facts["cancelled_by"], facts["cancelled_reason"], shown.lines[0]

    shown = "degraded   cancelled: the job was cancelled"
    assert cancelled(by="ann@host", reason="the wrong \u001b model") == (
        "ann@host",
        "the wrong \u001b model",
        f"{shown} by ann@host: the wrong \\u001b model",
    )
    assert cancelled(by="bob@host") == ("bob@host", None, f"{shown} by bob@host")
    assert cancelled() == (None, None, shown)


def test_a_job_that_has_not_ended(run_cli, on_queue):
    """Pending, running and requeued jobs have none: exit code 75, and how to wait."""

    async def work(harness):
        await harness.enqueue("waits")

    on_queue(work)
    refused = run_cli("receipt", "waits")
    assert (refused.code, refused.out) == (75, "")
    assert "job waits has not ended: it is pending" in refused.err
    assert "aragora-q wait waits" in refused.err


def test_a_job_that_is_requeued_has_no_receipt_until_it_ends_again(leave, run_cli):
    """A failed job that runs again: the old receipt stays true, a new one needs its end."""
    leave("agreeing", end=Failed("no"))
    assert run_cli("receipt", ID).code == 0
    assert run_cli("requeue", ID).code == 0
    assert run_cli("receipt", ID).code == 75


@pytest.mark.parametrize("job_id", ["unknown", "not an id", "a:b", "-x-"[1:]])
def test_a_job_that_does_not_exist(run_cli, redis_url, job_id):
    """Also one that was purged: exit code 3."""
    refused = run_cli("receipt", job_id)
    assert (refused.code, refused.out) == (3, "")


def test_a_purged_job(leave, run_cli):
    """Exit code 3 after it is deleted."""
    leave("agreeing")
    assert run_cli("purge", ID, "--yes").code == 0
    assert run_cli("receipt", ID).code == 3


def test_a_number_that_cannot_be_in_a_receipt(leave, run_cli):
    """An integer above 2^53 - 1: exit code 65, and which part of the job has it."""
    leave(payload={"n": 2**60}, end=Completed(b"{}"))
    refused = run_cli("receipt", ID)
    assert (refused.code, refused.out) == (65, "")
    assert "its payload has no canonical JSON: 1152921504606846976" in refused.err


def test_a_damaged_journal(leave, run_cli, redis_client):
    """Corrupted data in Redis: exit code 65, not a receipt without the calls."""
    leave("agreeing")
    [journal] = redis_client.keys("*:journal")
    redis_client.hset(journal, "checkpoint:call/x.0.0", "not JSON")
    refused = run_cli("receipt", ID)
    assert (refused.code, refused.out) == (65, "")


def test_a_job_of_a_program(cli_command, run_cli, key, tmp_path):
    """What a program returned is in its job's receipt; the program does not get the key."""
    program = tmp_path / "program.sh"
    program.write_text('#!/bin/sh\nprintf \'{"key":"%s"}\' "$' + VARIABLE + '"\n')
    program.chmod(0o755)
    line = json.dumps({"id": "words", "payload": {"text": "one"}})
    assert cli_command("enqueue", "--jsonl", "-", stdin=line).code == 0
    options = ("--burst", "--metrics-port", "0", "--executor", "command", "--exec", program)
    assert cli_command("worker", *options).code == 0
    found = run_cli("receipt", "words").object
    assert found["degradation"] == []
    facts = found["receipt"]
    assert (facts["status"], facts["payload"], facts["result"], facts["calls"]) == (
        "completed", {"text": "one"}, {"key": ""}, [],
    )  # fmt: skip


def test_hostile_text_on_a_terminal(leave, run_cli, key, tmp_path):
    """No text of a job controls a terminal: not of a receipt, nor in what `verify` prints."""
    leave(payload={"question": HOSTILE, "agents": [HOSTILE]}, end=Failed(HOSTILE))
    path = tmp_path / "receipt.json"
    assert run_cli("receipt", ID, "-o", path).code == 0
    shown = run_cli("receipt", ID, terminal=True)
    assert shown.code == 0
    assert "use --output FILE" in shown.err
    verified = [run_cli("receipt", "verify", path, terminal=flag) for flag in (True, False)]
    for each in (shown, *verified):
        text = re.sub(r"\x1b\[\d*m", "", each.out)
        assert not set(HOSTILE) - set("[2J31mevil") & set(text)
    assert all(each.code == 0 for each in verified)


def test_a_changed_receipt(receipt, run_cli, tmp_path):
    """The digest and the signature differ: exit code 1, and the lines say so."""
    path = tmp_path / "receipt.json"
    path.write_text(receipt.replace('"attempts":1', '"attempts":2'))
    shown = run_cli("receipt", "verify", path)
    assert shown.code == 1
    assert "digest     DIFFERS: it was changed" in shown.lines
    assert any(line.startswith("signature  DIFFERS") for line in shown.lines)
    path.write_text(json.dumps(json.loads(receipt)))
    shown = run_cli("receipt", "verify", path)
    assert shown.code == 1
    assert "form       DIFFERS: not canonical JSON (RFC 8785)" in shown.lines


@pytest.mark.parametrize(
    ("given", "line", "required"),
    [
        (KEY, f"ok, by key {key_id(KEY)}", 0),
        ("another key of 32 characters or more", "not checked: by key", 1),
        (None, "and receipt_key is not set", 1),
    ],
)
def test_keys(receipt, run_cli, monkeypatch, given, line, required):
    """With another key, or none, a receipt verifies without its signature, and `verify` says so."""
    monkeypatch.delenv(VARIABLE)
    if given:
        monkeypatch.setenv(VARIABLE, given)
    shown = run_cli("receipt", "verify", "-", stdin=receipt)
    assert (shown.code, line in shown.lines[-1]) == (0, True)
    shown = run_cli("receipt", "verify", "-", "--require-signature", stdin=receipt)
    assert shown.code == required
    assert ("--require-signature: " in shown.err) == bool(required)


def test_a_key_that_was_rotated(receipt, run_cli, monkeypatch, tmp_path):
    """An old receipt verifies with the old key from a file."""
    monkeypatch.delenv(VARIABLE)
    old, new = tmp_path / "old.key", tmp_path / "new.key"
    old.write_text(f"{KEY}\n", encoding="utf-8")
    new.write_text("n" * 40)
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(new))
    assert run_cli("receipt", "verify", "-", "--require-signature", stdin=receipt).code == 1
    assert run_cli("receipt", ID).object["key_id"] == key_id("n" * 40)
    monkeypatch.setenv(f"{VARIABLE}_FILE", str(old))
    assert run_cli("receipt", "verify", "-", "--require-signature", stdin=receipt).code == 0


def test_the_key_is_a_systemd_credential(receipt, run_cli, monkeypatch, tmp_path):
    """The credential `receipt-key` is the key."""
    monkeypatch.delenv(VARIABLE)
    (tmp_path / "receipt-key").write_text(KEY, encoding="utf-8")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert run_cli("receipt", "verify", "-", "--require-signature", stdin=receipt).code == 0
    assert run_cli("receipt", ID).out == receipt


def test_a_key_that_is_too_short(run_cli, monkeypatch):
    """Invalid configuration, and nothing of the key in the error."""
    monkeypatch.setenv(VARIABLE, "hunter2")
    refused = run_cli("receipt", ID)
    assert refused.code == 78
    assert "receipt_key" in refused.err
    assert "hunter2" not in refused.err


def test_verify_as_json(receipt, run_cli, redis_client):
    """Every field, and no connection to Redis."""
    found = json.loads(receipt)
    url = "redis://127.0.0.1:1"
    shown = run_cli("receipt", "verify", "-", "--json", "--redis-url", url, stdin=receipt)
    assert shown.code == 0
    assert shown.object == {
        "verified": True,
        "degradation": [],
        "canonical": True,
        "digest": "ok",
        "signature": "ok",
        "key_id": key_id(KEY),
        "sha256": found["sha256"],
        "queue": "debates",
        "id": ID,
        "status": "completed",
    }
    changed = receipt.replace('"attempts":1', '"attempts":2')
    shown = run_cli("receipt", "verify", "-", "--json", stdin=changed)
    assert (shown.code, shown.object["verified"], shown.object["digest"]) == (1, False, "differs")


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        (b"", 65, "not a receipt"),
        (b"\xff\xfe", 65, "not UTF-8"),
        (b"\xef\xbb\xbf{}", 65, "BOM"),
        (b'{"id": NaN}', 65, "NaN is not a number"),
        (b"[" * 200_000, 65, "nested too deeply"),
    ],
)
def test_files_that_are_not_receipts(run_cli, tmp_path, content, code, text):
    """Exit code 65 with the name of the file, or of standard input."""
    path = tmp_path / "receipt.json"
    path.write_bytes(content)
    for name, stdin in ((path, b""), ("-", content)):
        refused = run_cli("receipt", "verify", name, stdin=stdin)
        assert (refused.code, refused.out) == (code, "")
        assert text in refused.err
        assert ("standard input" if name == "-" else str(path)) in refused.err


def test_files_that_cannot_be_read(run_cli, tmp_path):
    """No file, a folder, no permission: a usage error."""
    for path in (tmp_path / "none", tmp_path):
        refused = run_cli("receipt", "verify", path)
        assert (refused.code, refused.out) == (2, "")
        assert "cannot read" in refused.err


def test_a_file_without_an_end(run_cli, monkeypatch):
    """A file that is too long to be a receipt is not read to its end."""
    monkeypatch.setattr("aragora_q.report.receipt.MAX_BYTES", 1_000_000)
    refused = run_cli("receipt", "verify", "/dev/zero")
    assert refused.code == 65
    assert "longer than 1,000,000 bytes" in refused.err


@pytest.mark.parametrize("args", [(), ("verify",), ("show",), (ID, "other"), ("verify", "a", "b")])
def test_usage(run_cli, args):
    """Missing or further arguments: exit code 2."""
    assert run_cli("receipt", *args).code == 2


def test_help_needs_no_server(cli_command):
    """`receipt --help` names both subcommands."""
    shown = cli_command("receipt", "--help")
    assert shown.code == 0
    assert "show" in shown.out
    assert "verify" in shown.out


@pytest.fixture
def independent():
    """The shell functions `content` and `field` of docs/receipts.md, and what compares their results."""
    page = (ROOT / "docs/receipts.md").read_text(encoding="utf-8")
    functions = re.findall(r"^(?:content|field)\(\) .*$", page, re.MULTILINE)
    assert len(functions) == 2
    return "\n".join(functions) + (
        '\nset -eu\ntest "$(content "$1" | sha256sum | cut -c 1-64)" = "$(field "$1")"\n'
    )


@pytest.mark.parametrize("signed", [True, False])
def test_an_independent_check(leave, run_cli, monkeypatch, tmp_path, independent, signed):
    """Digest and signature are those of sha256sum and openssl, over what remains without them."""
    if signed:
        monkeypatch.setenv(VARIABLE, KEY)
    text = '"hmac_sha256":null,"key_id":null, "sha256":"00" and \\ é'
    leave(payload={"question": text, "hmac_sha256": None, "key_id": 1, "sha256": "0" * 64, "zz": text},
          end=Failed(text))  # fmt: skip
    path = tmp_path / "receipt.json"
    assert run_cli("receipt", ID, "-o", path).code == 0
    sh = shutil.which("dash") or "/bin/sh"
    done = subprocess.run([sh, "-c", independent, "sh", path], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(path.read_text())
    content = subprocess.run(
        [sh, "-c", independent + 'content "$1"', "sh", path], capture_output=True, check=True
    ).stdout
    assert sha256(content).hexdigest() == found["sha256"]
    if signed and shutil.which("openssl"):
        command = ["openssl", "dgst", "-sha256", "-hmac", KEY]
        made = subprocess.run(command, input=content, capture_output=True, check=True)
        assert made.stdout.decode().split()[-1] == found["hmac_sha256"]
    path.write_bytes(path.read_bytes().replace(b'"attempts":1', b'"attempts":2'))
    done = subprocess.run([sh, "-c", independent, "sh", path], capture_output=True, check=False)
    assert done.returncode == 1
