"""The Python of the README and of the API's page runs as printed; links of all pages lead to existing files.

Shell blocks are run by tests/docs/test_documents.py.
"""

import ast
import asyncio
import doctest
import inspect

import pytest
from support.docs import ROOT, anchors, blocks, links, pages
from support.wait import wait_until


async def run(code, namespace):
    """Run a block of Python, with `await` at its top level as the page has it."""
    result = eval(compile(code, "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
    if inspect.isawaitable(result):
        await result


async def test_python_enqueues_and_works(redis_url, monkeypatch, capsys):
    """Both blocks as printed, with demo agents instead of models that need keys."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in ("CLAUDE", "GPT"):
        monkeypatch.setenv(f"ARAGORA_AGENT_{name}", "demo")
    enqueue, work = (each.text for each in blocks("README.md") if each.language == "python")
    client, worker = {}, {}
    await run(enqueue, client)
    assert capsys.readouterr().out == "pending\n"
    working = asyncio.create_task(run(work, worker))

    def has_ended_all():
        return "worker" in worker and worker["worker"].get_stats()["jobs_processed"] == 3

    await wait_until(lambda: working.done() or has_ended_all(), 90)
    await worker["worker"].stop()
    await working
    for job_id in (client["job_id"], "survey-0", "survey-1"):
        assert await client["queue"].get_status(job_id) == "completed"
    for namespace in (client, worker):
        await namespace["queue"].close()


EXAMPLES = [block for block in blocks("docs/reference/api.md") if block.text.startswith(">>> ")]


@pytest.mark.parametrize("example", EXAMPLES, ids=str)
def test_examples_of_the_api_print_what_they_show(example, redis_url, monkeypatch):
    """Each example of a docstring prints what its lines say, on an empty queue."""
    monkeypatch.setenv("REDIS_URL", redis_url)
    examples = doctest.DocTestParser().get_doctest(example.text, {}, str(example), None, None)
    said = []
    doctest.DocTestRunner(verbose=False).run(examples, out=said.append)
    assert said == []


@pytest.mark.parametrize("page", sorted(pages()))
def test_links_lead_somewhere(page):
    """Every relative link of a page names an existing file or folder, and an existing heading of a page."""

    def leads_somewhere(link):
        file, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / file).resolve() if file else ROOT / page
        return target.exists() and (not anchor or anchor in anchors(target.relative_to(ROOT)))

    assert [link for link in links(page) if "://" not in link and not leads_somewhere(link)] == []
