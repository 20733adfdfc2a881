"""Generate the documentation that is derived from the code.

`make docs` writes the sample aragora-q.toml, the pages of docs/reference and the Redis users; a test
compares these files with what this program would write. `python -m tools.gen_docs --share DIRECTORY`
writes man pages and shell completions in the layout of /usr/share, for packages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aragora_q import cli
from aragora_q.cli.config import toml_value
from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import PASSWORDS, SECRETS, environment_name
from aragora_q.redis.acl import ROLES, rules
from aragora_q.redis.keys import QueueKeys

TOP = Path(__file__).parent.parent
COLUMNS = 80

SECTIONS = {
    "redis_url": "The server",
    "key_prefix": "The queue",
    "retry_max_attempts": "Retries and leases",
    "max_job_ttl_days": "Limits and durability",
    "concurrency": "Workers",
    "metrics_host": "Metrics and logs",
    "web_listen": "The console",
    "receipt_key": "Receipts and notifications",
    "default_agents": "Debates",
    "agents": "Agents",
    "budgets": "Budgets and providers",
    "schedules": "Schedules and webhooks",
}
"""Headings by the setting that each precedes."""

SOURCES = (
    "the defaults",
    "/etc/aragora-q/aragora-q.toml, then /etc/aragora-q/conf.d/*.toml in the order of their names",
    "~/.config/aragora-q/aragora-q.toml ($XDG_CONFIG_HOME)",
    "./aragora-q.toml, if its owner is you or root",
    "--config FILE",
    "systemd credentials and *_FILE variables, for passwords",
    "environment variables",
    "options of a command",
)
"""Sources of settings; a later source overrides earlier ones."""

EXAMPLES = {
    "agents": """\
# [agents]
# claude = "anthropic:claude-sonnet-5-5"
#
# [agents.thinker]
# model = "openai:gpt-6.1-terra"
# effort = "high"             # off, minimal, low, medium, high, xhigh or max
# temperature = 1.0
# seed = 7
# service_tier = "flex"       # auto, default, flex or priority
# structured = "auto"         # auto, native (JSON schema), tool or prompted (in words)
# stream = true
# store = false               # let OpenAI store the replies
# timeout_seconds = 120       # of silence; in the flex tier, 900
# call_timeout_seconds = 900  # of a whole call; in the flex tier, 1,800
# max_tokens = 8_000          # including thinking
# fallback = ["claude"]       # asked instead while the provider takes no calls
#
# [agents.local]
# model = "openai-chat:name-of-the-model"
# base_url = "http://127.0.0.1:8080/v1"
# api_key_env = "LOCAL_KEY"
# provider = "my-server"      # whose limits apply; default: the host
""",
    "prices": """\
# [prices."openai-chat:name-of-the-model"]  # or the name of an agent
# input_usd_per_million = 0.20
# output_usd_per_million = 0.80
# cached_input_usd_per_million = 0.05        # default: as other input
# cache_write_usd_per_million = 0.25         # likewise
""",
    "budgets": """\
# [budgets.month]
# limit_usd = 400
# window = "month"            # hour, day, month or total; in UTC
#
# [budgets.tenants]           # each tenant has this budget
# limit_usd = 5
# window = "day"
# scope = "tenant"            # all, or queue, tenant, group, provider or agent; or one of them: tenant:acme
# on_full = "hold"            # or fail, warn
""",
    "providers": """\
# [providers.openai]
# max_concurrent = 50
# requests_per_minute = 500
# tokens_per_minute = 200_000
# adaptive = true
""",
    "schedules": """\
# [schedules.weekly-risks]
# cron = "0 6 * * MON"        # minute, hour, day of month, month, day of week
# time_zone = "Europe/Berlin"
# catch_up = "last"           # after an outage, enqueue the newest time that was missed; or none
# queue = "debates"           # default: every queue whose workers read this
#
# [schedules.weekly-risks.job]  # the fields of a line for enqueue
# question = "What are our biggest risks this week?"
# agents = ["claude", "gpt", "claude"]
# max_cost_usd = 2.0
# # notify = ["ops"]          # names of [webhooks]
""",
    "webhooks": """\
# [webhooks.ops]
# url = "https://hooks.example.com/aragora"
# secret_file = "/etc/aragora-q/ops.secret"  # whsec_ and base64; or the name of a systemd credential
# events = ["failed", "cancelled"]           # of jobs; default: completed, too
# include_result = false                     # true: also payload and result
# allow_networks = ["10.20.0.0/16"]          # only for a target that is not public
# ca_file = "/etc/ssl/internal-ca.pem"       # default: the system's CAs
# timeout_seconds = 15
""",
}
"""Entries of the settings that are tables."""

ABOUT = {
    "agents": "`[agents]` maps names of agents to models; `ARAGORA_AGENT_<NAME>=model` does the same for one "
    "agent, whose name is NAME in lower case. The sources are merged. An agent is a model string or a "
    "table:",
    "prices": "`[prices.NAME]` is the price of an agent, or of a model as agents name it, in US dollars. It "
    "replaces the price of the built-in list; see [Cost](../debates.md#cost).",
    "budgets": "`[budgets.NAME]` limits what all workers spend. Of the limits that workers have, the lowest "
    "counts; `aragora-q budget set` replaces them. See [Money](../money.md).",
    "providers": "`[providers.NAME]` limits the calls of all workers to each account of a provider; NAME may "
    "be an account, too, as `aragora-q providers list` shows it.",
    "schedules": "`[schedules.NAME]` enqueues a job at the times of a cron expression, once per time from any "
    "number of hosts. See [Schedules](../schedules.md).",
    "webhooks": "`[webhooks.NAME]` is a target that jobs and groups name in `notify`, and to which their ends "
    "are reported. See [Webhooks](../webhooks.md).",
}


def generated() -> dict[Path, str]:
    """Return every generated file and its content."""
    # griffe and the extra `web` are not there when packages are built
    from aragora_q.web.api import create_api  # noqa: PLC0415
    from tools import (  # noqa: PLC0415
        api_reference,
        debate_figures,
        money_figures,
    )

    reference = TOP / "docs/reference"
    return {
        TOP / "aragora-q.toml": sample(),
        reference / "api.md": api_reference.page(),
        reference / "cli.md": commands_page(),
        reference / "settings.md": settings_page(),
        reference / "openapi.json": json.dumps(create_api().openapi(), indent=1) + "\n",
        TOP / "deploy/redis/users.acl": users(),
        TOP / "docs/debates.md": debate_figures.page((TOP / "docs/debates.md").read_text()),
        TOP / "docs/money.md": money_figures.page((TOP / "docs/money.md").read_text()),
    }


def shared(directory: Path) -> None:
    """Write man pages and shell completions below `directory`, which stands for /usr/share."""
    files = {
        "man/man1/aragora-q.1": command_manual(),
        "man/man5/aragora-q.toml.5": settings_manual(),
        "bash-completion/completions/aragora-q": completion("bash"),
        # zsh loads the script at the first completion and calls it as a function.
        "zsh/vendor-completions/_aragora-q": completion("zsh") + '_aragora_q_completion "$@"\n',
        "fish/vendor_completions.d/aragora-q.fish": completion("fish"),
    }
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def completion(shell: str) -> str:
    """Return the completion script that the command writes for a shell."""
    environment = os.environ | {"_ARAGORA_Q_COMPLETE": f"source_{shell}"}
    command = [sys.executable, "-m", "aragora_q"]
    written = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return written.stdout.strip() + "\n"


def fields() -> dict[str, FieldInfo]:
    """Return every setting."""
    return dict(QueueConfig.model_fields)


def kind(field: FieldInfo) -> str:
    """Return a setting's type and range for readers."""
    name = str(field.annotation)
    for part, text in (("SecretStr", "text"), ("dict", "table"), ("tuple", "list of texts")):
        if part in name:
            return text
    if "Literal" in name:
        parts = get_args(field.annotation)  # values, or a Literal and None
        values = [
            each for part in parts if part is not NoneType for each in get_args(part) or [part]
        ]
        *others, last = (f"`{value}`" for value in values)
        return f"{', '.join(others)} or {last}"
    if field.annotation is bool:
        return "`true` or `false`"
    limits = _limits(field)
    if "int" in name or "float" in name:
        return ("whole number" if "int" in name else "number") + limits
    return "text"


def _limits(field: FieldInfo) -> str:
    metadata = [*field.metadata]
    for part in get_args(field.annotation):  # the limits of an optional setting are one level down
        metadata += getattr(part, "__metadata__", [])
        metadata += [m for f in metadata if isinstance(f, FieldInfo) for m in f.metadata]
    found = {
        sign: getattr(limit, attribute)
        for limit in metadata
        for attribute, sign in (("ge", "from"), ("gt", "above"), ("le", "to"))
        if getattr(limit, attribute, None) is not None
    }
    texts = {
        sign: f"{limit:f}" if 0 < limit < 0.001 else f"{limit:,}" for sign, limit in found.items()
    }
    return "".join(f" {sign} {texts[sign]}" for sign in ("from", "above", "to") if sign in texts)


def default(field: FieldInfo) -> str:
    """Return a setting's default as TOML; empty if it has none."""
    if field.default_factory is not None or field.default is None:
        return ""
    value = field.default
    return toml_value(float(value) if field.annotation is float else value)


def sample() -> str:
    """Return aragora-q.toml: every setting at its default, commented out."""
    lines = [
        "# Settings of aragora-q, all at their defaults. Written by `make docs`.",
        "#",
        "# Sources; a later source overrides earlier ones:",
        *(f"#   {number}. {source}" for number, source in enumerate(SOURCES, 1)),
        "# `aragora-q config show --origin` shows every value and its source; `aragora-q config check`",
        "# validates them.",
    ]
    for name, field in fields().items():
        if name in SECTIONS:
            lines += ["", "", f"# -- {SECTIONS[name]} " + "-" * (72 - len(SECTIONS[name]))]
        variable = "" if name in EXAMPLES else f" [{environment_name(name)}]"
        rule = f" ({kind(field).replace('`', '')}){variable}"
        lines += [
            "",
            *textwrap.wrap(
                f"{field.description}{rule}", 98, initial_indent="# ", subsequent_indent="# "
            ),
        ]
        if name in EXAMPLES:
            lines += EXAMPLES[name].splitlines()
        else:
            lines.append(f"# {name} = {default(field)}".rstrip())
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Return docs/reference/settings.md."""
    lines = [
        "# Settings",
        "",
        "Written by `make docs` from the declarations of `QueueConfig`.",
        "",
        "Sources; a later source overrides earlier ones:",
        "",
        *(f"{number}. {source}" for number, source in enumerate(SOURCES, 1)),
        "",
        (
            "`aragora-q config show --origin` shows every value and its source; `aragora-q config check` "
            "validates them. Unknown names are errors, and the message suggests the nearest known name. This "
            "applies to files, and to environment variables that begin with `ARAGORA_QUEUE_`, except "
            "variables that Kubernetes creates from the names of services. An empty variable counts as unset."
        ),
        "",
        (
            "The retention time is `ARAGORA_QUEUE_MAX_JOB_TTL_DAYS`. Related programs also use the name "
            "`ARAGORA_QUEUE_MAX_TTL_DAYS`; aragora-q rejects it as unknown."
        ),
    ]
    for name, field in fields().items():
        if name in EXAMPLES:
            continue
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", "", "| Setting | Variable | Values | Default | Meaning |",
                      "|---|---|---|---|---|"]  # fmt: skip
        shown = f"`{default(field)}`" if default(field) else ""
        cells = (
            f"`{name}`",
            f"`{environment_name(name)}`",
            kind(field),
            shown,
            field.description,
        )
        lines.append(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |")
    secrets = " and ".join(f"`{environment_name(name)}_FILE`" for name in sorted(PASSWORDS))
    credentials = " and ".join(f"`{name.replace('_', '-')}`" for name in sorted(PASSWORDS))
    urls = " and ".join(f"`{name}`" for name in sorted(SECRETS - PASSWORDS))
    lines += [
        "", "## Passwords", "",
        (f"{secrets} name files that contain the passwords. Under systemd, the credentials {credentials} "
        "(`LoadCredential=`) are found automatically. The files are UTF-8, with or without a byte order "
        "mark. They are read again for every new connection: a "
        f"changed password needs no restart. {urls} may come from files and credentials in the same way; they "
        "are read at the start. Passwords never appear in `config show`, errors or log lines; "
        "neither does any part of a `redis_url` that may contain one."),
    ]  # fmt: skip
    for table, example in EXAMPLES.items():
        lines += ["", f"## {table.capitalize()}", "", ABOUT[table], "",
                  "| Key | Values | Default | Meaning |", "|---|---|---|---|"]  # fmt: skip
        for name, field in entry_of(table).model_fields.items():
            has_none = field.is_required() or field.default is None
            shown = "" if has_none else f"`{toml_value(field.default)}`"
            lines.append(f"| `{name}` | {kind(field)} | {shown} | {field.description} |")
        lines += ["", "```toml", plain(example).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def entry_of(table: str) -> type[BaseModel]:
    """Return the model of the entries of a setting that is a table."""
    [made_of] = QueueConfig.model_fields[table].metadata
    model: type[BaseModel] = made_of.entry
    return model


def plain(example: str) -> str:
    """Return the entries of a table without the signs of comments."""
    return re.sub(r"^# ?", "", example, flags=re.MULTILINE)


def commands() -> dict[str, Any]:
    """Return every command by its full name, with subcommands; the default one by its group's."""
    found: dict[str, Any] = {}
    for name in cli.COMMANDS:
        command = cli._load(name)  # noqa: SLF001
        subcommands = getattr(command, "commands", None)
        if subcommands:
            default = getattr(command, "default", None)
            for sub, each in subcommands.items():
                found[name if sub == default else f"{name} {sub}"] = each
        else:
            found[name] = command
    return found


def help_of(name: str, command: Any) -> str:
    """Return what `aragora-q NAME --help` prints, 80 columns wide."""
    context = typer.Context(command, info_name=f"aragora-q {name}".strip(), terminal_width=COLUMNS)
    context.help_option_names = ["-h", "--help"]
    return "\n".join(line.rstrip() for line in command.get_help(context).splitlines())


def commands_page() -> str:
    """Return docs/reference/cli.md."""
    lines = [
        "# Commands", "",
        ("Written by `make docs` from the output of `--help`. Data goes to stdout, messages to stderr. See "
        "also: [JSON output](cli-json.md), [exit codes](exit-codes.md), [settings](settings.md)."),
        "", ("`--redis-url`, `--queue` and `--config` may stand before or after the command; after it they "
        "win. A command that does not take one refuses it. The other options below stand before the command."),
        "", "```text", help_of("", typer.main.get_command(cli.app)), "```",
    ]  # fmt: skip
    for name, command in commands().items():
        lines += ["", f"## {name}", "", "```text", help_of(name, command), "```"]
    return "\n".join(lines) + "\n"


def exit_codes() -> dict[int, str]:
    """Return the exit codes and their meanings, from docs/reference/exit-codes.md."""
    page = (TOP / "docs/reference/exit-codes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", page, re.MULTILINE)
    return {int(code): meaning.replace("`", "") for code, meaning in rows}


def roff(text: str) -> str:
    """Escape `text` for roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(
        f"\\&{line}" if line.startswith((".", "'")) else line for line in text.split("\n")
    )


def _head(name: str, section: int, purpose: str) -> list[str]:
    return [f'.TH {name.upper()} {section} "" "aragora\\-q" "aragora\\-q"', ".SH NAME",
            f"{roff(name)} \\- {roff(purpose)}"]  # fmt: skip


def _options() -> str:
    """Return the options before the command, as `aragora-q --help` prints them."""
    text = help_of("", typer.main.get_command(cli.app))
    return text.partition("Options:\n")[2].partition("\n\nCommands:")[0]


def command_manual() -> str:
    """Return the man page aragora-q(1)."""
    lines = [
        *_head("aragora-q", 1, "a job queue on Redis Streams for multi-agent LLM debates"),
        ".SH SYNOPSIS", roff("aragora-q [OPTIONS] COMMAND [ARGS]..."),
        ".SH DESCRIPTION",
        roff("Clients enqueue debates; workers run each of them to exactly one recorded outcome. Commands "
             "print data to stdout and messages to stderr. Commands that print data have the option --json."),
        ".SH OPTIONS", ".nf", roff(_options()), ".fi",
        roff("The options --redis-url, --queue and --config may stand before or after the command; after it "
             "they win."),
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
    for code, meaning in exit_codes().items():
        lines += [".TP", str(code), roff(meaning)]
    lines += [".SH ENVIRONMENT", roff("Every setting has a variable, see aragora-q.toml(5). NO_COLOR disables "
              "colors. Commands that enqueue continue the trace that TRACEPARENT and TRACESTATE name; OTEL_* "
              "variables of OpenTelemetry say where they, workers and the console send spans."),
              ".SH FILES"]  # fmt: skip
    for source in SOURCES[1:4]:
        lines += [".PP", roff(source)]
    lines += [".SH SEE ALSO", roff("aragora-q.toml(5), systemd.service(5), redis-cli(1)")]
    return "\n".join(lines) + "\n"


def settings_manual() -> str:
    """Return the man page aragora-q.toml(5)."""
    lines = [
        *_head("aragora-q.toml", 5, "settings of aragora-q"), ".SH DESCRIPTION",
        roff("TOML, one line per setting. Unknown names are errors. A later source overrides earlier ones:"),
    ]  # fmt: skip
    for number, source in enumerate(SOURCES, 1):
        lines += [".TP", f"{number}.", roff(source)]
    for name, field in fields().items():
        if name in SECTIONS:
            lines.append(f".SH {roff(SECTIONS[name].upper())}")
        about = f"{kind(field).replace('`', '')}; default: {default(field) or 'none'}"
        lines += [".TP", f"\\fB{roff(name)}\\fR", roff(field.description or ""), ".br", roff(about)]
        if name == "agents" or name not in EXAMPLES:
            variable = "ARAGORA_AGENT_<NAME>" if name == "agents" else environment_name(name)
            lines += [".br", roff(f"variable: {variable}")]
    lines += [".SH EXAMPLES", ".nf",
              roff('redis_url = "redis://redis.example.com:6379"\nconcurrency = 5\n\n'
                   + "\n".join(map(plain, EXAMPLES.values()))), ".fi",
              ".SH SEE ALSO", roff("aragora-q(1)")]  # fmt: skip
    return "\n".join(lines) + "\n"


def users() -> str:
    """Return an ACL file (it cannot contain comments) with a Redis user per role for the default queue."""
    defaults = QueueConfig()
    keys = QueueKeys(defaults.key_prefix, defaults.queue, cluster=False)
    return "".join(f"user aragora-q-{role} reset on {rules(role, keys)}\n" for role in ROLES)


def main() -> None:
    """Write the files that changed and print their names; with --share, write files for packages."""
    if sys.argv[1:2] == ["--share"]:
        shared(Path(sys.argv[2]))
        return
    for path, text in generated().items():
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            sys.stdout.write(f"wrote {path.relative_to(TOP)}\n")


if __name__ == "__main__":
    main()
