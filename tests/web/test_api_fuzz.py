"""The HTTP API, fuzzed from its own description: no defect, and no answer that it does not have."""

import asyncio
import threading

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks
from support.queue_harness import QueueHarness
from support.web_api import application, served

from aragora_q.base import Job
from aragora_q.web.api import create_api
from aragora_q.web.api.routing import NDJSON

QUEUE = "fuzzed"
IDS = ["j1", "j2", "d1", "none"]
CHECKS = [
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.negative_data_rejection,
    openapi_checks.unsupported_method,
    openapi_checks.allow_header_conformance,
]
"""Not `positive_data_acceptance`: rules of jobs, such as that a group exists, are not in a schema."""


def _schema():
    """The description, of this queue and an operator, without lines."""
    found = create_api().openapi()
    del found["security"]  # the actor is given
    for path in found["paths"].values():
        for operation in path.values():
            operation.get("requestBody", {"content": {}})["content"].pop(NDJSON, None)
            operation["parameters"] = [  # no request waits
                each for each in operation["parameters"] if each["name"] != "wait"
            ]
            for parameter in operation["parameters"]:
                if parameter["name"] == "queue":
                    parameter["schema"] = {"type": "string", "enum": [QUEUE]}
    return schemathesis.openapi.from_dict(found)


schema = _schema()


def test_the_description_is_complete():
    """Every change has its body described, and errors that pass have the header that says when."""
    found = create_api().openapi()
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert ("requestBody" in operation) == (method != "get"), f"{method} {path}"
    with_retry = {
        s
        for s, each in found["components"]["responses"].items()
        if "Retry-After" in each.get("headers", {})
    }
    assert with_retry == {"429", "502", "503"}


@schema.hook
def map_path_parameters(context, path_parameters):
    """Half of the ids are those of jobs."""
    if path_parameters and isinstance(job_id := path_parameters.get("job_id"), str):
        index = sum(map(ord, job_id)) % (2 * len(IDS))
        if index < len(IDS):
            path_parameters["job_id"] = IDS[index]
    return path_parameters


@pytest.fixture(scope="module")
def address(module_server):
    """The API on a port, served by a thread; on a queue with jobs in some states."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def serve(stop):
        harness = QueueHarness(module_server, queue=QUEUE)
        await harness.queue.enqueue_many(
            [
                Job({}, id="j1", group="g"),
                Job({}, id="j2"),
                Job({"question": "?", "agents": ["demo:bold", "demo:careful"]}, id="d1"),
            ]
        )
        await harness.queue.cancel("j2")
        async with application(harness.config) as app, served(app) as found:
            address.append(found)
            ready.set()
            await stop.wait()
        await harness.close()

    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(stop),))
    thread.start()
    assert ready.wait(30)
    yield address[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def session():
    """Connections that stay open."""
    with requests.Session() as session:
        yield session


@pytest.fixture(scope="module")
def module_server():
    """A separate server, for all tests of this module."""
    from support import servers

    try:
        server = servers.Server(servers.any_server())
    except servers.Unavailable as reason:
        pytest.skip(str(reason))
    server.start()
    yield server.url
    server.stop()


@(
    schema.exclude(path_regex="/(events|requeue|hold|unhold|quotes)$")
    .exclude(method="POST", path="/queues/{queue}/jobs")
    .parametrize()
)
@settings(
    max_examples=5,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_is_outside_of_the_description(case, address, session):
    """Valid and invalid requests of every route but events, whose answers have no end.

    `cancel` stands for the other actions, which are the same functions, and PUT of a job for POST and quotes,
    which take the same body.
    """
    case.call_and_validate(base_url=f"{address}/api/v1", session=session, checks=CHECKS, timeout=60)
