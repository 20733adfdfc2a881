"""`aragora-q doctor --agents`: each configured agent is asked for one ballot."""

import pytest
from support.llm_stub import Stub, refusal

pytest.importorskip("pydantic_ai", reason="the extra `llm` is not installed")

KEY = "sk-secret-of-the-stub"


@pytest.fixture
def configure(monkeypatch, tmp_path):
    """Writes the configuration: agents by name, and other settings."""
    monkeypatch.setenv("STUB_KEY", KEY)

    def write(agents, settings=""):
        tables = [
            f"[agents.{name}]\n" + "\n".join(f'{key} = "{value}"' for key, value in entry.items())
            for name, entry in agents.items()
        ]
        (tmp_path / "aragora-q.toml").write_text("\n\n".join([settings, *tables]))

    monkeypatch.chdir(tmp_path)
    return write


@pytest.fixture
def new_stub():
    """Starts providers on loopback."""
    started = []

    def start(**options):
        started.append(Stub(**options))
        return started[-1]

    yield start
    for stub in started:
        stub.close()


def test_each_agent_says_which_model_answered_and_how(run_cli, configure, new_stub):
    """A line per agent: a provider with schemas, one that ignores them, one that refuses the key."""
    plain, deaf = new_stub(), new_stub(ignores_schemas=True)
    closed = new_stub(
        fault=lambda number, model: refusal(401, "anthropic", "authentication_error", f"bad {KEY}")
    )
    configure(
        {
            "ann": plain.agent("openai-chat", "m1"),
            "bob": deaf.agent("openai", "m2"),
            "cyd": closed.agent("anthropic", "m3"),
        },
        'default_agents = ["ann", "bob", "demo:bold"]',
    )
    ended = run_cli("doctor", "--agents", "--json")
    assert ended.code == 1
    found = {each["agent"]: each for each in ended.object["agents"]}
    assert list(found) == ["ann", "bob", "cyd", "demo:bold"]
    assert (found["ann"]["answered_by"], found["ann"]["structured"]) == ("m1", "native")
    assert (found["bob"]["structured"], found["bob"]["output_tokens"]) == ("prompted", 20)
    assert found["ann"]["streamed"]
    assert (found["ann"]["cost_usd"], found["demo:bold"]["cost_usd"]) == (None, 0)
    assert "401" in found["cyd"]["error"]
    assert KEY not in ended.out
    printed = run_cli("doctor", "--agents").out
    assert "agent ann: m1 answered in" in printed
    assert "price unknown" in printed
    assert "error   agent cyd: anthropic:m3: " in printed
    assert all(line.strip() for line in printed.splitlines())
    assert run_cli("doctor", "--json").object["agents"] is None


def test_fallbacks_are_asked_too(run_cli, configure, new_stub):
    """Also one that is not in the table; each line names the fallbacks of its agent."""
    configure({"ann": new_stub().agent("openai-chat", "m1", fallback="demo:bold")})
    ended = run_cli("doctor", "--agents", "--json")
    found = {each["agent"]: each["fallback"] for each in ended.object["agents"]}
    assert found == {"ann": ["demo:bold"], "demo:bold": []}
    assert "price unknown; fallback: demo:bold" in run_cli("doctor", "--agents").out


def test_without_agents_there_is_nothing_to_ask(run_cli, configure):
    """`--agents` then says so, and how to name some; a name without a key is named once."""
    configure({})
    ended = run_cli("doctor", "--agents")
    assert ended.code == 1
    assert "warning agents: none is configured" in ended.out
    assert "default_agents" in ended.out
    configure({}, 'default_agents = ["claude", "demo"]')
    assert "agent claude: anthropic:" in " ".join(run_cli("doctor", "--agents").out.split())


def test_agents_of_one_model_are_a_warning(run_cli, configure, new_stub):
    """Seats of one model agree with each other, also where it is wrong."""
    stub = new_stub()
    configure({"ann": stub.agent("openai"), "bob": stub.agent("openai")})
    [finding] = [
        each
        for each in run_cli("doctor", "--json").object["findings"]
        if "one model" in each["detail"]
    ]
    assert (finding["severity"], finding["check"]) == ("warning", "agents")
    configure({"ann": stub.agent("openai"), "bob": stub.agent("openai", "n")})
    assert "one model" not in run_cli("doctor").out
    configure({}, 'default_agents = ["claude", "claude"]')
    assert "default_agents are one model" in run_cli("doctor").out
    configure({}, 'default_agents = ["demo"]')
    assert "default_agents is one agent, demo: it does not debate" in run_cli("doctor").out
