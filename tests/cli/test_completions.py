"""Shell completion in real shells, with the scripts that the Debian package installs."""

import os
import shutil
import subprocess
import sys

import pytest

from tools import gen_docs


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """The generated files, in the layout of /usr/share."""
    directory = tmp_path_factory.mktemp("share")
    gen_docs.shared(directory)
    return directory


@pytest.fixture
def run_shell(tmp_path, monkeypatch):
    """Runs a program in a shell that finds the command on PATH; returns the lines it prints."""
    command = tmp_path / "aragora-q"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m aragora_q "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(gen_docs.TOP))

    def run(shell, program, *arguments):
        if shutil.which(shell) is None:
            pytest.skip(f"no {shell}: apt-get install {shell}")
        done = subprocess.run(
            [shell, "-c", program, *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return [line.split("\t")[0] for line in done.stdout.splitlines()]

    return run


@pytest.fixture
def bash(run_shell, share):
    program = """
      source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _aragora_q_completion "$1"
      printf '%s\\n' "${COMPREPLY[@]}"
    """
    script = share / "bash-completion/completions/aragora-q"
    return lambda *words: run_shell("bash", program, script, *words)


@pytest.fixture
def fish(run_shell, share):
    script = share / "fish/vendor_completions.d/aragora-q.fish"
    return lambda *words: run_shell(
        "fish", f"source {script}; complete --do-complete '{' '.join(words)}'"
    )


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["bash", "fish"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("enq",), ["enqueue"]),
        (("re",), ["reap", "receipt", "requeue", "resume"]),
        (("enqueue", "--rou"), ["--rounds"]),
        (("--debug", "enqueue", "--rou"), ["--rounds"]),
        (("--queue", "x", "enqueue", "--rou"), ["--rounds"]),
        (("--config=x", "config", "ch"), ["check"]),
        (("--que",), ["--queue"]),
        (("--queue", "x", "healthcheck", "--que"), []),
        (("enqueue", "--answer"), ["--answer-form"]),
        (("worker", "--conc"), ["--concurrency"]),
        (("config", "ch"), ["check"]),
        (("config", "show", "--or"), ["--origin"]),
        (("schedule", "re"), ["resume"]),
        (("webhook", "redeliver", "--fa"), ["--failed"]),
        (("healthcheck", "--rou"), []),
    ],
)
def test_words_are_completed(request, shell, words, expected):
    """Commands, subcommands and each command's own options are completed."""
    complete = request.getfixturevalue(shell)
    assert sorted(filter(None, complete("aragora-q", *words))) == expected


def test_zsh_completes(run_shell, share):
    """The first Tab in a fresh zsh completes an option."""
    program = """
      zmodload zsh/zpty
      zpty z zsh -f -i
      zpty -w z "fpath=($0 \\$fpath); autoload -U compinit; compinit -u -D; PS1=; stty -echo"
      zpty -w z 'bindkey "^I" complete-word; print READY'
      zpty -r -m z out '*READY*READY*' || zpty -r -m z out '*READY*'
      zpty -n -w z $'aragora-q enqueue --roun\\t'
      zpty -r -m z out '*--rounds*' && print -- --rounds
      zpty -d z
    """
    assert run_shell("zsh", program, share / "zsh/vendor-completions") == ["--rounds"]


@pytest.mark.parametrize(
    "words", ["aragora-q re", "aragora-q enqueue --rou", "aragora-q config sh"]
)
def test_completion_imports_no_client(words):
    """Completion imports Typer and the command, but neither redis-py nor the settings."""
    environment = {
        **os.environ,
        "_ARAGORA_Q_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "aragora_q"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.stdout
    assert "typer" in imported
    assert not imported & {"redis", "hiredis", "pydantic_settings", "uvloop"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_install_completion(shell, tmp_path):
    """`--install-completion` writes a script for the shell that it is started from."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}: apt-get install {shell}")
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(gen_docs.TOP)}
    command = f"{sys.executable} -m aragora_q --install-completion; true"
    done = subprocess.run(
        [shell, "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert f"{shell} completion installed" in done.stdout, done.stderr
    assert any("aragora-q" in path.name for path in tmp_path.rglob("*"))
