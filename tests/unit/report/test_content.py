"""What a report says, and in which order."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sample_debates import SAMPLES, call, job, journal

from aragora_q.base import Hold, JobStatus
from aragora_q.cli.layout import job_lines
from aragora_q.job_rules import has_outcome, is_debate
from aragora_q.report import markdown, page, plain
from aragora_q.report.calls import read_calls
from aragora_q.report.content import build_report
from aragora_q.report.document import Notice, Speeches, Table
from aragora_q.report.summary import outcome_of


def report_of(made, entries):
    transcript = (made.result or {}).get("transcript")
    return build_report(made, read_calls(entries, transcript))


def shown(made, entries):
    """The report as text in one line."""
    return " ".join(plain.render(report_of(made, entries), 200).split())


def titles(made, entries):
    return [section.title for section in report_of(made, entries).sections]


def table(report, title):
    [found] = [section for section in report.sections if section.title == title]
    [rows] = [block.rows for block in found.blocks if isinstance(block, Table)]
    return [list(row.cells) for row in rows]


def test_the_verdict_comes_first():
    """Verdict, votes, dissent and changed minds, then the rounds in their order, then accounts."""
    assert titles(*SAMPLES["disagreeing"]()) == [
        "Question",
        "Verdict",
        "Votes",
        "Dissent",
        "Before and after the debate",
        "Independent answers",
        "Round 1: reviews",
        "Round 1: revised answers",
        "Round 2: reviews",
        "Round 2: revised answers",
        "Seats",
        "Record",
    ]


def test_votes_of_every_seat():
    """Seats count from 1; an abstention is shown as one."""
    report = report_of(*SAMPLES["disagreeing"]())
    rows = table(report, "Votes")
    assert rows[0] == [
        "1",
        "ann",
        "openai:ann-large",
        "Start with a modular monolith",
        "80",
        "own answer",
    ]
    assert rows[4][3:5] == ["abstained", ""]
    assert report.intro[0] == Notice(
        "No consensus (majority), agreement 40%, 2 of 5 seats; a tie.", "caution"
    )


def test_a_tie_is_named():
    """The verdict of a tie says how it was chosen; a judge's verdict is not one of a tie."""
    made, entries = SAMPLES["disagreeing"]()
    decided = "decided by votes; a tie with 1 other answer: the voters' confidence decided, or else"
    assert decided in shown(made, entries)
    made.result["decided_by"] = "judge"
    assert "tie" not in dict(outcome_of(made))["decided by"]
    made, entries = SAMPLES["agreeing"]()
    assert "a tie" not in shown(made, entries)


def test_what_was_asked_for_is_shown():
    """Rounds by mode, limits and the service tier; without rounds, there is nothing that ended them."""
    made, entries = SAMPLES["agreeing"]()
    assert "rounds at most 3" in shown(made, entries)
    made.payload |= {
        "debate": "always",
        "max_tokens": 9_000,
        "max_cost_usd": 0.5,
        "timeout_seconds": 90,
        "service_tier": "flex",
    }
    text = shown(made, entries)
    assert "rounds 3 limits 9,000 tokens, $0.50, 90 s service tier flex" in text
    assert "rounds 1 of 3" in text
    made.payload["debate"] = "never"
    made.result["ended_by"] = "rounds"
    assert dict(outcome_of(made))["rounds"] == "none"
    assert "ended by" not in dict(outcome_of(made))
    made.result["ended_by"] = "timeout"
    assert "ended by" in dict(outcome_of(made))


def test_agents_that_were_not_needed():
    """A reader sees whether those that join on disagreement did."""
    made, entries = SAMPLES["agreeing"]()
    made.payload["escalate"] = ["dan"]
    assert "joining on disagreement dan (not needed)" in shown(made, entries)
    made.result["seats"].append({"seat": 3, "agent": "dan"})
    assert "joining on disagreement dan consensus mode" in shown(made, entries)


def test_one_agent_has_neither_rounds_nor_a_vote():
    """Whatever its payload and result say: it was asked once, so nothing agreed, and nothing changed."""
    made, entries = SAMPLES["agreeing"]()
    made.payload |= {"agents": ["ann"], "rounds": 3}
    made.result["ended_by"] = "rounds"
    found = dict(outcome_of(made))
    assert found["rounds"] == "none"
    assert not {"consensus", "agreement", "decided by", "ended by"} & set(found)
    assert "One agent was asked once: there was no vote." in shown(made, entries)
    assert not {"Votes", "Before and after the debate"} & set(titles(made, entries))


def test_without_a_vote_the_outcome_is_all_answers():
    """Consensus mode none has no verdict to report, but answers."""
    made, _ = SAMPLES["agreeing"]()
    made.payload["consensus"] = "none"
    made.result |= {"verdict": None, "final_answer": "ann: Canberra", "decided_by": None}
    found = dict(outcome_of(made))
    assert found["answers"] == "ann: Canberra"
    assert "verdict" not in found


def test_who_dropped_out_and_why():
    """In the votes, among the problems in full, and with the seat; a flag is shown where the answer is."""
    made, entries = SAMPLES["dropped"]()
    text = shown(made, entries)
    assert table(report_of(made, entries), "Votes")[2][3] == "dropped out"
    assert made.result["error"] in text
    assert "dropped out: the provider refused the request" in text
    assert text.count("addresses the voters") == 2
    note = "a reply was not used: the reply was not a JSON object; it began “All of them name the date.”"
    assert note in text
    assert "price of 1 call not known" in text
    assert "effort high; seed 7" in text


def test_a_failed_debate_shows_its_answers_and_why_no_ballot_counted():
    """The error first; the partial result and the rounds are there."""
    made, entries = SAMPLES["failed"]()
    text = shown(made, entries)
    assert text.index(made.error) < text.index("The result is partial")
    assert "To continue: aragora-q requeue 5c1d0e9a" in text
    assert text.count("a ballot was not used: choice must be one of KQTR, BXLM") == 3
    assert "Dissent" not in titles(made, entries)  # from no verdict
    assert "Problems" not in titles(made, entries)  # the error says it
    assert "It was chosen in 1908" in text


def test_a_running_debate_shows_what_is_there():
    """Where it is, the rounds so far and what they cost; no verdict."""
    made, entries = SAMPLES["running"]()
    text = shown(made, entries)
    assert "Running: round 2 of 3, review, 1 of 5 agents done." in text
    assert titles(made, entries)[1] == "Independent answers"
    assert "Verdict" not in titles(made, entries)
    assert table(report_of(made, entries), "Seats")[-1] == [
        "total", "", "", "15", "21,600", "3,150", "10,240", "63 s", "$0.0465",
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["pending", "retrying", "cancelled", "failed", "processing"])
def test_a_debate_without_replies(status):
    """Every status can be shown before the first call has finished."""
    made = job("Tea?", ["ann", "bob"], JobStatus(status), error="AgentUnavailable: no answer")
    text = shown(made, {})
    assert ("No replies yet." in text) == (status not in ("cancelled", "failed"))
    assert ("AgentUnavailable" in text) == (status in ("failed", "retrying"))


@pytest.mark.parametrize("status", [JobStatus.HELD, JobStatus.PROCESSING])
def test_a_held_debate_says_why(status):
    """Also one that still runs, and will be held."""
    made, entries = SAMPLES["agreeing"]()
    made.status, made.result = status, None
    made.hold = Hold("budget", "day/all", "needs $0.40, $0.10 are left", 1.0)
    text = shown(made, entries)
    who = "Held" if status is JobStatus.HELD else "To be held"
    assert f"{who} by budget day/all: needs $0.40, $0.10 are left" in text


def test_the_quote_stands_next_to_the_cost():
    """Of a debate that has ended from its result, of one that runs from its journal."""
    made, entries = SAMPLES["agreeing"]()
    made.result |= {"cost_usd": 0.42, "quote_usd": 0.4}
    assert "cost $0.42 (quoted $0.40)" in shown(made, entries)
    assert ("cost", "$0.42 (quoted $0.40)") in outcome_of(made)
    made, entries = SAMPLES["running"]()
    assert "quoted" not in shown(made, entries)
    assert "quoted $0.40" in shown(made, entries | {"begun": {"quote_usd": 0.4}})
    assert "quoted" not in shown(made, entries | {"begun": {"quote_usd": None}})


def test_the_transcript_replaces_a_journal_that_is_gone():
    """Both give the same rounds."""
    made, entries = SAMPLES["agreeing"]()
    calls = read_calls(entries, None)
    said = [
        {"phase": each.phase, "round": each.round, "seat": each.seat, "agent": each.agent, "said": each.value}
        for each in calls.all()
    ]  # fmt: skip

    def rounds(found):
        sections = build_report(made, found).sections
        return [each for each in sections if any(isinstance(b, Speeches) for b in each.blocks)]

    assert rounds(read_calls({}, said)) == rounds(calls)
    assert "No replies are kept" in shown(made, {})
    assert "No replies are kept" not in shown(made, {"begun": {}})


def test_both_orders_of_the_judge_are_shown():
    """The judge is asked twice and is named; a consensus is not claimed for it."""
    made, entries = SAMPLES["agreeing"]()
    made.payload |= {"consensus": "judge", "judge": "zoe"}
    made.result |= {"decided_by": "judge", "consensus_reached": False}
    entries |= dict(
        call("judge", 3, {"choice": n, "reason": f"order {n}", "confidence": 70},
             step=4, attempt=n, agent="zoe") for n in range(2)
    )  # fmt: skip
    text = shown(made, entries)
    assert "No consensus (judge)" in text
    assert "decided by the judge, zoe" in text
    assert text.count("Judge, zoe") == 2
    assert "answers in order 2 of 2" in text
    assert "for the answer of seat 2, bob" in text


def test_a_synthesis_names_its_author():
    """The text is the judge's; the verdict is that of the votes."""
    made, entries = SAMPLES["agreeing"]()
    made.payload |= {"consensus": "synthesis", "judge": "zoe"}
    made.result |= {"written_by": "zoe", "final_answer": "Canberra, since 1908."}
    name, entry = call("synthesize", 3, {"text": "Canberra, since 1908."}, step=4, agent="zoe")
    text = shown(made, entries | {name: entry})
    assert "the text is written by zoe from all answers Canberra Canberra, since 1908." in text
    assert "Judge, zoe Canberra, since 1908." in text
    assert dict(outcome_of(made))["answer"] == "Canberra, since 1908."


def test_a_phase_this_version_does_not_know_is_shown():
    """Another version's calls are listed under the phase's name."""
    made, entries = SAMPLES["agreeing"]()
    name, entry = call("reflect", 0, {"answer": "Canberra", "reasons": "Still."}, step=9)
    assert "Reflect" in titles(made, entries | {name: entry})


def test_damaged_entries_are_counted():
    """The rest is shown."""
    made, entries = SAMPLES["agreeing"]()
    entries |= {"call/propose": {}, "call/propose.x.0": {"seat": 0}, "call/vote.0.0": [1]}
    assert "Not complete: 3 of the calls in the job's journal cannot be read." in shown(
        made, entries
    )
    text = " ".join(plain.render(build_report(made, read_calls(None, None)), 200).split())
    assert "Not complete: the job's journal cannot be read." in text


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
RESULT_FIELDS = sorted(SAMPLES["dropped"]()[0].result)
ENTRY_FIELDS = sorted(call("propose", 0, None, step=0)[1])


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(RESULT_FIELDS), values | st.lists(st.dictionaries(
        st.sampled_from(["seat", "group", "verdict", "seats", "share", "agent", "labels"]), values
    ), max_size=3)),
    st.dictionaries(st.sampled_from(ENTRY_FIELDS), values),
    st.dictionaries(st.sampled_from(["consensus", "rounds", "judge", "options", "answer_form"]), values),
    st.sampled_from(list(JobStatus)),
)  # fmt: skip
def test_no_data_of_a_worker_or_client_breaks_a_report(result, entry, payload, status):
    """Whatever JSON the fields hold, there is a report, and an outcome for `status`."""
    made, entries = SAMPLES["dropped"]()
    made.result |= result
    made.payload |= payload
    made.status = status
    name = next(iter(entries))
    report = report_of(made, {**entries, name: {**entries[name], **entry}})
    for layout in (plain, markdown, page):
        layout.render(report)
    assert is_debate(made)
    assert has_outcome(made)
    json.dumps(outcome_of(made))


def test_sixteen_seats_and_twenty_rounds():
    """The largest debate that a payload allows is rendered, every call of it."""
    names = [f"agent-{n}" for n in range(16)]
    said = {"answer": "A" * 300, "reasons": "because " * 50, "changed": True}
    calls = [call("propose", n, said, step=0, agent=names[n]) for n in range(16)]
    for number in range(1, 21):
        for phase, value in (("review", {"points": "so " * 100, "best": 3}), ("revise", said)):
            step = 2 * number + (phase == "revise")
            calls += [
                call(phase, n, value, step=step, number=number, agent=names[n]) for n in range(16)
            ]
    made = job("Tea?", names, JobStatus.PROCESSING, rounds=20)
    text = plain.render(report_of(made, journal(*calls)), 120)
    assert text.count("Seat 16, agent-15") == 41


def test_without_a_vote_there_is_no_verdict():
    """Mode none: all answers, and no consensus that was or was not reached."""
    made, entries = SAMPLES["agreeing"]()
    made.payload["consensus"] = "none"
    made.result |= {"verdict": None, "final_answer": "ann: Canberra", "votes": [], "groups": []}
    text = shown(made, entries)
    assert titles(made, entries)[0] == "Answers"
    assert "No vote was held: consensus mode none." in text
    assert "reached" not in text
    assert "No verdict" not in text


def test_a_seat_that_dropped_out_before_its_first_reply_is_listed():
    """Without a result, the journal says who dropped out and why."""
    made = job("Tea?", ["ann", "bob"], JobStatus.FAILED, error="PermanentError: no agent is left")
    text = shown(made, journal(**{"dropped/1": {"phase": "propose", "why": "no key"}}))
    assert "dropped out: no key" in text
    assert "There was no reply." in text


def test_the_winner_is_first_among_the_answers():
    """Then the others by their votes."""
    made, entries = SAMPLES["disagreeing"]()
    made.result["groups"].reverse()
    report = report_of(made, entries)
    assert [row[0] for row in table(report, "Verdict")] == [
        "Start with a modular monolith",
        "Start with two or three services",
    ]


def degraded():
    """A debate in which eve answered for bob, and cyd dropped out."""
    made, entries = SAMPLES["agreeing"]()
    made.result["degraded"] = True
    made.result["error"] = "eve answered for bob (2 calls: acme@1: the provider's rate limit)"
    made.result["seats"][1]["fallbacks"] = [
        {"agent": "eve", "calls": 2, "why": "acme@1: the provider's rate limit"}
    ]
    made.result["seats"][2]["dropped"] = "no such model"
    entries["call/propose.1.0"]["agent"] = "eve"
    return made, entries


@pytest.mark.parametrize("layout", [plain, markdown, page], ids=["text", "md", "html"])
def test_a_degraded_result_says_so_first(layout):
    """Who answered for whom, and who dropped out, in the line below the question, in each layout."""
    report = report_of(*degraded())
    notice = report.intro[0]
    assert "; degraded: eve answered for bob, cyd dropped out." in notice.text
    assert notice.tone == "caution"
    assert "degraded: eve answered for bob" in " ".join(layout.render(report).split())
    text = shown(*degraded())
    assert "Seat 2, bob (answered by eve)" in text
    assert "eve in its place (2 calls: acme@1" not in text
    assert "eve in its place (2 calls): acme@1: the provider's rate limit" in text


def test_a_degraded_result_without_a_vote_says_so():
    """Mode none has another first line."""
    made, entries = degraded()
    made.payload["consensus"] = "none"
    assert "mode none; degraded: eve answered for bob" in shown(made, entries)


def test_a_result_that_is_not_degraded_does_not_say_so():
    """Nor one of another form."""
    made, entries = SAMPLES["agreeing"]()
    made.result["degraded"] = "yes"
    assert "degraded" not in shown(made, entries)


def test_a_running_debate_names_its_agents_not_their_fallbacks():
    """In the table of seats, which is counted from the calls."""
    made, entries = degraded()
    made.result, made.status = None, JobStatus.PROCESSING
    assert [row[1] for row in table(report_of(made, entries), "Seats")][:3] == ["ann", "bob", "cyd"]


def test_status_and_wait_say_first_that_a_result_is_degraded():
    """The first line has the job's id; a job that is not a debate may have a field of this name."""
    made, _ = degraded()
    assert next(job_lines(made, 0.0)).split() == ["job", made.id, "(degraded)"]
    made.payload = {"other": 1}
    assert next(job_lines(made, 0.0)).split() == ["job", made.id]


def test_a_seat_says_which_calls_were_not_made_here_or_not_once():
    """Replies of other debates, with those who paid; calls that `requeue --from` had made again."""
    made, entries = SAMPLES["agreeing"]()
    made.result |= {"forked_from": "second"}
    made.result["seats"][0] |= {"taken_over": 2, "calls": 0, "cost_usd": 0.0}
    entries["call/propose.0.0"] |= {"from": "first"}
    entries["call/r1.review.0.0"] |= {"from": "second"}
    entries["past/vote.1.0"] = entries["call/propose.1.0"] | {"phase": "vote"}
    report = report_of(made, entries)
    assert table(report, "Seats")[0][-1] == "$0"
    [seats] = next(section.blocks for section in report.sections if section.title == "Seats")
    assert seats.rows[0].detail.endswith("2 replies taken over from first, second")
    assert seats.rows[1].detail.endswith("1 call made again after a requeue")
    made.result["seats"][0]["seat"] = 7  # without a journal, by the result alone
    assert "2 replies taken over from second" in shown(made, {})
