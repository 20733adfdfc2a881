"""What workers declare differently is named, once for each budget, provider and list of prices."""

from aragora_q.doctor.gates import differences
from aragora_q.gates.book import Declaration

FIVE, SIX = {"limit": 5}, {"limit": 6}


def _declaration(*workers, budgets=None, providers=None, prices="x"):
    return Declaration(workers, budgets or {}, providers or {}, prices)


def test_equal_declarations_do_not_differ():
    """A budget that only some workers declare is no difference: a fleet may have several queues."""
    assert list(differences([])) == []
    same = (
        _declaration("w1", budgets={"a": FIVE}),
        _declaration("w2", budgets={"a": FIVE, "b": SIX}),
    )
    assert list(differences([*same])) == []


def test_each_side_names_some_workers():
    """At most three of each side, in order, and how many more."""
    many = tuple(f"w{n}" for n in range(9))
    found = list(
        differences([
            _declaration(*many, budgets={"a": FIVE}, providers={"p": FIVE}, prices="x"),
            _declaration("z", budgets={"a": SIX}, providers={"p": {"limit": 5, "adaptive": False}}, prices="y"),
        ])
    )  # fmt: skip
    workers = "w0, w1, w2 and 6 more"
    assert found == [
        f"workers declare different budgets.a: limit 5 ({workers}); limit 6 (z)",
        f"workers declare different providers.p: adaptive False, limit 5 (z); limit 5 ({workers})",
        f"workers have different prices: digest x ({workers}); digest y (z)",
    ]
