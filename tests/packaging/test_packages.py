"""What `make packages` hands out: wheel, sdist, the one file; bills of materials, of .deb and image, too."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from support.containers import run
from support.paths import ROOT

import aragora_q

PACKAGE = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "aragora_q").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}
"""Every file of the program, Lua scripts and the marker of types included."""

pytestmark = pytest.mark.timeout(300)


def test_wheel_has_the_program_and_nothing_else(dist):
    """All modules, every Lua script and py.typed; no tests, no documentation."""
    [wheel] = dist.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == PACKAGE
    assert {"aragora_q/py.typed", "aragora_q/redis/lua/enqueue.lua"} <= names
    assert "aragora_q/experiments/builtin.jsonl" in names


def test_sdist_has_what_builds_tests_and_deploys(dist, tmp_path):
    """Everything that building, testing and deploying need; the same wheel is built from it."""
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    for part in ("docs", "deploy", "systemd", "tests", "benchmarks", "tools", "requirements"):
        for path in (ROOT / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert (root / path.relative_to(ROOT)).is_file(), path
    for name in ("Dockerfile", "docker-compose.yml", "Makefile", "aragora-q.toml", "README.md"):
        assert (root / name).read_bytes() == (ROOT / name).read_bytes()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel"],
        cwd=root, capture_output=True, check=True,
    )  # fmt: skip
    [again], [wheel] = (root / "dist").glob("*.whl"), dist.glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_one_file_runs_alone(dist, tmp_path):
    """With no environment but a folder to unpack to, it runs a debate on the server it carries."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "SHIV_ROOT": str(tmp_path / "unpacked"),
        "HOME": "/nonexistent",
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }

    def alone(*words):
        return subprocess.run(
            [sys._base_executable, dist / "aragora-q.pyz", *words],  # no environment's packages
            capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=120,
        )  # fmt: skip

    assert alone("--version").stdout == f"aragora-q {aragora_q.__version__}\n"
    demo = alone("demo")
    assert demo.returncode == 0, demo.stderr
    assert "completed" in demo.stdout
    assert list((tmp_path / "unpacked").glob("aragora-q.pyz_*"))


def test_extras_are_included(dist, package):
    """One file and .deb contain the packages of the extras web, top and otel."""
    listed = zipfile.ZipFile(dist / "aragora-q.pyz").namelist()
    for names in (listed, run("dpkg-deb", "--contents", package).split()):
        for extra in ("fastapi", "uvicorn", "textual", "opentelemetry/sdk/trace"):
            assert any(name.endswith(f"/{extra}/__init__.py") for name in names), extra


def bills_of(directory, *image):
    """Bills and hashes of what is in a directory, as `make packages` writes them."""
    run(sys.executable, "-m", "tools.sbom", directory, *image, cwd=ROOT)
    return {
        path.name.removesuffix(".cdx.json"): path.read_text()
        for path in directory.glob("*.cdx.json")
    }


@pytest.fixture(scope="module")
def bills(dist):
    """Of the Python packages."""
    return bills_of(dist)


def is_valid(text):
    """Whether this is CycloneDX, to the letter."""
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def check_bill(text, kind, names):
    """A bill of this version, that lists exactly these Python packages: names of .dist-info."""
    bill = json.loads(text)
    root = bill["metadata"]["component"]
    expected = ("aragora-q", aragora_q.__version__, kind)
    assert (root["name"], root["version"], root["type"]) == expected
    listed = {
        f"{each['name'].lower().replace('-', '_')}-{each['version']}"
        for each in bill["components"]
        if each["purl"].startswith("pkg:pypi/")
    }
    own = f"aragora_q-{aragora_q.__version__}"
    assert len(listed) > 20
    assert listed == {name.lower().replace("-", "_", name.count("-") - 1) for name in names} - {own}
    return bill


def dist_infos(paths):
    """The packages of a site-packages among paths in an archive."""
    pattern = re.compile(r"(?:^|/)(?:site-packages|aragora-q)/([^/]+)\.dist-info/METADATA$")
    return {found[1] for path in paths if (found := pattern.search(path))}


def test_bill_is_of_the_one_file(dist, bills):
    """It lists exactly the packages that the one file carries."""
    text = bills["aragora-q.pyz"]
    assert is_valid(text)
    check_bill(text, "application", dist_infos(zipfile.ZipFile(dist / "aragora-q.pyz").namelist()))


def test_bill_is_of_the_debian_package(package, tmp_path):
    """It lists exactly the packages that the .deb carries."""
    shutil.copy(package, tmp_path)
    text = bills_of(tmp_path)[package.name]
    files = run("dpkg-deb", "--contents", package).split()
    check_bill(text, "application", dist_infos(files))
    assert package.name in (tmp_path / "SHA256SUMS").read_text()


def test_bill_is_of_the_image(image, tmp_path):
    """It lists exactly the Python packages in the image, and those of Debian beneath."""

    def inside(*command):
        return run("docker", "run", "--rm", "--network", "none", "--entrypoint", *command).split()

    text = bills_of(tmp_path, image)["aragora-q-image"]
    files = inside("find", image, "/opt/aragora-q", "-name", "METADATA")
    bill = check_bill(text, "container", dist_infos(files))
    debian = {each["name"] for each in bill["components"] if each["purl"].startswith("pkg:deb/")}
    assert is_valid(text)
    assert debian == set(inside("dpkg-query", image, "--show", "--showformat=${Package} "))
    assert "aragora-q-image.cdx.json" in (tmp_path / "SHA256SUMS").read_text()


def test_hashes_are_of_every_package(dist, bills):
    """SHA256SUMS has each package and bill by its name, and the hash of each is right."""
    sums = dict(
        reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines()
    )
    assert set(sums) == {path.name for path in dist.iterdir()} - {"SHA256SUMS"}
    assert {"aragora-q.pyz", "aragora-q.pyz.cdx.json"} < set(sums)
    for name, digest in sums.items():
        assert hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest


def test_documentation_shows_what_was_measured():
    """The page that shows package sizes and start times has the table that the benchmark wrote."""
    measured = (ROOT / "benchmarks/PACKAGES.md").read_text().splitlines()
    table = [line for line in measured if line.startswith("| ")]
    assert len(table) == 5
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    assert any("\n".join(table) in page.read_text() for page in pages)
