"""Writes every part of the documentation that the program knows better: `make docs`.

The sample aragora-q.toml, the table of settings, the reference of commands, the man pages, the
completions of shells, the users of Redis. A test compares them with what this script would write.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic.fields import FieldInfo

from aragora_q import access, cli
from aragora_q.cli.config import toml_value
from aragora_q.config import AgentConfig, QueueConfig
from aragora_q.config_layers import SECRETS, environment_name
from aragora_q.keys import QueueKeys
from docs import completions

TOP = Path(__file__).parent.parent
COLUMNS = 80

SECTIONS = {
    "redis_url": "The server",
    "key_prefix": "The queue",
    "retry_max_attempts": "Retries and leases",
    "max_job_ttl_days": "Limits and durability",
    "concurrency": "Workers",
    "metrics_host": "Metrics and logs",
    "agents": "Agents",
}
"""Headings, each above the setting it comes before."""

LAYERS = (
    "the defaults below",
    "/etc/aragora-q/aragora-q.toml, then /etc/aragora-q/conf.d/*.toml by name",
    "~/.config/aragora-q/aragora-q.toml ($XDG_CONFIG_HOME)",
    "./aragora-q.toml, if it belongs to you or to root",
    "--config FILE",
    "systemd credentials and *_FILE variables, for passwords",
    "environment variables",
    "options of a command",
)
"""Where settings come from; a later one wins."""

EXIT_CODES = {
    0: "All went well.",
    1: "The job that was waited for has failed or was cancelled; or doctor found something; or an "
    "unexpected error.",
    2: "Wrong usage: an option or an argument.",
    3: "No such job; of many, some were refused or unknown.",
    65: "The data of a job breaks a rule; nothing was written.",
    69: "Redis cannot be reached. A worker does not end for it: it waits.",
    75: "Try again: Redis is full, loading, read-only, blocked or without a primary, the backlog is at "
    "its limit, or an enqueue was not confirmed as durably as asked.",
    77: "Redis refuses the password, or the user lacks a right.",
    78: "A setting, a file or the server's set-up is wrong.",
    124: "The time for waiting was up; the job goes on.",
    130: "Ended by Ctrl-C (SIGINT).",
    141: "Whoever read the output has gone; said by silence.",
    143: "Ended by SIGTERM, as a worker is that has drained.",
}

EXAMPLE_AGENTS = """\
# [agents]
# claude = "anthropic:claude-sonnet-4-5"
#
# [agents.local]
# model = "openai:a-model-of-your-server"
# base_url = "http://127.0.0.1:8080/v1"
# api_key_env = "LOCAL_KEY"
"""


def generated() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    return {
        TOP / "aragora-q.toml": sample(),
        TOP / "docs/settings.md": settings_page(),
        TOP / "docs/cli.md": commands_page(),
        TOP / "docs/man/aragora-q.1": command_manual(),
        TOP / "docs/man/aragora-q.toml.5": settings_manual(),
        TOP / "docs/completions/aragora-q.bash": completions.bash(commands(), cli.COMMANDS),
        TOP / "docs/completions/_aragora-q": completions.zsh(commands(), cli.COMMANDS),
        TOP / "docs/completions/aragora-q.fish": completions.fish(commands(), cli.COMMANDS),
        TOP / "deploy/redis/users.acl": users(),
    }


def fields() -> dict[str, FieldInfo]:
    """Every setting."""
    return dict(QueueConfig.model_fields)


def kind(field: FieldInfo) -> str:
    """A setting's type and range in a reader's words."""
    name = str(field.annotation)
    if "SecretStr" in name:
        return "text"
    if "Literal" in name:
        return " or ".join(f"`{choice}`" for choice in get_args(field.annotation))
    if "AgentConfig" in name:
        return "table"
    if field.annotation is bool:
        return "`true` or `false`"
    limits = _limits(field)
    if "int" in name or "float" in name:
        return ("whole number" if "int" in name else "number") + limits
    return "text"


def _limits(field: FieldInfo) -> str:
    metadata = [*field.metadata]
    for part in get_args(field.annotation):  # of an optional setting, its limits are one level down
        metadata += getattr(part, "__metadata__", [])
        metadata += [m for f in metadata if isinstance(f, FieldInfo) for m in f.metadata]
    found = {
        sign: getattr(limit, attribute)
        for limit in metadata
        for attribute, sign in (("ge", "from"), ("gt", "above"), ("le", "to"))
        if getattr(limit, attribute, None) is not None
    }
    return "".join(f" {sign} {found[sign]:,}" for sign in ("from", "above", "to") if sign in found)


def default(field: FieldInfo) -> str:
    """A setting's default as TOML; empty if it has none."""
    if field.default_factory is not None or field.default is None:
        return ""
    value = field.default
    return toml_value(float(value) if field.annotation is float else value)


def sample() -> str:
    """aragora-q.toml: every setting at its default, commented out."""
    lines = [
        "# Settings of aragora-q, all at their defaults. Written by `make docs`.",
        "#",
        "# Later layers win:",
        *(f"#   {number}. {layer}" for number, layer in enumerate(LAYERS, 1)),
        "# `aragora-q config show --origin` says which value comes from where, `aragora-q config check`",
        "# whether all are right.",
    ]
    for name, field in fields().items():
        if name in SECTIONS:
            lines += ["", "", f"# -- {SECTIONS[name]} " + "-" * (72 - len(SECTIONS[name]))]
        variable = "" if name == "agents" else f" [{environment_name(name)}]"
        rule = f" ({kind(field).replace('`', '')}){variable}"
        lines += [
            "",
            *textwrap.wrap(
                f"{field.description}{rule}", 98, initial_indent="# ", subsequent_indent="# "
            ),
        ]
        if name == "agents":
            lines += EXAMPLE_AGENTS.splitlines()
        else:
            lines.append(f"# {name} = {default(field)}".rstrip())
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Written by `make docs` from the declarations in `aragora_q/config.py`.",
        "",
        "Later layers win:",
        "",
        *(f"{number}. {layer}" for number, layer in enumerate(LAYERS, 1)),
        "",
        (
            "`aragora-q config show --origin` shows every value and where it comes from, `aragora-q config "
            "check` whether all are right. Names that we do not know are refused, with the nearest one we "
            "know: in files, and in the environment wherever they begin with `ARAGORA_QUEUE_`. (Those that "
            "Kubernetes makes up from the names of services are left alone.) A variable that is set but "
            "empty counts as not set."
        ),
        "",
        (
            "The retention time is `ARAGORA_QUEUE_MAX_JOB_TTL_DAYS`. Programs of the same family have also "
            "called it `ARAGORA_QUEUE_MAX_TTL_DAYS`: here that is an unknown name, and refused."
        ),
    ]
    for name, field in fields().items():
        if name in SECTIONS and name != "agents":
            lines += ["", f"## {SECTIONS[name]}", "", "| Setting | Variable | Values | Default | Meaning |",
                      "|---|---|---|---|---|"]  # fmt: skip
        if name != "agents":
            shown = f"`{default(field)}`" if default(field) else ""
            cells = (
                f"`{name}`",
                f"`{environment_name(name)}`",
                kind(field),
                shown,
                field.description,
            )
            lines.append(
                f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
            )
    secrets = " and ".join(f"`{environment_name(name)}_FILE`" for name in sorted(SECRETS))
    credentials = " and ".join(f"`{name.replace('_', '-')}`" for name in sorted(SECRETS))
    lines += [
        "", "## Passwords", "",
        (f"{secrets} name files that hold the passwords; under systemd, the credentials {credentials} "
        "(`LoadCredential=`) are found by themselves. They are read again for every new connection, so "
        "a changed password needs no restart. No password is ever shown: not by `config show`, not in an "
        "error, not in a log line, and no part of a `redis_url` is repeated that could hold one."),
        "", "## Agents", "",
        ("`[agents]` names agents and the models behind them, `ARAGORA_AGENT_<NAME>=model` does the same for "
        "one; the layers add up. An agent is a model string, or a table:"), "",
        "| Key | Values | Default |", "|---|---|---|",
    ]  # fmt: skip
    for name, field in AgentConfig.model_fields.items():
        shown = (
            "" if field.is_required() or field.default is None else f"`{toml_value(field.default)}`"
        )
        lines.append(f"| `{name}` | {kind(field)} | {shown} |")
    plain = re.sub(r"^# ?", "", EXAMPLE_AGENTS, flags=re.MULTILINE)
    return "\n".join([*lines, "", "```toml", plain.rstrip(), "```"]) + "\n"


def commands() -> dict[str, Any]:
    """Every command by its full name, those of `config` one by one."""
    found: dict[str, Any] = {}
    for name in cli.COMMANDS:
        command = cli._load(name)  # noqa: SLF001
        subcommands = getattr(command, "commands", None)
        if subcommands:
            found |= {f"{name} {sub}": each for sub, each in subcommands.items()}
        else:
            found[name] = command
    return found


def help_of(name: str, command: Any) -> str:
    """What `aragora-q NAME --help` prints, 80 columns wide."""
    context = typer.Context(command, info_name=f"aragora-q {name}", terminal_width=COLUMNS)
    context.help_option_names = ["-h", "--help"]
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def commands_page() -> str:
    """docs/cli.md."""
    lines = [
        "# Commands", "",
        ("Written by `make docs` from what `--help` says. Data goes to stdout, messages to stderr; the JSON "
        "of each command is described in [cli-json.md](cli-json.md), settings in [settings.md](settings.md)."),
        "", ("Before the command: `--version`, and `--debug`, which shows where in the program an error came "
        "from."), "", "## Exit codes", "", "| Code | Meaning |", "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()),
    ]  # fmt: skip
    for name, command in commands().items():
        lines += ["", f"## {name}", "", "```text", help_of(name, command), "```"]
    return "\n".join(lines) + "\n"


def roff(text: str) -> str:
    """`text` as roff sets it literally."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def _head(name: str, section: int, purpose: str) -> list[str]:
    return [f'.TH {name.upper()} {section} "" "aragora\\-q" "aragora\\-q"', ".SH NAME",
            f"{roff(name)} \\- {roff(purpose)}"]  # fmt: skip


def command_manual() -> str:
    """The man page aragora-q(1)."""
    lines = [
        *_head("aragora-q", 1, "a queue on Redis Streams for debates among language models"),
        ".SH SYNOPSIS", roff("aragora-q [--version] [--debug] COMMAND [OPTIONS]"),
        ".SH DESCRIPTION",
        roff("Debates are enqueued by clients and run by workers, each to exactly one recorded outcome. "
             "Every command prints data to stdout and messages to stderr, takes --help, and, wherever "
             "it shows something, --json."),
        ".SH COMMANDS",
    ]  # fmt: skip
    for name, command in commands().items():
        usage, _, rest = help_of(name, command).partition("\n")
        lines += [
            f".SS {roff(name)}",
            ".nf",
            roff(usage.removeprefix("Usage: ") + "\n" + rest),
            ".fi",
        ]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", str(code), roff(meaning)]
    lines += [".SH ENVIRONMENT", roff("Every setting has a variable, see aragora-q.toml(5); NO_COLOR switches "
              "colours off."), ".SH FILES"]  # fmt: skip
    for layer in LAYERS[1:4]:
        lines += [".PP", roff(layer)]
    lines += [".SH SEE ALSO", roff("aragora-q.toml(5), systemd.service(5), redis-cli(1)")]
    return "\n".join(lines) + "\n"


def settings_manual() -> str:
    """The man page aragora-q.toml(5)."""
    lines = [
        *_head("aragora-q.toml", 5, "settings of aragora-q"), ".SH DESCRIPTION",
        roff("TOML; one line for each setting. Unknown names are errors. Later layers win:"),
    ]  # fmt: skip
    for number, layer in enumerate(LAYERS, 1):
        lines += [".TP", f"{number}.", roff(layer)]
    for name, field in fields().items():
        if name in SECTIONS:
            lines.append(f".SH {roff(SECTIONS[name].upper())}")
        about = f"{kind(field).replace('`', '')}; default: {default(field) or 'none'}"
        variable = "ARAGORA_AGENT_<NAME>" if name == "agents" else environment_name(name)
        lines += [".TP", f"\\fB{roff(name)}\\fR", roff(field.description or ""), ".br", roff(about), ".br",
                  roff(f"variable: {variable}")]  # fmt: skip
    lines += [".SH EXAMPLES", ".nf",
              roff('redis_url = "redis://redis.example.com:6379"\nconcurrency = 5\n\n'
                   + re.sub(r"^# ?", "", EXAMPLE_AGENTS, flags=re.MULTILINE)), ".fi",
              ".SH SEE ALSO", roff("aragora-q(1)")]  # fmt: skip
    return "\n".join(lines) + "\n"


def users() -> str:
    """A user of Redis for each role, on the default queue, for an ACL file, which knows no comments."""
    defaults = QueueConfig()
    keys = QueueKeys(defaults.key_prefix, defaults.queue, cluster=False)
    return "".join(
        f"user aragora-q-{role} reset on {access.rules(role, keys)}\n" for role in access.ROLES
    )


def main() -> None:
    """Write what has changed, and name it."""
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(TOP)}\n")


if __name__ == "__main__":
    main()
