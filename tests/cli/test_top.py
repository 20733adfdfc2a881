"""`aragora-q top` in a real terminal: what it shows, how it ends, and what it leaves behind."""

import re
import signal

import pytest
from support.queue_harness import QueueHarness
from support.terminal import Terminal

from aragora_q.contracts import Failed
from aragora_q.redis import acl

HOSTILE = "\x1b]0;owned\x07 \x1b[31mred\x9b2J \u202egnp [bold]x[/] [@click=app.quit]y[/] \u65e5\u672c\u8a9e"


@pytest.fixture
def top(redis_url):
    """Starts `top` in a terminal; killed after the test."""
    started = []

    def start(*args, url=redis_url, **options):
        variables = {"REDIS_URL": url, **options.pop("env", {})}
        started.append(Terminal("top", *args, env=variables, **options))
        return started[-1]

    yield start
    for terminal in started:
        terminal.close()


async def test_the_overview_follows_the_queue_and_the_size_of_the_terminal(harness, top):
    """Queue, warnings, counts, workers and jobs; new jobs appear; every size from 40 columns is used.

    Variables of the size, as a shell may export them, do not matter.
    """
    session = await harness.worker("worker-1", lease_seconds=600)
    await harness.enqueue("bad")
    await harness.report(session, await harness.start_one(session), Failed("out of tokens"))
    await harness.enqueue("runs")
    await harness.renew(session, await harness.start_one(session))
    screen = top(env={"COLUMNS": "80", "LINES": "24"})
    screen.wait_for(
        "queue debates at redis://", "! 1 job failed within 15 min", "running 1", "workers 1"
    )
    screen.wait_for("failed 1 (1/1/1)", "out of tokens", "processing", "q quit")
    await harness.enqueue("arrives")
    screen.wait_for("arrives", "waiting 1")
    screen.resize(10, 3)
    for columns, lines in ((132, 43), (40, 12), (80, 24)):
        screen.resize(columns, lines)
        screen.wait_until(lambda: screen.lines[-1].startswith("? help"))
        screen.wait_for("arrives")
    screen.press("w")
    screen.wait_for("worker-1", "1/?", "runs", without=["out of tokens"])
    screen.press("q")
    assert screen.wait_for_end() == 0
    screen.wait_until(screen.is_as_before)


async def test_keys_act_as_a_terminal_sends_them(harness, top):
    """Cancel with a reason, requeue, pause and filter; Escape leaves a dialog and changes nothing."""
    await harness.enqueue("j1")
    screen = top()
    screen.wait_for("j1", "waiting 1")
    screen.press("c")
    screen.wait_for("Cancel 1 job?")
    screen.press("escape")
    screen.wait_for("pending", without=["Cancel 1 job?"])
    screen.press("c")
    screen.wait_for("Cancel 1 job?")
    screen.press(*"zu spät, q", "enter")
    screen.wait_for("j1 is cancelled", "cancelled 1")
    [event] = await harness.queue.tracker.history("j1")
    assert (event["cause"], event["reason"]) == ("cancelled", "zu spät, q")
    assert "@" in event["by"]
    screen.press("r")
    screen.wait_for("Requeue 1 job?")
    screen.press("enter")
    screen.wait_for("j1 is requeued", "waiting 1")
    screen.press("p")
    screen.wait_for("Pause queue debates?")
    screen.press("enter")
    screen.wait_for("queue is paused", "! queue paused")
    screen.press("/")
    screen.wait_for("Show jobs that match")
    screen.press(*"failed", "enter")
    screen.wait_for("(0)", without=["j1 ", "Show jobs that match"])


def test_ctrl_z_suspends_and_ctrl_c_quits(top):
    """Suspended, the terminal is the shell's; continued, the screen is back; Ctrl-C ends with 0."""
    screen = top()
    screen.wait_for("q quit")
    screen.press("ctrl-z")
    screen.wait_until_stopped()
    screen.wait_until(screen.is_as_before)
    screen.send(signal.SIGCONT)
    screen.wait_for("q quit")
    screen.wait_until(lambda: not screen.is_as_before())
    screen.press("?")
    screen.wait_for("Ctrl-Z")
    screen.press("ctrl-c")
    assert screen.wait_for_end() == 0
    screen.wait_until(screen.is_as_before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_restores_the_terminal(top, number):
    """It ends by the signal, as other commands do, in a dialog, too."""
    screen = top()
    screen.wait_for("q quit")
    screen.press("/")
    screen.wait_for("Show jobs that match")
    screen.send(number)
    assert screen.wait_for_end() == -number
    screen.wait_until(screen.is_as_before)
    assert "Traceback" not in screen.text


@pytest.mark.parametrize("prefix", [(), ("env", "--ignore-signal=HUP")], ids=["", "nohup"])
def test_it_ends_with_its_terminal(top, prefix):
    """When the connection of the terminal closes, no process stays behind, even if it ignores the signal."""
    screen = top(prefix=prefix)
    screen.wait_for("q quit")
    screen.hang_up()
    assert screen.wait_for_end() != 0


async def test_an_outage_keeps_the_last_picture(own_server, top):
    """The message says what is wrong and the header how old the picture is; then it recovers by itself."""
    server = own_server("--appendonly", "yes")
    harness = QueueHarness(server.url)
    await harness.enqueue("waits")
    screen = top(url=server.url)
    screen.wait_for("waits", "q quit")
    server.kill()
    screen.wait_for("trying again", "as of", "waits")
    screen.press("c")
    screen.wait_for("Enter: cancel")
    screen.press("enter")  # the action fails with a message
    screen.wait_for("cancel: cannot reach", without=["reason"])
    server.start()
    screen.wait_for("waits", without=["trying again", "as of"])
    await harness.close()
    screen.press("q")
    assert screen.wait_for_end() == 0
    screen.wait_until(screen.is_as_before)


async def test_hostile_text_is_shown_and_not_obeyed(harness, top):
    """Escape sequences and bidirectional controls are escaped, markup is text: in table, job and dialog."""
    session = await harness.worker("worker-1", lease_seconds=600)
    await harness.enqueue_payload("job-1", {"question": HOSTILE, "agents": ["demo", "demo"]})
    await harness.report(session, await harness.start_one(session), Failed(HOSTILE))
    screen = top(columns=200)
    screen.wait_for(r"\u001b]0;owned\u0007", "[bold]x[/] [@click=app.quit]y[/] 日本語")
    screen.press("r")
    screen.wait_for("Requeue 1 job?")
    screen.press(HOSTILE.replace("\x1b", "").replace("\x9b", ""), "escape")
    screen.wait_for("nothing was changed", without=["Requeue 1 job?"])
    screen.press("enter")
    screen.wait_for("Esc back", r"\u202egnp")
    screen.press("ctrl-c")
    screen.wait_for_end()
    written = screen.output.decode().replace("\x1b]22;default\x07", "")  # Textual's pointer
    assert not re.search("[\x07\x80-\x9f\u202e]|\x1b\\]|\x1b\\[2J|\x1b\\[31mred", written)


def test_no_color_and_no_utf8(top):
    """With NO_COLOR, there are no colors; in a locale without UTF-8, only ASCII is written."""
    screen = top(env={"NO_COLOR": "1", "LC_ALL": "C"})
    screen.wait_for("q quit")
    screen.press("?")
    screen.wait_for("Ctrl-Z", "+---")
    screen.press("ctrl-c")
    screen.wait_for_end()
    assert screen.output.isascii()
    codes = {
        code for sgr in re.findall(rb"\x1b\[([0-9;]*)m", screen.output) for code in sgr.split(b";")
    }
    assert codes <= {b"", b"0", b"1", b"2", b"4", b"7", b"39", b"49"}


async def test_a_user_who_may_only_read(own_server, top):
    """All is shown; a key answers with what is needed, and changes nothing."""
    server = own_server()
    harness = QueueHarness(server.url)
    await harness.enqueue("waits")
    rules = acl.rules("stats", harness.keys)
    harness.redis.execute_command("ACL", "SETUSER", "viewer", "on", ">secret", *rules.split())
    screen = top(url=server.url.replace("redis://", "redis://viewer:secret@"))
    for key, verb in (("c", "cancel"), ("h", "hold"), ("p", "pause")):
        screen.wait_for("waits", "q quit")
        screen.press(key)
        screen.wait_for(f"Enter: {verb}")
        screen.press("enter")
        screen.wait_for(f"cannot {verb}: this Redis user may only read", without=["Enter:"])
    assert (await harness.queue.get_status("waits")) == "pending"
    assert not (await harness.queue.get_queue_stats())["paused"]
    assert b"secret" not in screen.output
    await harness.close()


def test_where_there_is_no_screen(run_cli, top):
    """Exit code 2 and one line that names `stats --watch`: pipes, and terminals that only print lines."""
    piped = run_cli("top")
    assert (piped.code, piped.out) == (2, "")
    assert "top needs a terminal" in piped.err
    assert "aragora-q stats --watch" in piped.err
    screen = top(env={"TERM": "dumb"})
    assert screen.wait_for_end() == 2
    screen.wait_for("'dumb' has no screen")
    assert b"\x1b" not in screen.output


def test_without_redis_the_terminal_is_not_touched(top):
    """Exit code 69, as for other commands."""
    screen = top(url="redis://127.0.0.1:1")
    assert screen.wait_for_end() == 69
    screen.wait_for("aragora-q: error: cannot reach Redis")
    assert b"\x1b" not in screen.output


def test_without_the_extra(top, tmp_path):
    """Exit code 78, with the line that installs it."""
    (tmp_path / "textual.py").write_text("raise ModuleNotFoundError(name='textual')")
    screen = top(env={"PYTHONPATH": str(tmp_path)})
    assert screen.wait_for_end() == 78
    screen.wait_for('pip install "aragora-q[top]"')


def test_a_bug_is_reported_on_a_clean_terminal(top, tmp_path):
    """The traceback has no values of variables, which may be secrets."""
    (tmp_path / "sitecustomize.py").write_text(
        "import aragora_q.formats as formats\n"
        "def dollars_or_unknown(usd):\n"
        "    secret = 'hunt' + 'er2'\n"
        "    raise LookupError('a bug')\n"
        "formats.dollars_or_unknown = dollars_or_unknown\n"
    )
    screen = top(env={"PYTHONPATH": str(tmp_path)})
    assert screen.wait_for_end() == 1
    screen.wait_for("LookupError: a bug")
    screen.wait_until(screen.is_as_before)
    assert b"hunter2" not in screen.output
