"""`enqueue` of JSON lines when only some of them go in: each line read has a result, then exit 75 or 69."""

import json
import subprocess

import pytest

LIMIT = {"ARAGORA_QUEUE_MAX_BACKLOG": "5"}


def _lines(count, **fields):
    return "".join(
        f"{json.dumps({'payload': {'n': n}, 'id': f'j{n}', **fields})}\n" for n in range(count)
    )


def test_each_line_has_a_result_when_the_queue_is_full(run_cli, monkeypatch, redis_client):
    """Five of ten lines go in and say so, the others say why not; a second run takes up the rest."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "5")
    ended = run_cli("enqueue", "-", stdin=_lines(10))
    assert ended.code == 75
    assert [line["id"] for line in ended.objects] == [f"j{n}" for n in range(10)]
    assert ["created" in line for line in ended.objects] == [True] * 5 + [False] * 5
    assert [line["line"] for line in ended.objects] == list(range(1, 11))
    full = "not enqueued: the queue has reached its limit of 5 waiting jobs"
    assert [line["error"] for line in ended.objects[5:]] == [full] * 5
    assert "stopped after line 5: 5 jobs enqueued" in ended.err
    assert "limit of 5" in ended.err
    redis_client.delete("aragora:queue:debates:stream")
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "50")
    again = run_cli("enqueue", "-", stdin=_lines(10))
    assert [line["created"] for line in again.objects] == [False] * 5 + [True] * 5


def test_invalid_lines_keep_their_own_error(run_cli, monkeypatch):
    """Lines that are refused for themselves say why, also in the batch that filled the queue."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "1")
    ended = run_cli("enqueue", "-", stdin=f"7\n{_lines(1)}not json\n{_lines(3)}")
    assert ended.code == 75
    errors = [line.get("error", line.get("id")) for line in ended.objects]
    assert "not a JSON object" in errors[0]
    assert errors[1] == "j0"
    assert "JSON" in errors[2]
    assert errors[3] == "j0"
    assert all("limit of 1" in error for error in errors[4:])


def test_a_line_that_the_server_refuses_is_not_one_to_continue_with(run_cli, monkeypatch):
    """A job of a sealed group keeps its error; the run continues after the last line that went in."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "2")
    run_cli("enqueue", "-", "--group", "g", stdin=_lines(1))
    run_cli("group", "seal", "g")
    late, bare = '{"payload": {}, "group": "g"}\n', '{"payload": {}}\n'
    ended = run_cli("enqueue", "-", stdin=late + bare + bare)
    assert ended.code == 75
    assert ["group g is sealed" in line.get("error", "") for line in ended.objects] == [
        True, False, False,
    ]  # fmt: skip
    assert "stopped after line 2: 1 job enqueued, 1 refused" in ended.err
    assert "begin with line 3" in ended.err


def test_the_batch_after_the_one_that_filled_the_queue_is_not_sent(run_cli, monkeypatch):
    """It was checked while the server worked; its lines have no result, as those that were never read."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "150")
    text = _lines(200) + "not json\n" + _lines(300)
    ended = run_cli("enqueue", "-", stdin=text)
    assert ended.code == 75
    assert [line["line"] for line in ended.objects] == list(range(1, 201))
    assert [line["created"] for line in ended.objects[:150]] == [True] * 150
    assert all("limit of 150" in line["error"] for line in ended.objects[150:])
    assert "stopped after line 150: 150 jobs enqueued; run the command again" in ended.err


def test_quiet_prints_the_ids_that_went_in(run_cli, monkeypatch):
    """With --quiet, exactly the ids of jobs that are in the queue."""
    monkeypatch.setenv("ARAGORA_QUEUE_MAX_BACKLOG", "2")
    ended = run_cli("enqueue", "-", "--quiet", stdin=_lines(4))
    assert (ended.code, ended.lines) == (75, ["j0", "j1"])


@pytest.mark.slow
def test_an_outage_has_a_result_per_line(own_server, start_command):
    """Lines read when Redis has gone away say that they may not be enqueued."""
    server = own_server()
    process = start_command("enqueue", "-", env={"REDIS_URL": server.url}, stdin=subprocess.PIPE)
    process.stdin.write(_lines(1).encode())
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["created"]
    server.kill()
    out, _ = process.communicate(b'{"payload": {}, "id": "lost"}\n', timeout=60)
    assert process.returncode == 69
    assert "cannot reach Redis" in json.loads(out)["error"]
