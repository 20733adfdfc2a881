"""The Python packages as `make packages` builds them: wheel, sdist, the one file, its bill of materials."""

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import aragora_q

TREE = Path(__file__).parents[2]
PACKAGE = {
    str(path.relative_to(TREE))
    for path in (TREE / "aragora_q").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
"""Every file of the program, Lua scripts and the marker of types included."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """What the one command has built."""
    directory = tmp_path_factory.mktemp("dist")
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [TREE / "deploy/python/build", directory],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": tools},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


def test_wheel_has_the_program_and_nothing_else(dist):
    """All modules, every Lua script and py.typed; no tests, no documentation."""
    [wheel] = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == PACKAGE
    assert {"aragora_q/py.typed", "aragora_q/lua/enqueue.lua"} <= names


def test_sdist_has_what_builds_tests_and_deploys(dist, tmp_path):
    """Everything of the tree that somebody needs without the repository; and the same wheel comes of it."""
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    for part in ("docs", "deploy", "systemd", "tests", "bench", "requirements"):
        for path in (TREE / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (root / path.relative_to(TREE)).is_file(), path
    for name in ("Dockerfile", "docker-compose.yml", "Makefile", "aragora-q.toml", "README.md"):
        assert (root / name).read_bytes() == (TREE / name).read_bytes()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=root, capture_output=True, check=True,
    )  # fmt: skip
    [again], [wheel] = (root / "dist").glob("*.whl"), dist.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_one_file_runs_alone(dist, tmp_path):
    """With no environment but a folder to unpack to, it runs a debate on the server it carries."""
    alone = {
        "PATH": "/usr/bin:/bin",
        "SHIV_ROOT": str(tmp_path / "unpacked"),
        "HOME": "/nonexistent",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def run(*words):
        return subprocess.run(
            [sys._base_executable, dist / "aragora-q.pyz", *words],  # no environment's packages
            capture_output=True, text=True, check=False, env=alone, cwd=tmp_path, timeout=120,
        )  # fmt: skip

    assert run("--version").stdout == f"aragora-q {aragora_q.__version__}\n"
    demo = run("demo")
    assert demo.returncode == 0, demo.stderr
    assert "completed" in demo.stdout
    assert list((tmp_path / "unpacked").glob("aragora-q.pyz_*"))


def test_bill_of_materials_is_of_the_one_file(dist):
    """It names this version, and exactly the packages that the one file carries."""
    bill = json.loads((dist / "aragora-q.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    root = bill["metadata"]["component"]
    assert (root["name"], root["version"]) == ("aragora-q", aragora_q.__version__)
    listed = {
        (each["name"].lower().replace("_", "-"), each["version"]) for each in bill["components"]
    }
    carried = {
        tuple(name.split("/")[1].removesuffix(".dist-info").lower().rsplit("-", 1))
        for name in zipfile.ZipFile(dist / "aragora-q.pyz").namelist()
        if name.endswith(".dist-info/METADATA")
    } - {("aragora_q", aragora_q.__version__)}
    assert listed == {(name.replace("_", "-"), version) for name, version in carried}


def test_hashes_are_of_every_package(dist):
    """SHA256SUMS has each package by its name, and the hash of each is right."""
    sums = dict(
        reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines()
    )
    assert set(sums) == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest
