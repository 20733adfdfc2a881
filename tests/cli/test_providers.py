"""providers: accounts and their gates as operators see them; pause and resume."""

import pytest

from aragora_q.base import Job
from aragora_q.context import Call, Settlement


@pytest.fixture
def use(on_queue):
    """Send a call of an account of `stub` that ends with an outcome; nothing is sent but to the gates."""

    async def send(harness, number, outcome, fields):
        gates = harness.queue.gates("w1")
        call = Call(f"c{number}", "writer", "stub", f"stub@{number}", "m", 1, 1, None)
        try:
            await gates.acquire(Job({}, id="j"), call)
            await gates.settle(Job({}, id="j"), call, Settlement(outcome, **fields))
        finally:
            await gates.close()

    def run(number, outcome, **fields):
        on_queue(lambda harness: send(harness, number, outcome, fields))

    return run


def test_list_shows_which_accounts_take_no_calls_and_why(run_cli, use):
    """In the order of their names, with the agents that use them."""
    use(1, "ok")
    use(2, "rate_limited", retry_after_seconds=300)
    use(3, "credit_exhausted")
    shown = run_cli("providers", "list")
    assert shown.code == 0
    assert "stub@2   closed  in 5 min   the provider's rate limit" in shown.out
    assert "stub@3   closed  on resume  the account's credit is used up" in shown.out
    rows = run_cli("providers", "list", "--json").objects
    states = [(row["account"], row["state"], row["until"] is None) for row in rows]
    assert states == [
        ("stub@1", "open", True),
        ("stub@2", "closed", False),
        ("stub@3", "closed", True),
    ]
    assert {row["provider"] for row in rows} == {"stub"}
    assert rows[0]["agents"] == ["writer"]
    assert run_cli("providers", "list", "-q").lines == ["stub@1", "stub@2", "stub@3"]


def test_list_of_nothing(run_cli):
    """Says so on stderr."""
    result = run_cli("providers", "list")
    assert (result.code, result.out) == (0, "")
    assert "no provider was called yet" in result.err


def test_pause_and_resume_a_provider(run_cli, use):
    """With who did it and why, kept until a new reason; `resume` also opens what the provider closed."""
    use(1, "rate_limited", retry_after_seconds=300)
    paused = run_cli("providers", "pause", "stub", "--reason", "the bill")
    assert (paused.code, paused.err) == (0, "stub is paused\n")
    assert "was already paused" in run_cli("providers", "pause", "stub", "--reason", "the bill").err
    [row] = run_cli("providers", "list", "--json").objects
    assert (row["state"], row["pause"]["reason"]) == ("paused", "the bill")
    assert "@" in row["pause"]["by"]
    assert "was already paused" in run_cli("providers", "pause", "stub").err
    assert "ago: the bill" in run_cli("providers", "list").out
    assert run_cli("stats", "--json").object["closed_providers"][0]["seconds"] is None
    refused = run_cli("providers", "resume", "stub@1")
    assert (refused.code, "stays paused with stub" in refused.err) == (2, True)
    [warning] = run_cli("stats", "--json").object["warnings"]
    assert "takes no calls until aragora-q providers resume stub: paused" in warning
    assert run_cli("providers", "resume", "stub").err == "stub takes calls again\n"
    [row] = run_cli("providers", "list", "--json").objects
    assert (row["state"], row["pause"], row["why"]) == ("open", None, None)
    assert "neither paused nor closed" in run_cli("providers", "resume", "stub@1").err


def test_a_provider_may_be_paused_before_its_first_call(run_cli):
    """The list shows it; a name that resembles a known one may be a mistake."""
    paused = run_cli("providers", "pause", "later")
    assert "no calls to it are known" in paused.err
    [row] = run_cli("providers", "list", "--json").objects
    assert (row["account"], row["provider"], row["state"]) == (None, "later", "paused")
    assert "later" in run_cli("providers", "list").out
    assert run_cli("providers", "resume", "later", "--json").object["changed"] is True


def test_a_pause_of_an_unknown_name_says_which_are_known(run_cli, use):
    """The provider of agents with a `base_url` is the host, not the prefix of the model."""
    use(1, "ok")
    assert "no calls to it are known: those known are stub\n" in (
        run_cli("providers", "pause", "openai-chat").err
    )


def test_an_account_of_a_paused_provider_is_known_before_its_first_call(run_cli, on_queue):
    """The first call that is refused lists it: its held jobs stay held, and `stats` names it."""

    async def ask(harness):
        gates = harness.queue.gates("w1")
        call = Call("c1", "writer", "stub", "stub@1", "m", 1, 1, None)
        try:
            await gates.acquire(Job({}, id="j"), call)
            return await gates.free_calls(["stub@1"])
        finally:
            await gates.close()

    run_cli("providers", "pause", "stub")
    assert on_queue(ask) == [0]
    [row] = run_cli("providers", "list", "--json").objects
    assert (row["account"], row["state"], row["agents"]) == ("stub@1", "paused", ["writer"])
    [warning] = run_cli("stats", "--json").object["warnings"]
    assert "provider stub@1 takes no calls" in warning
    assert run_cli("providers", "resume", "stub@1").code == 2
    assert run_cli("providers", "resume", "stub").err == "stub takes calls again\n"


def test_a_provider_whose_account_stays_paused_is_not_resumed_silently(run_cli, use):
    """What paused the account has another name: the line says which."""
    use(1, "ok")
    run_cli("providers", "pause", "stub@1")
    refused = run_cli("providers", "resume", "stub")
    assert refused.code == 2
    assert "stub@1 stays paused: aragora-q providers resume stub@1" in refused.err
    assert run_cli("providers", "resume", "stub@1").code == 0


def test_the_gate_of_the_flex_tier_is_paused_with_its_account(run_cli, use):
    """The list shows why, and `resume` of the gate says which name to resume; that opens both."""
    use(1, "ok")
    use("1/flex", "no_capacity", retry_after_seconds=300)
    assert "the provider's flex tier has no capacity" in run_cli("providers", "list").out
    assert "no calls to it are known" not in run_cli("providers", "pause", "stub@1").err
    states = {row["account"]: row for row in run_cli("providers", "list", "--json").objects}
    assert {row["state"] for row in states.values()} == {"paused"}
    assert states["stub@1/flex"]["pause"] == states["stub@1"]["pause"] is not None
    refused = run_cli("providers", "resume", "stub@1/flex")
    assert refused.code == 2
    assert "stub@1/flex stays paused with stub@1" in refused.err
    assert run_cli("providers", "resume", "stub@1").code == 0
    rows = run_cli("providers", "list", "--json").objects
    assert {row["state"] for row in rows} == {"open"}


def test_an_unknown_provider_cannot_be_resumed(run_cli, use):
    """Exit code 3, with the nearest known name."""
    use(1, "ok")
    result = run_cli("providers", "resume", "stubb")
    assert result.code == 3
    assert "'stubb'" in result.err
    assert "did you mean 'stub'?" in result.err


@pytest.mark.parametrize("name", ["", "two words", "x" * 201, "a\x07b"])
def test_a_name_that_cannot_be_is_refused(run_cli, name):
    """One line with value and rule, exit code 2."""
    result = run_cli("providers", "pause", name)
    assert result.code == 2
    assert "is not a provider or account" in result.err


def test_a_reason_has_a_length(run_cli):
    """Readers show it on one line."""
    assert run_cli("providers", "pause", "stub", "--reason", "x" * 501).code == 2
