"""The project's pages: their blocks of code, their code spans, and what the blocks need to run.

The word after `sh` at the start of a block says where it runs: without a word, in any shell; `debian`,
as root on a Debian with systemd; `docker`, with a Docker engine; `cluster`, with Kubernetes.
"""

import itertools
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from support.paths import ROOT

APART = {"fixtures", "dist", "build", "__pycache__"}
"""Folders without pages of this project; hidden folders are skipped, too."""

SUBSTITUTES = {
    "make setup": ("make --dry-run setup", "it has created the environment of this test run"),
    "make demo": (
        "make --dry-run demo",
        "takes a minute; .ci/run begins with it, and tests/cli/test_demo.py runs a faster one",
    ),
    "aragora-q web": ("aragora-q web --help", "serves until it is stopped; tests/web does that"),
    "make check": ("make --dry-run check", "tests/unit and the linters run separately"),
    "make test": ("make --dry-run test", "it runs these tests"),
    "make test-fast": ("make --dry-run test-fast", "make test includes these tests"),
    "make test-pythons": (
        "make --dry-run test-pythons",
        "takes minutes; .ci/run ends with it",
    ),
    "make audit": (
        "make --dry-run audit",
        "needs the network, and its result changes with each published advisory",
    ),
    "make bench": ("make --dry-run bench", "measures for minutes; tests/bench runs it small"),
    "aragora-q bench": ("aragora-q bench --help", "takes minutes; tests/bench runs it small"),
    "python tests/reliability/nemesis.py --seconds 1800 --history /tmp/history.jsonl": (
        "python tests/reliability/nemesis.py --help",
        "takes half an hour; tests/reliability/test_nemesis.py gives it 20 s",
    ),
    "python tests/reliability/checker.py /tmp/history.jsonl": (
        "test -f tests/reliability/checker.py",
        "needs a history; tests/reliability/test_nemesis.py runs it on one",
    ),
    "pip install standardwebhooks": (
        "python -c 'import standardwebhooks'",
        "needs the network; requirements/dev.txt has it",
    ),
    "pip install '.[local]'": (
        "python -c 'import xllamacpp'",
        "downloads much; requirements/dev.txt has it",
    ),
    "aragora-q models pull": ("aragora-q models pull --help", "downloads 100 MB"),
    "docker compose build": (
        'docker image inspect --format {{.Id}} "$ARAGORA_Q_IMAGE"',
        "needs the network; tests/packaging/test_containers.py builds the image",
    ),
    "kubectl apply --kustomize deploy/kubernetes/base": (
        "kubectl kustomize deploy/kubernetes/base",
        "needs a cluster; tests/packaging/test_kubernetes.py checks what is built",
    ),
}
"""Lines that a test cannot run as printed: what it runs instead, and the reason."""


@dataclass(frozen=True)
class Block:
    """A block of code: its page, line, section, language, place and text."""

    page: str
    line: int
    section: str
    language: str
    place: str
    text: str

    @property
    def file(self):
        """The name in the comment at the block's top, or None."""
        name = re.match(r"(?:#!.*\n)?# ([a-z]+\.(?:sh|py))\n", self.text)
        return name and name[1]

    def __str__(self):
        return f"{self.page}:{self.line}"


def pages():
    """Every page, as a path relative to the top of the tree."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in APART and not name.startswith(".")]
        for name in files:
            if name.endswith(".md"):
                yield str((Path(folder) / name).relative_to(ROOT))


def _tokens(page):
    return MarkdownIt().parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page):
    """All blocks of a page, fenced or indented, in order."""
    section = ""
    tokens = _tokens(page)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "inline" and before.type == "heading_open":
            section = token.content
        if token.type in {"fence", "code_block"}:
            language, _, place = token.info.partition(" ")
            yield Block(page, token.map[0] + 1, section, language, place, token.content)


def spans(page):
    """The code spans of a page's text, in order."""
    for token in _tokens(page):
        for child in token.children or ():
            if child.type == "code_inline":
                yield child.content


def links(page):
    """The targets of a page's links and pictures, in order."""
    for token in _tokens(page):
        for child in token.children or ():
            if child.type in {"link_open", "image"}:
                yield child.attrs.get("href") or child.attrs["src"]


def anchors(page):
    """The anchors of a page's headings, as GitHub names them."""
    tokens = _tokens(page)
    return {
        re.sub(r"[^\w -]", "", "".join(child.content for child in token.children).lower()).replace(
            " ", "-"
        )
        for before, token in itertools.pairwise(tokens)
        if before.type == "heading_open"
    }


def shell(page, place):
    """The shell blocks of a page for one place, without the programs that it shows."""
    return [
        block
        for block in blocks(page)
        if (block.language, block.place) == ("sh", place) and not block.file
    ]


def script(some):
    """One shell session that runs blocks in order and stops at the first failure."""
    return "\n".join(
        ["set -euo pipefail", *(f"echo '>>> {block}' >&2\n{_typed(block)}" for block in some)]
    )


def _typed(block):
    """The lines of a block, with substitutes for those that cannot be run."""

    def line(printed):
        command = printed.partition("  #")[0].strip()
        return SUBSTITUTES[command][0] if command in SUBSTITUTES else printed

    return "\n".join(map(line, block.text.splitlines()))


def write_files(page, directory):
    """The programs that a page shows, as files."""
    for block in blocks(page):
        if block.file:
            (directory / block.file).write_text(block.text)


def calls(text, program):
    """The arguments of every call of a program in some shell text."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = list(_lexer(line))
        except ValueError:  # a quotation that goes on in the next line
            continue
        for start, word in enumerate(words):
            if word == program:
                rest = words[start + 1 :]
                end = next(
                    (at for at, each in enumerate(rest) if set(each) <= set("();<>|&")), None
                )
                yield rest[:end]


def _lexer(line):
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    return lexer
