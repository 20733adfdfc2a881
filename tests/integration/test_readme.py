"""What the README says is so: its shell and Python run as printed, and what it links to is there."""

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("systemd/*.md")]


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_shell_lines_enqueue_work_wait_and_count(tmp_path):
    """On a private server, the lines of "Use" end with a recorded debate. (`make` and `pip` are CI's.)"""
    [use] = blocks("bash")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XDG_STATE_HOME": str(tmp_path),
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", use],
        capture_output=True, text=True, env=environment, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"^outcome +consensus, agreement 67%, 2 rounds", done.stdout, re.MULTILINE)
    assert re.search(r"^completed +1\b", done.stdout, re.MULTILINE)


async def run(code, namespace):
    """Run a block of Python, with `await` at its top level as the page has it."""
    result = eval(compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
    if inspect.isawaitable(result):
        await result


async def test_python_enqueues_and_works(redis_url, monkeypatch, capsys):
    """Both blocks as printed; demo agents sit where the page has models that need keys."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in ("CLAUDE", "GPT"):
        monkeypatch.setenv(f"ARAGORA_AGENT_{name}", "demo")
    enqueue, work = blocks("python")
    client, worker = {}, {}
    await run(enqueue, client)
    assert capsys.readouterr().out == "pending\n"
    working = asyncio.create_task(run(work, worker))
    await wait_until(
        lambda: working.done() or ("worker" in worker and worker["worker"].get_stats()["jobs_processed"]), 30
    )  # fmt: skip
    await worker["worker"].stop()
    await working
    assert await client["queue"].get_status(client["job_id"]) == "completed"
    for namespace in (client, worker):
        await namespace["queue"].close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Every relative link of a page names a file or a folder that is there."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []
