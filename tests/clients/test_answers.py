from __future__ import annotations

from typing import Any

import httpx
import pydantic
import pytest
from router_client import Answer, BudgetInfo, Decision, InvalidResponse, Message, RouterInfo

from . import wire
from .faces import Face
from .wire import Json


def answer_of(face: Face, body: Any) -> Answer:
    answer = face.call(wire.answering(body, x_request_id="req-1"), "ask", "question")
    assert isinstance(answer, Answer)
    return answer


def test_an_answer_carries_everything(face: Face) -> None:
    answer = answer_of(face, wire.completion())
    assert (answer.text, answer.finish_reason) == ("Paris", "stop")
    assert (answer.id, answer.model, answer.request_id) == ("chatcmpl-1", "local", "req-1")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (7, 10)
    assert answer.tool_calls == ()
    assert answer.raw == wire.completion()


def test_the_router_object(face: Face) -> None:
    answer = answer_of(face, wire.completion())
    router = answer.router
    assert (router.route, router.reason) == ("local", "confident")
    assert (router.p_correct, router.threshold) == (0.83, 0.71)
    assert (answer.is_local, answer.p_correct) == (True, 0.83)
    assert router.uncertainty == {"perplexity": 0.12, "margin": None}
    assert (router.calibration, router.calibrated_sampler) == ("sha256:abc", True)
    assert (router.certificate, router.degraded, router.cache) == (None, False, "miss")
    assert router.usage.local is not None
    assert router.usage.local.completion_tokens == 3
    assert router.usage.remote is None
    assert (router.cost_usd, router.saved_usd) == (0.0, 0.002)
    assert router.upstream is None
    assert (router.timings_ms.decode, router.timings_ms.remote) == (30.5, None)


def test_what_money_had_to_do_with_it(face: Face) -> None:
    told = BudgetInfo(limit="key/day", usd_left=0.25, threshold_moved=True, threshold_wanted=0.7)
    router = {**wire.ROUTER, "budget": told.model_dump()}
    assert answer_of(face, wire.completion(router=router)).router.budget == told
    assert answer_of(face, wire.completion()).router.budget is None


def test_who_answered_elsewhere(face: Face) -> None:
    router = {**wire.ROUTER, "route": "remote", "upstream": "near"}
    assert answer_of(face, wire.completion(router=router)).router.upstream == "near"


def test_a_newer_gateway_is_understood(face: Face) -> None:
    router = {
        **wire.ROUTER,
        "reason": "moonphase",
        "moon": {"phase": 0.5},
        "timings_ms": {"moon": 1.5},
    }
    answer = answer_of(face, wire.completion(router=router, moon=True))
    assert answer.router.reason == "moonphase"
    assert answer.router.model_extra == {"moon": {"phase": 0.5}}
    assert answer.router.timings_ms.model_extra == {"moon": 1.5}
    assert answer.raw["moon"] is True


def test_unknown_stays_unknown(face: Face) -> None:
    router = {**wire.ROUTER, "route": "remote", "p_correct": None, "threshold": None}
    answer = answer_of(face, wire.completion(router=router, usage=None))
    assert (answer.is_local, answer.p_correct, answer.usage) == (False, None, None)


@pytest.mark.parametrize("field", ["route", "reason", "degraded", "cost_usd", "saved_usd"])
def test_what_a_router_object_must_hold(face: Face, field: str) -> None:
    router = {name: value for name, value in wire.ROUTER.items() if name != field}
    with pytest.raises(InvalidResponse, match=f"`router.{field}` is not as expected"):
        answer_of(face, wire.completion(router=router))


def test_an_upstream_that_names_neither_itself_nor_its_answer(face: Face) -> None:
    answer = answer_of(face, wire.completion(id=None, model=None))
    assert (answer.id, answer.model, answer.text) == ("", "", "Paris")
    chunks = [{**piece, "id": None, "model": None} for piece in wire.pieces("Paris")]
    streamed = face.stream(wire.streaming(wire.sse(chunks))).stream.answer
    assert (streamed.id, streamed.model, streamed.text) == ("", "", "Paris")


def test_tool_calls(face: Face) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [wire.TOOL_CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    answer = answer_of(face, wire.completion(choices=[choice]))
    assert answer.text == ""
    assert answer.tool_calls[0].function.name == "weather"
    assert answer.message.model_dump(exclude_unset=True) == {
        "role": "assistant",
        "content": None,
        "tool_calls": (wire.TOOL_CALL,),
    }


def test_an_answer_continues_the_conversation(face: Face) -> None:
    message = answer_of(face, wire.completion()).message
    assert message == Message(role="assistant", content="Paris")


def test_values_are_frozen(face: Face) -> None:
    answer = answer_of(face, wire.completion())
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        answer.text = "Lyon"
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        answer.router.route = "remote"


def test_repr_is_readable(face: Face) -> None:
    shown = repr(answer_of(face, wire.completion()))
    assert "text='Paris'" in shown
    assert "chat.completion" not in shown  # no second copy of everything from `raw`


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({k: v for k, v in wire.completion().items() if k != "router"}, "seek-stronger gateway"),
        (wire.completion(choices=[]), "no choices"),
        (wire.completion(choices=[{"message": {}}]), "`choices.0.finish_reason`"),
        (["a", "list"], "expected a JSON object"),
        ("text", "is base_url the address of the gateway"),
    ],
)
def test_a_success_that_is_no_answer(face: Face, body: Any, message: str) -> None:
    with pytest.raises(InvalidResponse, match=message) as caught:
        answer_of(face, body)
    assert caught.value.body == body
    assert caught.value.request_id == "req-1"


def test_a_page_in_place_of_json(face: Face) -> None:
    with pytest.raises(InvalidResponse, match="<html>Welcome"):
        face.call(lambda _: httpx.Response(200, text="<html>Welcome"), "ask", "question")


def test_a_decision(face: Face) -> None:
    decision = face.call(wire.answering(wire.decision(), x_request_id="r"), "route", "question")
    assert isinstance(decision, Decision)
    assert (decision.id, decision.request_id) == ("route-1", "r")
    assert (decision.is_local, decision.p_correct) == (False, 0.4)
    assert decision.answer is not None
    assert (decision.answer.text, decision.answer.finish_reason) == ("Lyon", "stop")
    assert decision.raw == wire.decision()


@pytest.mark.parametrize("missing", [{"answer": None}, {}])
def test_a_decision_without_a_local_answer(face: Face, missing: Json) -> None:
    body = {k: v for k, v in wire.decision().items() if k != "answer"} | missing
    assert face.call(wire.answering(body), "route", "question").answer is None


def test_models(face: Face) -> None:
    body = {"object": "list", "data": [{"id": "auto", "owned_by": "x", "context": 4096}]}
    (model,) = face.call(wire.answering(body), "models")
    assert (model.id, model.owned_by, model.created) == ("auto", "x", None)
    assert model.model_extra == {"context": 4096}


def test_calibration_is_returned_as_told(face: Face) -> None:
    assert face.call(wire.answering({"id": "sha256:abc", "n": 5}), "calibration")["n"] == 5


@pytest.mark.parametrize("method", ["health", "ready"])
def test_probes(face: Face, method: str) -> None:
    well = face.call(wire.answering({"status": "ok"}), method)
    assert well
    assert (well.status_code, well.raw) == (200, {"status": "ok"})
    handler, seen = wire.recording(lambda _: httpx.Response(503, text="loading"))
    unwell = face.call(handler, method)
    assert not unwell
    assert (unwell.status_code, unwell.raw, len(seen)) == (503, {}, 1)


def test_a_router_object_survives_json() -> None:
    router = RouterInfo.model_validate(wire.ROUTER)
    assert RouterInfo.model_validate_json(router.model_dump_json()) == router
