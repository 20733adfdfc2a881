"""Directories of the repository, for helpers and tests that read its files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
