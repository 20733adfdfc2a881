"""The examples of docs/executors.md run as printed."""

import json
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.docs import write_files
from support.processes import run_command
from support.queue_harness import enqueue_debate, get_job
from support.worker_processes import run_burst_worker

from aragora_q.base import JobStatus

LATE = object()


def example(name, directory):
    """Write the programs of the document to a directory, and make one of them executable."""
    write_files("docs/executors.md", directory)
    (directory / name).chmod(0o755)
    return f"./{name}"


@pytest.fixture
def provider():
    """An HTTP server that gives the prepared answers in turn: `(status, headers, body)`; none until the end of
    the test: `LATE`.
    """
    answers, ends = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            answer = answers.pop(0)
            if answer is LATE:
                ends.wait()
                return
            status, headers, body = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """No log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.answers = answers
    server.url = f"http://127.0.0.1:{server.server_port}/"
    yield server
    ends.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_shell_example(redis_url, tmp_path):
    """wordcount.sh counts, saves and answers."""
    if not shutil.which("jq"):
        pytest.skip("no jq: apt-get install jq")
    enqueue_debate(redis_url, "j1")
    said = run_burst_worker(redis_url, "--exec", example("wordcount.sh", tmp_path))
    done = get_job(redis_url, "j1")
    assert done.result == {"final_answer": "6 words"}
    assert done.progress == {"phase": "counting"}
    assert 'text="job j1 has 6 words"' in said


def test_python_example(redis_url, tmp_path, provider):
    """ask.py: a rate limit is waited out uncharged, a server error retried, an answer is the result."""
    provider.answers += [
        (429, {"Retry-After": "0"}, b""),
        (503, {}, b""),
        (200, {}, b'{"answer": "42"}'),
    ]
    enqueue_debate(redis_url, "j1")
    run_burst_worker(redis_url, "--exec", example("ask.py", tmp_path), PROVIDER_URL=provider.url)
    done = get_job(redis_url, "j1")
    assert done.result == {"final_answer": "42"}
    assert done.attempts == 2
    assert not provider.answers


def test_python_example_fails_a_refused_job(redis_url, tmp_path, provider):
    """ask.py: a request that the provider refuses fails the job at once."""
    provider.answers += [(404, {}, b"")]
    enqueue_debate(redis_url, "j1")
    run_burst_worker(redis_url, "--exec", example("ask.py", tmp_path), PROVIDER_URL=provider.url)
    done = get_job(redis_url, "j1")
    assert done.status == JobStatus.FAILED
    assert done.error == "PermanentError: exit code 65: provider answered 404"


def test_factory_example(redis_url, tmp_path):
    """shout.py: checkpoint, progress and the three ways to end, from Python."""
    example("shout.py", tmp_path)
    enqueue_debate(redis_url, "good")
    enqueue_debate(redis_url, "bad", question=" ")
    run_burst_worker(redis_url, "--executor", "shout:factory", PYTHONPATH=".")
    assert get_job(redis_url, "good").result == {"final_answer": "TO BE OR NOT TO BE?"}
    assert get_job(redis_url, "bad").error == "PermanentError: nothing to shout"


REPLY = b'{"answer": "42", "cost_usd": 0.04, "output_tokens": 7}'
LIMITED = (429, {"Retry-After": "60"}, b"")


def spent_usd(redis_url):
    [row] = run_command(
        "spend", "--by", "provider,model", "--json", url=redis_url
    ).stdout.splitlines()
    row = json.loads(row)
    assert (row["provider"], row["model"]) == ("acme", "acme-1")
    return row["usd"], row["calls"]


@pytest.mark.parametrize("name", ["draft.sh", "write.py"])
def test_paying_examples(redis_url, tmp_path, provider, name):
    """draft.sh and write.py: what was paid is booked; a rate limit closes the gate and puts the job off."""
    if name == "draft.sh" and not (shutil.which("jq") and shutil.which("curl")):
        pytest.skip("no jq or no curl: apt-get install jq curl")
    program, is_program = example(name, tmp_path), name.endswith(".sh")
    options = ("--exec", program) if is_program else ("--executor", "write:factory")
    settings = {
        "PYTHONPATH": ".", "PROVIDER_URL": provider.url,
        "ARAGORA_QUEUE_RETRY_MAX_DELAY": "1",  # for longer, a burst worker does not wait
    }  # fmt: skip
    provider.answers += [(200, {}, REPLY), LIMITED]
    enqueue_debate(redis_url, "j1")
    run_burst_worker(redis_url, *options, **settings)
    assert get_job(redis_url, "j1").result == {"final_answer": "42"}
    assert spent_usd(redis_url) == (0.04, 1)
    enqueue_debate(redis_url, "j2")
    before = time.time()
    run_burst_worker(redis_url, *options, **settings)
    job = get_job(redis_url, "j2")
    assert (job.status, job.attempts) == (JobStatus.RETRYING, 0)
    assert job.due_at > before + (25 if is_program else 3)
    assert not provider.answers


def test_program_that_is_held_between_two_calls(redis_url, tmp_path, provider):
    """chapters.py: stopped when the budget is full; what was paid is not paid again when there is room."""
    provider.answers += [(200, {}, REPLY), (200, {}, REPLY), LATE]
    run_command("budget", "set", "cap", "0.08/total", url=redis_url)
    enqueue_debate(redis_url, "j1", chapters=["one", "two", "three"])
    options = ("--exec", example("chapters.py", tmp_path))
    run_burst_worker(redis_url, *options, PROVIDER_URL=provider.url)
    job = get_job(redis_url, "j1")
    assert (job.status, job.hold.by, job.attempts) == (JobStatus.HELD, "cap", 0)
    assert spent_usd(redis_url) == (0.08, 2)
    provider.answers[:] = [(200, {}, REPLY)]
    run_command("budget", "set", "cap", "8/total", url=redis_url)
    run_burst_worker(redis_url, *options, PROVIDER_URL=provider.url)
    assert get_job(redis_url, "j1").result == {"chapters": ["42"] * 3}
    assert spent_usd(redis_url) == (0.12, 3)
