"""The examples of docs/executors.md run as printed."""

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.docs import write_files
from support.queue_harness import enqueue_debate, get_job
from support.worker_processes import run_burst_worker

from aragora_q.base import JobStatus


def example(name, directory):
    """Write the programs of the document to a directory, and make one of them executable."""
    write_files("docs/executors.md", directory)
    (directory / name).chmod(0o755)
    return f"./{name}"


@pytest.fixture
def provider():
    """An HTTP server that gives the prepared answers in turn: `(status, headers, body)`."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = answers.pop(0)
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
