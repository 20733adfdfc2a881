"""Nonce, labels and orders: they occur nowhere else, and favor no answer, place or label."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aragora_q.executors.debate import labels
from aragora_q.job_rules import AGENTS_RANGE

NONCES = st.text("0123456789abcdef", min_size=8, max_size=8)
COUNTS = st.integers(1, AGENTS_RANGE[1])
POINTS = 0.05
"""How far a rate may be from chance."""


@given(NONCES, st.text(), COUNTS)
def test_orders_of_all_readers_are_a_latin_square(nonce, phase, number):
    """Each reader sees each answer once, and each answer stands at each place for one reader."""
    orders = [labels.order(nonce, phase, reader, number) for reader in range(number)]
    for line in (*orders, *zip(*orders, strict=True)):
        assert sorted(line) == list(range(number))


@given(NONCES, COUNTS, st.integers(0, 100))
def test_a_reader_beyond_the_number_of_answers_has_an_order_too(nonce, number, reader):
    """Equal answers are shown once, so that there may be more readers than answers."""
    assert sorted(labels.order(nonce, "vote", reader, number)) == list(range(number))


@given(NONCES, st.text(), COUNTS, st.text())
def test_labels_are_four_capital_consonants_that_occur_nowhere(nonce, scope, number, material):
    """Their first letters differ and are none of A to E, so a shortened label is clear, too."""
    drawn = labels.labels(nonce, scope, number, material)
    assert len({label[0] for label in drawn}) == len(drawn) == number
    for label in drawn:
        assert len(label) == 4
        assert set(label) <= set("BCDFGHJKLMNPQRSTVWXZ")
        assert label[0] not in "ABCDE"
        assert label.lower() not in material.lower()


@given(NONCES, st.text(), COUNTS)
def test_labels_in_the_material_are_drawn_again(nonce, scope, number):
    """In any case, and in letters of full width."""
    first = labels.labels(nonce, scope, number, "")
    wide = str.maketrans({letter: chr(ord(letter) + 0xFEE0) for letter in labels.LETTERS})
    for material in (" ".join(first), " ".join(first).lower(), "".join(first).translate(wide)):
        assert not set(labels.labels(nonce, scope, number, material)) & set(first)


def test_labels_become_longer_if_all_short_ones_are_taken():
    """A question that holds every label of four letters that could be drawn does not stop the debate."""
    taken = " ".join(islice(labels._candidates("K", "0", "x"), labels.DRAWS_PER_LENGTH))
    drawn = labels.labels("0", "x", len(labels.FIRST_LETTERS), taken)
    assert {len(label) for label in drawn if label[0] != "K"} == {4}
    assert {len(label) for label in drawn if label[0] == "K"} == {5}


@given(NONCES, COUNTS)
def test_labels_and_orders_follow_from_nonce_and_scope(nonce, number):
    """A resumed debate has the same; another scope has others."""
    first, second = (labels.labels(nonce, "vote.0", number, "x") for _ in range(2))
    assert first == second
    most = AGENTS_RANGE[1]  # one label may be the same by chance, all of them are not
    assert labels.labels(nonce, "vote.0", most, "x") != labels.labels(nonce, "vote.1", most, "x")
    assert labels.order(nonce, "r1.review", 0, number) == labels.order(
        nonce, "r1.review", 0, number
    )


def test_labels_and_orders_are_the_same_in_every_version():
    """Debates that were begun by an earlier version go on with their labels."""
    assert labels.labels("0123abcd", "rounds", 3, "Tea?") == ["QTRC", "XMSB", "TBZH"]
    assert labels.order("0123abcd", "vote", 1, 5) == [2, 4, 3, 1, 0]


def test_a_nonce_that_the_material_contains_is_drawn_again(monkeypatch):
    """Whether it stands in the question, an option or the schema, in any case, or is split up."""
    drawn = iter(["aaaa1111", "bbbb2222", "cccc3333", "dddd4444"])
    monkeypatch.setattr(labels.secrets, "token_hex", lambda _: next(drawn))
    question, option, schema = "Is aaaa1111 one?", "BBBB-2222", '{"const": "cc\u200bcc 3333"}'
    assert labels.draw_nonce(question, option, schema) == "dddd4444"


def test_nonces_differ():
    """They are random, so that no question can contain one on purpose."""
    drawn = {labels.draw_nonce("q") for _ in range(20)}
    assert len(drawn) == 20, "two of 20 are the same once in 20 million times"


@given(NONCES, st.text(), st.text())
def test_a_text_contains_a_nonce_however_it_is_written(nonce, before, after):
    """In capitals, in letters of full width, and with other characters between its own."""
    wide = str.maketrans({each: chr(ord(each) + 0xFEE0) for each in "0123456789abcdef"})
    spellings = (nonce, nonce.upper(), nonce.translate(wide), "\u200b".join(nonce), "-".join(nonce))
    for spelling in spellings:
        assert labels.contains(f"{before} {spelling} {after}", nonce)


def _ballot(nonce, voter, seats):
    """The seats by label, in the order in which `voter` sees them."""
    names = labels.labels(nonce, f"vote.{voter}", seats, "")
    return {names[seat]: seat for seat in labels.order(nonce, "vote", voter, seats)}


def _first(ballot):
    return next(iter(ballot.values()))


def _alphabetical(ballot):
    return ballot[min(ballot)]


def _arrangements():
    """36 nonces: every order of three answers with every order of their labels, as the first voter sees it."""
    found = {}
    for number in range(2_000):
        nonce = f"{number:08x}"
        ballot = _ballot(nonce, 0, 3)
        by_label = tuple(ballot[label] for label in sorted(ballot))
        found.setdefault((*ballot.values(), *by_label), nonce)
    assert len(found) == 36
    return list(found.values())


@pytest.mark.parametrize("seats", [3, 4, 5])
def test_no_seat_sees_its_own_answer_at_one_place_more_often(seats):
    """Over many debates, for each seat; with an odd number of seats, also over the seats of one debate."""
    debates = 1_000
    places = [Counter() for _ in range(seats)]
    for number in range(debates):
        own = [labels.order(f"{number:08x}", "vote", n, seats).index(n) for n in range(seats)]
        assert seats % 2 == 0 or sorted(own) == list(range(seats))
        for seat, place in enumerate(own):
            places[seat][place] += 1
    for counted in places:
        rates = [counted[place] / debates for place in range(seats)]
        assert rates == pytest.approx([1 / seats] * seats, abs=POINTS)


@pytest.mark.parametrize("biased", [_first, _alphabetical])
def test_a_biased_voter_favors_no_answer_over_the_36_arrangements(biased):
    """A voter for the first place, or for the first label, votes for each answer equally often."""
    votes = Counter(biased(_ballot(nonce, 0, 3)) for nonce in _arrangements())
    assert votes == {0: 12, 1: 12, 2: 12}


@pytest.mark.parametrize("seats", [3, 5])
@pytest.mark.parametrize("biased", [_first, _alphabetical])
def test_biased_voters_vote_by_chance_for_answers_places_labels_and_themselves(biased, seats):
    """Over many debates all four rates are within 5 points of chance, except that of the bias itself."""
    answers, places, label_ranks, own = Counter(), Counter(), Counter(), 0
    debates = 400
    for number in range(debates):
        for voter in range(seats):
            ballot = _ballot(f"{number:08x}", voter, seats)
            choice = biased(ballot)
            answers[choice] += 1
            places[list(ballot.values()).index(choice)] += 1
            label_ranks[[ballot[label] for label in sorted(ballot)].index(choice)] += 1
            own += choice == voter
    total = debates * seats
    fair = {"answers": answers, "places": places, "labels": label_ranks}
    del fair["places" if biased is _first else "labels"]
    for name, votes in fair.items():
        rates = [votes[each] / total for each in range(seats)]
        assert rates == pytest.approx([1 / seats] * seats, abs=POINTS), name
    assert own / total == pytest.approx(1 / seats, abs=POINTS)


def test_voters_of_the_first_place_split_their_votes_in_each_debate():
    """Place bias alone never looks like a consensus: each voter has another answer first."""
    for number in range(100):
        choices = [_first(_ballot(f"{number:08x}", voter, 5)) for voter in range(5)]
        assert sorted(choices) == [0, 1, 2, 3, 4]


def test_voters_of_a_label_agree_no_more_than_by_chance():
    """With five voters of the first label, three or more agree in 29 % of debates, which is chance."""
    debates = 1_000
    agreed = sum(
        max(Counter(_alphabetical(_ballot(f"{n:08x}", voter, 5)) for voter in range(5)).values())
        > 2
        for n in range(debates)
    )
    assert agreed / debates == pytest.approx(0.29, abs=POINTS)
