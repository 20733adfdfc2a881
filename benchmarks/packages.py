"""`make bench-packages`: sizes and cold starts of what `make packages` built; writes PACKAGES.md.

Debian's interpreter runs every package, in turn with that interpreter doing nothing. Each command has
run once before it is measured; the first start of the one-file program is reported separately.
"""

import datetime as dt
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from aragora_q import __version__
from aragora_q.base import Job
from aragora_q.bench import Testbed, find_server
from benchmarks.processes import process_ms
from benchmarks.queues import with_queue

PYTHON = "/usr/bin/python3"
DIST = Path(__file__).parents[1] / "dist"
PAGE = Path(__file__).with_name("PACKAGES.md")
ROUNDS = 40
HEAD = ("package", "file", "on disk", "`--version`", "`status`")

TEMPLATE = """\
# Packages

Written by `make bench-packages` (`benchmarks/packages.py`): the size of each package, and the time of a
command as a multiple of the time of `python3 -c pass`: {baseline:.0f} ms.

aragora-q {aragora_q}, Python {python}, {machine}, {day}; median of {rounds} rounds;
load average {before:.1f} before, {after:.1f} after.

{table}

The wheel's size on disk includes its dependencies; the other two contain them. The first start of the
one-file program, which unpacks it, took {first:.1f} s longer than later starts.
"""


def wheel(work):
    """Install into a virtual environment."""
    [file] = DIST.glob("*.whl")
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", work / "venv"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", work / "venv/bin/python"]
    subprocess.run(
        [*pip, "install", "--quiet", f"{file}[llm,web,top,otel]"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    return file, [work / "venv/bin/aragora-q"], work / "venv"


def one_file(work):
    """Use the one-file program; its first start unpacks it."""
    file = DIST / "aragora-q.pyz"
    return file, [PYTHON, file], work / "unpacked"


def debian(work):
    """Unpack and byte-compile as dpkg and the postinst script do, but in another directory."""
    [file] = DIST.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", file, work / "root"], check=True)
    library, program = work / "root/usr/lib/aragora-q", work / "root/usr/bin/aragora-q"
    program.write_text(program.read_text().replace("/usr/lib/aragora-q", str(library)))
    subprocess.run([PYTHON, "-m", "compileall", "-q", "-j", "0", library], check=True)
    return file, [program], work / "root"


PACKAGES = {"wheel, in a virtual environment": wheel, "`aragora-q.pyz`": one_file, "`.deb`": debian}


def megabytes(path):
    """Return the size of a file, or of all files in a directory."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.lstat().st_size for file in files) / 1e6:.3g} MB"


def measure(work, testbed):
    """Return the table's rows, the baseline in ms, and the extra seconds of the one file's first start."""
    job = Job(payload={"question": "Is this fast?"}, id="known")
    with_queue(testbed, lambda queue: queue.enqueue(job))
    environment = {  # no user settings, and byte code may be written
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "SHIV_ROOT": str(work / "unpacked"),
        "REDIS_URL": testbed.url,
    }

    def run(command):
        return process_ms(command, env=environment)

    packages = {name: prepare(work) for name, prepare in PACKAGES.items()}
    version = [*packages["`aragora-q.pyz`"][1], "--version"]
    first = (run(version) - run(version)) / 1000
    commands = {
        (name, arguments): [*program, *arguments]
        for name, (_, program, _) in packages.items()
        for arguments in (("--version",), ("status", "known"))
    }
    for command in commands.values():
        run(command)
    baseline, measured = [], {key: [] for key in commands}
    for _ in range(ROUNDS):
        baseline.append(run([PYTHON, "-c", "pass"]))
        for key, command in commands.items():
            measured[key].append(run(command))

    def cell(key):
        factor = median(ours / bare for ours, bare in zip(measured[key], baseline, strict=True))
        return f"{factor:.1f} x ({median(measured[key]):.0f} ms)"

    rows = [
        (
            name,
            megabytes(file),
            megabytes(directory),
            *(cell(key) for key in commands if key[0] == name),
        )
        for name, (file, _, directory) in packages.items()
    ]
    return rows, median(baseline), first


def main():
    if not shutil.which("dpkg-deb") or not list(DIST.glob("*.deb")):
        sys.exit("no .deb in dist: run make packages on Debian")
    load = os.getloadavg()[0]
    testbed = Testbed(find_server())
    with tempfile.TemporaryDirectory() as work:
        try:
            with testbed.pinned():
                rows, baseline, first = measure(Path(work), testbed)
        finally:
            testbed.close()
    table = (" | ".join(("", *row, "")).strip() for row in (HEAD, ["---"] * len(HEAD), *rows))
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True)
    PAGE.write_text(
        TEMPLATE.format(
            baseline=baseline,
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
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
