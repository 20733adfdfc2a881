"""Bills of materials and hashes of what is handed out.

`deploy/bills.py [DIRECTORY [IMAGE]]`, by `make packages` (IMAGE=NAME for a container image, too). Each
bill, ARTIFACT.cdx.json, is read out of the finished artifact: it lists what is in there, not what
somebody meant to put in. SHA256SUMS is of everything in DIRECTORY (default: dist).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from packageurl import PackageURL

TREE = Path(__file__).parents[1]
HOMES = ("site-packages", "aragora-q")
"""The folders that hold our Python packages, in every kind of artifact."""

DEBIAN_PACKAGES = """\
. /etc/os-release
command -v dpkg-query >/dev/null || exit 0
dpkg-query --show --showformat="$ID \\${Package} \\${Version} \\${Architecture}\\n"
"""

Metadata = Iterator[tuple[PurePosixPath, bytes]]
"""Path and text of each METADATA file in an artifact."""


def of_pyz(path: Path) -> Metadata:
    """Of a one-file program."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith(".dist-info/METADATA"):
                yield PurePosixPath(name), archive.read(name)


def of_deb(path: Path) -> Metadata:
    """Of a Debian package."""
    return _of_tar("dpkg-deb", "--fsys-tarfile", str(path))


def of_image(image: str) -> Metadata:
    """Of a container image."""
    container = _output("docker", "create", "--pull", "never", image).strip()
    try:
        yield from _of_tar("docker", "cp", f"{container}:/opt/aragora-q/lib", "-")
    finally:
        _output("docker", "rm", container)


def _of_tar(*command: str) -> Metadata:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        stream: IO[bytes] = process.stdout  # type: ignore[assignment]
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                if member.name.endswith(".dist-info/METADATA"):
                    yield PurePosixPath(member.name), archive.extractfile(member).read()  # type: ignore[union-attr]
        stream.read()  # the padding behind the archive
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def _output(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def bill(metadata: Metadata) -> dict[str, Any]:
    """The bill of an artifact's Python packages."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        packages = work / "packages"
        for path, text in metadata:
            if path.parent.parent.name in HOMES:  # else a library's private copy of another
                (packages / path.parent.name).mkdir(parents=True)
                (packages / path.parent.name / "METADATA").write_bytes(text)
        [own] = packages.glob("aragora_q-*.dist-info")
        version = own.name.removeprefix("aragora_q-").removesuffix(".dist-info")
        project = (TREE / "pyproject.toml").read_text()
        project = project.replace('dynamic = ["version"]', f'version = "{version}"')
        (work / "pyproject.toml").write_text(project)
        # cyclonedx-py asks an interpreter where its packages are: this one knows of these alone.
        interpreter = work / "python"
        interpreter.write_text(f"#!/bin/sh\necho '{json.dumps([str(packages)])}'\n")
        interpreter.chmod(0o755)
        written = _output(
            sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate",
            "--mc-type", "application", "--pyproject", str(work / "pyproject.toml"), str(interpreter),
        )  # fmt: skip
    found: dict[str, Any] = json.loads(written)
    return found


def image_bill(image: str) -> dict[str, Any]:
    """The bill of a container image: our Python packages, and Debian's packages beneath."""
    found = bill(of_image(image))
    found["metadata"]["component"]["type"] = "container"
    listed = _output("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c",
                     DEBIAN_PACKAGES)  # fmt: skip
    for line in listed.splitlines():
        distribution, name, version, architecture = line.split()
        purl = PackageURL("deb", distribution, name, version, {"arch": architecture}).to_string()
        found["components"].append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    if not listed:
        print(f"{image} has no dpkg: its bill lists Python packages only", file=sys.stderr)
    return found


def main(directory: Path, image: str | None = None) -> None:
    """Write every bill, then the hashes."""
    directory.mkdir(parents=True, exist_ok=True)
    bills = {path.name: bill(of_pyz(path)) for path in directory.glob("*.pyz")}
    bills |= {path.name: bill(of_deb(path)) for path in directory.glob("*.deb")}
    if image:
        bills["aragora-q-image"] = image_bill(image)
    for name, text in bills.items():
        (directory / f"{name}.cdx.json").write_text(json.dumps(text, indent=2) + "\n")
    files = sorted(path for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (directory / "SHA256SUMS").write_text("".join(sums))
    print("\n".join(map(str, [*files, directory / "SHA256SUMS"])))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute(), *sys.argv[2:3])
