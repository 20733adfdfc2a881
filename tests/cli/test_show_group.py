"""`aragora-q show GROUP`: all debates of a group as one document, from what their jobs and journals hold."""

import json

import pytest
from support.sample_debates import SAMPLES

from aragora_q import codec
from aragora_q.cli import show
from aragora_q.contracts import Completed, Failed
from aragora_q.errors import RedisUnreachable
from aragora_q.status import JobStatusTracker

FORMATS = ("text", "md", "html", "json")


@pytest.fixture
def survey(harness):
    """Leaves a group as workers do: two arms of a debate, one that failed, another job, and one that waits."""

    async def leave():
        session = await harness.worker()
        for n, (arm, name) in enumerate(
            [("debate", "agreeing"), ("vote", "dropped"), ("", "failed")], start=1
        ):
            made, entries = SAMPLES[name]()
            labels = {"group": "survey", "tags": {"arm": arm} if arm else {}}
            if arm:
                note = {"arm": arm, "number": 1, "place": n, "expected": ["Canberra"]}
                made.payload["metadata"] = {"experiment": note}
            await harness.enqueue_payload(f"job{n}", made.payload, **labels)
            job = await harness.start_one(session)
            for entry in entries.items():
                await session.checkpoint(job, *entry)
            ended = Failed(made.error) if made.error else Completed(codec.encode(made.result or {}))
            await harness.report(session, job, ended)
        await harness.enqueue_payload("other", {"n": 1}, group="survey")
        waits = {"question": "Tea?", "agents": ["a", "b"]}
        await harness.enqueue_payload("waits", waits, group="survey")

    return leave


async def test_a_group_is_one_document(survey, run_cli, monkeypatch):
    """In every format, all jobs in the order of the table, however few are read at once."""
    await survey()
    shown = {form: run_cli("show", "survey", "-f", form) for form in FORMATS}
    assert {(each.code, each.err) for each in shown.values()} == {(0, "")}
    heads = {"text": "{}. ", "md": "\n## {}. ", "html": '<h2 dir="auto">{}. '}
    for form, head in heads.items():
        out = shown[form].out
        places = [out.rindex(head.format(n)) for n in range(1, 6)]
        assert places == sorted(places), form
        for part in (
            "Group survey", "Overview", "· debate", "· vote", "Independent answers", "No replies yet.",
            "Not a debate", "5: 2 pending, 2 completed, 1 failed",
        ):  # fmt: skip
            assert part in out, (form, part)
    lines = [json.loads(line) for line in shown["json"].lines]
    assert [line["job"]["id"] for line in lines] == ["job1", "job2", "job3", "other", "waits"]
    assert lines[0] == run_cli("show", "job1", "-f", "json").object
    assert lines[3]["rounds"] == []
    monkeypatch.setattr(show, "JOBS_AT_ONCE", 2)
    assert run_cli("show", "survey", "-f", "json").out == shown["json"].out


async def test_a_document_in_a_file(survey, run_cli, tmp_path, monkeypatch):
    """The file has what a pipe gets; if the server is lost in between, what was there before is left."""
    await survey()
    path = tmp_path / "survey.html"
    assert run_cli("show", "--group", "survey", "-o", path).code == 0
    text = path.read_text()
    assert text.endswith("</main>\n</body>\n</html>\n")
    assert text.count('<section class="chapter"') == 5

    async def fail(*_):
        raise RedisUnreachable("gone")

    monkeypatch.setattr(JobStatusTracker, "journals", fail)
    assert run_cli("show", "survey", "-o", path).code == 69
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


async def test_a_job_wins_over_a_group(survey, harness, run_cli):
    """A name is that of a job, or else of a group; --group means the group; exactly one must be given."""
    await survey()
    made, _ = SAMPLES["agreeing"]()
    await harness.enqueue_payload("survey", made.payload)
    assert run_cli("show", "survey").lines[0] == "What is the capital of Australia?"
    assert run_cli("show", "--group", "survey").lines[0] == "Group survey"
    assert run_cli("show").code == 2
    assert run_cli("show", "job1", "--group", "survey").code == 2
    assert run_cli("show", "job1", "--tag", "arm=vote").code == 2
    assert run_cli("show", "--group", "no name").code == 65
    for arguments in (["nowhere"], ["--group", "nowhere"]):
        unknown = run_cli("show", *arguments)
        assert (unknown.code, unknown.out) == (3, "")
        assert "nowhere" in unknown.err


async def test_one_part_of_a_group(survey, run_cli, monkeypatch):
    """--tag chooses jobs; more than fit into a document are refused with that advice, but not as JSON."""
    await survey()
    shown = run_cli("show", "survey", "--tag", "arm=vote", "-f", "md")
    assert (shown.code, "· debate" in shown.out, "| jobs | 1: 1 completed |" in shown.out) == (
        0, False, True,
    )  # fmt: skip
    assert "| only with | tag arm\\=vote |" in shown.out
    nothing = run_cli("show", "survey", "--tag", "arm=none")
    assert (nothing.code, "no job of group survey has tag arm=none" in nothing.err) == (3, True)
    monkeypatch.setattr(show, "MAX_CHAPTERS", 1)
    many = run_cli("show", "survey", "-f", "md")
    assert (many.code, many.out) == (65, "")
    assert "group survey has 5 jobs, one document at most 1" in many.err
    assert "--tag K=V" in many.err
    assert run_cli("show", "survey", "--tag", "arm=vote", "-f", "md").out.count("\n## 1.") == 1
    assert len(run_cli("show", "survey", "-f", "json").lines) == 5


@pytest.mark.parametrize("form", FORMATS)
async def test_corrupted_jobs_of_a_group(survey, harness, run_cli, form):
    """A job or a journal that is corrupted is named, and has its chapter; all others are shown."""
    await survey()
    harness.redis.hset(harness.keys.job("job1"), "status", "odd")
    harness.redis.hset(harness.keys.journal("job2"), "checkpoint:call/propose.0.0", "{")
    shown = run_cli("show", "survey", "-f", form)
    assert shown.code == 65
    for job_id in ("job1", "job2"):
        assert f"data of job {job_id} in Redis is corrupted" in shown.err
    if form == "json":
        ids = [json.loads(line)["job"]["id"] for line in shown.lines]
        assert sorted(ids) == ["job2", "job3", "other", "waits"]
    else:
        assert "data of job job1 in Redis is corrupted" in " ".join(shown.out.split())
        assert "the job's journal cannot be read" in shown.out.replace("&#x27;", "'")
        assert "No replies yet." in shown.out
