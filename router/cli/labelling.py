"""Answers of the small model, and who says whether they are right: gold answers, or the LLM.

What is missing is said before anything is asked of a model.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from calibration.artifact import Calibration
from calibration.errors import CalibrationError
from calibration.evaluated_rows import EvaluatedRow, pick_upstream
from calibration.fit import Truth
from calibration.items import Item, Question
from calibration.targets import CostModel, TargetKind, Targets
from router.cli.collecting import LINE_EVERY, Answers, ask
from router.cli.progress import fetch_model
from router.collect import Progress
from router.config import Settings
from router.errors import ConfigError
from router.labels import LlmLabels, ask_llm_outcomes, items_for_llm, label_by_llm
from router.llm_answers import LlmProgress, ask_llm
from router.prices import Prices
from router.remote import Upstream
from uq.signals import Signal

LLM_ANSWERS = "llm-answers.jsonl"
"""Beside the records: what the upstream has answered."""

UPSTREAM = "upstream"
"""Stands for a model's name where the upstream is to be asked."""

NEED_OUTCOMES: frozenset[TargetKind] = frozenset({"loss", "accuracy"})
"""Targets about what the large model gets right."""

ASKED, RECORDED = "llm", "llm_recorded"
"""Where a calibration notes whose outcomes it knows: the upstream's name, or by data set that of
the model recorded there."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be gathered.

    Attributes
    ----------
    signals : besides each answer.
    by_llm : whether labels come from the upstream.
    judge : whether it may judge what no rule can compare.
    llm : whose outcomes are wanted: a recorded model's name, one for each data set, `UPSTREAM`, or
        "" for the best recorded one.
    targets : the kinds that are asked for.
    """

    signals: frozenset[Signal]
    by_llm: bool
    judge: bool
    llm: str | Mapping[str, str]
    targets: Collection[TargetKind]


@dataclass(frozen=True, slots=True)
class Labelled:
    """Graded answers, who graded them, and what the LLM is known to have done.

    `upstream_usd` is what the upstream took for an average answer; None where it was not asked.
    `part` says which of the questions the evidence is about, where not all; it follows on a phrase
    for all of them.
    """

    answers: Answers
    truth: Truth
    by_llm: LlmLabels | None = None
    upstream_usd: float | None = None
    part: str = ""
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
    folder_for, seen : as in `router.cli.collecting.ask`.
    fresh : forget what whoever is asked now has answered earlier.

    Raises
    ------
    ConfigError
        The upstream is needed and not configured.
    CalibrationError
        A target needs outcomes of a large model, and none are recorded.
    """
    items = [item for item in questions if isinstance(item, Item)]

    async def answers_to(items: Sequence[Item]) -> Answers:
        return await ask(items, wanted.signals, settings, folder_for, fresh=fresh, seen=seen)

    if not wanted.by_llm and wanted.llm != UPSTREAM:
        chosen = choose_recorded(items, wanted)
        outcomes = {
            (item.dataset, item.id): item.llm[chosen[item.dataset]]
            for item in items
            if chosen.get(item.dataset) in item.llm
        }
        return Labelled(
            await answers_to(items),
            Truth(llm=outcomes or None),
            part=_known_part(wanted, outcomes, items),
            description={RECORDED: chosen} if chosen else {},
        )
    what = "--labels llm" if wanted.by_llm else "knowing what the large model gets right"
    async with _upstream(settings, what) as upstream:
        log = folder_for(str(fetch_model(settings.model))) / LLM_ANSWERS
        if fresh:
            log.unlink(missing_ok=True)
        if wanted.by_llm:
            unanswered = [question for question in questions if isinstance(question, Question)]
            return await _labelled_by_llm(
                unanswered, upstream, log, answers_to, judge=wanted.judge, prices=prices(settings)
            )
        asked = await ask_llm_outcomes(
            items, upstream, log, prices=prices(settings), on_progress=_counting()
        )
    n_answered = len(asked.right) + asked.left_out.get("cut", 0)
    return Labelled(
        await answers_to(items),
        Truth(llm=asked.right),
        upstream_usd=asked.spending.cost_usd_in_all / max(1, n_answered),
        part=_known_part(wanted, asked.right, items),
        description={ASKED: asked.model, "llm_left_out": dict(asked.left_out)},
    )


async def _labelled_by_llm(
    questions: Sequence[Question],
    upstream: Upstream,
    log: Path,
    answers_to: Callable[[Sequence[Item]], Awaitable[Answers]],
    *,
    judge: bool,
    prices: Prices,
) -> Labelled:
    asked = await ask_llm(questions, upstream, log, prices=prices, on_progress=_counting())
    answers = await answers_to(items_for_llm(questions, asked, judge=judge))
    labels = await label_by_llm(
        questions,
        {record.key: record.trace.text for record in answers.records},
        upstream,
        log,
        judge=judge,
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
        upstream_usd=asked.spending.cost_usd_in_all / max(1, len(asked.answers)),
        part=f", the {len(correct):,} of them that have a label" if labels.n_left_out else "",
        description=labels.to_dict(),
    )


def choose_recorded(items: Sequence[Item], wanted: Wanted) -> Mapping[str, str]:
    """Return by data set the recorded model that stands for the large one.

    Raises
    ------
    DataError
        `wanted.llm` names no recorded model, or several.
    CalibrationError
        A target needs outcomes, and there are none.
    """
    groups: dict[str, list[EvaluatedRow]] = {}
    for item in items:  # only `llm` matters here: the small model has not been asked yet
        row = EvaluatedRow(item.dataset, correct=False, scores={}, llm=item.llm)
        groups.setdefault(item.dataset, []).append(row)
    chosen = pick_upstream(groups, wanted.llm) if isinstance(wanted.llm, str) else wanted.llm
    needing = sorted(NEED_OUTCOMES.intersection(wanted.targets))
    if needing and not any(chosen.get(item.dataset) in item.llm for item in items):
        raise CalibrationError(
            f"the target {needing[0]} is about what the large model gets right, and no outcomes "
            "of one are recorded with these questions; ask it with --llm upstream, or use files "
            "with the key `llm`"
        )
    return chosen


def _known_part(wanted: Wanted, outcomes: Sized, items: Sized) -> str:
    """What a certified loss is about, where not all outcomes of the large model are known."""
    if "loss" not in wanted.targets or len(outcomes) == len(items):
        return ""
    return (
        f", where the loss is about the {len(outcomes):,} to which it is known whether the large "
        "model is right"
    )


def check_cost(
    targets: Targets,
    settings: Settings,
    queries_per_day: float | None,
    usd_per_escalation: float | None,
) -> None:
    """Check that what a cost needs is known: prices, and for a cost a day the traffic.

    Raises
    ------
    CalibrationError
        When something is missing, or no number from 0 on.
    """
    costs = [target for target in targets if target.kind == "cost"]
    known = prices(settings)
    if costs and usd_per_escalation is None and not known.prompt and not known.answer:
        raise CalibrationError(
            f"{costs[0]} needs prices: set upstream_price_in and upstream_price_out (USD per "
            "million tokens), or --usd-per-escalation"
        )
    model = CostModel(
        1.0 if usd_per_escalation is None else usd_per_escalation, queries_per_day=queries_per_day
    )
    for target in costs:
        if target.per == "day" and queries_per_day is None:
            raise CalibrationError(
                f"{target} needs the expected traffic: give --queries-per-day N, or ask for "
                "cost=USD/1k"
            )
        model.ratio(target)


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
    Whether all of that is known, `check_cost` tells.
    """
    if all(target.kind != "cost" for target in targets):
        return None
    usd = usd_per_escalation
    if usd is None:
        usd = labelled.upstream_usd
    if usd is None:
        known, traces = prices(settings), [record.trace for record in labelled.answers.records]
        tokens_in, tokens_out = sum(t.n_prompt for t in traces), sum(len(t) for t in traces)
        usd = (tokens_in * known.prompt + tokens_out * known.answer) / 1e6 / max(1, len(traces))
    return CostModel(usd, queries_per_day=queries_per_day)


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


def prices(settings: Settings) -> Prices:
    """Return what the upstream takes, as it is set; 0 where it is not."""
    return settings.upstream_prices()


def _upstream(settings: Settings, what: str) -> Upstream:
    upstream = Upstream.from_settings(settings)
    if upstream is None:
        raise ConfigError(f"{what} needs an upstream, and none is set; add --upstream URL")
    return upstream
