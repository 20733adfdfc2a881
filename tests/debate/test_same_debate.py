"""A debate that is killed anywhere and resumed is the same debate; and its result can be counted again.

The agents' replies follow from a hash of what they are asked, so that debates of all shapes occur: verdicts
move, ballots are unusable, seats drop out.
"""

import json
import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from support.memory_session import MemorySession, result_of
from support.scripted_agents import ScriptedAgent, said

from aragora_q.contracts import Completed, Failed, Retry
from aragora_q.errors import AgentUnavailable, LeaseLost, PermanentError, RetryLater
from aragora_q.executors.debate import agents, labels, quote
from aragora_q.executors.debate.consensus import stable_hash
from aragora_q.executors.debate.requests import (
    PLAIN,
    Discuss,
    Propose,
    Review,
    Revise,
    Synthesize,
)
from aragora_q.job import DebateJobPayload

NAMES = ["ann", "bob", "cyd", "dan", "eve", "fay"]
MODES = ("majority", "supermajority", "unanimous", "weighted", "judge", "synthesis", "any", "none")


def by_hash(name, *, faults=True):
    """Replies that follow from the request alone: the same request gets the same reply."""

    def reply(task):
        chance = random.Random(stable_hash(name, repr(task)))
        fault = chance.random() if faults else 1.0
        if fault < 0.02:
            raise PermanentError("no such model")
        if fault < 0.06:
            return said("What?")
        answers = list(getattr(task, "answers", ()))
        value = {
            "answer": chance.choice((1, 2, 3))
            if task.topic.form.is_closed
            else f"{chance.randint(1, 4)}!",
            "reasons": "because",
            "changed": True,
            "text": "all of it",
            "points": "so-so",
            "reason": "why not",
            "stop": chance.random() < 0.7,
            "confidence": chance.randint(0, 100),
        }
        if answers:
            value["best"] = value["choice"] = answers[int(chance.random() ** 2 * len(answers))]
            value["same_as"] = [chance.sample(answers, min(2, len(answers)))]
        if isinstance(task, Propose | Revise | Discuss | Review | Synthesize) or answers:
            return said(value)
        raise AssertionError(task)

    return reply


def shape(seed):
    """The fields of one debate, drawn by seed."""
    chance = random.Random(seed)
    seats = NAMES[: chance.randint(2, 5)]
    mode = MODES[seed % len(MODES)]
    fields = {
        "agents": seats,
        "rounds": chance.randint(0, 3),
        "consensus": mode,
        "debate": chance.choice(("auto", "auto", "always")),
        "answer_form": "text" if mode == "synthesis" else chance.choice(("text", "number")),
    }
    if mode in ("judge", "synthesis"):
        fields["judge"] = "judge"
    if mode == "weighted":
        fields["weights"] = {name: chance.choice((0.1, 0.2, 0.3, 1e-300, 1e300)) for name in seats}
    if fields["rounds"] and chance.random() < 0.4 and len(seats) < 5:
        fields["escalate"] = ["fay"]
    if chance.random() < 0.3:
        payload = DebateJobPayload("Tea or coffee?", **fields)
        least = quote.floor(payload, [quote.Terms()] * len(payload.all_agents)).amount.tokens
        fields["max_tokens"] = int(least * chance.choice((1, 1.5, 3)))
    return fields


@pytest.fixture
def debate_of(seat_scripted_agents, run_debate, monkeypatch):
    """Runs the debate of a seed on a session; returns outcome, result and what was asked."""
    monkeypatch.setattr(labels, "draw_nonce", lambda *material: "c0ffee11")

    async def run(seed, session=None, *, faults=True):
        agents = seat_scripted_agents(
            **{name: by_hash(f"{seed}{name}", faults=faults) for name in (*NAMES, "judge")}
        )
        outcome, session, _ = await run_debate(session=session, **shape(seed))
        asked = [(name, repr(task)) for name, agent in agents.items() for task in agent.asked]
        has_result = isinstance(outcome, Completed | Failed) and outcome.result
        return outcome, result_of(outcome) if has_result else None, asked

    return run


def same(result):
    """The parts of a result that depend neither on time nor on how often a fault was met."""
    copy = json.loads(json.dumps(result))
    for part in (copy, *copy["seats"]):
        part.pop("unpriced_calls")
    for row in copy["seats"]:
        del row["calls"], row["seconds"], row["median_seconds"]
    copy["token_usage"] = {
        name: count for name, count in copy["token_usage"].items() if not name.endswith("requests")
    }
    copy.pop("duration_seconds")
    copy["record"].pop("started_at")
    return copy


class Killed(MemorySession):
    """Keeps checkpoints until the process is killed: the n-th one is not stored."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    async def checkpoint(self, job, name, value):
        if self.after <= 0:
            raise LeaseLost("killed")
        self.after -= 1
        await super().checkpoint(job, name, value)


@pytest.mark.parametrize("seed", range(16))
async def test_a_debate_killed_anywhere_and_resumed_is_the_same(debate_of, seed):
    """After a kill before any checkpoint: the same prompts, the same result, and no stored call asked again."""
    outcome, result, asked = await debate_of(seed)
    whole = MemorySession()
    await debate_of(seed, whole)
    for killed_at in range(2, len(whole.kept)):
        session = Killed(killed_at)
        first_outcome, _, first = await debate_of(seed, session)
        assert first_outcome is None
        stored = sum(name.startswith("call/") for name in session.kept)
        session.after = 1_000_000
        second_outcome, second_result, second = await debate_of(seed, session)
        assert type(second_outcome) is type(outcome)
        if result is None:
            assert second_outcome.error == outcome.error
        else:
            assert same(second_result) == same(result)
        assert set(first) | set(second) == set(asked)
        faults = len(asked) - sum(name.startswith("call/") for name in whole.kept)
        assert len(second) <= len(asked) - stored + faults


class Faulty(ScriptedAgent):
    """As `by_hash`, with every kind of fault: overloads, agents that are down, refusals, cut replies, prose
    until asked in words. `paid` lists the calls that were answered.
    """

    def __init__(self, name, seed, paid, overloads):
        super().__init__(name, by_hash(f"{seed}{name}"))
        self._speaks_prose = random.Random(f"{seed}{name}").random() < 0.2
        self._paid = paid
        self._overloads = overloads

    async def reply(self, request, manner=PLAIN, max_output_tokens=None):
        call = self.name, repr(request), repr(manner)
        chance = random.Random(stable_hash(*call))
        fault = chance.random()
        if fault < 0.05 and self._overloads[call] < 2:
            self._overloads[call] += 1
            raise RetryLater("busy", delay_seconds=chance.choice((0, 7)))
        if 0.05 < fault < 0.06:
            raise AgentUnavailable("down")
        reply = await super().reply(request, manner)
        self._paid.append(call)
        if 0.06 < fault < 0.07:
            return replace(reply, refused=PermanentError("refused"))
        if 0.07 < fault < 0.12:
            return replace(reply, text=reply.text[: chance.randint(1, 60)], is_cut=True)
        if self._speaks_prose and not (manner.prompted or manner.repair):
            return replace(reply, text="I would say 2. Because.")
        return reply


@pytest.fixture
def end_of(run_debate, monkeypatch):
    """Runs attempts of a debate with faults until it ends. `kills`: checkpoints until each kill.

    Returns outcome, result if there is one, the calls that were paid, and the session.
    """
    monkeypatch.setattr(labels, "draw_nonce", lambda *material: "c0ffee11")

    async def run(seed, kills=()):
        paid, overloads, kills = [], Counter(), [*kills, 1_000_000]
        made = {name: Faulty(name, seed, paid, overloads) for name in (*NAMES, "judge")}

        async def agent(self, name, seat, service_tier=None):
            return made[name]

        monkeypatch.setattr(agents.AgentRegistry, "agent", agent)
        monkeypatch.setattr(agents.AgentRegistry, "resolve", lambda self, names: None)
        monkeypatch.setattr(quote, "terms_of", lambda names, *_: [quote.Terms()] * len(names))
        session, attempts = Killed(kills.pop(0)), 1
        for _ in range(100):
            outcome, _, _ = await run_debate(session=session, attempts=attempts, **shape(seed))
            if outcome is None:
                session.after = kills.pop(0)
            elif isinstance(outcome, Retry) and not (outcome.charged and attempts == 3):
                attempts += outcome.charged
            else:
                has_result = isinstance(outcome, Completed | Failed) and outcome.result
                return outcome, result_of(outcome) if has_result else None, paid, session
        raise AssertionError("the debate does not end")

    return run


@pytest.mark.parametrize("seed", range(24, 40))
async def test_a_debate_with_every_kind_of_fault_is_the_same_after_kills(end_of, seed):
    """Retries, drops, repairs, switches of form and budgets happen again as they did; no stored call is paid
    twice; and what was paid is in the result.
    """
    outcome, result, paid, whole = await end_of(seed)
    assert len(paid) == len(set(paid)) == sum(name.startswith("call/") for name in whole.kept)
    chance = random.Random(seed)
    for _ in range(8):
        kills = [chance.randint(1, len(whole.kept)), *(chance.randint(1, 6) for _ in range(3))]
        again, result_again, paid_again, session = await end_of(seed, kills)
        assert type(again) is type(outcome)
        assert set(paid_again) == set(paid)
        assert {name for name in session.kept if name.startswith("call/")} == {
            name for name in whole.kept if name.startswith("call/")
        }
        if result is None:
            assert again.error == outcome.error
        else:
            assert same(result_again) == same(result)
            faults = sum(name.startswith("fault/") for name in session.kept)
            assert sum(row["calls"] for row in result_again["seats"]) == len(paid) + faults


def recount(result):
    """Consensus, verdict and confidence, from the JSON alone, by the rules of the documentation."""
    mode, votes, groups = (
        result["record"]["settings"]["consensus"],
        result["votes"],
        result["groups"],
    )
    total = sum(Fraction(str(vote["weight"])) for vote in votes)
    weights, certainty = Counter(), Counter()
    for vote in votes:
        if vote["group"] is not None:
            weights[vote["group"]] += Fraction(str(vote["weight"]))
            certainty[vote["group"]] += vote["confidence"] or 0
    if mode == "none" or result["decided_by"] is None:
        return False, None, 0.0
    ranked = sorted(range(len(groups)), key=lambda n: (-weights[n], -certainty[n], n))
    if result["decided_by"] == "judge":
        [winner] = [n for n, group in enumerate(groups) if group["verdict"] == result["verdict"]]
    else:
        winner = ranked[0]
    share = weights[winner] / total
    is_tied = sum(weights[n] == weights[winner] for n in range(len(groups))) > 1
    enough = {
        "unanimous": share == 1,
        "supermajority": share >= Fraction(2, 3),
        "any": share > 0,
    }.get(mode, share > Fraction(1, 2))
    reached = enough and (mode == "any" or not is_tied)
    return reached, groups[winner]["verdict"], float(share)


async def test_anyone_can_count_a_result_again(debate_of):
    """Consensus, verdict, confidence, shares, abstentions and sums follow from votes, groups and seats."""
    seen: Counter = Counter()
    for seed in range(240):
        outcome, result, _ = await debate_of(seed)
        if result is None:
            seen["without votes"] += 1
            continue
        reached, verdict, confidence = recount(result)
        assert (result["consensus_reached"], result["verdict"]) == (reached, verdict), seed
        assert result["confidence"] == pytest.approx(confidence, abs=1e-4)
        if isinstance(outcome, Failed):
            assert verdict is None
        total = sum(vote["weight"] for vote in result["votes"])
        for number, group in enumerate(result["groups"]):
            share = sum(v["weight"] for v in result["votes"] if v["group"] == number)
            assert group["share"] == pytest.approx(share / total if total else 0)
        seats = result["seats"]
        usage = result["token_usage"]
        assert sum(row["calls"] for row in seats) == usage["requests"]
        assert sum(row["input_tokens"] for row in seats) == usage["input_tokens"]
        assert sum(row["output_tokens"] for row in seats) == usage["output_tokens"]
        dropped = {row["seat"] for row in seats if row["dropped"]}
        silent = {vote["seat"] for vote in result["votes"] if vote["group"] is None}
        has_voted = result["ended_by"] is not None
        assert result["abstentions"] == (len(silent - dropped) if has_voted else 0)
        assert {each["seat"] for each in result["first_votes"]} >= {
            each["seat"] for each in result["changed"]
        }
        seen[shape(seed)["consensus"], reached] += 1
        seen[result["ended_by"]] += 1
        seen["dropped"] += bool(dropped)
        seen["merged"] += any(len(group["seats"]) > 1 for group in result["groups"])
    kinds = {(mode, reached) for mode in MODES for reached in (True, False)}
    assert kinds - set(seen) <= {("none", True), ("any", False)}
    assert all(seen[name] for name in ("rounds", "agreement", "unchanged", "dropped", "merged"))
