"""`router ask`: one routed answer in the terminal."""

from __future__ import annotations

import asyncio
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from router.answer import Answer, Mode, Query
from router.cli.options import ENGINE, UPSTREAM, settings_options
from router.config import Settings
from router.engine.messages import Message

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from uq.trace import Trace

STYLES = ((0.9, "green"), (0.6, "yellow"), (0.3, "dark_orange"), (0.0, "bold red"))
"""Lowest probability of a style, and the style; the last one takes all the rest."""

_WORD = re.compile(r"\S+\s*|\s+")


@click.command(short_help="Answer one question in the terminal.")
@click.argument("question")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option(
    "--mode",
    type=click.Choice(get_args(Mode)),
    default="auto",
    help="Route by confidence, or decide yourself.  [default: auto]",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    default=256,
    help="Longest answer, in tokens.  [default: 256]",
)
@settings_options(*ENGINE, *UPSTREAM)
def ask(question: str, as_json: bool, mode: str, max_tokens: int, settings: Settings) -> None:
    """Answer QUESTION as the gateway would, and show how sure the model was; - reads stdin.

    Words are coloured by the lowest probability among their tokens. Below stand the route, its
    reason, and the scores it rests on.
    """
    if question == "-":
        question = sys.stdin.read().strip()
    if not question.strip():
        raise click.UsageError("the question is empty")
    query = build_query(question, cast(Mode, mode), max_tokens)
    answer, method = asyncio.run(_answer(query, settings))
    if as_json:
        click.echo(json.dumps(as_dict(answer), ensure_ascii=False))
        return
    from rich.console import Console  # noqa: PLC0415 - not needed for --json

    show(answer, method, Console(highlight=False, soft_wrap=True))


def build_query(question: str, mode: Mode, max_tokens: int) -> Query:
    """The question as the gateway would have received it."""
    message = Message("user", question)
    body = {
        "model": mode,
        "messages": [{"role": message.role, "content": message.content}],
        "max_tokens": max_tokens,
    }
    return Query(messages=(message,), body=body, mode=mode, max_tokens=max_tokens)


async def _answer(query: Query, settings: Settings) -> tuple[Answer, str | None]:
    # Imported here, so that `ask --help` is quick.
    from router.cli.progress import fetch_model  # noqa: PLC0415
    from router.pipeline import open_pipeline  # noqa: PLC0415

    fetch_model(settings.model)
    one_slot = settings.model_copy(update={"slots": 1})  # the cache's memory grows with the slots
    async with open_pipeline(one_slot) as pipeline:
        calibration = pipeline.calibration
        answer = await pipeline.answer(query)
    return answer, None if calibration is None else calibration.method


def show(answer: Answer, method: str | None, console: Console) -> None:
    """Print the answer, coloured if it is the local one and the console has colours.

    `method` is the estimator that the decision rests on.
    """
    trace = answer.trace
    if answer.decision.route == "local" and trace is not None and trace.text == answer.text:
        console.print(coloured(trace))
        if console.color_system is not None and not console.no_color:
            console.print(legend())
    else:
        console.print(answer.text, markup=False)
    console.print(status_line(answer, method), style="dim", markup=False)


def words(trace: Trace) -> Iterator[tuple[str, float]]:
    """Yield each word of the answer with the white space behind it, and how likely it was.

    A word is as likely as the least likely of the tokens that contribute to it; in [0, 1], NaN
    when none does or its log-probability is unknown.
    """
    spans = list(zip(trace.offsets.tolist(), _ends(trace), trace.logprobs.tolist(), strict=True))
    for match in _WORD.finditer(trace.text):
        inside = [
            logprob for start, end, logprob in spans if start < match.end() and end > match.start()
        ]
        known = bool(inside) and not any(math.isnan(logprob) for logprob in inside)
        yield match.group(), math.exp(min(inside)) if known else math.nan


def _ends(trace: Trace) -> list[int]:
    """Where each token's text ends: where the first one that begins later does.

    Several tokens may share one character, and then begin at the same place.
    """
    ends: list[int] = []
    begins, end = len(trace.text), len(trace.text)
    for start in reversed(trace.offsets.tolist()):
        if start < begins:
            begins, end = start, begins
        ends.append(end)
    return ends[::-1]


def coloured(trace: Trace) -> Text:
    """The answer, each word in the style of its probability; plain where that is unknown."""
    from rich.text import Text  # noqa: PLC0415

    text = Text()
    for word, probability in words(trace):
        text.append(word, style=_style(probability))
    return text


def legend() -> Text:
    """What the colours mean."""
    from rich.text import Text  # noqa: PLC0415

    text = Text("least likely token of a word:", style="dim")
    for lowest, style in STYLES:
        text.append("  ").append(f"p >= {lowest:g}" if lowest else "below", style=style)
    return text


def _style(probability: float) -> str:
    return next((style for lowest, style in STYLES if probability >= lowest), "")


def status_line(answer: Answer, method: str | None) -> str:
    """Route, reason and the numbers behind them, on one line."""
    decision = answer.decision
    parts = [f"{decision.route}: {decision.reason}"]
    if decision.degraded:
        parts.append("degraded")
    parts.append(f"p_correct {_number(decision.p_correct)}")
    parts.append(f"threshold {_number(decision.threshold)}")
    if method is not None and method in decision.uncertainty:
        parts.append(f"{method} {_number(decision.uncertainty[method])}")
    rate = tokens_per_second(answer)
    if rate is not None:
        parts.append(f"{rate:.0f} tokens/s")
    if answer.cost_usd:
        parts.append(f"{answer.cost_usd:.6f} USD")
    return " | ".join(parts)


def tokens_per_second(answer: Answer) -> float | None:
    """Speed of the local decoding; None when nothing was decoded here."""
    seconds = answer.timings_ms.get("decode", 0.0) / 1000
    if answer.usage_local is None or not answer.usage_local.completion_tokens or seconds <= 0:
        return None
    return answer.usage_local.completion_tokens / seconds


def as_dict(answer: Answer) -> dict[str, Any]:
    """The answer as one JSON-ready object; unknown numbers are null."""
    decision = answer.decision
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "route": decision.route,
        "reason": decision.reason,
        "degraded": decision.degraded,
        "p_correct": _known(decision.p_correct),
        "threshold": decision.threshold,
        "uncertainty": {name: _known(value) for name, value in decision.uncertainty.items()},
        "calibration": decision.calibration,
        "usage": {
            "local": asdict(answer.usage_local) if answer.usage_local else None,
            "remote": asdict(answer.usage_remote) if answer.usage_remote else None,
        },
        "cost_usd": answer.cost_usd,
        "saved_usd": answer.saved_usd,
        "timings_ms": dict(answer.timings_ms),
        "tokens_per_second": tokens_per_second(answer),
    }


def _known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "unknown" if _known(value) is None else f"{value:.3f}"
