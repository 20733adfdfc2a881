"""The generated documentation matches the code."""

import re
import shutil
import subprocess
import tomllib

import pytest

import aragora_q
from aragora_q import errors
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from tools import gen_docs

pytest.importorskip("fastapi", reason="the extra web is not installed, as in make test-pythons")


@pytest.mark.parametrize("path", gen_docs.generated(), ids=lambda path: path.name)
def test_nothing_has_drifted(path):
    """Every generated file is what `make docs` writes now."""
    assert path.read_text() == gen_docs.generated()[path], "run make docs"


def test_the_sample_changes_nothing():
    """The sample as it is sets nothing: it can be copied to /etc and edited."""
    assert tomllib.loads(gen_docs.sample()) == {}


def test_the_sample_states_the_defaults(tmp_path):
    """Uncommenting every line that has a value changes no setting."""
    settings = gen_docs.sample().partition("# [agents]")[0]
    plain = re.sub(r"^# (\w+ = .+)$", r"\1", settings, flags=re.MULTILINE)
    (tmp_path / "all.toml").write_text(plain)
    assert len(tomllib.loads(plain)) > 15
    defaults = QueueConfig()
    with override_file(tmp_path / "all.toml"):
        assert QueueConfig() == defaults


@pytest.mark.parametrize("table", gen_docs.EXAMPLES)
def test_the_sample_names_every_setting_of_a_table(table):
    """Uncommented, its entries are valid, and every key of the table occurs."""
    example = gen_docs.EXAMPLES[table]
    assert example in gen_docs.sample()
    config = QueueConfig(**tomllib.loads(gen_docs.plain(example)))
    used = {name for entry in getattr(config, table).values() for name in entry.model_fields_set}
    assert used == set(gen_docs.entry_of(table).model_fields)


def test_the_sample_names_every_setting():
    """Each setting has a line, with or without a value."""
    for name in QueueConfig.model_fields:
        assert re.search(rf"^# {name} =|^# \[{name}[].]", gen_docs.sample(), re.MULTILINE), name


def test_every_exit_code_is_documented():
    """The table contains the codes of all errors and of every command's help."""

    def tree(kind):
        yield kind
        for subclass in kind.__subclasses__():
            yield from tree(subclass)

    codes = {kind.exit_code for kind in tree(errors.AragoraQError)}
    for name, command in gen_docs.commands().items():
        text = gen_docs.help_of(name, command).partition("Exit codes:")[2]
        assert text, f"the help of {name} lists no exit codes"
        codes |= {int(code) for code in re.findall(r"(?:^|\s{2,})(\d+) [a-zA-Z]", text)}
    assert codes <= set(gen_docs.exit_codes())


@pytest.mark.parametrize("name", gen_docs.commands())
def test_the_help_of_each_command_fits_a_screen(name):
    """At most 80 columns and 45 lines, with an example; more where each field of a debate is an option."""
    text = gen_docs.help_of(name, gen_docs.commands()[name])
    assert max(map(len, text.splitlines())) <= 80, text
    assert len(text.splitlines()) <= (69 if name in ("enqueue", "sweep", "eval") else 45)
    assert "\n  Examples:\n" in text


def test_man_pages_have_no_warnings(tmp_path):
    """groff warns about nothing in the man pages of the package."""
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("no groff: apt-get install groff-base")
    gen_docs.shared(tmp_path)
    pages = sorted((tmp_path / "man").glob("man?/*"))
    assert [page.name for page in pages] == ["aragora-q.1", "aragora-q.toml.5"]
    for page in pages:
        done = subprocess.run(
            [groff, "-man", "-Tutf8", "-Kutf8", "-ww", "-z", page],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stderr == "", page


def test_the_api_reference_covers_the_public_names():
    """Every public name has a section with a description."""
    page = (gen_docs.TOP / "docs/reference/api.md").read_text()
    for name in set(aragora_q.__all__) - {"__version__"}:
        assert re.search(rf"^## {name}\n\n```python\n[^`]+```\n\n\w", page, re.MULTILINE), name
