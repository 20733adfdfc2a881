"""One request of each kind, for each form of answers."""

from dataclasses import replace

from aragora_q.answer_form import AnswerForm
from aragora_q.executors.debate.requests import (
    Answer,
    Discuss,
    Propose,
    Review,
    Revise,
    Synthesize,
    Topic,
    Vote,
)

NONCE = "5eed1234"
LABELS = ["KXTV", "MPRS", "FGHJ"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
FORMS = {
    "text": AnswerForm(),
    "choice": AnswerForm.parse("choice", ["tea", "coffee"]),
    "number": AnswerForm("number"),
    "boolean": AnswerForm("boolean"),
    "schema": AnswerForm.parse(SCHEMA),
}
VERDICTS = {
    "text": ("Tea", "Coffee"),
    "choice": ("tea", "coffee"),
    "number": (1, 2.5),
    "boolean": (True, False),
    "schema": ({"city": "Oslo"}, {"city": "Oslo"}),
}


def topic_of(form=None, question="Tea?", **fields):
    """A topic with the nonce of the tests."""
    return replace(Topic(question, form or AnswerForm(), NONCE), **fields)


def requests_of(form, topic=None, labels=LABELS, answers=None, reviews=("Why?",)):
    """A request of each kind that occurs with `form`: about two answers, by the seat with the first."""
    topic = topic or topic_of(form)
    first, second = VERDICTS[form.kind]
    answers = answers or {labels[0]: Answer(first, "It is so."), labels[1]: Answer(second)}
    own, other = list(answers)[:2]
    rounds = [Discuss(topic, answers, own, reviews)]
    if form.kind == "text":
        synthesis = Synthesize(topic, answers, {own: 2, other: 1}, own)
        rounds = [Review(topic, answers), Revise(topic, answers, own, reviews), synthesis]
    return [Propose(topic), *rounds, Vote(topic, answers), Vote(topic, answers, as_judge=True)]
