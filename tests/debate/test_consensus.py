"""What ballots decide: every mode, abstentions, ties, judges, weights; and which answers are one."""

import itertools

import pytest

from aragora_q.executors.debate.consensus import Ballot, decide, group


def ballots(*choices):
    """One ballot per seat; None abstains."""
    return [Ballot(choice, confidence=50) for choice in choices]


@pytest.mark.parametrize(
    ("mode", "choices", "reached", "winner", "confidence"),
    [
        ("majority", (0, 0, 1), True, 0, 2 / 3),
        ("majority", (0, 0, 1, 1), False, 0, 1 / 2),  # a tie has a winner but no consensus
        ("majority", (0, 0, 1, 2), False, 0, 1 / 2),  # half is not a majority
        ("majority", (0, 0, None), True, 0, 2 / 3),
        ("majority", (0, None, None), False, 0, 1 / 3),  # abstentions count as seats
        ("majority", (None, None), False, None, 0),
        ("supermajority", (0, 0, 1), True, 0, 2 / 3),  # two thirds suffice
        ("supermajority", (0, 0, 0, 1, 1), False, 0, 3 / 5),
        ("unanimous", (1, 1, 1), True, 1, 1),
        ("unanimous", (1, 1, None), False, 1, 2 / 3),
        ("unanimous", (1, 1, 0), False, 1, 2 / 3),
        ("any", (0, 0, 1, 2), True, 0, 1 / 2),
        ("any", (0, 1), True, 0, 1 / 2),  # one vote suffices, also in a tie
        ("any", (None, 2, None), True, 2, 1 / 3),
        ("any", (None, None), False, None, 0),
        ("none", (0, 0, 0), False, None, 0),
        ("synthesis", (0, 0, 1), True, 0, 2 / 3),
    ],
)
def test_a_mode_reaches_consensus_only_where_the_votes_show_it(
    mode, choices, reached, winner, confidence
):
    """Each mode's threshold on the share of all seats, abstentions included."""
    decision = decide(mode, ballots(*choices))
    assert (decision.consensus_reached, decision.winner) == (reached, winner)
    assert decision.confidence == pytest.approx(confidence)


def test_a_tie_goes_to_the_surer_voters_then_to_the_first_group():
    """Two to two: the higher sum of confidence wins, without consensus; equal sums: the lower number."""
    decision = decide("majority", [Ballot(0, 60), Ballot(0, 60), Ballot(1, 90), Ballot(1, 70)])
    assert (decision.winner, decision.consensus_reached) == (1, False)
    assert decide("majority", ballots(1, 0)).winner == 0


def test_weights_count():
    """One seat of weight 3 outvotes two of weight 1."""
    decision = decide("weighted", [Ballot(0, 50, weight=3), Ballot(1, 50), Ballot(1, 50)])
    assert (decision.winner, decision.consensus_reached) == (0, True)
    assert decision.confidence == pytest.approx(3 / 5)


def test_a_judge_picks_the_answer_but_only_votes_make_a_consensus():
    """The judge's choice wins; consensus and confidence are those of the votes for it."""
    ruled = decide("judge", ballots(0, 0, 1), judged=1)
    assert (ruled.winner, ruled.consensus_reached) == (1, False)
    assert ruled.confidence == pytest.approx(1 / 3)
    assert decide("judge", ballots(0, 0, 1), judged=0).consensus_reached
    assert decide("judge", ballots(0, 0, 1)).winner == 0  # no ruling: the votes decide


def same(*groups):
    """What a voter says: lists of answers that mean the same."""
    return [list(group) for group in groups]


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([same("abc"), same("abc"), same("ab")], [{"a", "b", "c"}]),
        ([same("ab"), same(), same()], [{"a"}, {"b"}, {"c"}]),  # one of three is not more than half
        ([same("ab"), same("ab"), same("c")], [{"a", "b"}, {"c"}]),
        ([same("ab"), same("bc")], [{"a"}, {"b"}, {"c"}]),  # each pair has half
        ([same("ab", "bc")] * 3, None),  # a chain: a and c were never called the same
        ([], [{"a"}, {"b"}, {"c"}]),
    ],
)
def test_answers_are_one_where_most_voters_say_so_of_every_pair(claims, expected):
    """More than half for each pair of a group; a chain of pairs is not a group."""
    numbers = {"a": 0, "b": 1, "c": 2}
    found = group(
        [0, 1, 2], [[[numbers[n] for n in each] for each in claim] for claim in claims], "s"
    )
    if expected is None:
        assert sorted(map(len, found)) == [1, 2]
    else:
        wanted = [{numbers[n] for n in each} for each in expected]
        assert sorted(map(set, found), key=sorted) == sorted(wanted, key=sorted)


def test_groups_do_not_depend_on_the_order_of_answers_and_voters():
    """The same claims give the same groups, in the same order, however they are listed."""
    claims = [same([0, 1], [2, 3]), same([0, 1, 2]), same([1, 2], [0, 3]), same([0, 1], [1, 2])]
    expected = group([0, 1, 2, 3], claims, "salt")
    for order in itertools.permutations(range(4)):
        assert group(list(order), [claims[n] for n in order], "salt") == expected
    assert sorted(itertools.chain(*expected)) == [0, 1, 2, 3]


def test_the_order_of_groups_is_not_that_of_seats():
    """Ties go to another seat's answer in another debate."""
    firsts = {group([0, 1], [], f"nonce-{n}")[0][0] for n in range(20)}
    assert firsts == {0, 1}


@pytest.mark.parametrize(
    ("mode", "weights", "expected"),
    [
        ("weighted", [(0, 1e300), (1, 1e300), (0, 1e-300)], (True, 0)),
        ("weighted", [(0, 1.7e308), (0, 1.7e308), (1, 1)], (True, 0)),
        ("weighted", [(0, 0.1), (0, 0.2), (1, 0.3)], (False, 0)),
        ("weighted", [(0, 1), (1, 1 + 1e-15)], (True, 1)),
        ("any", [(0, 1e-300), (None, 1)], (True, 0)),
    ],
)
def test_weights_of_any_size_are_counted_exactly(mode, weights, expected):
    """Sums are those of the weights as they are written: none is rounded away, none overflows."""
    decision = decide(mode, [Ballot(group, 50, weight) for group, weight in weights])
    assert (decision.consensus_reached, decision.winner) == expected
    assert 0 <= decision.confidence <= 1
