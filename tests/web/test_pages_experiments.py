"""The pages of what a group came to: arms, table, comparison and evaluation; and that readers share results."""

import asyncio

import pytest
from support import experiments, shown_jobs

from aragora_q import codec
from aragora_q.base import Job
from aragora_q.contracts import Completed, Report
from aragora_q.experiments import inference
from aragora_q.web import results
from aragora_q.web.pages import experiments as pages
from aragora_q.web.results import GroupTooLarge, ResultsOfGroups
from aragora_q.web.roles import Role

VIEWS = ("", "/table", "/compare", "/eval")
TWO = {"one": (0.5, 0.001, 1), "debate": (1.0, 0.004, 6)}


@pytest.fixture
async def session(harness):
    """A worker that reports results."""
    return await shown_jobs.worker(harness.queue)


async def test_a_group_shows_its_arms(harness, session, operator):
    """With progress, what failed, what is right, cost and calls; each name leads to the debates of the arm."""
    await experiments.fill_arms(harness.queue, session, "g", 10, TWO, live=3)
    page = await operator.get("/groups/g")
    assert page.status == 200
    assert "one 9 of 10" in page.words
    assert "debate 8 of 10" in page.words
    assert "$0.0" in page.words
    assert 'href="/groups/g/table?arm=debate"' in page.text
    one = await operator.get("/groups/g/table?arm=debate")
    assert "10 debates" in one.words
    assert "g-debate-4" in one.text
    assert "g-one-4" not in one.text


async def test_other_groups_are_not_read_for_their_page(harness, operator, monkeypatch):
    """A group without arms has the page as before, whatever is in its jobs; its other views work."""
    debate = Job({"question": "Why?", "agents": ["a", "b"]}, id="p2", group="p")
    await harness.queue.enqueue_many([Job({"n": 1}, id="p1", group="p"), debate])
    assert "job p1" in (await operator.get("/groups/p/table")).words
    assert "Why?" in (await operator.get("/groups/p/table")).words
    assert "There is one arm" in (await operator.get("/groups/p/compare")).words
    assert "Nothing to draw" in (await operator.get("/groups/p/eval")).words
    monkeypatch.setattr(ResultsOfGroups, "of", None)
    assert "Jobs by status" in (await operator.get("/groups/p")).words


async def test_a_table_has_a_row_for_each_debate(harness, session, operator, monkeypatch):
    """Verdict, agreement, cost, calls and time, what is right and what failed; a long table has parts."""
    monkeypatch.setattr(pages, "PAGE", 8)
    await experiments.fill_arms(harness.queue, session, "g", 10, TWO)
    page = await operator.get("/groups/g/table")
    assert "20 debates: 1 to 8" in page.words
    assert "1 Question 1: which of these cities is meant? one" in page.words
    assert "first" not in page.text.partition('<nav class="pager"')[2]
    assert 'href="/groups/g/table?from=9"' in page.text
    last = await operator.get("/groups/g/table?from=17")
    assert "20 debates: 17 to 20" in last.words
    assert 'rel="next"' not in last.text
    assert (await operator.get("/groups/g/table?from=x&arm=none")).status == 200


async def test_a_comparison_has_the_arms_side_by_side(harness, session, operator):
    """How often their verdicts are the same, and the questions on which they differ."""
    await experiments.fill_arms(harness.queue, session, "g", 10, TWO)
    page = await operator.get("/groups/g/compare")
    assert "Agreement between arms" in page.words
    assert "one · " in page.words
    assert "right: Paris" in page.words
    assert 'href="/jobs/g-debate-' in page.text


async def test_an_evaluation_has_a_plot_and_its_numbers(harness, session, operator):
    """Accuracy with its interval, cost and calls of each arm, a test of each pair, and the plot of them."""
    pytest.importorskip("scipy")
    await experiments.fill_arms(harness.queue, session, "g", 20, TWO)
    page = await operator.get("/groups/g/eval")
    assert page.status == 200
    assert "Accuracy by cost per question, with 95% intervals" in page.words
    assert page.text.count("<circle") == 2
    assert "Intervals are of 95%." in page.words
    assert page.text.index("<circle") < page.text.index('id="findings"')
    assert page.words.count(" expected") >= 2
    assert "+0%" not in page.words
    assert "style=" not in page.text


async def test_an_evaluation_without_scipy_says_so(harness, session, operator, monkeypatch):
    """The numbers are shown, without intervals and tests."""
    monkeypatch.setattr(inference, "is_installed", lambda: False)
    await experiments.fill_arms(harness.queue, session, "g", 5, TWO)
    page = await operator.get("/groups/g/eval")
    assert "SciPy is not installed" in page.words
    assert "Accuracy by cost per question" in page.words
    assert "95%" not in page.words


async def test_texts_of_an_experiment_stay_texts(harness, session, operator):
    """Whatever is in questions, verdicts, dissent, errors and names of arms, no page has it as markup."""
    jobs = [
        Job(
            experiments.job(
                f"<i>{arm}</i>", n, question=text[:900], options=["a", "b"], expected=("a",)
            ).payload,
            id=f"h-{n}-{arm}", group="h", tags={"arm": arm},
        )
        for n, text in enumerate(shown_jobs.HOSTILE.values(), 1)
        for arm in "ab"
    ]  # fmt: skip
    await harness.queue.enqueue_many(jobs)
    texts = {job.id: job.payload["question"] for job in jobs}
    started = (await session.start(100)).jobs
    reports = []
    for job in started:
        text = texts[job.id]
        found = experiments.result(text + job.id, dissent=[{"verdict": text, "seats": [2]}])
        reports.append(Report(job, Completed(codec.encode(found))))
    await session.report(reports)
    for view in VIEWS:
        page = await operator.get(f"/groups/h{view}")
        assert page.status == 200, view
        for markup in ("<script>alert", "<img src=x", "<i>a", "\u202e", "\x1b"):
            assert markup not in page.text, view
        assert page.text.count("<script") == 2


async def test_a_group_that_is_too_large_has_no_results(harness, session, operator, monkeypatch):
    """Its pages say so and name the command; its state and its counts are shown."""
    await experiments.fill_arms(harness.queue, session, "g", 3, TWO)
    monkeypatch.setattr(results, "MAX_DEBATES", 5)
    for view in VIEWS:
        page = await operator.get(f"/groups/g{view}")
        assert page.status == 200
        assert (
            "group g has 6 jobs; the console reads the results of at most 5" in page.words.lower()
        )
    assert "Jobs by status" in (await operator.get("/groups/g")).words


async def test_viewers_see_results_and_unknown_groups_are_not_found(harness, session, new_console):
    """The views need no more than the role of a viewer; without a group there is nothing."""
    await experiments.fill_arms(harness.queue, session, "g", 2, TWO)
    viewer = new_console(roles=[Role.VIEWER]).browser(Role.VIEWER)
    for view in VIEWS:
        assert (await viewer.get(f"/groups/g{view}")).status == 200
        assert (await viewer.get(f"/groups/none{view}")).status == 404
        assert (await viewer.get(f"/groups/%20{view}")).status == 404


async def test_results_are_read_once_for_all(harness, session, monkeypatch):
    """Readers share what was read and counted until a job changes its status; then it is read again."""
    queue, shared, reads = harness.queue, ResultsOfGroups(), []

    async def read(*arguments):
        reads.append(arguments)
        return await read_rows(*arguments)

    read_rows = results.read_rows
    monkeypatch.setattr(results, "read_rows", read)
    await experiments.fill_arms(queue, session, "g", 5, TWO)
    group = await queue.tracker.get_group("g")
    found = await asyncio.gather(*(shared.of(queue, group) for _ in range(5)))
    comparisons = [await each.comparison() for each, _ in found]
    assert len(reads) == 1
    assert all(each is comparisons[0] for each in comparisons)
    await queue.purge_many(["g-one-1"])
    later, again = await shared.of(queue, await queue.tracker.get_group("g"))
    assert (len(reads), len(later.rows), again) == (2, 9, 0)
    await shared.close()


async def test_a_live_group_is_read_as_often_as_its_size_allows(harness, session):
    """While jobs are live, earlier results are given, and when to ask again; at the end the last ones."""
    queue, shared = harness.queue, ResultsOfGroups()
    await experiments.fill_arms(queue, session, "g", 3, TWO, live=2)
    first, again = await shared.of(queue, await queue.tracker.get_group("g"))
    assert again == 0
    first.seconds = 60.0
    await queue.cancel_many(["g-one-3"])
    second, again = await shared.of(queue, await queue.tracker.get_group("g"))
    assert second is first
    assert 500 < again < 600
    await queue.cancel_many(["g-debate-3"])
    last, again = await shared.of(queue, await queue.tracker.get_group("g"))
    assert last is not first
    assert again == 0
    assert not any(row.status == "pending" for row in last.rows)
    with pytest.raises(GroupTooLarge):
        results.check_size(type(await queue.tracker.get_group("g"))("g", {"completed": 2_001}, 0.0))
    await shared.close()


async def test_a_group_that_was_made_again_has_its_own_results(harness, session):
    """After its deletion a group of the same name shows nothing of it, however long earlier results rest."""
    queue, shared = harness.queue, ResultsOfGroups()
    await experiments.fill_arms(queue, session, "g", 1, {"one": TWO["one"]})
    first, _ = await shared.of(queue, await queue.tracker.get_group("g"))
    first.seconds = 60.0
    await queue.purge_many(["g-one-1"])
    assert await queue.tracker.get_group("g") is None
    await queue.enqueue(Job({"n": 1}, id="new", group="g"))
    second, again = await shared.of(queue, await queue.tracker.get_group("g"))
    assert ([row.id for row in second.rows], again) == (["new"], 0)
    await shared.close()
