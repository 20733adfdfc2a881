"""The completions of bash, zsh and fish, asked by the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "docs/completions"


def ask(shell, program, *words):
    """What `program` prints, each line a completion; `words` are its arguments."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}: apt-get install {shell}")
    done = subprocess.run(
        [shell, "-c", program, *words], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


def bash(*words):
    program = """
      source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _aragora_q
      printf '%s\\n' "${COMPREPLY[@]}"
    """
    return ask("bash", program, SCRIPTS / "aragora-q.bash", *words)


def fish(*words):
    program = f"source {SCRIPTS / 'aragora-q.fish'}; complete --do-complete '{' '.join(words)}'"
    return ask("fish", program)


@pytest.mark.parametrize("shell", [bash, fish])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("enq",), ["enqueue"]),
        (("re",), ["reap", "requeue", "resume"]),
        (("enqueue", "--rou"), ["--rounds"]),
        (("--debug", "enqueue", "--rou"), ["--rounds"]),
        (("worker", "--conc"), ["--concurrency"]),
        (("config", "ch"), ["check"]),
        (("config", "show", "--or"), ["--origin"]),
        (("healthcheck", "--rou"), []),
    ],
)
def test_words_are_completed(shell, words, expected):
    """Commands, commands of commands, and each command's own options."""
    assert sorted(filter(None, shell("aragora-q", *words))) == expected


def test_zsh_completes():
    """zsh lists the commands, and a command's options with their meaning."""
    program = """
      zmodload zsh/zpty; fpath=($0 $fpath)
      zpty z zsh -f -i
      zpty -w z "fpath=($0 \\$fpath); autoload -U compinit; compinit -u -D; PS1=; stty -echo"
      zpty -w z 'bindkey "^I" complete-word; print READY'
      zpty -r -m z out '*READY*READY*' || zpty -r -m z out '*READY*'
      zpty -n -w z $'aragora-q enqueue --roun\\t'
      zpty -r -m z out '*--rounds*' && print -- --rounds
      zpty -d z
    """
    assert ask("zsh", program, SCRIPTS) == ["--rounds"]
