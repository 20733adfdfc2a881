"""Options that name server, queue and configuration: the same before and after the command."""

import pytest

from aragora_q import cli

SHARED = ("--redis-url", "--queue", "--config")


def options_of(command):
    return {option for parameter in command.params for option in parameter.opts}


def commands():
    """Every command by its arguments."""
    for name in cli.COMMANDS:
        command = cli._load(name)
        for sub, each in getattr(command, "commands", {"": command}).items():
            yield [name, sub] if sub else [name], each


@pytest.mark.parametrize("option", SHARED)
def test_a_command_that_takes_an_option_takes_it_before(run_cli, option):
    """Any other command refuses it by name, with exit code 2."""
    for path, command in commands():
        name = " ".join(path)
        ended = run_cli(option, "x", *path, "--help")
        if option in options_of(command):
            assert ended.code == 0
            assert ended.out.startswith(f"Usage: aragora-q {name}")
        else:
            assert (ended.code, ended.out) == (2, "")
            assert f"error: {name} takes no {option}\n" in ended.err


def test_before_and_after_are_alike(run_cli, monkeypatch, redis_url, tmp_path):
    """Server, queue and configuration are those named, in whichever place."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    (tmp_path / "one.toml").write_text('default_agents = ["demo:bold", "demo"]\n')
    before = ("--config", "one.toml", f"--redis-url={redis_url}", "--queue", "side")
    assert run_cli(*before, "enqueue", "Tea?", "--id", "a").code == 0
    assert run_cli("enqueue", "Tea?", "--id", "b", *before).code == 0
    shown = run_cli(*before[:3], "list", "--queue", "side", "--json")
    assert sorted(shown.ids) == ["a", "b"]
    assert run_cli("--redis-url", redis_url, "list", "--json").objects == []


def test_the_one_after_the_command_wins(run_cli, redis_url):
    """As the last of several after the command does."""
    run_cli("enqueue", "Tea?", "-a", "demo,demo", "--id", "a", "--queue", "side")
    assert run_cli("--queue", "other", "list", "--queue", "side", "--json").ids == ["a"]
    assert run_cli("--queue", "x", "--queue", "side", "list", "--json").ids == ["a"]
    shown = run_cli("--redis-url", "redis://127.0.0.1:1", "list", "--redis-url", redis_url)
    assert shown.code == 0


def test_subcommands(run_cli, tmp_path):
    """Also `aragora-q --config FILE config check`, whose command is the second word."""
    (tmp_path / "one.toml").write_text("concurrency = 7\n")
    (tmp_path / "bad.toml").write_text("concurrency = 0\n")
    shown = run_cli("--config", "one.toml", "config", "show", "--origin")
    assert "concurrency = 7                                 # one.toml:1" in shown.lines
    assert run_cli("--config", "bad.toml", "config", "show").code == 78
    assert run_cli("--config", "bad.toml", "config", "show", "--config", "one.toml").code == 0
    assert run_cli("--config", "bad.toml", "config", "--help").code == 0
    assert run_cli("--config", "bad.toml", "config").code == 2
    assert "No such command 'x'" in run_cli("--config", "bad.toml", "config", "x").err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--queue", "No Good", "stats"], "queue = 'No Good' (option --queue): must be 1 to 64"),
        (["--queue", "", "stats"], "queue = '' (option --queue): must be 1 to 64"),
        (["--queue"], "Option '--queue' requires an argument"),
        (["--queue", "x"], "Missing command"),
        (["--limit", "3", "list"], "No such option: --limit"),
        (["--config", "none.toml", "stats"], "cannot read none.toml"),
    ],
)
def test_errors_are_those_of_the_command(run_cli, args, message):
    """One line, with the option as its origin."""
    ended = run_cli(*args)
    assert (ended.code in (2, 78), ended.out) == (True, "")
    assert message in ended.err


def test_an_argument_is_never_taken_for_an_option(run_cli):
    """Neither after `--` nor with a value that begins with a dash."""
    ended = run_cli("--queue", "side", "status", "--", "--queue=x")
    assert (ended.code, "--queue=x" in ended.err) == (3, True)
    assert "'-x' (option --queue)" in run_cli("--queue", "-x", "stats").err


def test_help_shows_no_password(run_cli):
    """A URL before the command is not shown as a default in the command's help."""
    assert "hush" not in run_cli("--redis-url", "redis://:hush@h", "stats", "--help").out


def test_the_group_declares_nothing_itself():
    """Its help is that of the commands: each option is declared once."""
    group = cli.typer.main.get_command(cli.app)
    own = {each.opts[0]: each.help for each in group.params}
    of_command = {each.opts[0]: each.help for each in cli._load("stats").params}
    assert [own[name] for name in SHARED] == [of_command[name] for name in SHARED]
