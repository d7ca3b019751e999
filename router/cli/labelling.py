"""Answers of the small model, and who says whether they are right: gold answers, or the LLM."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from calibration.artifact import Calibration
from calibration.errors import CalibrationError
from calibration.evaluated_rows import pick_upstream, rows_of_records
from calibration.fit import Truth
from calibration.items import Item, Question
from calibration.records import Key, Record
from calibration.targets import CostModel, TargetKind, Targets
from router.cli.collecting import LINE_EVERY, Answers, ask
from router.collect import Progress
from router.config import Settings
from router.errors import ConfigError
from router.labels import LlmLabels, ask_llm_outcomes, items_for_llm, label_by_llm
from router.llm_answers import LlmProgress, Spending, ask_llm
from router.models import resolve_model
from router.pipeline import Prices
from router.remote import Upstream
from uq.signals import Signal

LLM_ANSWERS = "llm-answers.jsonl"
"""Beside the records: what the upstream has answered."""

UPSTREAM = "upstream"
"""Stands for a model's name where the upstream is to be asked."""

_NEED_OUTCOMES: frozenset[TargetKind] = frozenset({"loss", "accuracy"})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be gathered.

    Attributes
    ----------
    signals : besides each answer.
    by_llm : whether labels come from the upstream.
    judge : whether it may judge what no rule can compare.
    llm : whose outcomes are wanted: a recorded model's name, `UPSTREAM`, or "" for the best
        recorded one.
    targets : the kinds that are asked for.
    """

    signals: frozenset[Signal]
    by_llm: bool
    judge: bool
    llm: str
    targets: Collection[TargetKind]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Graded answers, who graded them, and what the LLM is known to have done.

    `spending` is what the upstream used for its answers, of which there are `n_llm`.
    """

    answers: Answers
    truth: Truth
    by_llm: LlmLabels | None = None
    spending: Spending | None = None
    n_llm: int = 0
    description: Mapping[str, Any] = field(default_factory=dict)

    def claim(self, calibration: Calibration) -> str:
        """What a certificate of `calibration` comes to with labels by an LLM; else ""."""
        certificate = calibration.operating_point.certificate
        if certificate is None or self.by_llm is None:
            return ""
        bounds = [claim.bound for claim in certificate.claims if claim.kind == "risk"]
        return self.by_llm.widened_claim(bounds[0]) if bounds else ""


async def ask_and_label(
    questions: Sequence[Item] | Sequence[Question],
    wanted: Wanted,
    settings: Settings,
    folder_for: Callable[[str], Path],
    *,
    fresh: bool,
    seen: list[Progress],
) -> Labelled:
    """Ask the small model, and the upstream where `wanted` says so.

    Parameters
    ----------
    questions : items with answers, or questions without where labels come from the upstream.
    folder_for, fresh, seen : as in `router.cli.collecting.ask`.

    Raises
    ------
    ConfigError
        The upstream is needed and not configured.
    CalibrationError
        A target needs outcomes of a large model, and none are recorded.
    """
    log = folder_for(str(resolve_model(settings.model))) / LLM_ANSWERS
    if fresh:
        log.unlink(missing_ok=True)
    if wanted.by_llm:
        unanswered = [question for question in questions if isinstance(question, Question)]
        return await _labelled_by_llm(
            unanswered, wanted, settings, folder_for, log, fresh=fresh, seen=seen
        )
    items = [item for item in questions if isinstance(item, Item)]
    if wanted.llm != UPSTREAM:
        answers = await ask(items, wanted.signals, settings, folder_for, fresh=fresh, seen=seen)
        outcomes = recorded_outcomes(answers.records, items, wanted)
        return Labelled(answers, Truth(llm=outcomes))
    async with _upstream(settings, "--llm upstream") as upstream:
        asked = await ask_llm_outcomes(
            items, upstream, log, prices=_prices(settings), on_progress=_counting()
        )
    answers = await ask(items, wanted.signals, settings, folder_for, fresh=fresh, seen=seen)
    return Labelled(
        answers,
        Truth(llm=asked.right),
        spending=asked.spending,
        n_llm=len(asked.right) + sum(asked.left_out.values()),
        description={"llm": asked.model, "llm_left_out": dict(asked.left_out)},
    )


async def _labelled_by_llm(
    questions: Sequence[Question],
    wanted: Wanted,
    settings: Settings,
    folder_for: Callable[[str], Path],
    log: Path,
    *,
    fresh: bool,
    seen: list[Progress],
) -> Labelled:
    prices = _prices(settings)
    async with _upstream(settings, "--labels llm") as upstream:
        asked = await ask_llm(questions, upstream, log, prices=prices, on_progress=_counting())
        items = items_for_llm(questions, asked, judge=wanted.judge)
        answers = await ask(items, wanted.signals, settings, folder_for, fresh=fresh, seen=seen)
        local = {record.key: record.trace.text for record in answers.records}
        labels = await label_by_llm(
            questions,
            local,
            upstream,
            log,
            judge=wanted.judge,
            prices=prices,
            on_progress=_counting(),
        )
    correct = labels.correct()
    records = [
        dataclasses.replace(record, correct=correct[record.key])
        for record in answers.records
        if record.key in correct
    ]
    return Labelled(
        dataclasses.replace(answers, records=records),
        Truth("llm", labels.model),
        by_llm=labels,
        spending=labels.spending,
        n_llm=labels.n,
        description=labels.to_dict(),
    )


def recorded_outcomes(
    records: Sequence[Record], items: Sequence[Item], wanted: Wanted
) -> dict[Key, bool] | None:
    """Return what the large model is recorded to have got right; None where nothing is.

    Raises
    ------
    DataError
        `wanted.llm` names no recorded model, or several.
    CalibrationError
        A target needs outcomes, and there are none.
    """
    rows = rows_of_records(records, items, ())
    groups: dict[str, list[Any]] = {}
    for row in rows:
        groups.setdefault(row.dataset, []).append(row)
    chosen = pick_upstream(groups, wanted.llm)
    outcomes = {
        row.record.key: row.llm[chosen[row.dataset]]
        for row in rows
        if row.record is not None and chosen.get(row.dataset) in row.llm
    }
    needing = sorted(_NEED_OUTCOMES.intersection(wanted.targets))
    if needing and not outcomes:
        raise CalibrationError(
            f"the target {needing[0]} is about what the large model gets right, and no outcomes "
            "of one are recorded with these questions; ask it with --llm upstream, or use files "
            "with the key `llm`"
        )
    return outcomes or None


def cost_model(
    targets: Targets,
    labelled: Labelled,
    settings: Settings,
    queries_per_day: float | None,
    usd_per_escalation: float | None,
) -> CostModel | None:
    """Return what answers cost, where a target is a cost; else None.

    An escalated query is priced by `usd_per_escalation`, or by the upstream's prices and the tokens
    that it used for these questions; without those, by the small model's own tokens for them.

    Raises
    ------
    CalibrationError
        A cost is asked for, and neither prices nor a price are known.
    """
    if all(target.kind != "cost" for target in targets):
        return None
    if usd_per_escalation is None:
        usd_per_escalation = _mean_price(labelled, _prices(settings))
    return CostModel(usd_per_escalation, queries_per_day=queries_per_day)


def _mean_price(labelled: Labelled, prices: Prices) -> float:
    if not prices.prompt and not prices.answer:
        raise CalibrationError(
            "a cost needs prices: set upstream_price_in and upstream_price_out (USD per million "
            "tokens), or --usd-per-escalation"
        )
    if labelled.spending is not None and labelled.n_llm:
        return labelled.spending.cost_usd_in_all / labelled.n_llm
    traces = [record.trace for record in labelled.answers.records]
    tokens_in, tokens_out = sum(t.n_prompt for t in traces), sum(len(t) for t in traces)
    usd = (tokens_in * prices.prompt + tokens_out * prices.answer) / 1e6
    return usd / max(1, len(traces))


def _counting(clock: Callable[[], float] = time.monotonic) -> Callable[[LlmProgress], None]:
    """Return a function that tells now and then how far the upstream has come, and at what cost."""
    console = Console(stderr=True)
    last = clock()

    def show(progress: LlmProgress) -> None:
        nonlocal last
        if clock() - last >= LINE_EVERY or (progress.done == progress.total > progress.reused):
            last = clock()
            cost = f", {progress.cost_usd:.4f} USD" if progress.cost_usd else ""
            console.print(f"upstream: {progress.done}/{progress.total}{cost}", highlight=False)

    return show


def _prices(settings: Settings) -> Prices:
    return Prices(settings.upstream_price_in, settings.upstream_price_out)


def _upstream(settings: Settings, what: str) -> Upstream:
    upstream = Upstream.from_settings(settings)
    if upstream is None:
        raise ConfigError(f"{what} asks an upstream, and none is set; add --upstream URL")
    return upstream
