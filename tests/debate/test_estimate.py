"""Quotes: what a debate will probably take, from its form and from finished debates; and what the worker does
with them.
"""

import asyncio
from dataclasses import asdict, astuple

import pytest
from support.memory_session import MemorySession
from support.scripted_agents import THREE, failing, said, saying

from aragora_q.config.settings import QueueConfig
from aragora_q.contracts import Completed, Failed, Gates, Granted, Held, OverBudget
from aragora_q.errors import AccessDenied, InvalidPayload, PermanentError, RedisUnreachable
from aragora_q.executors.debate import quote, quote_of
from aragora_q.executors.debate.estimate import quote_debate
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.prompts import max_input_tokens, prompt_for
from aragora_q.executors.debate.requests import PLAIN, Propose
from aragora_q.history import CallHistory, CallKind, CallSums, PhaseKind, PhaseSums
from aragora_q.job import DebateJobPayload

NONE = CallHistory()
PRICE = Price(3.0, 15.0, 0.3, "test")
CLOSED = {"answer_form": "number"}
JUDGED = {"consensus": "judge", "judge": "c"}
FORMS = [
    {}, CLOSED, JUDGED, {**CLOSED, **JUDGED}, {"consensus": "synthesis", "judge": "c"}, {"consensus": "none"},
    {"escalate": ["c", "c"]}, {**CLOSED, "escalate": ["c"], "debate": "always"}, {"rounds": 0},
    {"debate": "always"}, {"debate": "never"}, {"rounds": 20, "agents": ["a"] * 16},
    {"max_answer_words": 5_000},
]  # fmt: skip


def debate_of(**fields):
    return DebateJobPayload(**{"question": "Tea or coffee?", "agents": ["a", "b"], **fields})


def terms(price=PRICE, count=20, model="m", **fields):
    return [quote.Terms(price=price, model=model, **fields) for _ in range(count)]


def quoted(history=NONE, *, price=PRICE, each=None, **fields):
    payload = debate_of(**fields)
    made = terms(price, len(payload.all_agents), **(each or {}))
    return quote_debate(payload, made, history)


def calls_of(count, output, *, deviation=0.0, phase="propose", tier="", **sums):
    """The history of so many calls with that output."""
    squares = count * (output**2 + deviation**2)
    fields = {
        "input_tokens": 400, "max_input_tokens": 1_000, "words": 200, "answer_bytes": 1_000,
        "seconds": 10, "seconds_squares": 100, **sums,
    }  # fmt: skip
    each = {name: count * value for name, value in fields.items()}
    each = {"requests": count, "calls": count, **each}
    return {
        CallKind("m", tier, phase): CallSums(
            **each, output_tokens=count * output, output_squares=squares
        )
    }


@pytest.mark.parametrize("fields", FORMS)
def test_what_is_expected_lies_between_the_least_and_the_most(fields):
    """In all numbers, for all forms; its lines are all of it. Nothing is known of seconds."""
    made = quoted(**fields)
    for name in ("calls", "input_tokens", "output_tokens", "usd"):
        least, expected, most = (
            getattr(each, name) for each in (made.least, made.expected, made.most)
        )
        assert 0 < least <= expected <= most
        total = sum(getattr(line, name) for line in made.lines)
        assert total == pytest.approx(expected, rel=0.01)
    assert made.expected.seconds is made.most.seconds is None
    assert made.debates == 0
    assert made.to_dict()["expected"] == asdict(made.expected)


@pytest.mark.parametrize(
    ("fields", "least", "expected", "most"),
    [
        # Two seats: proposals, reviews and revisions of each round, votes.
        ({"debate": "always", "rounds": 3}, 14, 16, 16),
        ({"debate": "never"}, 2, 4, 4),
        # Half of the reviews settle it: no revisions, no votes.
        ({"rounds": 1}, 2, 2 + 2 + 1 + 1, 8),
        # Half of the proposals agree; verdicts are votes.
        ({**CLOSED, "rounds": 2}, 2, 2 + 1 + 0.5, 6),
        ({**CLOSED, **JUDGED, "debate": "never"}, 2, 2 + 1, 4),
        ({"debate": "always", "rounds": 1, "escalate": ["c"]}, 6, 10, 10),
        # One agent is asked once.
        ({"agents": ["a"], **JUDGED}, 1, 1, 1),
    ],
)
def test_which_calls_are_assumed(fields, least, expected, most):
    """At least those that are made in any case, at most all; a debate that may end early ends in half of the
    places where it may.
    """
    made = quoted(**fields)
    assert (made.least.calls, made.expected.calls, made.most.calls) == (least, expected, most)


def test_it_is_realistic_without_history():
    """A token is 4 bytes, answers are as long as asked for, and models think by their effort."""
    made = quoted(debate="never", consensus="none")
    prompt_bytes = 2 * (
        quote.floor(debate_of(consensus="none"), terms()).lines[0].amount.tokens - 256
    )
    assert made.expected.input_tokens == pytest.approx(2 * prompt_bytes / 4, rel=0.02)
    assert made.expected.output_tokens == 2 * (200 * 6 / 4 + 30)
    usd = made.expected.input_tokens * 3e-6 + made.expected.output_tokens * 15e-6
    assert made.expected.usd == pytest.approx(usd, rel=0.001)
    thinking = quoted(debate="never", consensus="none", each={"thinking_tokens": 4_000})
    assert thinking.expected.output_tokens == made.expected.output_tokens + 2 * 4_000
    config = {"agents": {"a": {"model": "openai:m", "effort": "high"}, "b": "openai:m"}}
    careful, usual = quote.terms_of(["a", "b"], QueueConfig(**config))
    assert careful.thinking_tokens > usual.thinking_tokens > 0


@pytest.mark.parametrize(
    "more",
    [{"question": "Why? " * 500}, {"max_answer_words": 400}, {"agents": ["a"] * 3}, {"rounds": 4},
     {"debate": "always"}, {"escalate": ["c"]}, {"consensus": "synthesis", "judge": "c"}],
)  # fmt: skip
def test_it_grows_with_what_is_asked_for(more):
    """What is possible, too; but any debate may hold all its rounds."""
    assert quoted(**more).expected.usd > quoted().expected.usd
    assert quoted(**more).most.usd > quoted().most.usd or "debate" in more


def test_what_is_unknown_stays_unknown():
    """One agent without a price: tokens, but no US dollars."""
    made = quote_debate(debate_of(), [*terms(count=1), *terms(None, count=1)], NONE)
    assert made.expected.usd is made.least.usd is made.most.usd is None
    assert made.expected.input_tokens > 0
    assert {line.usd is None for line in made.lines} == {True, False}


def test_a_debates_own_limits_count():
    """What they forbid is neither expected nor possible."""
    whole = quoted()
    made = quoted(max_cost_usd=whole.expected.usd / 2)
    assert made.expected.usd == made.most.usd == pytest.approx(whole.expected.usd / 2)
    assert sum(line.usd for line in made.lines) == pytest.approx(made.expected.usd)
    limit = whole.expected.input_tokens
    made = quoted(max_tokens=limit)
    assert made.expected.input_tokens + made.expected.output_tokens == pytest.approx(limit, abs=2)
    assert quoted(max_cost_usd=whole.expected.usd * 2).expected == whole.expected


def test_history_replaces_assumptions_by_how_much_there_is():
    """Few calls count less than many: the quote moves from what is assumed to what was measured."""
    fields = {"debate": "never", "consensus": "none"}
    assumed = quoted(**fields).expected.output_tokens
    outputs = [
        quoted(CallHistory(calls_of(count, 3_000)), **fields).expected.output_tokens
        for count in (1, 10, 500)
    ]
    assert [assumed, *outputs, 6_000] == sorted([assumed, *outputs, 6_000])
    assert outputs[2] == pytest.approx(6_000, rel=0.01)


def test_history_is_right_for_questions_and_answers_of_another_length():
    """Input is a share of the prompt that would be sent; output grows as what is asked for."""
    history = CallHistory(calls_of(5_000, 330, input_tokens=400, max_input_tokens=1_000))
    fields = {"debate": "never", "consensus": "none"}
    for question in ("Tea?", "Tea? " * 2_000):
        payload = debate_of(question=question, **fields)
        bound = sum(line.amount.tokens - 256 for line in quote.floor(payload, terms()).lines)
        made = quoted(history, question=question, **fields)
        assert made.expected.input_tokens == pytest.approx(0.4 * bound, rel=0.01)
        assert made.expected.output_tokens == pytest.approx(660, rel=0.01)
    longer = quoted(history, max_answer_words=400, **fields).expected.output_tokens
    assert longer == pytest.approx(2 * (330 + 300), rel=0.02)


def test_history_narrows_the_bounds():
    """Least and most are two standard deviations from the mean of known calls."""
    fields = {"debate": "never", "consensus": "none"}
    made = quoted(CallHistory(calls_of(10_000, 1_000, deviation=100)), **fields)
    assert made.least.output_tokens == pytest.approx(2 * 800, rel=0.02)
    assert made.most.output_tokens == pytest.approx(2 * 1_200, rel=0.02)
    assert quoted(**fields).most.output_tokens == 2 * 8_000


def test_repeated_and_cached_calls_count():
    """As often as they were, and at the price of cached input, but not in the highest price."""
    fields = {"debate": "never", "consensus": "none"}
    history = CallHistory(calls_of(10_000, 1_000))
    [[kind, sums]] = history.calls.items()
    plain = quoted(history, **fields)
    repeating = CallSums(**{**asdict(sums), "requests": sums.calls / 1.5})
    made = quoted(CallHistory({kind: repeating}), **fields)
    assert made.expected.calls == pytest.approx(3, rel=0.01)
    assert made.most.calls == pytest.approx(4, rel=0.01)
    cached = CallSums(**{**asdict(sums), "cached_tokens": sums.input_tokens})
    made = quoted(CallHistory({kind: cached}), **fields)
    saved = plain.expected.input_tokens * (3.0 - 0.3) / 1e6
    assert plain.expected.usd - made.expected.usd == pytest.approx(saved, rel=0.01)
    assert made.most.usd == pytest.approx(plain.most.usd)


def test_long_questions_come_from_caches_as_other_long_ones_did():
    """Prompts of short ones are not made for caches: what their debates read says nothing of the others."""
    fields = {"debate": "never", "consensus": "none", "agents": ["a", "a"]}
    long, short = "Tea or coffee? " * 400, "Tea or coffee?"
    [[kind, both]] = calls_of(10_000, 1_000).items()
    half = both.input_tokens / 2
    mixed = {"shared_input_tokens": half, "shared_cached_tokens": 0.8 * half}
    cached = CallHistory({kind: CallSums(**{**asdict(both), **mixed})})
    for question, share in ((long, 0.8), (short, 0.0)):
        plain = quoted(CallHistory({kind: both}), question=question, **fields).expected
        saved = plain.usd - quoted(cached, question=question, **fields).expected.usd
        paid = share * plain.input_tokens * (3.0 - 0.3) / 1e6
        assert saved == pytest.approx(paid, rel=0.01, abs=1e-6)


def test_other_phases_and_tiers_of_a_model_show_what_is_not_known():
    """A model that thinks more than is assumed does so in each phase; only the same tier shows the time."""
    history = CallHistory(calls_of(500, 3_300, tier="flex"))
    flex = quoted(history, each={"service_tier": "flex"})
    usual = quoted(history)
    votes = [line for line in usual.lines if line.phase == "vote"]
    assumed = [line for line in quoted().lines if line.phase == "vote"]
    assert votes[0].output_tokens > 5 * assumed[0].output_tokens
    assert usual.expected.seconds is None
    assert flex.least.seconds < flex.expected.seconds <= flex.most.seconds
    assert 10 < flex.expected.seconds < 60


def test_history_shows_which_phases_begin():
    """Of debates of the same form; others keep what is assumed."""
    begun = {"r1.review", "r1.revise", "vote"}
    later = {f"r{n}.{phase}" for n in (2, 3) for phase in ("review", "revise")}
    phases = {
        PhaseKind("auto", "text", 3, 2, name): PhaseSums(10_000, 10_000 * (name in begun))
        for name in begun | later
    }
    history = CallHistory({}, phases, dict.fromkeys(phases, 250))
    made = {line.phase: line.calls for line in quoted(history, agents=["a", "a"]).lines}
    assert made == pytest.approx(
        dict.fromkeys(("propose", "review", "revise", "vote"), 2), abs=0.01
    )
    assert quoted(history).debates == 250
    assert quoted(history, rounds=2) == quoted(rounds=2)
    assert quoted(history, debate="always").debates == 0
    reviewing = PhaseKind("auto", "text", 3, 2, "r1.revise")
    for count, most in ((20, 0.2), (2_000, 0.01)):  # more seats agree more rarely
        rare = {reviewing._replace(seats=3): PhaseSums(count, 0)}
        made = quoted(CallHistory({}, phases | rare), agents=["a"] * 3).lines
        assert next(line.calls for line in made if line.phase == "revise") < 3 * most


@pytest.mark.parametrize(
    "sums",
    [
        CallSums(),
        CallSums(calls=5),
        CallSums(requests=5),
        CallSums(*[1e17] * 14),
        CallSums(1, 1, 1e17),
        CallSums(1, 1e17, 1e17, 0, 1e17, 1, 1e17, 1e17),
    ],
)
@pytest.mark.parametrize("begun", [1.0, 1e17])
def test_senseless_history_makes_no_error(sums, begun):
    """Another program may have written to it: the quote is wrong, but possible, so that the debate can run."""
    phases = ("propose", "review", "revise", "vote")
    history = CallHistory(
        {CallKind("m", "", phase): sums for phase in phases},
        {
            PhaseKind("auto", "text", 3, 2, name): PhaseSums(0, begun)
            for name in ("r1.review", "r1.revise", "vote")
        },
    )
    made = quoted(history)
    most = quote.highest(debate_of(), terms(count=2))
    assert made.expected.input_tokens > 0
    assert made.most.calls <= most.calls
    assert made.expected.usd <= made.most.usd <= most.usd
    seconds = [each.seconds or 0 for each in (made.least, made.expected, made.most)]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 1e9


def test_quote_of_takes_the_json_of_a_debate():
    """As `enqueue` has it. Demo agents cost nothing; an unknown agent or a bad field is refused."""
    payload = {"question": "Tea or coffee?", "agents": ["demo", "demo"]}
    made = quote_of(payload, QueueConfig(), NONE)
    assert made.expected.usd == 0
    assert {line.model for line in made.lines} == {"demo:bold", "demo:careful"}
    for wrong in ({"agents": ["demo", "nope"]}, {"rounds": -1}):
        with pytest.raises(InvalidPayload):
            quote_of({**payload, **wrong}, QueueConfig(), NONE)


class Recorder(Gates):
    """Gates that grant calls, with a history; `fault` is raised instead of reading or adding to it."""

    def __init__(self, history=NONE, fault=None, answers=()):
        self.calls = []
        self.learned = []
        self.reads = 0
        self._history = history
        self._fault = fault
        self._answers = list(answers)

    async def acquire(self, job, call):
        self.calls.append(call)
        return self._answers.pop(0) if self._answers else Granted()

    async def settle(self, job, call, settlement):
        return True

    async def call_history(self):
        self.reads += 1
        if self._fault:
            raise self._fault
        return self._history

    async def learn(self, debate):
        if self._fault:
            raise self._fault
        self.learned.append(debate)


@pytest.fixture
def seat(seat_scripted_agents, monkeypatch):
    """Seats scripted agents that count input as models do, whose price and calls are known by their model."""

    def make(**replies):
        made = seat_scripted_agents(**replies)
        for agent in made.values():
            agent.price = PRICE
            agent.max_input_tokens = _bound
        patched = quote.terms_of

        def terms_of(names, config, service_tier=None):
            found = zip(names, patched(names, config, service_tier), strict=True)
            return [each._replace(model=made[name].model) for name, each in found]

        monkeypatch.setattr(quote, "terms_of", terms_of)
        return made

    return make


def _bound(request, manner=PLAIN):
    return max_input_tokens(prompt_for(request), manner.repair, is_tool=False)


def _priced(reply):
    """Replies whose usage and price a model would report: 4 bytes per token."""

    def priced(request):
        text = reply(request).text
        read, written = _bound(request) // 2, len(text) // 4
        return said(text, (read, written), cost_usd=PRICE.cost_usd(read, written))

    return priced


async def test_the_first_call_carries_the_quote(seat, run_debate):
    """It is made once, before the call; the result has it next to the cost."""
    seat(**{name: saying(name) for name in THREE})
    gates = Recorder()
    _, _, result = await run_debate(agents=THREE, gates=gates, rounds=1, debate="always")
    expected = quote_debate(
        debate_of(agents=THREE, rounds=1, debate="always"), terms(count=3), NONE
    ).expected.usd
    assert result["quote_usd"] == pytest.approx(expected)
    carried = [call.expected_usd for call in gates.calls]
    assert carried == [result["quote_usd"]] + [None] * (len(carried) - 1)
    assert gates.reads == 1


async def test_a_debate_keeps_the_quote_of_its_first_call(seat, run_debate):
    """One that has asked nothing is quoted again, as it may be held because too much was expected. One that
    has asked something keeps its quote, and does not carry it again. The nonce is always the same.
    """
    seat(**{name: saying(name) for name in THREE})
    over = OverBudget("day", "hold", "full", usd=1.0)
    history = CallHistory({
        CallKind(f"scripted:{name}", "", "propose"): CallSums(99, 99, 1e6, 1e11) for name in THREE
    })  # fmt: skip
    session = MemorySession()
    made = [
        Recorder(answers=[over] * 3),
        Recorder(history, answers=[Granted(), over, over]),
        Recorder(),
    ]
    nonces = set()
    for gates in made:
        outcome, _, result = await run_debate(agents=THREE, gates=gates, session=session)
        assert isinstance(outcome, Completed if gates is made[-1] else Held)
        nonces.add(session.kept["begun"]["nonce"])
    assert len(nonces) == 1
    first, second, third = made
    assert [gates.reads for gates in made] == [1, 1, 0]
    assert result["quote_usd"] == second.calls[0].expected_usd > first.calls[0].expected_usd
    assert not any(call.expected_usd for call in third.calls)


async def test_other_seats_wait_for_the_first_call(seat, run_debate):
    """Until it is granted: what they reserve does not stand in its way. If it is refused, the next one asks."""
    seat(**{name: saying(name) for name in THREE})
    waiting = []

    class Slow(Recorder):
        async def acquire(self, job, call):
            waiting.append(call)
            if call.expected_usd is not None:
                assert waiting == [call]
            await asyncio.sleep(0.01)
            waiting.remove(call)
            return await super().acquire(job, call)

    gates = Slow(answers=[OverBudget("day", "hold", "full", usd=1.0)])
    outcome, _, _ = await run_debate(agents=THREE, gates=gates)
    assert isinstance(outcome, Held)
    assert [call.expected_usd is not None for call in gates.calls] == [True, True, False]


@pytest.mark.parametrize(
    "fault", [AccessDenied("no rights"), RedisUnreachable("gone"), TimeoutError()]
)
async def test_a_debate_does_not_need_history(seat, run_debate, fault):
    """Without rights or a server, it has the quote of its form."""
    seat(**{name: saying(name) for name in THREE})
    outcome, _, result = await run_debate(agents=THREE, gates=Recorder(fault=fault))
    assert isinstance(outcome, Completed)
    expected = quote_debate(debate_of(agents=THREE), terms(count=3), NONE).expected.usd
    assert result["quote_usd"] == pytest.approx(expected)
    _, _, without_gates = await run_debate(agents=THREE)
    assert without_gates["quote_usd"] == result["quote_usd"]


async def test_a_price_that_is_not_known_makes_no_quote(seat_scripted_agents, run_debate):
    """The result says null."""
    seat_scripted_agents(**{name: saying(name) for name in THREE})
    _, _, result = await run_debate(agents=THREE, gates=Recorder())
    assert result["quote_usd"] is None


async def test_a_finished_debate_is_learned_from(seat, run_debate):
    """Once, with what its calls took by model and phase, and the phases that it held of those it might have."""
    seat(**{name: _priced(saying(name, best="ann", stop=True)) for name in THREE})
    gates = Recorder()
    _, session, result = await run_debate(agents=THREE, gates=gates, rounds=2)
    [learned] = gates.learned
    assert result["ended_by"] == "agreement"
    assert {(kind.model, kind.phase) for kind in learned.calls} == {
        (f"scripted:{name}", phase) for name in THREE for phase in ("propose", "review")
    }
    entry = session.kept["call/propose.0.0"]
    sums = learned.calls[CallKind("scripted:ann", "", "propose")]
    assert (sums.requests, sums.calls, sums.words) == (1, 1, 200)
    assert (sums.input_tokens, sums.output_tokens) == (entry["in"], entry["out"])
    assert sums.max_input_tokens == entry["max_in"] > entry["in"]
    assert sums.answer_bytes == len("ann\n\nBecause of ann.")
    assert learned.calls[CallKind("scripted:ann", "", "review")].points_bytes == len(
        "ann is better"
    )
    assert {kind.phase: astuple(sums) for kind, sums in learned.phases.items()} == {
        "propose": (1, 1), "r1.review": (1, 1), "r1.revise": (1, 0),
        "r2.review": (1, 0), "r2.revise": (1, 0), "vote": (1, 0),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("question", "is_long"), [("Tea?", False), ("Tea or coffee? " * 300, True)]
)
async def test_what_prompts_made_for_caches_read_is_learned_apart(
    seat, run_debate, question, is_long
):
    """It says nothing of debates with a short question."""
    seat(**{name: _priced(saying(name)) for name in THREE})
    gates = Recorder()
    await run_debate(agents=THREE, gates=gates, question=question)
    for sums in gates.learned[0].calls.values():
        assert sums.shared_input_tokens == (sums.input_tokens if is_long else 0)


async def test_repairs_are_learned(seat, run_debate):
    """A repeated call is one request more often."""
    replies = iter(["no JSON"])
    good = saying(7)
    seat(ann=saying(7), bob=lambda task: said(next(replies, None) or good(task).text))
    gates = Recorder()
    await run_debate(agents=["ann", "bob"], gates=gates, debate="never", **CLOSED)
    sums = gates.learned[0].calls[CallKind("scripted:bob", "", "propose")]
    assert (sums.requests, sums.calls) == (1, 2)


@pytest.mark.parametrize(
    ("replies", "fields"),
    [
        ({"ann": failing(PermanentError("no"), Propose), "bob": failing(PermanentError("no"), Propose)}, {}),
        ({"ann": saying("a"), "bob": saying("b")}, {"max_tokens": 2_500}),
    ],
    ids=["failed", "cut short"],
)  # fmt: skip
async def test_what_did_not_run_to_its_end_does_not_show_the_phases_of_others(
    seat, run_debate, replies, fields
):
    """A failed debate is not learned from; of one that a limit cut short, only the calls."""
    seat(**replies)
    gates = Recorder()
    outcome, _, result = await run_debate(agents=[*replies], gates=gates, **fields)
    if isinstance(outcome, Failed):
        assert gates.learned == []
    else:
        assert result["ended_by"] == "max_tokens"
        assert gates.learned[0].calls
        assert not gates.learned[0].phases


async def test_a_quote_from_history_is_right(seat, run_debate):
    """After debates with one question, it is what one with a question of another length costs."""
    replies = {name: _priced(saying(name, revised=f"{name}!")) for name in THREE}
    fields = {"agents": THREE, "rounds": 2, "debate": "always"}
    seat(**replies)
    gates = Recorder()
    await run_debate(gates=gates, **fields)
    [learned] = gates.learned
    many = CallHistory(
        {kind: CallSums(*(100 * n for n in astuple(sums))) for kind, sums in learned.calls.items()},
        {kind: PhaseSums(100, 100 * sums.begun) for kind, sums in learned.phases.items()},
    )
    for question in ("Tea or coffee?", "Tea or coffee? " * 300):
        _, _, result = await run_debate(gates=Recorder(many), question=question, **fields)
        assert result["quote_usd"] == pytest.approx(result["cost_usd"], rel=0.1)
