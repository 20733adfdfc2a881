"""`make starts`: sizes and cold starts of what `make packages` built; writes bench/PACKAGES.md.

Every form is run by the same interpreter, Debian's, and compared with that interpreter doing nothing,
in turns. Each has been started before, as any second start; the one file's first is told apart.
"""

import asyncio
import datetime as dt
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from aragora_q import __version__
from aragora_q.base import Job
from aragora_q.bench.client import config
from aragora_q.bench.stand import Stand, cores, find_server
from aragora_q.streams import RedisStreamsQueue

PYTHON = "/usr/bin/python3"
DIST = Path(__file__).parents[1] / "dist"
RESULTS = Path(__file__).with_name("PACKAGES.md")
ROUNDS = 40
HEAD = ("package", "file", "on disk", "`--version`", "`status`")

PAGE = """\
# Packages

Written by `make starts` (`bench/packages.py`): what each package weighs, and how long a command of it
takes, as a multiple of what `python3 -c pass` takes: {alone:.0f} ms.

aragora-q {aragora_q}, Python {python}, {machine}, {day}; median of {rounds} turns;
load average {before:.1f} before, {after:.1f} after.

{table}

The wheel's second figure has its dependencies; the other two bring theirs. The one file's first start,
which unpacks it, took {first:.1f} s more than any other.
"""


def run(*command, **environment):
    """Run to the end; give the milliseconds it took."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT | environment)
    return (time.perf_counter() - began) * 1000


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
"""Nothing of ours: no settings, and no ban on writing byte code."""


def wheel(work):
    """A virtual environment that pip has filled: the program, and what lies on disk."""
    [file] = DIST.glob("*.whl")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", work / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", work / "venv/bin/python"]
    subprocess.run(
        [*pip, "install", "--quiet", f"{file}[llm]"], check=True, stderr=subprocess.DEVNULL
    )
    return file, [work / "venv/bin/aragora-q"], work / "venv"


def one_file(work):
    """The one file, unpacked by its first start."""
    file = DIST / "aragora-q.pyz"
    return file, [PYTHON, file], work / "unpacked"


def debian(work):
    """What dpkg would lay down, byte-compiled as its postinst does; only the path differs."""
    [file] = DIST.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", file, work / "root"], check=True)
    library, program = work / "root/usr/lib/aragora-q", work / "root/usr/bin/aragora-q"
    program.write_text(program.read_text().replace("/usr/lib/aragora-q", str(library)))
    subprocess.run([PYTHON, "-m", "compileall", "-q", "-j", "0", library], check=True)
    return file, [program], work / "root"


FORMS = {"wheel, in a virtual environment": wheel, "`aragora-q.pyz`": one_file, "`.deb`": debian}


def megabytes(path):
    """Size of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return f"{sum(each.lstat().st_size for each in files) / 1e6:.3g} MB"


def measure(work, stand):
    """A row for each form, what the interpreter takes alone, and the one file's first start."""
    asyncio.run(_enqueue_known(stand))
    ENVIRONMENT.update(SHIV_ROOT=str(work / "unpacked"), REDIS_URL=stand.url)
    forms = {name: form(work) for name, form in FORMS.items()}
    one = [*forms["`aragora-q.pyz`"][1], "--version"]
    first = (run(*one) - run(*one)) / 1000
    commands = {
        (name, words): [*program, *words]
        for name, (_, program, _) in forms.items()
        for words in (("--version",), ("status", "known"))
    }
    for command in commands.values():
        run(*command)
    alone, taken = [], {key: [] for key in commands}
    for _ in range(ROUNDS):
        alone.append(run(PYTHON, "-c", "pass"))
        for key, command in commands.items():
            taken[key].append(run(*command))

    def told(key):
        times = median(ours / bare for ours, bare in zip(taken[key], alone, strict=True))
        return f"{times:.1f} x ({median(taken[key]):.0f} ms)"

    rows = [
        (
            name,
            megabytes(file),
            megabytes(place),
            *(told(key) for key in commands if key[0] == name),
        )
        for name, (file, _, place) in forms.items()
    ]
    return rows, median(alone), first


async def _enqueue_known(stand):
    queue = RedisStreamsQueue(config(stand.port))
    await queue.enqueue(Job(payload={"question": "Is this fast?"}, id="known"))
    await queue.close()


def main():
    if not shutil.which("dpkg-deb") or not list(DIST.glob("*.deb")):
        sys.exit("no .deb in dist to measure: run make packages on Debian")
    load = os.getloadavg()[0]
    stand = Stand(find_server())
    if pinned := cores():
        os.sched_setaffinity(0, {pinned[1]})  # the server has the other one
    with tempfile.TemporaryDirectory() as work:
        try:
            rows, alone, first = measure(Path(work), stand)
        finally:
            stand.close()
    table = (" | ".join(("", *row, "")).strip() for row in (HEAD, ["---"] * len(HEAD), *rows))
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True)
    RESULTS.write_text(
        PAGE.format(
            alone=alone,
            aragora_q=__version__,
            python=version.stdout.split()[1],
            machine=platform.machine(),
            day=f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
            rounds=ROUNDS,
            before=load,
            after=os.getloadavg()[0],
            table="\n".join(table),
            first=first,
        )
    )
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
