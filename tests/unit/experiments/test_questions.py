"""Question files: JSON lines and CSV become the same questions; all that is wrong is named with its line."""

import json
from functools import partial

import pytest

from aragora_q.errors import InvalidPayload
from aragora_q.experiments.questions import form_fields, read_csv, read_json_lines
from aragora_q.intake.lines import decode


def of_lines(*objects):
    """The questions of JSON lines; a text is a line as it is."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in objects]
    return read_json_lines(
        [[(n, partial(decode, text.encode())) for n, text in enumerate(texts, 1)]]
    )


def refusal(read, *data):
    with pytest.raises(InvalidPayload) as caught:
        read(*data)
    return str(caught.value).split("\n")


def test_csv_and_json_lines_have_the_same_questions():
    """Cells are JSON where the field is not a text; options are separated by bars, or a JSON list."""
    csv = (
        "\ufeffquestion,options,expected,agents,rounds,consensus,tags.topic,metadata.n,tenant\r\n"
        '"Tea, or\r\ncoffee?",tea|coffee,tea,"claude,gpt",2,any,drinks,7,acme\r\n'
        "\r\n"
        "Prime?,,TRUE,,,,,,\r\n"
        '"How many?","","[4, 4.5]",claude|gpt,,,,,\r\n'
        '"Which?","[""1"", ""2""]",1,,,,,,\n'
        "What is empty?,,null,,,,,,\n"
    )
    lines = (
        {"question": "Tea, or\r\ncoffee?", "options": ["tea", "coffee"], "expected": "tea",
         "agents": ["claude", "gpt"], "rounds": 2, "consensus": "any", "tags": {"topic": "drinks"},
         "metadata": {"n": 7}, "tenant": "acme"},
        {"question": "Prime?", "expected": True},
        {"question": "How many?", "expected": [4, 4.5], "agents": ["claude", "gpt"]},
        {"question": "Which?", "options": ["1", "2"], "expected": "1"},
        {"question": "What is empty?", "expected": "null"},
    )  # fmt: skip
    of_csv = read_csv(csv.encode())
    assert [each.line for each in of_csv] == [2, 5, 6, 7, 8]
    assert [each._replace(line=0) for each in of_csv] == [
        each._replace(line=0) for each in of_lines(*lines)
    ]


@pytest.mark.parametrize(
    ("fields", "expected", "form"),
    [
        ({}, (), {}),
        ({}, ("tea",), {}),
        ({}, (True, False), {"answer_form": "boolean"}),
        ({}, (4, 4.5), {"answer_form": "number"}),
        ({}, (True, 4), {}),
        ({"options": ["a", "b"]}, ("a",), {"answer_form": "choice"}),
        ({"answer_form": "text"}, (4,), {}),
    ],
)
def test_the_answer_form_follows_from_options_and_right_verdicts(fields, expected, form):
    """Unless one is named."""
    assert form_fields(fields, expected) == form


def test_all_that_is_wrong_is_named_with_its_line():
    """One error has every refusal, each reason once."""
    first, *others = refusal(
        of_lines,
        {"question": "A?", "expcted": 1},
        "no JSON",
        {"question": "B?"},
        [],
        {"question": "B?", "expected": "x", "tags": {"t": "x"}},
        {"rounds": 1},
        {"rounds": 1},
        {"question": "C?", "tags": {"arm": "x"}},
        {"question": "D?", "metadata": {"experiment": {}}},
        {"question": "E?", "metadata": 1},
        {"question": "F?", "expected": []},
        {"question": "G?", "tenant": "a b"},
        {"question": "H?", "forked_from": "x"},
    )
    assert first == "12 lines refused"
    assert [each.partition(":")[0] for each in others] == [
        f"line {n}" for n in (1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13)
    ]
    assert "did you mean 'expected'" in others[0]
    assert others[3] == "line 5: the same question as in line 3"
    assert others[4].endswith("; and 1 more")


@pytest.mark.parametrize(
    ("csv", "reason"),
    [
        ("", "there are no questions"),
        ("question\n", "there are no questions"),
        ("question;expected\nA?;x\n", "line 1: there is no column question, but question;expected"),
        ("question,question\nA?,B?\n", "line 1: two columns are named 'question'"),
        ("question,tags,tags.a\nA?,b,c\n", "line 1: column 'tags.a' is a part of column tags"),
        ("question,metadata.a,metadata\nA?,1,{}\n", "line 1: column 'metadata.a' is a part of"),
        ("question,expcted\nA?,B?\n", "line 1: unknown column 'expcted'"),
        ("question,rounds\nA?,1,2\n", "line 2: 3 cells, but the header names 2 columns"),
        ('question\nA?\n"B?"x\n', "line 3: not CSV: ',' expected after '\"'"),
        ('question\nA?\n"B?\n', "line 3: not CSV: unexpected end of data"),
        ("question,rounds\n,1\n", "line 2: field question is missing"),
        ("question\nA?\nB?\nA?\n", "line 4: the same question as in line 2"),
    ],
)
def test_csv_that_is_refused(csv, reason):
    """With the line where the row begins."""
    assert refusal(read_csv, csv.encode())[0].startswith(reason)


def test_csv_in_another_encoding_is_refused():
    """The hint says what to do."""
    assert refusal(read_csv, "question\nÄ?\n".encode("utf-16")) == ["not UTF-8 but UTF-16"]
    assert refusal(read_csv, "question\nÄ?\n".encode("latin-1")) == ["not UTF-8 (line 2)"]
