"""The loader of Lua scripts: names bound to numbers, line numbers kept, headers complete."""

import re
from pathlib import Path

import pytest

from aragora_q.redis import scripts

LUA = Path(scripts.__file__).parent / "lua"
NAMES = sorted(path.stem for path in LUA.glob("*.lua"))
TAKES_IN_DATA = {
    "enqueue",
    "gate_acquire",
    "requeue",
    "seal",
    "progress",
    "checkpoint",
    "gate_learn",
    "note_trace",
}


def source(name):
    return (LUA / f"{name}.lua").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_header_is_complete(name):
    """Every script says in one sentence what it does, then its keys, arguments and answer."""
    shebang, sentence, *lines = source(name).split("\n")
    assert shebang.startswith("#!lua")
    assert re.fullmatch(r"-- [A-Z].*[^ ]", sentence)
    header = [line for line in lines[: lines.index("")] if line.startswith("--")]
    labels = [match[1] for line in header if (match := re.match(r"-- (\w+)(?: \w+)?:", line))]
    known = [label for label in labels if label in {"include", "keys", "args", "each", "returns"}]
    assert [label for label in known if label not in {"include", "each"}] == [
        "keys",
        "args",
        "returns",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_what_the_header_declares(name):
    """Keys, arguments and fields are the declared ones, each once, none hiding another."""
    script = scripts.load(name)
    lines = re.findall(r"^-- (keys|args|each \w+):(.*)$", source(name), re.MULTILINE)
    declared = {label.split()[0]: tuple(names.split()) for label, names in lines}
    assert script.keys == declared["keys"]
    assert script.args == declared["args"]
    assert script.item_fields == declared.get("each", ())
    names = [*script.keys, *script.args]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_line_numbers_stay_true(name):
    """Line n of an error that Redis reports is line n of the file: the loader adds no lines."""
    sent, written = scripts.load(name).text.split("\n"), source(name).split("\n")
    assert sent[0] == written[0]
    assert len(sent) == len(written)
    for ours, theirs in zip(written[2:], sent[2:], strict=True):
        start, _, end = ours.partition("item(n)")
        code = re.sub(r"rarely'(\w+)'", r"\1", theirs)
        assert code.startswith(start)
        assert code.endswith(end)
        assert "item(n)" in ours or code == ours


@pytest.mark.parametrize("name", NAMES)
def test_only_scripts_that_take_in_data_refuse_a_full_redis(name):
    """All others carry allow-oom, so that a full Redis drains."""
    shebang = source(name).split("\n")[0]
    assert ("allow-oom" in shebang) == (name not in TAKES_IN_DATA)


@pytest.mark.parametrize("path", sorted(LUA.glob("include/*.lua")), ids=lambda path: path.stem)
def test_includes_can_be_put_on_one_line(path):
    """No string of an include contains two dashes, which the loader would remove as a comment."""
    for line in path.read_text().splitlines():
        code = line.split("--", 1)[0]
        assert code.count("'") % 2 == 0, line
        assert "[[" not in code, line


def test_operands_are_in_the_scripts_order():
    """Keys by name, then items' keys; arguments by name, then items' fields."""
    script = scripts.load("retry")
    keys = {name: f"key-{name}" for name in (*script.keys, "unused")}
    args = {name: f"arg-{name}" for name in (*script.args, "unused")}
    items = [("job-1", ("a", 1, b"p", 2, 0, "e")), ("job-2", ("b", 2, b"q", 3, 1, "f"))]
    assert script.named_keys(keys) == [f"key-{name}" for name in script.keys]
    count, operands = script.operands(args, items, ["guard"])
    assert count == len(script.keys) + 3
    assert operands == [
        "job-1",
        "job-2",
        "guard",
        *(f"arg-{name}" for name in script.args),
        *items[0][1],
        *items[1][1],
    ]


def test_missing_operand_is_an_error():
    """A missing name is an error before anything is sent to Redis."""
    with pytest.raises(KeyError, match="lease_owner"):
        scripts.load("progress").operands({}, [("job", ("id", 1, "{}"))])


def test_unknown_script_is_an_error():
    """There is no other place where it could be."""
    with pytest.raises(KeyError):
        scripts.load("nonsense")


def test_sha_is_what_the_server_computes():
    """EVALSHA names the text that EVAL would send."""
    import hashlib

    script = scripts.load("complete")
    assert script.sha == hashlib.sha1(script.text.encode()).hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_batches_stay_within_luas_stack(name):
    """`unpack` of a full batch's operands stays below Lua's limit of 8,000 values on the stack."""
    script = scripts.load(name)
    assert scripts.BATCH_LIMIT * max(1, len(script.item_fields)) < 7_000


def test_what_is_rare_is_defined_when_it_is_called():
    """Other calls do not pay for it, nor for what only it uses; all that it needs is defined once."""
    _, prelude, body = scripts.load("enqueue").text.split("\n", 2)
    common, rare = prelude.split(" function rarely(name) ")
    for name in ("create_held", "append_history", "create_groups", "group_info"):
        assert f"local function {name}(" not in common
        assert rare.count(f"local function {name}(") == 1
    assert "local now = now_ms()" in rare
    for name in ("append", "count", "finish_call"):
        assert common.count(f"local function {name}(") == 1
        assert f"local function {name}(" not in rare
    assert "rarely'create_held'(" in body
    assert "rarely'count_in_groups'(" in common


def test_a_header_says_what_is_rare_in_its_script():
    """The same function is rare in one script and common in another."""
    assert "local function count_in_groups(" in _common("fail")
    assert "local function count_in_groups(" not in _common("start")


def _common(name):
    return scripts.load(name).text.split("\n")[1].split(" function rarely(name) ")[0]


STATUS_WRITE = r"'HSET(?:NX)?',[^)]*?'status',"
MOVERS = (
    r"\b(?:moved|finish|fail_attempt|fail_oversized|dead_letter|delete_job|create_job|enter_held|enter_asked_hold|"
    r"get_groups)\("
)
RESTORED = {"check_job": 2, "check_lane": 2, "start": 1}
"""Writes that restore the hash of a live job, which its group counts already."""

NOTED_AT_ONCE = {
    "start": "moved(started[n], status_before[n], 'processing', job_labels)",
    "complete": "for _, id in ipairs(completed_ids) do moved(id, 'processing', 'completed') end",
}
"""Scripts that note the status of all jobs at the end, if it matters: most calls see no labels."""

KEYS_OF_GROUPS = {
    "stream_high", "stream_normal", "stream_low", "delayed", "counters", "events", "bell", "labels", "groups",
}  # fmt: skip


def code(text):
    return re.sub(r"--.*", "", text)


@pytest.mark.parametrize("name", NAMES)
def test_every_change_of_a_status_is_noted(name):
    """Next to each write of a status, `moved` is called: otherwise the counts of groups would be wrong."""
    lines = code(source(name)).split("\n")
    text = "\n".join(lines)
    unnoted = 0
    for match in re.finditer(STATUS_WRITE, text):
        line = text.count("\n", 0, match.start())
        unnoted += "moved(" not in "\n".join(lines[max(0, line - 2) : line + 5])
    unnoted -= name in NOTED_AT_ONCE and NOTED_AT_ONCE[name] in text
    assert unnoted == RESTORED.get(name, 0)


def test_includes_note_every_change_of_a_status():
    """Their only writers are `finish` and `enter_held`, which note it, and `create_job`: its caller labels."""
    writers = {}
    for text in scripts.included():
        for function in re.split(r"^(?=local )", code(text), flags=re.MULTILINE):
            if re.search(STATUS_WRITE, function):
                writers[re.match(r"local function (\w+)", function)[1]] = function
    assert set(writers) == {"finish", "enter_held", "create_job", "create_delayed"}
    assert all("moved(" in writers[name] for name in ("finish", "enter_held"))
    callers = [name for name in NAMES if "create_job(" in code(source(name))]
    assert callers == ["enqueue"]
    assert "get_groups().label(" in source("enqueue")


@pytest.mark.parametrize("name", NAMES)
def test_what_moves_jobs_counts_them_last(name):
    """A script that changes a status ends with `finish_call`, and has the keys for it; no other does."""
    text = code(source(name)).rstrip()
    moves_jobs = bool(re.search(MOVERS, text))
    assert ("finish_call(" in text) == moves_jobs
    if moves_jobs:
        assert re.search(r"\n *finish_call\((?:retention_ms)?\)\n(?:end\n)?return [^\n]*$", text)
        assert set(scripts.load(name).keys) >= KEYS_OF_GROUPS
    elif "append(" in text:
        assert re.search(r"\nring_bell\(\)\nreturn [^\n]*$", text)


@pytest.mark.parametrize("name", NAMES)
def test_what_ends_jobs_says_how_long_they_are_kept(name):
    """A script that can end a job passes `retention_ms`, without which no group ends."""
    text = code(source(name))
    ends = re.search(
        r"\b(?:finish|fail_attempt|dead_letter|end_group)\(|'status', '(?:comp|fail|canc)", text
    )
    if ends:
        assert "finish_call(retention_ms)" in text
