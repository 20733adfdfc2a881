"""Every block of docs/webhooks.md is executed, in order, in one shell; both receivers verify real messages.

The reader's computer is an empty directory with `aragora-q`; only the port is the test's.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.docs import blocks, script, shell, write_files
from support.servers import free_port

pytestmark = pytest.mark.timeout(300)

PAGE = "docs/webhooks.md"
END_OF_RECEIVERS = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n"


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the page's commands print."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: apt-get install openssl")
    here = tmp_path_factory.mktemp("reader")
    write_files(PAGE, here)
    port = str(free_port())
    for program in here.glob("*.py"):
        program.write_text(program.read_text().replace("8443", port))
    done = subprocess.run(
        ["bash", "-c", END_OF_RECEIVERS + script(shell(PAGE, "")).replace("8443", port)],
        capture_output=True, text=True, timeout=240, check=False, cwd=here,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(here),
            "ARAGORA_QUEUE_METRICS_PORT": "0",  # other tests may run a worker, too
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _received(printed, label):
    """The messages that a receiver printed: type and data."""
    rows = re.findall(rf"^{label} (\S+) (\{{.*\}})$", printed, re.MULTILINE)
    return [(kind, ast.literal_eval(data)) for kind, data in rows]


def _shown():
    """The data of each message that the page shows, by type."""
    [text] = [block.text for block in blocks(PAGE) if block.language == "json"]
    messages = [json.loads(line) for line in text.splitlines()]
    return {message["type"]: message["data"] for message in messages}


def test_the_first_receiver_gets_what_the_page_says(printed):
    """The test, the job that names the webhook, and the group; not the job that names none."""
    ends = [
        (kind, data.get("id") or data.get("name")) for kind, data in _received(printed, "received")
    ]
    assert set(ends) == {("test", None), ("job.completed", "tea"), ("group.ended", "food")}


def test_messages_have_the_fields_that_the_page_shows(printed):
    """All of them, and no others."""
    shown = _shown()
    received = _received(printed, "received")
    assert {kind for kind, _ in received} == set(shown)
    for kind, data in received:
        assert set(data) == set(shown[kind]), kind
        if "decision" in data:
            assert set(data["decision"]) == set(shown[kind]["decision"])
        if "counts" in data:
            assert set(data["counts"]) == set(shown[kind]["counts"])


def test_the_receiver_without_a_library_gets_them_again(printed):
    """It verifies the same messages, which were sent to another receiver before, and those signed twice."""
    kinds = [kind for kind, _ in _received(printed, "plain:")]
    assert {"test", "job.completed", "group.ended"} == set(kinds)
    assert kinds[-1] == "test", "after the secret was changed, with the old one"
