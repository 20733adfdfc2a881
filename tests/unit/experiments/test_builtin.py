"""The questions that ship with the package: each expected answer is computed here from the question's facts."""

import calendar
import json
import math
import re
import string
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from importlib.resources import files
from itertools import combinations, permutations, product

from aragora_q.answer_form import AnswerForm
from aragora_q.job import DebateJobPayload

LINES = files("aragora_q.experiments").joinpath("builtin.jsonl").read_text("utf-8").splitlines()
QUESTIONS = [json.loads(line) for line in LINES]

FORMS = {bool: "boolean", int: "number"}


def weekday(day):
    return calendar.day_name[day.weekday()]


def powers():
    return {
        f"{base} to the power of {n}": base**n for base, n in ((2, 50), (3, 31), (5, 21), (7, 18))
    }


def only(found):
    """The one thing that was found: a puzzle with two solutions is not a question."""
    [one] = set(found)
    return one


def dice():
    """How many of all throws of two dice each event has."""
    sums = [a + b for a, b in product(range(1, 7), repeat=2)]
    events = {
        "the sum is 7": lambda each: each == 7,
        "the sum is 4 or less": lambda each: each <= 4,
        "the sum is 9 or more": lambda each: each >= 9,
        "the sum is 4, 8 or 12": lambda each: each in (4, 8, 12),
    }
    return {name: sum(map(holds, sums)) for name, holds in events.items()}


def zeros_at_the_end(number):
    digits = str(number)
    return len(digits) - len(digits.rstrip("0"))


def who_speaks_the_truth():
    """All worlds in which each one's statement is as true as its speaker."""
    for ada, bo, cy in product((True, False), repeat=3):
        if ada == (ada == bo) and bo == (not cy) and cy == ada:
            truthful = [n for n, speaks in (("Ada", ada), ("Bo", bo), ("Cy", cy)) if speaks]
            yield f"only {truthful[0]}" if len(truthful) == 1 else " and ".join(truthful)


def where_the_coin_is():
    for box in ("red", "green", "blue", "yellow"):
        blue = box == "yellow"
        if sum([box in ("green", "blue"), box != "green", blue, not blue]) == 3:
            yield box


def second_in_the_race():
    for order in permutations(["Ada", "Bo", "Cy", "Di"]):
        place = order.index
        if place("Di") < place("Ada") < place("Bo") and place("Cy") == place("Bo") + 1:
            yield order[1]


def rows_of_five():
    for row in permutations(["Ann", "Bo", "Cy", "Di", "Ed"]):
        place = row.index
        if abs(place("Ann") - place("Bo")) > 1 and place("Cy") < place("Di"):
            yield row


def follows_from(worlds, conclusion):
    """Whether a conclusion holds in every world in which the premises do; there is such a world."""
    found = [conclusion(*world) for world in worlds]
    assert found
    return all(found)


def worlds_of_drums():
    """Sets of things that are drums, instruments, wooden; each thing is or is not each."""
    kinds = list(product((True, False), repeat=3))
    for size in range(1, 4):
        for things in combinations(kinds, size):
            drums_are_instruments = all(i for d, i, _ in things if d)
            if drums_are_instruments and any(i and w for _, i, w in things):
                yield (things,)


def worlds_of_the_match():
    for rain, wet, covered, played in product((True, False), repeat=4):
        if (not rain or wet or covered) and (not covered or played) and not wet and not played:
            yield (rain,)


def heights():
    for ann, ben, cem in permutations(range(3)):
        if ann > ben > cem:
            yield ann, cem


def colors():
    for is_red, is_blue in product((True, False), repeat=2):
        if is_red != is_blue and not is_red:
            yield (is_blue,)


def doubled(number, times):
    for _ in range(times):
        number = 2 * number - 1
    return number


def shifted(text, places):
    letters = string.ascii_lowercase
    return "".join(letters[(letters.index(each) + places) % 26] for each in text)


def is_prime(number):
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


ANSWERS = {
    "7 plus 5": 7 + 5,
    "9 times 8": 9 * 8,
    "100 minus 37": 100 - 37,
    "48 times 25, minus 199": 48 * 25 - 199,
    "1234 is divided by 37": 1234 % 37,
    "doubled, then 18 is added": only(n for n in range(100) if 2 * n + 18 == 74),
    "7438 times 9267": 7438 * 9267,
    "by 3 or by 5": sum((n % 3 == 0) != (n % 5 == 0) for n in range(1, 1001)),
    "130 factorial": zeros_at_the_end(math.factorial(130)),
    "Today is Monday": calendar.day_name[(calendar.MONDAY + 3) % 7],
    "February 2024": calendar.monthrange(2024, 2)[1],
    "1 January 2025 is a Wednesday": weekday(date(2025, 3, 1)),
    "begins at 22:45": f"{datetime(2026, 1, 1, 22, 45, tzinfo=UTC) + timedelta(hours=9, minutes=40):%H:%M}",
    "45 days after 30 November 2026": str(date(2026, 11, 30) + timedelta(45)),
    "from 28 February 2023 to 1 March 2024": (date(2024, 3, 1) - date(2023, 2, 28)).days,
    "from the year 1896 to the year 2104": sum(map(calendar.isleap, range(1896, 2105))),
    "1 January 2026 is a Thursday": sum(
        date(2026, month, 13).weekday() == calendar.FRIDAY for month in range(1, 13)
    ),
    "minutes are 3 hours": timedelta(hours=3) // timedelta(minutes=1),
    "2.5 kilometers": Fraction("2.5") * 1000,
    "750 milliliters": Fraction(750, 1000) * 4,
    "90 kilometers per hour": Fraction(90 * 1000, 3600),
    "1.5 meters long": Fraction(150 * 80 * 40, 1000),
    "3 liters of water in 45 seconds": Fraction(180, 3) * 45 / 60,
    "60 kilometers at 40": Fraction(120) / (Fraction(60, 40) + Fraction(60, 60)),
    "folded in half 20 times": round(Fraction(1, 10_000) * 2**20),
    "All cats are animals": True,
    "Ann is taller than Ben": follows_from(heights(), lambda ann, cem: cem > ann),
    "either red or blue": follows_from(colors(), lambda is_blue: is_blue),
    "All drums are instruments": follows_from(
        worlds_of_drums(), lambda things: any(d and w for d, _, w in things)
    ),
    "If it rains": follows_from(worlds_of_the_match(), lambda rain: not rain),
    "ran a race without ties": only(second_in_the_race()),
    "always speaks the truth or always lies": only(who_speaks_the_truth()),
    "A coin is in one of four boxes": only(where_the_coin_is()),
    "In how many orders": len(list(rows_of_five())),
    "these numbers is the largest": str(max(17, 71, 57)),
    "numbers is even": only(str(n) for n in (13, 27, 34, 55) if n % 2 == 0),
    "exactly three sides": "triangle",
    "decimal numbers is the largest": str(max(9.11, 9.9, 9.19, 9.09)),
    "fractions is the largest": str(max(map(Fraction, ("3/7", "5/12", "7/16", "4/9")))),
    "Two fair dice": max(dice(), key=dice().get),
    "powers is the largest": max(powers(), key=powers().get),
    "is prime": only(str(n) for n in (1147, 1457, 1511, 1517) if is_prime(n)),
    '"planet"': len("planet"),
    '"tac"': "tac"[::-1],
    "seven old lions are resting": "".join(re.findall(r"\b\w", "seven old lions are resting")),
    '"possessions"': "possessions".count("s"),
    "twice the number before it": doubled(2, 9),
    '"lantern"': "lantern"[::-1],
    '"query"': shifted("query", 5),
    '"question"': sum(string.ascii_lowercase.index(each) + 1 for each in "question"),
}
"""The answer to the question that contains a text. Two are what words mean: all cats, and triangles."""


def test_there_are_fifty_of_six_topics_and_three_levels():
    """No question occurs twice; each topic has questions of each level, and the first ones, too."""
    assert len(QUESTIONS) == len({each["question"] for each in QUESTIONS}) == 50
    places = {(each["tags"]["topic"], each["tags"]["level"]) for each in QUESTIONS}
    assert len(places) == 6 * 3
    assert {each["tags"]["level"] for each in QUESTIONS[:18]} == {"1", "2", "3"}


def test_each_answer_is_the_one_that_is_computed():
    """Every question is found by its text, and by one text only."""
    for text, answer in ANSWERS.items():
        [found] = [each for each in QUESTIONS if text in each["question"]]
        assert found["expected"] == answer, found["question"]
        assert isinstance(found["expected"], bool) == isinstance(answer, bool), found["question"]
    assert len(ANSWERS) == len(QUESTIONS)


def test_each_question_is_a_debate_with_an_answer_of_its_form():
    """Fields are those of a question file; the expected answer is a verdict, and one of the options."""
    for each in QUESTIONS:
        assert set(each) <= {"question", "options", "expected", "tags"}
        expected, options = each["expected"], each.get("options", [])
        form = "choice" if options else FORMS.get(type(expected), "text")
        DebateJobPayload(each["question"], ["a"], answer_form=form, options=options).validate()
        AnswerForm.parse(form, options).read(expected)
