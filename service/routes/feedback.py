"""POST /v1/feedback: was an answer right?"""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from router.agreement import agrees
from router.errors import LedgerError
from router.ledger import Decided, Label
from service.errors import ApiError, bad_request
from service.gateway import Gateway
from service.openai import Wire
from service.parse import read_request
from service.routes.common import OUTCOMES, GatewayDep
from service.strict_json import StrictJSONResponse

router = APIRouter(tags=["routing"], responses=OUTCOMES)


class FeedbackRequest(Wire):
    """Which answer, and either whether it was right or what would have been."""

    id: str = Field(min_length=1, max_length=200, description="The response's `id`")
    correct: bool | None = Field(default=None, description="Whether the local answer was right")
    answer: str | None = Field(
        default=None, min_length=1, max_length=1000, description="The right answer, in short"
    )


_TAKES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "`id` and one of `correct` and `answer`",
        "content": {"application/json": {"schema": FeedbackRequest.model_json_schema()}},
    }
}


@router.post("/v1/feedback", summary="Say whether an answer was right", openapi_extra=_TAKES)
async def feedback(request: Request, gateway: GatewayDep) -> Response:
    """Label a local answer: by `correct`, or by the right `answer`, to which it is compared.

    Saying the same again changes nothing (`counted` is false then); the last word holds.
    """
    said = (await read_request(request, FeedbackRequest)).request
    if (said.correct is None) == (said.answer is None):
        raise bad_request(
            "Give either 'correct' (was the answer right?) or 'answer' (the right one).", "correct"
        )
    try:
        correct, counted = await _take_in(gateway, said)
    except LedgerError as error:
        gateway.books.fault("feedback", error)
        raise ApiError(
            503,
            "The ledger, which keeps decisions and feedback, does not work now; try again later.",
            code="ledger_failed",
            kind="server_error",
            headers={"Retry-After": "5"},
        ) from error
    return StrictJSONResponse(
        {"object": "feedback", "id": said.id, "correct": correct, "counted": counted}
    )


async def _take_in(gateway: Gateway, said: FeedbackRequest) -> tuple[bool, bool]:
    """Return what was said of the answer, and whether that changed anything."""
    books = gateway.books
    if books.ledger is None:
        raise ApiError(
            501,
            "This gateway keeps no feedback: its ledger is off. Set `ledger` (ROUTER_LEDGER) to a "
            "file or to 'redis'; its log says so if the default file can't be used.",
            code="ledger_off",
            kind="server_error",
        )
    await books.settled()  # the answer may have been given a moment ago
    decided = await books.ledger.find(said.id)
    if decided is None:
        raise ApiError(
            404,
            f"There is no answer with the id {said.id[:100]!r}. It is the `id` of a response, not "
            f"its X-Request-Id; answers are kept for {gateway.settings.ledger_days} days.",
            code="answer_not_found",
            param="id",
        )
    correct = await asyncio.to_thread(_judged, decided, said)
    label = Label(said.id, correct, "user", books.clock())
    counted = await books.ledger.label(label)
    if counted:
        gateway.metrics.labelled(label)
    return correct, counted


def _judged(decided: Decided, said: FeedbackRequest) -> bool:
    """Whether the local answer was right. Raises ApiError when that can't be told from `said`."""
    if said.correct is not None and decided.route == "local":
        return said.correct
    if decided.text is None:
        raise ApiError(
            409,
            f"There is no local answer to judge: {_why_no_text(decided)}.",
            code="no_local_answer",
            param="id",
        )
    if said.answer is None:
        raise ApiError(
            409,
            "This answer is the upstream's, and feedback is about the local one, which was not "
            "shown. Send 'answer' with the right answer instead of 'correct'.",
            code="not_local",
            param="correct",
        )
    verdict = agrees(decided.text, said.answer)
    if verdict is None:
        raise bad_request(
            "This 'answer' can't be compared with the local one by rule. Shorten it to the letter, "
            "the number or the few words that answer the question, or send 'correct'.",
            "answer",
        )
    return verdict


def _why_no_text(decided: Decided) -> str:
    if decided.route == "local":
        return "it is not kept outside its machine (`local_only`); send 'correct'"
    return f"the upstream answered, with the reason '{decided.reason}' or from the cache"
