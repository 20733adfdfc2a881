"""What a debate needs at least, and what it can take at most."""

import pytest

from aragora_q.config.settings import QueueConfig
from aragora_q.errors import InvalidPayload
from aragora_q.executors.debate import quote
from aragora_q.executors.debate.llm import ModelAgent
from aragora_q.executors.debate.prices import Price
from aragora_q.executors.debate.requests import (
    PLAIN,
    Answer,
    Discuss,
    Manner,
    Propose,
    Review,
    Revise,
    Topic,
    Vote,
)
from aragora_q.job import DebateJobPayload

TWO = ["ann", "bob"]
SETTINGS = {
    "agents": {"ann": "openai:m1", "bob": {"model": "m2", "base_url": "http://127.0.0.1:9/v1"}},
    "prices": {
        "openai:m1": {"input_usd_per_million": 3, "output_usd_per_million": 15},
        "bob": {"input_usd_per_million": 1, "output_usd_per_million": 5},
    },
}


PRICE = Price(3.0, 15.0, 3.0, "test")


def terms(count, price=PRICE, **fields):
    return [quote.Terms(price=price, **fields)] * count


def debate_of(agents=TWO, **fields):
    return DebateJobPayload("Tea or coffee?", agents, **fields)


@pytest.mark.parametrize(
    ("fields", "phases"),
    [
        ({}, ["propose"] * 2 + ["vote"] * 2),
        ({"answer_form": "number"}, ["propose"] * 2),  # verdicts are votes
        ({"consensus": "none"}, ["propose"] * 2),
        ({"consensus": "judge", "judge": "c"}, ["propose"] * 2 + ["vote"] * 2 + ["judge"] * 2),
        ({"consensus": "synthesis", "judge": "c"}, ["propose"] * 2 + ["vote"] * 2 + ["synthesize"]),
        ({"escalate": ["c"]}, ["propose"] * 2 + ["vote"] * 2),
        ({"agents": ["a"]}, ["propose"]),  # one answer: no vote
        ({"agents": ["a"], "consensus": "judge", "judge": "c"}, ["propose"]),
        ({"agents": ["a"], "consensus": "synthesis", "judge": "c"}, ["propose"]),
    ],
)
def test_the_floor_is_the_proposals_and_the_vote(fields, phases):
    """By phase and seat; a judge is the last seat. Every call has a little output at least."""
    payload = debate_of(**fields)
    least = quote.floor(payload, terms(3))
    assert [line.phase for line in least.lines] == phases
    assert {line.seat for line in least.lines if line.phase in ("judge", "synthesize")} <= {2}
    assert least.calls == len(phases)
    assert least.amount.tokens > least.calls * quote.MIN_OUTPUT_TOKENS
    assert least.usd > least.calls * quote.MIN_OUTPUT_TOKENS * 15e-6


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ({}, {"rounds": 4}),
        ({}, {"escalate": ["c"]}),
        ({}, {"agents": ["ann", "bob", "ann"]}),
        ({}, {"max_answer_words": 400}),
        ({}, {"consensus": "judge", "judge": "c"}),
        ({"debate": "never"}, {"debate": "always"}),
        ({"answer_form": "number"}, {}),
    ],
)
def test_the_highest_quote_grows_with_what_a_debate_may_do(fields, more):
    """Rounds, seats, longer answers, a judge; text form takes more than a closed one."""
    lower = quote.highest(debate_of(**fields), terms(3))
    higher = quote.highest(debate_of(**more), terms(3))
    assert lower.amount.tokens < higher.amount.tokens
    assert lower.usd < higher.usd


def test_the_highest_quote_counts_every_repeated_call():
    """One with a larger output limit, and one repair: three per request."""
    most = quote.highest(debate_of(debate="never"), terms(2))
    assert most.calls == 3 * quote.floor(debate_of(), terms(2)).calls
    outputs = most.calls // 3 * (8_000 + 2 * 32_000)
    assert outputs < most.amount.tokens < outputs * 2


def test_what_is_unknown_stays_unknown():
    """One agent without a price: no quote in US dollars, but one in tokens."""
    mixed = [*terms(1), *terms(1, price=None)]
    for made in (quote.floor(debate_of(), mixed), quote.highest(debate_of(), mixed)):
        assert made.usd is None
        assert made.amount.tokens > 0


def check_budget(payload, agents):
    quote.check_budget(payload, agents, quote.floor(payload, agents))


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"max_tokens": 100}, "max_tokens is 100, but this debate needs at least", "raise it"),
        ({"max_cost_usd": 1e-5}, "max_cost_usd is 1e-05, but this debate needs at least 0.0", "raise it"),
    ],
)  # fmt: skip
def test_a_limit_below_the_floor_is_refused(fields, message, hint):
    """With the value, the least that is enough, and what to do; exactly the least is enough."""
    with pytest.raises(InvalidPayload) as caught:
        check_budget(debate_of(**fields), terms(2))
    assert message in str(caught.value)
    assert hint in caught.value.hint
    least = quote.floor(debate_of(), terms(2))
    enough = {"max_tokens": least.amount.tokens, "max_cost_usd": least.usd}
    check_budget(debate_of(**enough), terms(2))
    for name, value in enough.items():
        with pytest.raises(InvalidPayload):
            check_budget(
                debate_of(**{name: value - (1 if name == "max_tokens" else 1e-6)}), terms(2)
            )


def test_a_limit_of_cost_needs_all_prices():
    """It could not be kept otherwise."""
    with pytest.raises(InvalidPayload, match="the price of agent bob is not known") as caught:
        check_budget(debate_of(max_cost_usd=9), [*terms(1), *terms(1, price=None)])
    assert "[prices]" in caught.value.hint
    check_budget(debate_of(max_tokens=99_000), terms(2, price=None))


def requests():
    """Requests of each kind, with texts of other alphabets."""
    for form, verdict in (("text", "Tee und 茶 🍵"), ("number", 12)):
        topic = Topic.of(
            DebateJobPayload("Was ist besser? 茶还是咖啡", TWO, answer_form=form), "c0ffee11"
        )
        answers = {"FXXX": Answer(verdict, "weil … " * 90), "GXXX": Answer(verdict, "因为" * 200)}
        yield Propose(topic)
        yield Review(topic, answers)
        yield Revise(topic, answers, "FXXX", ("zu kurz",))
        yield Discuss(topic, answers, "FXXX", ("zu kurz",))
        yield Vote(topic, answers)


def test_no_call_takes_more_input_than_its_quote(monkeypatch):
    """What an agent reserves for a call is at most what was quoted for it, in every manner of asking."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test-of-the-quote")
    config = QueueConfig(**SETTINGS)
    made = quote.terms_of(TWO, config)
    for name, each in zip(TWO, made, strict=True):
        agent = ModelAgent(name, config.agents[name], "sk-test-of-the-quote", config)
        assert (agent.max_output_tokens, agent.larger_output_tokens) == each[2:4]
        assert agent.price == each.price
        for request in requests():
            for manner in (
                PLAIN,
                Manner(prompted=True),
                Manner(repair="no JSON"),
                Manner(larger=True),
            ):
                most = each.input_tokens(request, manner.repair)
                assert agent.max_input_tokens(request, manner) <= most


def test_demo_agents_cost_nothing_and_count_words():
    """Their quotes are in tokens, too, so that a limit can be tried with them."""
    made = quote.terms_of(["demo", "demo:bold"], QueueConfig())
    assert quote.highest(debate_of(["demo", "demo:bold"]), made).usd == 0


async def test_a_debate_of_demo_agents_keeps_to_its_floor(run_debate):
    """The worker checks the limit, too: another program may have enqueued the job."""
    least = quote.floor(debate_of(["demo", "demo"]), quote.terms_of(["demo"] * 2, QueueConfig()))
    tokens = least.amount.tokens
    outcome, _, result = await run_debate(agents=["demo", "demo"], max_tokens=tokens)
    assert result["final_answer"]
    outcome, session, _ = await run_debate(agents=["demo", "demo"], max_tokens=tokens - 1)
    assert outcome.error == (
        f"InvalidPayload: max_tokens is {tokens - 1}, but this debate needs at least {tokens} tokens"
    )
    assert not any(name.startswith("call/") for name in session.kept)


def test_a_shortened_answer_says_so():
    """It fits, at the boundary of a character; a verdict of a closed form is whole."""
    text = Topic.of(debate_of(), "c0ffee11")
    number = Topic.of(debate_of(answer_form="number"), "c0ffee11")
    answer = Answer("茶" * 100, "because " * 100)
    for size in (120, 250, 500, 1_000):
        short = quote.shortened(answer, text, size).text(text.form)
        assert len(short.encode()) <= size
        assert short.endswith("…") or size == 1_000
    assert quote.shortened(Answer(12, "é" * 500), number, 120).verdict == 12
