"""Agents whose replies a test decides."""

from aragora_q.executors.debate.requests import Propose, Reply, Review, Revise, Vote

THREE = ["ann", "bob", "cyd"]


class ScriptedAgent:
    """An agent whose replies come from a function; `asked` lists its requests."""

    def __init__(self, name, reply):
        self.name = name
        self.asked = []
        self._reply = reply

    async def reply(self, task):
        self.asked.append(task)
        return self._reply(task)


def saying(text, *, best="A", stop=False, revised=None, choice=None):
    """Replies of an agent that keeps to one answer."""

    def reply(task):
        match task:
            case Propose():
                value = {"text": text}
            case Review():
                value = {"points": f"{text} is better", "best": best, "stop": stop}
            case Revise():
                value = {"text": revised or text}
            case Vote(_, answers):
                label = next((n for n, t in answers.items() if t == (choice or text)), min(answers))
                value = {"choice": label, "confidence": 80}
        return Reply(value, 10, 5)

    return reply


def failing(error, on, then=None):
    """An agent that raises `error` for tasks of the type `on`."""
    good = saying("good")

    def reply(task):
        if isinstance(task, on):
            raise error
        return good(task)

    return reply
