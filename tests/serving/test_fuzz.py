"""Schemathesis: requests made from the OpenAPI description, valid and invalid ones, and never an answer of the 500s."""

import logging
import os

import pytest
from real_server import TASK, ask, running

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode, checks  # noqa: E402

from gato.serving.limits import Limits  # noqa: E402

EXAMPLES = int(os.environ.get("GATO_FUZZ_EXAMPLES", "8"))  # of each mode and operation; 500 for a figure
PATIENCE = 60.0  # seconds for an answer: a busy machine is no defect of the server
CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
SESSION = "/v1/sessions/{session_id}"
OPERATIONS = [
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/v1/tasks"), ("POST", "/v1/sessions"),
    ("GET", SESSION), ("DELETE", SESSION), ("POST", f"{SESSION}/reset"), ("POST", f"{SESSION}/act"),
    ("POST", "/v1/caption"), ("POST", "/v1/answer"), ("GET", "/v1/scene"), ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
]  # fmt: skip
PLAIN = {path for method, path in OPERATIONS if method == "GET" and path not in (SESSION, "/v1/scene")}
logging.getLogger("httpx").setLevel(logging.WARNING)


@pytest.fixture(scope="module")
def port(agent):
    """A server of its own: what is opened here is not closed again."""
    with running(agent, Limits(idle_seconds=2, requests_per_second=1e6)) as port:
        yield port


@pytest.fixture(scope="module")
def schema(port):
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")


def test_every_operation_is_in_the_list(schema):
    described = {(result.ok().method.upper(), result.ok().path) for result in schema.get_all_operations()}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda m: m.value)
@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[" ".join(o) for o in OPERATIONS])
def test_no_request_breaks_the_server(schema, port, method, path, mode):
    operation = schema[path][method]
    opened = ask(port, "POST", "/v1/sessions", {"task": TASK})[2].get("id")

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, phases=[Phase.generate], database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(operation.as_strategy(generation_mode=mode))
    def one(case):
        if "session_id" in (case.path_parameters or {}) and len(str(case.body)) % 4:
            case.path_parameters["session_id"] = opened  # most of them reach a real session
        case.call_and_validate(checks=CHECKS, timeout=PATIENCE)

    try:
        one()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE and path in PLAIN  # there is nothing to get wrong
    if opened:
        ask(port, "DELETE", f"/v1/sessions/{opened}")
