"""enqueue: a debate from arguments, any number of jobs from JSON lines."""

import asyncio
import dataclasses
import hashlib
import json
import signal
import subprocess
import sys

import pytest
from support import processes
from support.topologies import AT_ONCE, replicate
from support.wait import wait_until

from aragora_q.job import DebateJobPayload
from aragora_q.redis import connection

DEBATE = {"question": "Tea or coffee?", "agents": ["demo:bold", "demo:careful"]}
AGENTS = ("--agents", "demo:bold,demo:careful")


def lines(*objects):
    return "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in objects)


def test_arguments_become_the_debate(run_cli):
    """Every field of a debate and of its job can be given by an option."""
    ended = run_cli(
        "enqueue", "Tea or coffee?", *AGENTS, "--rounds", 2, "--consensus", "unanimous",
        "--job-timeout", 30, "--id", "tea", "--priority", 5, "--delay", "1h", "--max-attempts", 7,
        "--json",
    )  # fmt: skip
    assert (ended.code, ended.object) == (0, {"id": "tea", "created": True})
    job = run_cli("status", "tea", "--json").object
    assert job["payload"] == {
        **DEBATE, "rounds": 2, "consensus": "unanimous", "timeout_seconds": 30.0,
    }  # fmt: skip
    assert (job["priority"], job["max_attempts"]) == (5, 7)
    assert 3590 < (job["due_at"] - job["created_at"]) / 1000 <= 3600


def test_every_field_of_a_payload_has_an_option(run_cli, tmp_path):
    """Whatever a program can ask of a debate, an operator can, too; without the option, the field is absent."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    fields = {
        "question": "Tea?", "agents": ["demo:bold", "demo:careful"], "rounds": 1, "consensus": "judge",
        "judge": "demo:curious", "answer_form": schema,
        "debate": "always", "escalate": ["demo"], "max_answer_words": 50, "max_tokens": 9_000,
        "max_cost_usd": 0.5, "resume": "strict", "transcript": True, "metadata": {"a": [1]},
        "timeout_seconds": 9.0, "options": ["a", "b"], "service_tier": "flex",
    }  # fmt: skip
    weights = {"demo:bold": 2.5, "demo": 1.0}
    others = {"weights", "forked_from"}  # with another mode, below; and with --from
    assert {*fields, *others} == {field.name for field in dataclasses.fields(DebateJobPayload)}
    args = (
        "enqueue", "Tea?", *AGENTS, "--rounds", 1, "--consensus", "judge", "--judge", "demo:curious",
        "--debate", "always", "--escalate", "demo", "--max-answer-words", 50, "--max-tokens", 9_000,
        "--max-cost", 0.5, "--resume", "strict", "--transcript", "--metadata", '{"a": [1]}',
        "--job-timeout", 9, "--service-tier", "flex", "--id",
    )  # fmt: skip
    for job_id, form in (("inline", json.dumps(schema)), ("file", "@schema.json")):
        assert run_cli(*args, job_id, "--answer-form", form).code == 0
    del fields["options"]
    for job_id in ("inline", "file"):
        assert run_cli("status", job_id, "--json").object["payload"] == fields
    weighted = ("--consensus", "weighted", "--weight", "demo:bold=2.5", "--weight", "demo=1")
    assert run_cli("enqueue", "x", "--agents", "demo:bold,demo", *weighted, "--id", "w").code == 0
    assert run_cli("status", "w", "--json").object["payload"]["weights"] == weights
    assert run_cli("enqueue", "x", *AGENTS, "--id", "plain").code == 0
    plain = run_cli("status", "plain", "--json").object["payload"]
    assert set(plain) == {"question", "agents", "rounds", "consensus"}


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["--options", "tea, coffee,"], None),
        (["--options", "tea, coffee"], ["tea", "coffee"]),
        (["--options", "tea", "--options", "coffee"], ["tea", "coffee"]),
        (["--options", '["tea, green", "a=b"]'], ["tea, green", "a=b"]),
        (["--options", ' ["tea"]', "--options", "coffee"], ["tea", "coffee"]),
        (["--options", "tea,coffee", "--answer-form", "choice"], ["tea", "coffee"]),
    ],
)
def test_options_imply_a_choice(run_cli, args, options):
    """Separated by commas, repeated, or a JSON list for texts with commas."""
    ended = run_cli("enqueue", "Which?", *AGENTS, "--id", "one", *args)
    if options is None:
        assert (ended.code, "options must be texts of 1 to 300" in ended.err) == (65, True)
        return
    payload = run_cli("status", "one", "--json").object["payload"]
    assert (payload["answer_form"], payload["options"]) == ("choice", options)


def test_a_weight_is_split_at_its_last_equals_sign(run_cli, monkeypatch, tmp_path):
    """Names of agents may contain colons and equals signs."""
    (tmp_path / "aragora-q.toml").write_text('agents = { "a=b:c" = "demo", "d" = "demo" }\n')
    args = ("--agents", "a=b:c,d", "--weight", "a=b:c=2", "--weight", " d =0.5", "--id", "one")
    assert run_cli("enqueue", "x", "--consensus", "weighted", *args).code == 0
    payload = run_cli("status", "one", "--json").object["payload"]
    assert payload["weights"] == {"a=b:c": 2.0, "d": 0.5}


def test_options_apply_to_lines_that_lack_the_field(run_cli):
    """A conflict of a line with an option is an error of that line; all other lines are enqueued."""
    text = lines(
        {"id": "bare", "question": "Which?"},
        {"id": "own", "question": "Which?", "options": ["x", "y"], "debate": "never", "consensus": "any"},
        {"question": "How many?", "answer_form": "number"},
        {"question": "Which?", "agents": ["demo:curious", "demo"]},
        {"question": "Which?", "agents": ["demo:nope", "demo"]},
        {"id": "other", "payload": {"any": 1}},
    )  # fmt: skip
    ended = run_cli(
        "enqueue", "-", *AGENTS, "--options", "a,b", "--debate", "always", "--consensus", "judge",
        "--judge", "demo:curious", stdin=text,
    )  # fmt: skip
    errors = [line.get("error", "") for line in ended.objects]
    assert ended.code == 3
    assert "judge requires consensus judge or synthesis, not any" in errors[1]
    assert "options require answer_form choice, not number" in errors[2]
    assert "judge 'demo:curious' is one of the agents" in errors[3]
    assert "unknown agent 'demo:nope'" in errors[4]
    assert errors[0] == errors[5] == ""
    payload = run_cli("status", "bare", "--json").object["payload"]
    assert (payload["options"], payload["debate"]) == (["a", "b"], "always")
    assert run_cli("status", "other", "--json").object["payload"] == {"any": 1}
    again = run_cli("enqueue", "-", *AGENTS, "--options", "a,b", stdin=text)
    assert again.objects[1]["created"]
    payload = run_cli("status", "own", "--json").object["payload"]
    assert (payload["options"], payload["debate"]) == (["x", "y"], "never")


@pytest.mark.parametrize("source", ["file", "variable"])
def test_default_agents_make_a_question_enough(run_cli, monkeypatch, tmp_path, source):
    """`aragora-q enqueue "QUESTION"`, and lines without agents; named agents override the setting."""
    if source == "file":
        (tmp_path / "aragora-q.toml").write_text('default_agents = ["demo:bold", "demo"]\n')
    else:
        monkeypatch.setenv("ARAGORA_QUEUE_DEFAULT_AGENTS", "demo:bold, demo")
    assert run_cli("enqueue", "Tea?", "--id", "one").code == 0
    text = lines({"question": "Tea?", "id": "two"}, {**DEBATE, "id": "three"}, {"payload": {}})
    assert run_cli("enqueue", "-", stdin=text).code == 0
    assert run_cli("enqueue", "Tea?", *AGENTS, "--id", "four").code == 0
    payloads = [
        run_cli("status", name, "--json").object["payload"]["agents"]
        for name in ("one", "two", "three", "four")
    ]
    assert payloads == [["demo:bold", "demo"]] * 2 + [DEBATE["agents"]] * 2


def test_default_agents_that_do_not_resolve_are_a_setting_s_fault(run_cli, tmp_path):
    """78 with the origin of the setting, of --config, too; a debate that names its agents is enqueued."""
    (tmp_path / "new.toml").write_text('\ndefault_agents = ["cluade", "demo"]\n')
    for args in (["Tea?"], ["-"]):
        ended = run_cli("enqueue", *args, "--config", "new.toml", stdin=lines({"question": "x"}))
        assert (ended.code, ended.out) == (78, "")
        assert "default_agents (new.toml:2): unknown agent 'cluade'" in ended.err
        assert "did you mean 'claude'?" in ended.err
    assert run_cli("enqueue", "Tea?", *AGENTS, "--config", "new.toml").code == 0
    (tmp_path / "new.toml").write_text(f"default_agents = {['demo'] * 17}\n")
    ended = run_cli("enqueue", "Tea?", *AGENTS, "--config", "new.toml")
    assert ended.code == 78
    assert "default_agents (new.toml:1): must be at most 16 agents" in ended.err


def test_one_agent_is_warned_of(run_cli):
    """It is enqueued; one line on stderr says that it does not debate. The quote is that of one call."""
    alone = ["--agents", "demo:bold", "--consensus", "judge", "--judge", "demo:careful"]
    ended = run_cli("enqueue", "Tea?", *alone)
    warning = "warning: one agent does not debate: it is asked once, and there is no vote\n"
    assert (ended.code, ended.err) == (0, warning)
    quote = run_cli("enqueue", "Tea?", *alone, "--quote", "--json").object
    assert [quote[level]["calls"] for level in ("least", "expected", "most")] == [1, 1, 1]


def test_without_any_agents_the_error_says_where_they_come_from(run_cli):
    """The job is invalid (65), or a line of the input (3): the option and the setting are named."""
    ended = run_cli("enqueue", "Tea?")
    assert ended.code == 65
    assert "agents are missing: neither the job nor setting default_agents names them" in ended.err
    assert "--agents claude,gpt,claude" in ended.err
    ended = run_cli("enqueue", "-", stdin=lines({"question": "Tea?"}, DEBATE))
    assert (ended.code, ended.objects[1]["created"]) == (3, True)
    assert "default_agents = [" in ended.objects[0]["error"]


@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["--agents", "demo,demo", "--escalate", "demo,cluade"], "cluade"),
        (["--agents", "demo,demo", "--judge", "cluade", "--consensus", "judge"], "cluade"),
    ],
)
def test_every_name_resolves_before_a_job_exists(run_cli, redis_client, args, name):
    """Of agents, of those that join later, and of the judge; in JSON lines, too."""
    ended = run_cli("enqueue", "Tea?", *args)
    assert (ended.code, f"unknown agent {name!r}" in ended.err) == (65, True)
    ended = run_cli("enqueue", "-", *args, stdin=lines({"question": "Tea?"}))
    assert (ended.code, f"unknown agent {name!r}" in ended.object["error"]) == (3, True)
    assert redis_client.dbsize() == 0


def test_names_are_checked_for_debates_only(run_cli, monkeypatch):
    """A payload that is not a debate may have any `agents`, before and after a debate that has them."""
    names = {"agents": ["demo", "cluade"]}
    text = lines({"payload": names}, {"question": "Tea?", **names}, {"payload": names})
    ended = run_cli("enqueue", "-", stdin=text)
    assert [line.get("created") for line in ended.objects] == [True, None, True]
    monkeypatch.setenv("ARAGORA_QUEUE_EXECUTOR", "command")
    monkeypatch.setenv("ARAGORA_QUEUE_DEFAULT_AGENTS", "cluade,claude")
    assert run_cli("enqueue", "Tea?").code == 0
    assert run_cli("enqueue", "-", stdin=text).code == 0


@pytest.mark.parametrize(
    ("agents", "model"),
    [
        ("claude,claude,claude", "anthropic:claude-sonnet-5-5"),
        ("claude,anthropic:claude-sonnet-5-5", "anthropic:claude-sonnet-5-5"),
        ("mine,openai:gpt-6", "openai:gpt-6"),
        ("claude,gpt", None),
        ("claude,claude,demo", None),
        ("demo,demo", None),
        ("demo:bold,demo:bold", None),
        ("mine,proxied", None),
    ],
)
def test_agents_of_one_model_are_warned_of(run_cli, tmp_path, agents, model):
    """Different names of one model count as one; one line on stderr, which --quiet omits."""
    (tmp_path / "aragora-q.toml").write_text(
        '[agents]\nmine = "openai:gpt-6"\n'
        '[agents.proxied]\nmodel = "openai:gpt-6"\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    ended = run_cli("enqueue", "Tea?", "--agents", agents)
    warning = f"warning: all agents are {model}, and share its errors: agreement means little\n"
    assert (ended.code, ended.err) == (0, warning if model else "")
    assert run_cli("enqueue", "Tea?", "--agents", agents, "--quiet").err == ""
    text = lines(DEBATE, *[{"question": "Tea?", "agents": agents.split(",")}] * 2)
    ended = run_cli("enqueue", "-", stdin=text)
    many = warning.replace("all", "about 2 debates; the first, line 2: all", 1)
    assert (ended.code, ended.err) == (0, many if model else "")
    assert run_cli("enqueue", "-", "--quiet", stdin=text).err == ""


@pytest.mark.parametrize(
    ("agents", "tier", "is_warned"),
    [
        ("claude,proxied", "flex", True),  # servers at a base_url have no tiers
        ("claude,own", "flex", True),  # what [agents] says counts first
        ("claude,gpt", "flex", False),  # one of them has it
        ("claude,gpt", "auto", False),
        ("claude,proxied", "cheap", False),  # refused
    ],
)
def test_a_tier_that_no_agent_has_is_warned_of(run_cli, tmp_path, agents, tier, is_warned):
    """A batch that is meant to be cheap is not dear without a word; for one debate and for lines."""
    (tmp_path / "aragora-q.toml").write_text(
        '[agents.own]\nmodel = "openai:gpt-6"\nservice_tier = "default"\n'
        '[agents.proxied]\nmodel = "openai:gpt-6"\nbase_url = "http://127.0.0.1:1/v1"\n'
    )
    options = ("--agents", agents, "--service-tier", tier)
    warning = f"warning: no agent has the service tier {tier}: they are asked as they are\n"
    assert (warning in run_cli("enqueue", "Tea?", *options).err) is is_warned
    many = warning.replace("no", "about 1 debate; the first, line 1: no", 1)
    assert (many in run_cli("enqueue", "-", *options, stdin='{"question": "Tea?"}').err) is (
        is_warned
    )
    assert "warning" not in run_cli("enqueue", "Tea?", *options, "--quiet").err


def test_quiet_prints_only_the_id(cli_command, redis_client):
    """`id=$(aragora-q enqueue … --quiet)` works in a shell."""
    ended = cli_command("enqueue", "Tea or coffee?", *AGENTS, "--quiet")
    assert (ended.code, ended.err) == (0, "")
    assert (
        redis_client.hget(f"aragora:queue:debates:job:{ended.out.strip()}", "status") == "pending"
    )


def test_a_known_id_changes_nothing(run_cli):
    """Enqueueing again with the same id exits 0, says so, and leaves the first job as it is."""
    run_cli("enqueue", "first", *AGENTS, "--id", "one")
    again = run_cli("enqueue", "second", *AGENTS, "--id", "one", "--json")
    assert (again.code, again.object["created"]) == (0, False)
    assert run_cli("status", "one", "--json").object["payload"]["question"] == "first"


@pytest.mark.parametrize("option", ["", "--quiet", "--json"])
def test_an_enqueue_that_changed_nothing_is_always_reported(run_cli, option):
    """In text, as a field of JSON, and with --quiet: a line says that the job existed, and its status."""
    options = [option] if option else []
    run_cli("enqueue", "first", *AGENTS, "--id", "one")
    one = run_cli("enqueue", "first", *AGENTS, "--id", "one", *options)
    assert one.code == 0
    assert "one already exists (pending): not changed" in one.out + one.err
    many = run_cli("enqueue", "-", *options, stdin=lines({**DEBATE, "id": "one"}))
    assert (many.code, many.err) == (0, "0 jobs enqueued, 1 existed (not changed)\n")


def test_waiting_for_a_job_that_existed_is_reported(run_cli):
    """Also with --quiet: its result may be an old one."""
    args = ("enqueue", "x", *AGENTS, "--id", "one", "--wait", "--timeout", 0.1, "--quiet")
    assert "already exists" not in run_cli(*args).err
    assert "job one already exists (pending): not changed; waiting" in run_cli(*args).err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named(run_cli, encoding):
    """JSON lines that an editor or a shell saved as UTF-16: one line says so, exit 65."""
    ended = run_cli("enqueue", "-", stdin=lines(DEBATE).encode(encoding))
    assert (ended.code, ended.out) == (65, "")
    name = encoding.upper()[:6]
    assert f"the input is {name}: JSON must be UTF-8" in ended.err
    assert f"iconv -f {name} -t UTF-8" in ended.err


def test_byte_order_marks_within_the_input_are_accepted(run_cli):
    """As `cat a.jsonl b.jsonl` makes them from files that begin with one."""
    line = b"\xef\xbb\xbf" + lines(DEBATE).encode()
    assert run_cli("enqueue", "-", stdin=2 * line).code == 0


@pytest.mark.parametrize("name", ["jobs.ndjson", "jobs.JSONL", "jobs.Json"])
def test_every_name_of_json_lines_is_a_file(run_cli, tmp_path, redis_client, name):
    """A file that is not there is an error, not a question that costs money."""
    ended = run_cli("enqueue", tmp_path / name, *AGENTS)
    assert (ended.code, redis_client.dbsize()) == (2, 0)
    (tmp_path / name).write_text(lines(DEBATE))
    assert run_cli("enqueue", tmp_path / name, "--quiet").code == 0


def test_files_and_unquoted_questions_get_a_hint(run_cli, tmp_path, redis_client):
    """The name of an existing file is not debated; a question in several arguments needs quotes."""
    (tmp_path / "jobs.txt").write_text(lines(DEBATE))
    ended = run_cli("enqueue", tmp_path / "jobs.txt", *AGENTS)
    assert ended.code == 2
    assert (
        f"is a file: to enqueue its JSON lines, use aragora-q enqueue - < {tmp_path}" in ended.err
    )
    for path in ("/no/jobs", "./jobs", "."):
        assert "is a file: to enqueue" in run_cli("enqueue", path, *AGENTS).err
    ended = run_cli("enqueue", "Tea", "or", "coffee?", *AGENTS)
    assert ended.code == 2
    assert "hint: put a text with blanks in quotes" in ended.err
    assert redis_client.dbsize() == 0


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["x", *AGENTS, "--id", "a", "--id-from-content"], 2, "exclude each other"),
        (["", *AGENTS], 65, "question is empty"),
        (["x"], 65, "--agents"),
        (["x", *AGENTS, "--weight", "demo:bold"], 2, "--weight: 'demo:bold' is not NAME=NUMBER"),
        (["x", *AGENTS, "--weight", "=2"], 2, "--weight: '=2' is not NAME=NUMBER"),
        (["x", *AGENTS, "--weight", "demo=two"], 2, "--weight: 'demo=two' is not NAME=NUMBER"),
        (
            ["x", *AGENTS, "--weight", "demo=1", "--weight", "demo=2"],
            2,
            "--weight: 'demo' is given twice",
        ),
        (["x", *AGENTS, "--weight", "dmeo=1"], 65, "weights: 'dmeo' is not one of the agents"),
        (
            ["x", *AGENTS, "--weight", "demo:bold=nan"],
            65,
            "weights: demo:bold must have a number above 0",
        ),
        (["x", *AGENTS, "--answer-form", "nmber"], 65, "did you mean 'number'"),
        (["x", *AGENTS, "--answer-form", ""], 65, "answer_form is ''"),
        (["x", *AGENTS, "--answer-form", "{bad"], 2, "--answer-form: '{bad' is not JSON"),
        (["x", *AGENTS, "--answer-form", "{}"], 65, "a JSON schema needs a type"),
        (
            ["x", *AGENTS, "--answer-form", "@no-such-file"],
            2,
            "--answer-form: cannot read no-such-file: No such file",
        ),
        (
            ["x", *AGENTS, "--answer-form", "@/dev/zero"],
            2,
            "--answer-form: cannot read /dev/zero: ",
        ),
        (["x", *AGENTS, "--answer-form", "choice"], 65, "answer_form choice requires options"),
        (["x", *AGENTS, "--options", "a"], 65, "options must be a list of 2 to 50"),
        (["x", *AGENTS, "--options", "[]"], 65, "answer_form choice requires options"),
        (["x", *AGENTS, "--options", "[a]"], 2, "--options: '[a]' is not JSON"),
        (
            ["x", *AGENTS, "--options", "a,b", "--answer-form", "number"],
            65,
            "options require answer_form choice",
        ),
        (["x", *AGENTS, "--metadata", "[]"], 2, "--metadata: must be a JSON object"),
        (["x", *AGENTS, "--metadata", "x"], 2, "--metadata: 'x' is not JSON"),
        (["x", *AGENTS, "--debate", "alwys"], 65, "did you mean 'always'"),
        (["x", *AGENTS, "--resume", "no"], 65, "resume is 'no', must be one of continue, strict"),
        (["x", *AGENTS, "--consensus", "judge"], 65, "consensus judge requires a judge"),
        (
            ["x", *AGENTS, "--consensus", "judge", "--judge", "demo:bold"],
            65,
            "is one of the agents",
        ),
        (["x", *AGENTS, "--max-tokens", "0"], 65, "max_tokens is 0"),
        (["x", *AGENTS, "--max-cost", "0"], 65, "max_cost_usd must be a number above 0"),
        (["x", *AGENTS, "--max-answer-words", "1"], 65, "max_answer_words is 1"),
        (
            ["x", *AGENTS, "--debate", "never", "--escalate", "demo"],
            65,
            "escalate requires a round",
        ),
        (["x", "--agents", ",".join(["demo"] * 17)], 65, "number of agents"),
        (["x", *AGENTS, "--rounds", "-1"], 65, "rounds is -1"),
        (["x", *AGENTS, "--consensus", "majorty"], 65, "did you mean 'majority'"),
        (["x", *AGENTS, "--id", "a b"], 65, "job id 'a b'"),
        (["x", *AGENTS, "--priority", "5000"], 65, "priority is 5000"),
        (
            ["x", *AGENTS, "--delay", "1 hour"],
            2,
            "invalid duration '1 hour': use 90s, 15m, 36h or 7d",
        ),
        (["x", *AGENTS, "--rounds", "two"], 2, "--rounds"),
        (["x", *AGENTS, "--tag", "env"], 2, "--tag: 'env' is not K=V"),
        (["x", *AGENTS, "--tag", "=prod"], 2, "--tag: '=prod' is not K=V"),
        (["x", *AGENTS, "--tag", "env="], 2, "--tag: 'env=' is not K=V"),
        (["x", *AGENTS, "--tag", "a=1", "--tag", "a=1"], 2, "--tag: 'a' is given twice"),
        (["x", *AGENTS, "--tag", "a b=1"], 65, "invalid tag name 'a b': use 1 to 24 letters"),
        (["x", *AGENTS, "--tag", "a=b c"], 65, "invalid value 'b c' of tag a: use 1 to 48 letters"),
        (["x", *AGENTS, "--group", "a/b"], 65, "invalid group 'a/b': use 1 to 48 letters"),
        (["x", *AGENTS, "--group", ""], 65, "invalid group ''"),
        (["x", *AGENTS, "--tenant", "a\nb"], 65, "invalid tenant 'a\\nb': use 1 to 48 letters"),
        (["x", *AGENTS, "--tenant", "x" * 49], 65, "invalid tenant 'xxx"),
        (
            ["x", *AGENTS, *(f"--tag=t{n}=1" for n in range(9))],
            65,
            "9 tags: a job has at most 8",
        ),
        (["x", *AGENTS, "--timeout", "5"], 2, "--timeout requires --wait"),
        (["-", "--wait"], 2, "--wait and --id require a QUESTION"),
        (["missing.jsonl"], 2, "cannot read missing.jsonl"),
        ([], 2, "QUESTION"),
    ],
)
def test_a_bad_argument_is_one_clear_line(run_cli, redis_client, args, code, message):
    """The message names what is wrong, the exit code its kind; nothing is enqueued, stdout stays empty."""
    ended = run_cli("enqueue", *args)
    assert (ended.code, ended.out) == (code, "")
    assert message in ended.err
    assert "Traceback" not in ended.err
    assert redis_client.dbsize() == 0


def test_each_line_has_a_result_and_valid_lines_are_enqueued(run_cli):
    """One result per line with its number; bad lines get an error; exit 3; a summary on stderr."""
    text = lines(
        {**DEBATE, "id": "a"},
        {**DEBATE, "rounds": -1},
        "not json",
        "",
        {**DEBATE, "question": ""},
        {**DEBATE, "consenus": "majority"},
        {"payload": {"any": 1}, "id": "b", "priority": 1},
        {**DEBATE, "delay_seconds": "soon"},
        {"payload": [1]},
        {"payload": {}, "rounds": 1},
        "7",
        {**DEBATE, "id": 7},
        {**DEBATE, "tag": {"env": "prod"}},
        {"payload": {}, "grup": "g"},
    ).encode() + b'{"question": "\xff"}\n{"question": "unfinished'  # fmt: skip
    ended = run_cli("enqueue", "-", stdin=text)
    assert ended.code == 3
    answers = {line["line"]: line.get("error", line.get("id")) for line in ended.objects}
    assert list(answers) == [1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    assert (answers[1], answers[7]) == ("a", "b")
    for line, message in {
        2: "rounds is -1", 3: "not JSON: ", 5: "question is empty", 6: "did you mean 'consensus'",
        8: "delay_seconds is 'soon'", 9: "payload is not a JSON object", 10: "unknown field 'rounds'",
        11: "not a JSON object: 7", 12: "job id 7", 13: "did you mean 'tags'", 14: "did you mean 'group'",
        15: "text that is not UTF-8 (column 15)", 16: "it ends inside a string (column 24)",
    }.items():  # fmt: skip
        assert message in answers[line], line
    assert "2 jobs enqueued, 13 refused; the first: line 2: rounds is -1" in ended.err
    assert run_cli("status", "b", "--json").object["payload"] == {"any": 1}


@pytest.mark.parametrize("pause_after", [None, 1, 99, 100, 101, 250])
def test_results_are_in_the_order_of_the_lines(start_command, pause_after):
    """Bad lines anywhere in any batch keep their numbers, wherever the input pauses."""
    bad = {
        7: "not json",
        100: '{"payload": 1}',
        101: "7",
        250: '{"question": ""}',
        333: "[" * 1_000,
    }
    rows = [
        f"{bad.get(n) or json.dumps({'payload': {'n': n}, 'id': f'j{n}'})}\n".encode()
        for n in range(1, 421)
    ]
    process = start_command("enqueue", "-", stdin=subprocess.PIPE)
    answers = []
    if pause_after:
        process.stdin.write(b"".join(rows[:pause_after]))
        process.stdin.flush()
        answers += [json.loads(process.stdout.readline()) for _ in range(pause_after)]
    out, err = process.communicate(b"".join(rows[pause_after or 0 :]), timeout=60)
    answers += map(json.loads, out.splitlines())
    assert [answer["line"] for answer in answers] == list(range(1, 421))
    for number, answer in enumerate(answers, 1):
        assert ("error" in answer) == (number in bad)
        assert answer.get("id", f"j{number}") == f"j{number}"
    assert process.returncode == 3
    assert b"415 jobs enqueued, 5 refused; the first: line 7: not JSON: " in err


def test_a_refused_line_has_its_id(run_cli):
    """`id` if the line has a valid one, so that a program knows its job again. --quiet prints no such id."""
    text = lines(
        {**DEBATE, "id": "a", "rounds": -1},
        {**DEBATE, "id": "a b"},
        {"payload": 1},
        {"payload": 1, "id": "c"},
        {"payload": {}, "id": "d"},
    )
    assert run_cli("enqueue", "-", "--quiet", stdin=text).lines == ["d"]
    ended = run_cli("enqueue", "-", stdin=text)
    assert [line.get("id") for line in ended.objects] == ["a", None, None, "c", "d"]
    assert ["error" in line for line in ended.objects] == [True] * 4 + [False]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "not JSON: a value is missing or misspelled (column 1)"),
        ("{hello}", "not JSON: names need double quotes (column 2)"),
        ("true story", "not JSON: trailing characters (column 6)"),
        ("trust", "not JSON: a word that is not true, false or null (column 4)"),
        ('{"id": "a"', "not JSON: it ends inside an object (column 10)"),
        ('{"id": \n', "not JSON: it ends inside a value (column 7)"),
    ],
)
def test_a_line_that_is_not_json_is_told_in_plain_words(run_cli, line, message):
    """What is wrong, and where."""
    assert run_cli("enqueue", "-", stdin=line).object["error"] == message


def test_an_unknown_field_is_told_the_fields_of_a_line(run_cli):
    """Those that the documentation offers: of a debate, of a job, and those that only `enqueue` knows."""
    error = run_cli("enqueue", "-", stdin=lines({**DEBATE, "colour": "red"})).object["error"]
    named = error.partition("the fields of a line are ")[2].split(", ")
    assert {"question", "payload", "priority", "from", "approve_above_usd", "max_quote_usd"} < {
        *named
    }
    assert "forked_from" not in named


@pytest.mark.parametrize("text", ["", "\n \n", "[]"])
def test_empty_input_says_that_nothing_was_enqueued(run_cli, text):
    """Empty input exits with 0, and a line on stderr says that there were no jobs."""
    ended = run_cli("enqueue", "-", "--quiet", stdin=text)
    assert (ended.code, ended.out, ended.err) == (0, "", "0 jobs enqueued\n")


def test_too_long_lines_are_refused_and_skipped(run_cli):
    """A line of 2 MiB, and a payload past the limit, are refused by size; the next line is enqueued."""
    huge = {**DEBATE, "metadata": {"x": "x" * 2**21}}
    large = {"payload": {"x": "x" * 300_000}}
    ended = run_cli("enqueue", "-", stdin=lines(huge, large, {**DEBATE, "id": "fits"}, huge))
    errors = [line.get("error", "") for line in ended.objects]
    assert ended.code == 3
    assert "longer than" in errors[0]
    assert "max_payload_bytes is 262144" in errors[1]
    assert ended.objects[2] == {"line": 3, "id": "fits", "created": True}
    assert "longer than" in errors[3]


def test_the_same_line_on_another_day_is_another_job(run_cli, redis_client):
    """A cron job that pipes the same line, or a file with two equal lines: every line is a job."""
    first = run_cli("enqueue", "-", "-q", stdin=lines(DEBATE, DEBATE))
    again = run_cli("enqueue", "-", "-q", stdin=lines(DEBATE))
    assert (first.code, again.code, first.err + again.err) == (0, 0, "")
    assert len({*first.lines, *again.lines}) == 3
    assert redis_client.xlen("aragora:queue:debates:stream") == 3


def test_ids_from_content_enqueue_nothing_twice(run_cli, redis_client):
    """With --id-from-content, the id depends on the payload only, however it is written."""
    text = lines(DEBATE, {**DEBATE, "question": "Cake or pie?"})
    first = run_cli("enqueue", "-", "--id-from-content", stdin=text)
    spelled = (
        '{ "agents":["demo:bold","demo:careful"], "rounds": 3, "question":"Tea or \\u0063offee?"}\n'
    )
    again = run_cli("enqueue", "-", "--id-from-content", stdin=text + spelled)
    assert "0 jobs enqueued, 3 existed (not changed)" in again.err
    one = run_cli("enqueue", DEBATE["question"], *AGENTS, "--id-from-content", "--json").object
    assert one == {"id": first.objects[0]["id"], "created": False}
    assert [line["created"] for line in again.objects] == [False] * 3
    assert [line["id"] for line in again.objects[:2]] == [line["id"] for line in first.objects]
    assert again.objects[2]["id"] == first.objects[0]["id"]
    assert redis_client.xlen("aragora:queue:debates:stream") == 2


def labels_of(shown):
    return shown["group"], shown["tenant"], shown["tags"]


def test_labels_of_one_job(run_cli):
    """Group, tenant and tags of the options; null and empty without them."""
    args = ("--group", "nightly", "--tenant", "acme/eu", "--tag", "env=prod", "--tag", "run=a=b:1")
    assert run_cli("enqueue", "x", *AGENTS, *args, "--id", "one").code == 0
    assert run_cli("enqueue", "x", *AGENTS, "--id", "bare").code == 0
    one, bare = run_cli("status", "one", "bare", "--json").objects
    assert labels_of(one) == ("nightly", "acme/eu", {"env": "prod", "run": "a=b:1"})
    assert labels_of(bare) == (None, None, {})


def test_labels_of_lines(run_cli):
    """A line wins over the options, tag by tag; bad ones are refused, the others go in."""
    text = lines(
        {"id": "a", "payload": {}},
        {"id": "b", "payload": {}, "group": "g2", "tenant": "t2", "tags": {"env": "dev", "n": "1"}},
        {"id": "c", "payload": {}, "group": None, "tenant": None, "tags": {}},
        {**DEBATE, "id": "d", "tags": {"env": "dev"}},
        {"payload": {}, "group": 7},
        {"payload": {}, "group": ["g"]},
        {"payload": {}, "tenant": "a b"},
        {"payload": {}, "tags": ["env=prod"]},
        {"payload": {}, "tags": None},
        {"payload": {}, "tags": {"n": 1}},
        {"payload": {}, "tags": {f"t{n}": "1" for n in range(7)}},
        {"payload": {}, "tags": {f"t{n}": "1" for n in range(6)}, "id": "e"},
    )  # fmt: skip
    args = ("--group", "g1", "--tenant", "t1", "--tag", "env=prod", "--tag", "team=x")
    ended = run_cli("enqueue", "-", *args, stdin=text)
    assert (ended.code, [line["id"] for line in ended.objects if "id" in line]) == (3, [*"abcde"])
    for line, message in {
        5: "group must be text, got 7", 6: "group must be text, got ['g']", 7: "invalid tenant 'a b'",
        8: "tags must be an object such as", 9: "tags must be an object",
        10: "value of tag n must be text, got 1",
        11: "9 tags: a job has at most 8",
    }.items():  # fmt: skip
        assert message in ended.objects[line - 1]["error"]
    shown = [labels_of(job) for job in run_cli("status", *"abcd", "--json").objects]
    assert shown == [
        ("g1", "t1", {"env": "prod", "team": "x"}),
        ("g2", "t2", {"env": "dev", "n": "1", "team": "x"}),
        (None, None, {"env": "prod", "team": "x"}),
        ("g1", "t1", {"env": "dev", "team": "x"}),
    ]


def test_ids_from_content_are_those_of_a_group(run_cli):
    """The same questions in two groups are two sets of jobs; without a group, ids stay as they are."""
    args = ("enqueue", "-", "--id-from-content")
    text = lines(DEBATE, {**DEBATE, "group": "c"})
    first, again, other, bare = (
        run_cli(*args, *group, stdin=text).objects
        for group in (("--group", "a"), ("--group", "a"), ("--group", "b"), ())
    )
    assert [line["created"] for line in again] == [False, False]
    assert [line["created"] for line in other] == [True, False]
    one = run_cli("enqueue", DEBATE["question"], *AGENTS, "--id-from-content", "--json").object
    assert one == {"id": bare[0]["id"], "created": False}
    content = {**DEBATE, "rounds": 3, "consensus": "majority"}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert bare[0]["id"] == hashlib.sha256(canonical.encode()).hexdigest()[:32]
    assert len({first[0]["id"], other[0]["id"], bare[0]["id"], bare[1]["id"]}) == 4
    named = run_cli(
        "enqueue", DEBATE["question"], *AGENTS, "--id-from-content", "--group", "a", "--json"
    )
    assert named.object == {"id": first[0]["id"], "created": False}


@pytest.mark.parametrize("text", [json.dumps([{"question": "A?"}, {"question": ""}]),
                                  json.dumps([{"question": "A?"}, {"question": ""}], indent=2)])  # fmt: skip
def test_an_array_is_read_item_by_item(run_cli, text):
    """A JSON array, on one line or many, is read like lines; options supply what items omit."""
    ended = run_cli("enqueue", "-", *AGENTS, stdin=text)
    assert ended.code == 3
    assert ended.objects[0]["created"]
    assert ended.objects[1]["line"] == 2
    assert "question is empty" in ended.objects[1]["error"]


def test_no_item_of_a_document_is_too_long_to_read(run_cli):
    """Lines and documents have different limits; every item gets a result, whatever the layout."""
    huge = json.dumps({**DEBATE, "metadata": {"x": "x" * 1_300_000}})
    fits = json.dumps({**DEBATE, "id": "third"})
    ended = run_cli("enqueue", "-", stdin=f"[{json.dumps(DEBATE)},\n{huge},\n{fits}]\n")
    assert (ended.code, [line["line"] for line in ended.objects]) == (3, [1, 2, 3])
    assert "max_payload_bytes" in ended.objects[1]["error"]
    assert ended.objects[2]["id"] == "third"


@pytest.mark.parametrize("text", ['{"payload": {}, "id": "a"}\r\n', '[{"payload": {}, "id": "a"}]'])
def test_byte_order_marks_and_cr_lf_are_accepted(run_cli, text):
    """Files with a byte order mark, or with lines that end in CR LF."""
    ended = run_cli("enqueue", "-", stdin=b"\xef\xbb\xbf" + text.encode())
    assert (ended.code, ended.object) == (0, {"line": 1, "id": "a", "created": True})


def test_an_array_of_many_jobs_on_one_line(run_cli, redis_client):
    """12,000 jobs as `jq -c` writes them."""
    jobs = [{"payload": {"n": n, "text": "x" * 100}} for n in range(12_000)]
    ended = run_cli("enqueue", "-", "--quiet", stdin="\n \n" + json.dumps(jobs))
    assert (ended.code, len(ended.lines)) == (0, 12_000)
    assert redis_client.xlen("aragora:queue:debates:stream") == 12_000


def test_a_question_may_end_like_a_file_name(run_cli, tmp_path):
    """With a space in it and no such file, it is a question; without a space, a missing file."""
    asked = run_cli("enqueue", "What belongs in tsconfig.json", *AGENTS, "--json")
    assert (asked.code, asked.object["created"]) == (0, True)
    assert "cannot read" in run_cli("enqueue", "missing.json").err
    file = tmp_path / "my jobs.jsonl"
    file.write_text(json.dumps({**DEBATE, "id": "of-file"}))
    assert run_cli("enqueue", file).object["id"] == "of-file"


def test_one_object_over_several_lines_in_a_file(run_cli, tmp_path):
    """`jq . | aragora-q enqueue -` and FILE.json work."""
    file = tmp_path / "job.json"
    file.write_text(json.dumps({**DEBATE, "id": "pretty"}, indent=2))
    assert run_cli("enqueue", str(file)).object == {"line": 1, "id": "pretty", "created": True}


def test_bulk_quiet_prints_ids_only(run_cli):
    """Refused lines print no id; stderr reports them."""
    ended = run_cli("enqueue", "-", "--quiet", stdin=lines({**DEBATE, "id": "a"}, "x"))
    assert (ended.code, ended.lines) == (3, ["a"])
    assert "1 refused" in ended.err


@pytest.mark.slow
def test_a_slow_producer_is_not_kept_waiting(start_command):
    """A line is enqueued and its result printed as it arrives, while the input stays open."""
    process = start_command("enqueue", "-", stdin=subprocess.PIPE)
    for name in ("one", "two"):
        process.stdin.write(lines({**DEBATE, "id": name}).encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == name
    process.stdin.close()
    assert process.wait(60) == 0


def test_ctrl_c_reports_the_progress(start_command):
    """SIGINT ends a bulk run by the signal, after a line that says what was done."""
    process = start_command("enqueue", "-", stdin=subprocess.PIPE)
    process.stdin.write(lines(DEBATE).encode())
    process.stdin.flush()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    message = process.stderr.read().decode()
    assert "stopped after line 1: 1 job enqueued; to enqueue the rest, begin with line 2" in message
    assert "Traceback" not in message


def test_an_outage_reports_the_progress(own_server, start_command):
    """Redis stops during a bulk run: exit 69, after results for all enqueued lines."""
    server = own_server()
    process = start_command("enqueue", "-", env={"REDIS_URL": server.url}, stdin=subprocess.PIPE)
    process.stdin.write(lines(DEBATE).encode())
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["created"]
    server.kill()
    process.stdin.write(lines({**DEBATE, "question": "Cake?"}).encode())
    process.stdin.close()
    assert process.wait(60) == 69
    message = process.stderr.read().decode()
    assert "stopped after line 1: 1 job enqueued; line 2 may be in the queue, too" in message
    assert "begin with line 2: a line without id that is enqueued twice becomes two jobs" in message


def test_bulk_memory_does_not_grow_with_the_input(redis_url, tmp_path):
    """Twenty times as many lines take no more memory.

    A small process starts the command: the peak of a process includes that of the one which started it.
    """
    measure = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )

    def peak_kib(count):
        file = tmp_path / f"{count}.jsonl"
        file.write_text(
            "".join(lines({**DEBATE, "question": f"Is {n} good?"}) for n in range(count))
        )
        done = subprocess.run(
            [sys.executable, "-c", measure, *processes.cli("enqueue", str(file))],
            env=processes.env(REDIS_URL=redis_url), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return int(done.stdout)

    assert peak_kib(20_000) < peak_kib(1_000) + 4_096


@pytest.mark.slow
async def test_wait_exits_with_the_outcome(harness, start_command):
    """`--wait` ends when the job does: 0 with the result if it completed, 1 if it failed."""
    from aragora_q.contracts import Completed, Failed

    session = await harness.worker()
    for outcome, code in ((Completed(b'{"answer": 42}'), 0), (Failed("no use"), 1)):
        process = start_command("enqueue", "x", *AGENTS, "--wait", "--json")
        job = await wait_until(lambda: _started(session))
        await harness.report(session, job, outcome)
        shown, _ = await asyncio.to_thread(process.communicate)
        assert (process.returncode, json.loads(shown)["id"]) == (code, job.id)


async def _started(session):
    return next(iter((await session.start(1)).jobs), None)


def test_wait_stops_at_its_time_limit(run_cli):
    """Without a worker, `--wait --timeout` exits 124 and names the job, which stays queued."""
    ended = run_cli("enqueue", "x", *AGENTS, "--id", "slow", "--wait", "--timeout", 0.1, "--quiet")
    assert ended.code == 124
    assert "not ended after 0.1 s: slow" in ended.err
    assert run_cli("status", "slow", "--json").object["status"] == "pending"


@pytest.mark.slow
def test_missing_confirmation_prints_the_id_and_exits_75(own_server, run_cli, monkeypatch):
    """A replica that does not confirm: the job is enqueued, `durable` is false, exit 75."""
    monkeypatch.setattr(connection, "DURABILITY_TIMEOUT_MS", 200)
    primary, replica = own_server(*AT_ONCE), own_server()
    replicate(replica, primary)
    replica.process.send_signal(signal.SIGSTOP)
    args = ("--durability", "replica", "--redis-url", primary.url)
    one = run_cli("enqueue", "x", *AGENTS, "--id", "one", *args, "--json")
    many = run_cli("enqueue", "-", *args, stdin=lines({**DEBATE, "id": "two"}))
    assert one.code == many.code == 75
    assert one.object == {"id": "one", "created": True, "durable": False}
    assert many.object == {"line": 1, "id": "two", "created": True, "durable": False}


def test_an_unknown_agent_is_refused_at_enqueue(run_cli, monkeypatch):
    """With the nearest known name; other lines are enqueued, and so are payloads that are not debates."""
    ended = run_cli("enqueue", "Tea?", "--agents", "demo,cluade")
    assert ended.code == 65
    assert "unknown agent 'cluade'" in ended.err
    assert "did you mean 'claude'?" in ended.err
    unknown = {"question": "Tea?", "agents": ["demo", "cluade"]}
    ended = run_cli(
        "enqueue", "-", stdin=lines(DEBATE, unknown, {"payload": {"question": 1, "agents": 3}})
    )
    assert ended.code == 3
    assert "unknown agent 'cluade'" in ended.objects[1]["error"]
    assert [line.get("created") for line in ended.objects] == [True, None, True]
    monkeypatch.setenv("ARAGORA_AGENT_MINE", "demo")
    assert run_cli("enqueue", "Tea?", "--agents", "demo,mine").code == 0
