"""The commands of docs/http-api.md, as printed, against an API and a worker."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.docs import script, shell, write_files
from support.paths import ROOT
from support.web_api import application, served

from aragora_q.errors import AragoraQError, QueueClosed
from aragora_q.executors import load_executor
from aragora_q.web.problems import Conflict, problem

PAGE = "docs/http-api.md"


async def test_the_commands_work(new_harness, worker_pool, tmp_path):
    """In order, with only the address replaced; the job that is waited for has completed."""
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    harness = new_harness(queue="debates", executor="debate")
    write_files(PAGE, tmp_path)
    worker_pool.start(harness, await load_executor(harness.config))
    async with application(harness.config) as app, served(app) as address:
        commands = script(shell(PAGE, "")).replace("http://127.0.0.1:8080", address)
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", commands],
            capture_output=True, text=True, check=False, timeout=100,
            cwd=tmp_path,
            env={
                **os.environ, "TOKEN": "aq_any",
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"id":"tea","created":true' in done.stdout
    assert '"id":"tea","status":"completed"' in done.stdout
    assert '"refused":1' in done.stdout
    assert '{"dry_run":true,"jobs":1}' in done.stdout
    assert '{"results":[],"changed":1,"complete":true}' in done.stdout
    assert '"event":"enqueued"' in done.stdout
    assert re.search(r"^completed tea$", done.stdout, re.MULTILINE)


def test_the_table_of_errors_has_every_code():
    """Every error that a route can answer with is in the table, next to its exit code and status."""
    rows = [
        row.split("|") for row in (ROOT / PAGE).read_text().splitlines() if row.startswith("| ")
    ]
    documented = {
        (code, status.strip(), exit_code.strip())
        for _, exit_code, statuses, codes, *_ in rows[1:]
        for code in re.findall(r"`([a-z-]+)`", codes)
        for status in statuses.split(",")
    }
    kinds = {*_kinds(AragoraQError)} - {Conflict}  # always one of its kinds
    for kind in kinds:
        error = kind.__new__(kind)  # some take more than a text
        error.hint, error.job_id = "", "j"
        found = problem(error)
        assert (found["code"], str(found["status"]), str(found["exit_code"])) in documented, kind
    assert problem(QueueClosed("closed"))["detail"] == "the console is stopping"


def _kinds(kind):
    for each in kind.__subclasses__():
        if each.__module__.startswith("aragora_q."):
            yield each
            yield from _kinds(each)
