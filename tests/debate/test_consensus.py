"""What ballots decide: every mode, abstentions, ties, judges, weights."""

import pytest

from aragora_q.executors.debate.consensus import Ballot, decide


def ballots(*choices):
    """One ballot per seat; None abstains."""
    return [Ballot(choice, confidence=50) for choice in choices]


@pytest.mark.parametrize(
    ("mode", "choices", "reached", "winner", "confidence"),
    [
        ("majority", (0, 0, 1), True, 0, 2 / 3),
        ("majority", (0, 0, 1, 1), False, None, 1 / 2),  # a tie has a winner but no consensus
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
        ("any", (None, 2, None), True, 2, 1 / 3),
        ("any", (None, None), False, None, 0),
        ("none", (0, 0, 0), False, None, 0),
    ],
)
def test_a_mode_reaches_consensus_only_where_the_votes_show_it(
    mode, choices, reached, winner, confidence
):
    """Each mode's threshold on the share of all seats still in, abstentions included."""
    decision = decide(mode, ballots(*choices), salt="job")
    assert decision.consensus_reached is reached
    if winner is not None:
        assert decision.winner == winner
    assert decision.confidence == pytest.approx(confidence)


def test_a_tie_goes_to_the_surer_voters_and_is_no_consensus():
    """Two to two: the answer with the higher confidence is named, without consensus."""
    votes = [Ballot(0, 60), Ballot(0, 60), Ballot(1, 90), Ballot(1, 70)]
    for mode in ("majority", "any"):
        decision = decide(mode, votes, salt="job")
        assert (decision.winner, decision.consensus_reached) == (1, False)


def test_a_full_tie_is_broken_the_same_way_every_time_but_not_always_by_number():
    """Equal votes and confidence: the job's id decides, so that a resumed debate decides alike."""
    winners = [decide("majority", ballots(0, 1), salt=f"job-{n}").winner for n in range(20)]
    assert winners == [decide("majority", ballots(0, 1), salt=f"job-{n}").winner for n in range(20)]
    assert set(winners) == {0, 1}


def test_weights_count_in_weighted_mode_only():
    """One seat of weight 3 outvotes two of weight 1, where weights were asked for."""
    votes = [Ballot(0, 50, weight=3), Ballot(1, 50), Ballot(1, 50)]
    weighted = decide("weighted", votes, salt="job")
    assert (weighted.winner, weighted.consensus_reached) == (0, True)
    assert weighted.confidence == pytest.approx(3 / 5)
    assert decide("majority", votes, salt="job").winner == 1


def test_a_judge_decides_only_if_the_order_of_answers_does_not():
    """The same choice in both orders is a ruling; its confidence is the seats' share of votes."""
    votes = ballots(0, 0, 1)
    ruled = decide("judge", votes, salt="job", judged=[1, 1])
    assert (ruled.winner, ruled.consensus_reached) == (1, True)
    assert ruled.confidence == pytest.approx(1 / 3)
    for judged in ([0, 1], [None, None], [1, None], []):
        by_seats = decide("judge", votes, salt="job", judged=judged)
        assert (by_seats.winner, by_seats.confidence) == (0, pytest.approx(2 / 3))
