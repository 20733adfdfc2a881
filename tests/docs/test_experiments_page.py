"""Every block of docs/experiments.md is executed, in order, in one shell.

The reader's computer is an empty directory with `aragora-q`. `text` blocks are what the block before them
prints, apart from numbers, ids and widths, which differ from run to run; … stands for anything.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.docs import blocks, shell, write_files

pytestmark = pytest.mark.timeout(300)

PAGE = "docs/experiments.md"
MARK = "\f"
VARYING = (
    (r"\b[0-9A-Za-z]{18}\b", "ID"),
    (r"\d[\d.,:]*(?: ?(?:ms|s|min)\b)?", "#"),
    (r"-{2,}|─+|\s+", " "),
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What the shell blocks of the page print, by block."""
    here = tmp_path_factory.mktemp("reader")
    write_files(PAGE, here)
    session = "\n".join(f"printf '{MARK}{each}\\n'\n{each.text}" for each in shell(PAGE, ""))
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{session}"],
        capture_output=True, text=True, timeout=240, check=False, cwd=here,
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": str(here),
            "COLUMNS": "100",
            "ARAGORA_QUEUE_METRICS_PORT": "0",  # other tests may run a worker, too
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.split(MARK)[-1] + done.stderr
    return dict(part.split("\n", 1) for part in done.stdout.split(MARK)[1:])


def test_blocks_print_what_the_page_shows(printed):
    """All commands succeed in order; each `text` block but the crontab follows the block that prints it."""
    before, compared = None, 0
    for block in blocks(PAGE):
        if block.language == "text" and not re.match(r"\d+ \d+ \* \* \*", block.text):
            said = printed[str(before)]
            assert is_like(fixed(block.text), fixed(said)), f"{block}: {said}"
            compared += 1
        before = block
    assert compared >= 6


def fixed(text):
    """A text without what differs from run to run."""
    for pattern, name in VARYING:
        text = re.sub(pattern, name, text)
    return text.strip()


def is_like(shown, said):
    """Whether a text was printed, where … stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), said) is not None
