"""Write a CycloneDX SBOM for each artifact in a directory, and SHA256SUMS.

`make packages` runs `python -m tools.sbom [DIRECTORY [IMAGE]]` (default: dist). Every SBOM is read from
the finished artifact: cyclonedx-py lists the packages of a virtual environment, so the packages of the
artifact are unpacked into an empty one. That needs no network, and no other tool than the artifact's.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from packageurl import PackageURL

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"

DEBIAN_PACKAGES = """\
. /etc/os-release
command -v dpkg-query >/dev/null || exit 0
dpkg-query --show --showformat="$ID \\${Package} \\${Version} \\${Architecture}\\n"
"""


def unpack(artifact: str, directory: Path) -> Path:
    """Unpack the artifact's packages and return the directory that contains them."""
    if artifact.endswith(".pyz"):
        shutil.unpack_archive(artifact, directory, "zip")
        return directory / "site-packages"
    if artifact.endswith(".deb"):
        _run("dpkg-deb", "--extract", artifact, str(directory))
        return directory / "usr/lib/aragora-q"
    container = _run("docker", "create", "--pull", "never", artifact).strip()
    try:
        _run("docker", "cp", f"{container}:/opt/aragora-q/lib", str(directory))
    finally:
        _run("docker", "rm", container)
    return next(directory.glob("lib/python*/site-packages"))


def sbom(artifact: str) -> str:
    """Return the SBOM of a one-file program, a .deb or a container image."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "artifact").mkdir()
        packages = unpack(artifact, work / "artifact")
        venv.create(work / "venv")
        [site_packages] = work.glob("venv/lib/python*/site-packages")
        shutil.rmtree(site_packages)
        packages.rename(site_packages)
        # The root component's version must be static.
        [own] = site_packages.glob("aragora_q-*.dist-info")
        version = own.name.removeprefix("aragora_q-").removesuffix(".dist-info")
        pyproject = PYPROJECT.read_text().replace('dynamic = ["version"]', f'version = "{version}"')
        (work / "pyproject.toml").write_text(pyproject)
        return _run(
            sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--no-validate",
            "--mc-type", "application", "--pyproject", str(work / "pyproject.toml"), str(work / "venv"),
        )  # fmt: skip


def image_sbom(image: str) -> str:
    """Return the SBOM of a container image, including the packages of Debian."""
    bom = json.loads(sbom(image))
    bom["metadata"]["component"]["type"] = "container"
    shell = ("docker", "run", "--rm", "--network", "none", "--entrypoint", "sh", image, "-c")
    for line in _run(*shell, DEBIAN_PACKAGES).splitlines():
        distribution, name, version, architecture = line.split()
        purl = PackageURL("deb", distribution, name, version, {"arch": architecture}).to_string()
        bom["components"].append(
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        )
    return json.dumps(bom, indent=2) + "\n"


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def main(directory: Path, image: str | None = None) -> None:
    """Write the SBOMs, then the checksums of all files, and print the files' names."""
    for artifact in [*directory.glob("*.pyz"), *directory.glob("*.deb")]:
        (directory / f"{artifact.name}.cdx.json").write_text(sbom(str(artifact)))
    if image:
        (directory / "aragora-q-image.cdx.json").write_text(image_sbom(image))
    files = sorted(path for path in directory.iterdir() if path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (directory / "SHA256SUMS").write_text("".join(sums))
    sys.stdout.writelines(f"{path}\n" for path in [*files, directory / "SHA256SUMS"])


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist").absolute(), *sys.argv[2:3])
