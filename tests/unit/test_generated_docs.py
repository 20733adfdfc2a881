"""The documentation that is generated says what the program says."""

import re
import shutil
import subprocess
import tomllib

import pytest

from aragora_q import errors
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from docs import generate


@pytest.mark.parametrize("path", generate.generated(), ids=lambda path: path.name)
def test_nothing_has_drifted(path):
    """Every generated file is what `make docs` would write now."""
    assert path.read_text() == generate.generated()[path], "run make docs"


def test_the_sample_changes_nothing():
    """As it is, the sample sets nothing: it can be copied to /etc and edited there."""
    assert tomllib.loads(generate.sample()) == {}


def test_the_sample_states_the_defaults(tmp_path):
    """With every line that has a value uncommented, all settings are as they are without it."""
    plain = re.sub(r"^# (\w+ = .+)$", r"\1", generate.sample(), flags=re.MULTILINE)
    plain = re.sub(r"^(claude|model|base_url|api_key_env) = .*$", "", plain, flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(plain)
    assert len(tomllib.loads(plain)) > 15
    defaults = QueueConfig()
    with override_file(tmp_path / "all.toml"):
        assert QueueConfig() == defaults


def test_the_sample_names_every_setting():
    """Each setting has its line, be it without a value."""
    for name in QueueConfig.model_fields:
        assert re.search(rf"^# {name} =|^# \[{name}\]", generate.sample(), re.MULTILINE), name


def test_every_exit_code_is_documented():
    """Codes of all errors, and of every command's help, are in the table of exit codes."""

    def tree(kind):
        yield kind
        for each in kind.__subclasses__():
            yield from tree(each)

    codes = {kind.exit_code for kind in tree(errors.AragoraQError)}
    for name, command in generate.commands().items():
        told = generate.help_of(name, command).partition("Exit codes:")[2]
        assert told, f"{name} tells no exit codes"
        codes |= {int(code) for code in re.findall(r"(?:^|\s{2,})(\d+) [a-zA-Z]", told)}
    assert codes <= set(generate.EXIT_CODES)


@pytest.mark.parametrize("name", generate.commands())
def test_the_help_of_each_command_fits_a_screen(name):
    """At most 80 columns and 45 lines, with an example."""
    text = generate.help_of(name, generate.commands()[name])
    assert max(map(len, text.splitlines())) <= 80, text
    assert len(text.splitlines()) <= 45
    assert "Example:" in text


@pytest.mark.parametrize(
    "page", sorted((generate.TOP / "docs/man").iterdir()), ids=lambda p: p.name
)
def test_man_pages_are_set_without_complaint(page):
    """groff finds nothing to warn about."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff: apt-get install groff-base")
    ended = subprocess.run(
        [groff, "-man", "-Tutf8", "-Kutf8", "-ww", "-z", page],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stderr == ""
