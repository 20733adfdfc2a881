"""Jobs and journals of debates as workers leave them, made by hand, to be shown."""

from aragora_q.base import Job, JobStatus

AT = 1_795_834_981.0
"""When they began, in Unix seconds."""


def call(phase, seat, value, *, step, number=0, attempt=0, agent=None, **fields):
    """One checkpoint of a call: its name and entry."""
    agent = agent or ("ann", "bob", "cyd", "dan", "eve")[seat % 5]
    name = f"r{number}.{phase}" if number else phase
    entry = {
        "agent": agent,
        "model": f"openai:{agent}-large",
        "answered_by": f"{agent}-large-2026-09",
        "settings": "5f0c",
        "prompt": "9a1e",
        "phase": phase,
        "round": number,
        "seat": seat,
        "step": step,
        "in": 1_240 + 300 * number,
        "out": 210,
        "cached": 1_024 * bool(number),
        "usd": 0.0031,
        "seconds": 4.2,
        "running": 9.1,
        "life": "1c",
        "value": value,
    } | fields  # fmt: skip
    return f"call/{name}.{seat}.{attempt}", entry


def journal(*calls, **others):
    """The checkpoints of a job."""
    return {"begun": {"at": AT, "nonce": "k3v9", "version": "0.2.0"}, **dict(calls), **others}


def job(question, agents, status=JobStatus.COMPLETED, *, result=None, error=None, **payload):
    """A job of a debate that one worker ran."""
    return Job(
        {"question": question, "agents": agents, "rounds": 3, "consensus": "majority", **payload},
        id="5c1d0e9a",
        status=status,
        attempts=1,
        max_attempts=3,
        worker_id="web1-1",
        created_at=AT - 2,
        started_at=AT,
        completed_at=AT + 31 if status.is_terminal else None,
        result=result,
        error=error,
    )


def result(verdict, groups, votes, **fields):
    """A result. `groups` are verdicts with seats; `votes` are pairs of group and confidence, by seat."""
    names = ("ann", "bob", "cyd", "dan", "eve")
    seats = len(votes)
    behind = [sum(group == n for group, _ in votes) for n in range(len(groups))]
    return {
        "debate_id": "5c1d0e9a",
        "consensus_reached": bool(behind) and max(behind) * 2 > seats,
        "final_answer": verdict,
        "confidence": max(behind, default=0) / seats if seats else 0.0,
        "rounds_used": 1,
        "participants": list(names[:seats]),
        "duration_seconds": 31.4,
        "token_usage": {"requests": 4 * seats, "input_tokens": 18_420, "output_tokens": 2_940},
        "error": None,
        "verdict": verdict,
        "reasons": "It was chosen in 1908 as a compromise.",
        "decided_by": "votes",
        "written_by": None,
        "ended_by": "agreement",
        "groups": [
            {"verdict": each, "seats": held, "share": behind[n] / max(1, seats)}
            for n, (each, held) in enumerate(groups)
        ],
        "votes": [
            {
                "seat": seat,
                "agent": names[seat % 5],
                "model": f"openai:{names[seat % 5]}-large",
                "group": group,
                "confidence": confidence,
                "weight": 1.0,
                "self": group is not None and seat in groups[group][1],
                "implied": False,
                "reason": "It names the source, and the others do not." if group is not None else "",
            }
            for seat, (group, confidence) in enumerate(votes)
        ],
        "by_model": {
            "models": [f"openai:{name}-large" for name in names[:seats]],
            "consensus_reached": True,
            "confidence": 1.0,
            "verdict": verdict,
        },
        "abstentions": sum(group is None for group, _ in votes),
        "first_votes": [],
        "changed": [],
        "dissent": [],
        "flags": [],
        "seats": [
            {
                "seat": seat,
                "agent": names[seat % 5],
                "model": f"openai:{names[seat % 5]}-large",
                "settings": {"effort": "high", "seed": 7} if seat == 1 else {},
                "answered_by": [f"{names[seat % 5]}-large-2026-09"],
                "dropped": None,
                "calls": 4,
                "input_tokens": 6_140,
                "output_tokens": 980,
                "cached_tokens": 1_024,
                "cost_usd": 0.0124,
                "cut": 0,
            }
            for seat in range(seats)
        ],
        "cost_usd": 0.0124 * seats,
        "unpriced_calls": 0,
        "record": {
            "version": "0.2.0",
            "prompt_version": "7d1f02",
            "settings": {"ann": "5f0c"},
            "price_list": "genai-prices 0.2.3",
            "started_at": AT,
            "nonce": "k3v9",
            "labels": {"KQTR": 0, "BXLM": 1, "ZWHD": 2},
        },
        **fields,
    }  # fmt: skip


def agreeing():
    """Three seats that agree after one review."""
    question = "What is the capital of Australia?"
    answers = [
        ("Canberra", "It was chosen in 1908 as a compromise between Sydney and Melbourne."),
        ("The capital is Canberra.", ("Section 125 asks for a seat in New South Wales, at least 100 "
         "miles from Sydney.\n\n- Sydney is larger\n- Melbourne was the first seat")),
        ("Canberra, not Sydney", "Sydney is the largest city, which is a common mistake."),
    ]  # fmt: skip
    proposals = [
        call("propose", n, {"answer": verdict, "reasons": reasons}, step=0)
        for n, (verdict, reasons) in enumerate(answers)
    ]
    reviews = [
        call("review", n, {"points": "KQTR and BXLM both name the date. ZWHD says why people err.",
                           "best": 0, "stop": True, "same_as": [[0, 1, 2]]}, step=1, number=1)
        for n in range(3)
    ]  # fmt: skip
    groups = [("Canberra", [0, 1, 2])]
    found = result("Canberra", groups, [(0, 95), (0, 90), (0, None)])
    for vote in found["votes"]:
        vote["implied"] = True
        vote["reason"] = ""
    found["first_votes"] = [
        {"seat": n, "verdict": verdict} for n, (verdict, _) in enumerate(answers)
    ]
    return job(question, ["ann", "bob", "cyd"], result=found), journal(*proposals, *reviews)


def disagreeing():
    """Five seats, two rounds, no consensus, dissent with reasons."""
    names = ["ann", "bob", "cyd", "dan", "eve"]
    question = (
        "Should a team of four start a new product as microservices or as a monolith?\n\n"
        "Assume one year of funding, and that two of the four have run Kubernetes before."
    )
    monolith, services = "Start with a modular monolith", "Start with two or three services"
    views = [monolith, services, monolith, services, "It depends on how the team is split"]
    long = (
        "A team of four has one deployment, one database and one on-call rotation to care for. "
        "Boundaries can be found inside one process first, where moving them is cheap. "
    )
    calls = [
        call("propose", n, {"answer": view, "reasons": long * (1 + n % 2)}, step=0)
        for n, view in enumerate(views)
    ]
    for number in (1, 2):
        calls += [
            call("review", n, {"points": f"KQTR ignores the cost of operation. {long}",
                               "best": (n + 1) % 5, "stop": False, "same_as": [[0, 2], [1, 3]]},
                 step=2 * number - 1, number=number)
            for n in range(5)
        ]  # fmt: skip
        calls += [
            call("revise", n, {"answer": monolith if n == 4 else view, "reasons": long,
                               "changed": n == 4 and number == 1}, step=2 * number, number=number)
            for n, view in enumerate(views)
        ]  # fmt: skip
    groups = [(monolith, [0, 2, 4]), (services, [1, 3])]
    votes = [(0, 80), (1, 90), (0, 75), (1, 85), (None, None)]
    found = result(monolith, groups, votes, reasons=long * 2, ended_by="unchanged", rounds_used=2)
    found["consensus_reached"] = False
    found["first_votes"] = [{"seat": n, "verdict": view} for n, view in enumerate(views)]
    found["changed"] = [{"seat": 4, "before": views[4], "after": monolith}]
    found["dissent"] = [
        {
            "verdict": services,
            "seats": [1, 3],
            "voters": [1, 3],
            "reasons": [long, "Both know Kubernetes."],
        }
    ]
    found["by_model"] |= {"consensus_reached": False, "confidence": 0.4}
    return job(question, names, result=found), journal(*calls)


def choice():
    """A multiple choice, discussed for one round: the last verdicts are the votes."""
    options = ["Mars", "Jupiter", "Saturn"]
    calls = [
        call("propose", n, {"answer": verdict, "reasons": "By its mass."}, step=0)
        for n, verdict in enumerate(["Jupiter", "Saturn", "Jupiter"])
    ]
    calls += [
        call("discuss", n, {"points": "BXLM takes the rings for the size.", "best": 0, "stop": n != 1,
                            "answer": "Jupiter", "reasons": "Twice the mass of all others."},
             step=1, number=1)
        for n in range(3)
    ]  # fmt: skip
    found = result("Jupiter", [("Jupiter", [0, 1, 2])], [(0, None)] * 3, reasons="By its mass.")
    found["first_votes"] = [{"seat": 0, "verdict": "Jupiter"}, {"seat": 1, "verdict": "Saturn"},
                            {"seat": 2, "verdict": "Jupiter"}]  # fmt: skip
    found["changed"] = [{"seat": 1, "before": "Saturn", "after": "Jupiter"}]
    for vote in found["votes"]:
        vote |= {"implied": True, "reason": ""}
    made = job("Which planet is the largest?", ["ann", "bob", "cyd"], result=found,
               answer_form="choice", options=options)  # fmt: skip
    return made, journal(*calls)


def dropped():
    """One seat dropped out, one answer addresses the voters, one call has no price."""
    made, entries = agreeing()
    name, review = call(
        "review", 0, None, step=1, number=1, unusable="the reply was not a JSON object",
        said="All of them\nname the date.",
    )  # fmt: skip
    again = call("review", 0, review["value"] or {"points": "All name the date.", "best": 1, "stop": True},
                 step=1, number=1, attempt=1)  # fmt: skip
    entries = {each: entry for each, entry in entries.items() if not each.endswith("review.2.0")}
    entries |= {
        name: review,
        **dict([again]),
        "dropped/2": {"phase": "r1.review", "why": "refused"},
    }
    found = made.result
    found["votes"][2] |= {"group": None, "self": False, "implied": False}
    found |= {
        "confidence": 2 / 3,
        "unpriced_calls": 1,
        "error": "cyd dropped out (round 1, review): the provider refused the request: its key is "
        "not valid for this model (set ANTHROPIC_API_KEY); ann needed 2 tries",
        "flags": [{"seat": 1, "phase": "propose", "round": 0, "why": "addresses the voters"}],
    }
    found["seats"][2] |= {
        "dropped": "the provider refused the request",
        "cost_usd": None,
        "calls": 1,
    }
    return made, entries


def failed():
    """No seat could vote: the job failed, and has its answers as a partial result."""
    made, entries = agreeing()
    found = result(None, [("Canberra", [0, 1, 2])], [(None, None)] * 3, reasons=None)
    found |= {"final_answer": None, "decided_by": None, "ended_by": "rounds", "by_model": {}}
    entries |= dict(
        call("vote", n, None, step=3, unusable="choice must be one of KQTR, BXLM") for n in range(3)
    )
    error = "PermanentError: no seat could vote: ann, bob and cyd gave no ballot that could be read"
    return (
        job(made.payload["question"], ["ann", "bob", "cyd"], JobStatus.FAILED, result=found, error=error),
        entries,
    )  # fmt: skip


def running():
    """In the second round."""
    made, entries = disagreeing()
    keep = {name: entry for name, entry in entries.items() if "r2." not in name}
    now = job(made.payload["question"], made.payload["agents"], JobStatus.PROCESSING)
    now.progress = {"phase": "review", "round": 2, "rounds": 3, "agents_done": 1, "agents": 5}
    return now, keep


SAMPLES = {
    each.__name__: each for each in (agreeing, disagreeing, choice, dropped, failed, running)
}  # fmt: skip
