"""Schedules and webhooks in a configuration file: each mistake is one line with value, rule, file and line."""

import pytest

from aragora_q.config.settings import QueueConfig
from aragora_q.config.sources import override_file
from aragora_q.config.tables import WebhookConfig
from aragora_q.errors import ConfigError

CRON = 'cron = "0 6 * * MON"\n'
JOB = 'job = {question = "Why?", agents = ["demo:bold", "demo:careful"]}\n'
TARGET = '[webhooks.ops]\nurl = "https://hooks.example.com/x?token=hush"\nsecret_file = "hook"\n'
LONG_ENOUGH = "must have at least 32 characters, without blanks at its ends"
A_NAME = "a name must be 1 to 48 letters, digits and ._@-, and begin with a letter or digit"


@pytest.fixture
def load(tmp_path):
    """Load the settings of a configuration file."""
    path = tmp_path / "given.toml"

    def read(text):
        path.write_text(text)
        with override_file(path):
            return QueueConfig()

    return read


@pytest.fixture
def lines(load, tmp_path):
    """The lines of the message for a configuration file, with FILE for its path."""

    def read(text):
        with pytest.raises(ConfigError) as caught:
            load(text)
        assert caught.value.exit_code == 78
        return str(caught.value).replace(str(tmp_path / "given.toml"), "FILE").splitlines()

    return read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'cron = "0 6 * * MOON"',
            ".cron (FILE:2): '0 6 * * MOON' is not a cron expression: bad day",
        ),
        ('cron = "0 6 * *"', ".cron (FILE:2): '0 6 * *' is not a cron expression: wrong number of"),
        ('cron = "@daily"', ".cron (FILE:2): '@daily' is not a cron expression: wrong number of"),
        ('cron = "* 0 6 * * *"', "is not a cron expression: wrong number of fields"),
        ('cron = "0 6 30 2 *"', ".cron (FILE:2): '0 6 30 2 *' is not a cron expression"),
        ("cron = 5", ".cron = 5 (FILE:2): must be text"),
        ("", ".cron (FILE:2): field required"),
    ],
)
def test_a_wrong_cron_expression(lines, text, message):
    """The line says which, why, where, and what an expression has."""
    [line] = lines(f"\n[schedules.weekly]\n{JOB}{text}\n")
    assert f"schedules.weekly{message}" in line or message in line
    if "is not a cron" in message:
        assert line.endswith("month and day of week, as in 0 6 * * MON")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'time_zone = "Europe/Berlim"',
            ".time_zone (FILE:1): time zone 'Europe/Berlim' is not known",
        ),
        (
            'time_zone = "../etc/passwd"',
            ".time_zone (FILE:1): time zone '../etc/passwd' is not known",
        ),
        ('time_zone = ""', ".time_zone (FILE:1): time zone '' is not known"),
        ('catch_up = "all"', ".catch_up = 'all' (FILE:1): must be 'none' or 'last'"),
        ("catch_up = true", ".catch_up = True (FILE:1): must not be true or false"),
        ('queue = "No queue"', ".queue = 'No queue' (FILE:1): must be 1 to 64 of a-z"),
        ('queue = "gates"', ".queue = 'gates' (FILE:1): must not be gates"),
        ("timezone = 'UTC'", ".timezone (FILE:1): unknown setting; did you mean 'time_zone'?"),
    ],
)
def test_a_wrong_schedule(lines, text, message):
    """Every other key of a schedule."""
    [line] = lines(f"[schedules.weekly]\n{CRON}{JOB}{text}\n")
    assert f"schedules.weekly{message}" in line


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ("job = 'x'", "schedules.s.job = 'x' (FILE:1): must be a table"),
        ("", "schedules.s.job (FILE:1): field required"),
        ('job = {question = "x"}', "schedules.s.job (FILE:1): agents are missing: neither the job"),
        (
            'job = {question = "x", agent = ["a"]}',
            "unknown field 'agent'; the fields of a line are",
        ),
        ('job = {question = "x", agent = ["a"]}', "; did you mean 'agents'?"),
        (
            'job = {payload = {}, id = "x"}',
            "(FILE:1): must not have id: each time makes a job with",
        ),
        ("job = {payload = {}, delay_seconds = 5}", "(FILE:1): must not have delay_seconds: each"),
        (
            'job = {payload = {}, notify = ["opz"]}',
            "(FILE:1): 'opz' is not in webhooks; did you mean",
        ),
        ('job = {payload = {}, notify = "ops"}', 'notify must be a list such as ["ops"], got'),
        (
            'job = {payload = {}, group = "a b"}',
            "(FILE:1): invalid group 'a b': use 1 to 48 letters",
        ),
        (
            'job = {payload = {}, tags = {schedule = "other"}}',
            "(FILE:1): must not have the tag schedule: its value is the name of the schedule",
        ),
        ("job = {payload = {}, priority = 1000000}", "(FILE:1): priority is 1000000, must be"),
        (
            "job = {payload = {day = 2026-11-28}}",
            "(FILE:1): payload.day is a date or time, which JSON",
        ),
        (
            "job = {payload = {at = [[06:00:00]]}}",
            "payload.at.0.0 is a date or time, which JSON does",
        ),
        ("job = {payload = {x = nan}}", "schedules.s.job (FILE:1): contains NaN or infinity"),
        (f"job = {{payload = {'{x=' * 300}1{'}' * 300}}}", "(FILE:1): nested too deeply"),
    ],
)
def test_a_wrong_job(lines, job, message):
    """It is refused where it is written, not at six o'clock: one line, with the schedule's name and place."""
    [line] = lines(f"[schedules.s]\n{CRON}{job}\n{TARGET}")
    assert message in line
    assert line.startswith("schedules.s.job")


def test_all_wrong_jobs_are_named(lines):
    """And `default_notify`, in one message; a schedule that takes it over is not blamed for it."""
    found = lines(
        f'default_notify = ["opz"]\n[schedules.a]\n{CRON}job = {{question = "x"}}\n'
        f"[schedules.b]\n{CRON}{JOB}[schedules.c]\n{CRON}job = {{payload = {{}}, priority = 1.5}}\n{TARGET}"
    )
    assert [line.partition(":")[0] for line in found] == [
        "default_notify (FILE",
        "schedules.a.job (FILE",
        "schedules.c.job (FILE",
    ]
    assert "FILE:1): 'opz' is not in webhooks; did you mean 'ops'?" in found[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'url = "http://hooks.example.com/hush"',
            ".url (FILE:1): must begin with https:// and a host",
        ),
        ('url = "hooks.example.com/hush"', ".url (FILE:1): must begin with https:// and a host"),
        ('url = "https://"', ".url (FILE:1): must begin with https:// and a host"),
        (
            'url = "https://hush:hush@h/"',
            ".url (FILE:1): must not contain user, password or fragment",
        ),
        ('url = "https://h/#hush"', ".url (FILE:1): must not contain user, password or fragment"),
        ('url = "https://[::1/hush"', ".url (FILE:1): is not an address: Invalid IPv6 URL"),
        ('url = "https://h:99999/hush"', ".url (FILE:1): is not an address: Port out of range"),
        (
            'secret_file = "whsec_hush"',
            ".secret_file (FILE:1): must be the name of a file, not the",
        ),
        ('secret = "whsec_hush"', ".secret (FILE:1): unknown setting; did you mean 'secret_file'?"),
        ('events = ["ended"]', ".events.0 = 'ended' (FILE:1): must be 'completed', 'failed' or"),
        ('events = "failed,ended"', ".events.1 (FILE:1): must be 'completed', 'failed' or"),
        (
            'allow_networks = ["10.0.0.1/8"]',
            ".allow_networks (FILE:1): '10.0.0.1/8' is not a network",
        ),
        (
            'allow_networks = "intranet"',
            ".allow_networks (FILE:1): 'intranet' is not a network such as",
        ),
        ("timeout_seconds = 0", ".timeout_seconds = 0 (FILE:1): must be greater than 0"),
        (
            "timeout_seconds = 121",
            "timeout_seconds = 121 (FILE:1): must be less than or equal to 120",
        ),
        (
            'include_result = "perhaps"',
            ".include_result = 'perhaps' (FILE:1): must be true or false",
        ),
    ],
)
def test_a_wrong_webhook(lines, text, message):
    """Every key of a webhook. Neither an address, which may hold a token, nor a secret is in the message."""
    name = text.partition(" ")[0]
    others = "".join(
        f'{key} = "{value}"\n'
        for key, value in (("url", "https://h.example.com/"), ("secret_file", "hook"))
        if key != name
    )
    [line] = lines(f"[webhooks.ops]\n{others}{text}\n")
    assert f"webhooks.ops{message}" in line or message in line
    assert "hush" not in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f'[schedules."a b"]\n{CRON}{JOB}', f"schedules.a b (FILE:1): {A_NAME}"),
        (f'[webhooks."a/b"]\n{TARGET.partition("]")[2]}', f"webhooks.a/b (FILE:1): {A_NAME}"),
        ("[schedule.a]\ncron = 1", "FILE:1: unknown setting 'schedule'; did you mean 'schedules'?"),
        ("webhooks = 3", "webhooks = 3 (FILE:1): must be a table"),
        (
            "".join(f"[schedules.s{n}]\n{CRON}{JOB}" for n in range(101)),
            "schedules: must be at most 100, got 101",
        ),
        ("receipt_key = 'hush'", f"receipt_key (FILE:1): {LONG_ENOUGH}"),
        (f"receipt_key = '{' ' * 40}'", f"receipt_key (FILE:1): {LONG_ENOUGH}"),
        (f"receipt_key = 'hush{' ' * 40}'", f"receipt_key (FILE:1): {LONG_ENOUGH}"),
    ],
)
def test_wrong_names_and_tables(lines, text, message):
    """As in the other tables."""
    [line] = lines(text)
    assert line == message


@pytest.mark.parametrize("table", ["SCHEDULES", "WEBHOOKS"])
def test_tables_have_no_variables(monkeypatch, table):
    """A variable of this name would be ignored."""
    monkeypatch.setenv(f"ARAGORA_QUEUE_{table}", "{}")
    with pytest.raises(ConfigError, match=f"ARAGORA_QUEUE_{table}: unknown variable"):
        QueueConfig()


def test_lists_may_be_text(load):
    """As all lists of names: separated by commas."""
    config = load(f'{TARGET}events = "failed, cancelled"\nallow_networks = "10.0.0.0/8,fd00::/8"\n')
    assert config.webhooks["ops"].events == ("failed", "cancelled")
    assert config.webhooks["ops"].allow_networks == ("10.0.0.0/8", "fd00::/8")


def test_the_job_of_a_schedule(load):
    """It has the defaults of the configuration, its schedule as a tag, and an id by its time."""
    config = load(
        f'default_agents = ["a", "b"]\ndefault_notify = ["ops"]\n[schedules.weekly]\n{CRON}'
        'job = {question = "Why?", tags = {env = "prod"}}\n'
        f'[schedules.quiet]\n{CRON}job = {{question = "Why?", notify = []}}\n{TARGET}'
    )
    job = config.scheduled_job("weekly", "1795834800")
    assert (job.id, job.notify, job.payload["agents"]) == (
        "weekly@1795834800",
        ("ops",),
        ["a", "b"],
    )
    assert job.tags == {"schedule": "weekly", "env": "prod"}
    assert config.scheduled_job("quiet", "1").notify == (), "an empty list: no webhook at all"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hooks.example.com", "https://hooks.example.com"),
        ("https://hooks.example.com:8443/", "https://hooks.example.com:8443/"),
        ("https://hooks.example.com/services/T0/B0/hush", "https://hooks.example.com/…"),
        ("https://hooks.example.com?token=hush", "https://hooks.example.com/…"),
        ("https://[2001:db8::1]/hush", "https://[2001:db8::1]/…"),
    ],
)
def test_what_is_shown_of_an_address(url, shown):
    """Not its path and query: with many services, they are the only secret."""
    assert WebhookConfig(url=url, secret_file="hook").shown_url == shown
