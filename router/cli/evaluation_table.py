"""An evaluation as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from calibration.evaluation_results import Evaluation, LeftOut, Quality, Routing, SetQuality
from calibration.ranking_metrics import Measured
from calibration.routing_metrics import RoutingQuality

NOT_KNOWN = "n/a"

_COLUMNS = ("auroc", "auprc", "prr", "aurc", "ece", "brier")
_HEADS = ("AUROC", "95% interval", "AUPRC", "PRR", "AURC", "ECE", "Brier")
_ROUTED = ("APGR", "CPT50", "CPT80")
_LEFT_OUT = " (left out)"


def tables(evaluation: Evaluation) -> str:
    """Write every set, all pooled, and what was found beyond the single estimators."""
    parts = [
        _table(name, quality, evaluation.left_out.get(name), evaluation.routing[name])
        for name, quality in evaluation.sets.items()
    ]
    if len(evaluation.sets) > 1:
        parts.append(
            _table(
                f"pooled, {len(evaluation.sets)} sets",
                evaluation.pooled,
                evaluation.left_out_pooled,
                evaluation.routing_pooled,
            )
        )
    leads = _leads(evaluation)
    if leads:
        parts.append("\n".join(["AUROC of trained estimators on sets left out, beside", *leads]))
    if evaluation.spending is not None:
        parts.append("\n".join(_spending(evaluation)))
    if evaluation.notes:
        parts.append("\n".join(f"note: {note}" for note in evaluation.notes))
    return "\n\n".join(parts)


def _table(title: str, of: SetQuality, left: LeftOut | None, routing: Routing) -> str:
    accuracy = of.accuracy
    lines = [
        f"{title}: {of.n} answers, {_percent(accuracy.value)} of them right "
        f"({_percent(accuracy.low)} to {_percent(accuracy.high)})"
    ]
    estimators = dict(of.estimators)
    routed: dict[str, RoutingQuality] = dict(routing.estimators)
    for name, quality in (left.quality.estimators if left else {}).items():
        estimators[name + _LEFT_OUT] = quality
        if name in routed:
            routed[name + _LEFT_OUT] = routed.pop(name)
    lines += _routing_lines(routing)
    heads = [*_HEADS, *(_ROUTED if routed else ())]
    rows = [[name, *_cells(quality, routed, name)] for name, quality in _best_first(estimators)]
    if routed and routing.oracle is not None and routing.random is not None:
        blank = [""] * len(_HEADS)
        rows.append(["oracle", *blank, *_routed_cells(routing.oracle)])
        random = routing.random
        drawn = (random.apgr(), random.cpt(0.5), random.cpt(0.8))
        rows.append(["random", *blank, *(_number(value) for value in drawn)])
    lines += aligned(["", *heads], rows)
    lines += [
        f"{NOT_KNOWN} for {', '.join(names)}: {why}" for why, names in _reasons(estimators).items()
    ]
    return "\n".join(lines)


def _routing_lines(routing: Routing) -> Iterator[str]:
    names = sorted(set(routing.upstream.values()))
    if routing.random is None:
        yield f"routing {NOT_KNOWN}: {routing.why}"
        return
    large = names[0] if len(names) == 1 else f"{len(names)} large models"
    yield (
        f"routing to {large}, {_percent(routing.random.remote)} right on {routing.n} of these "
        f"(always local {_percent(routing.random.local)})"
    )
    if routing.why:
        yield f"APGR and CPT {NOT_KNOWN}: {routing.why}"


def _best_first(estimators: Mapping[str, Quality]) -> list[tuple[str, Quality]]:
    def rank(entry: tuple[str, Quality]) -> tuple[bool, float]:
        auroc = entry[1].metrics.get("auroc")
        return auroc is None, -(auroc.value if auroc else 0.0)

    return sorted(estimators.items(), key=rank)


def _cells(quality: Quality, routed: Mapping[str, RoutingQuality], name: str) -> list[str]:
    figures = [_value(quality.metrics.get(column)) for column in _COLUMNS]
    auroc = quality.metrics.get("auroc")
    interval = f"{auroc.low:.3f} to {auroc.high:.3f}" if auroc else ""
    cells = [figures[0], interval, *figures[1:]]
    if routed:
        cells += _routed_cells(routed[name]) if name in routed else [NOT_KNOWN] * len(_ROUTED)
    return cells


def _routed_cells(quality: RoutingQuality) -> list[str]:
    return [_value(measured) for measured in (quality.apgr, quality.cpt_50, quality.cpt_80)]


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, n_left: int = 1) -> list[str]:
    """Set cells in columns; the first `n_left` begin at the left, the others end at the right."""
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            [
                *map(str.ljust, row[:n_left], widths[:n_left]),
                *map(str.rjust, row[n_left:], widths[n_left:]),
            ],
        ).rstrip()
        for row in (head, *rows)
    ]


def _reasons(estimators: Mapping[str, Quality]) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for name, quality in estimators.items():
        if quality.why:
            reasons.setdefault(quality.why, []).append(name)
    return {
        why: ["all estimators"] if len(names) == len(estimators) > 1 else names
        for why, names in reasons.items()
    }


def _leads(evaluation: Evaluation) -> list[str]:
    parts = [*evaluation.left_out.items()]
    if evaluation.left_out_pooled is not None:
        parts.append(("pooled", evaluation.left_out_pooled))
    rows = [
        [dataset, name, lead.other, f"{lead.auroc.value:+.3f}", _signed(lead.auroc)]
        for dataset, left in parts
        for name, leads in left.differences.items()
        for lead in leads
    ]
    return aligned(["set", "estimator", "over", "lead", "95% interval"], rows) if rows else []


def _signed(measured: Measured) -> str:
    return f"{measured.low:+.3f} to {measured.high:+.3f}"


def _spending(evaluation: Evaluation) -> Iterator[str]:
    spending = evaluation.spending
    assert spending is not None
    curve = spending.curve
    yield (
        f"looking closer ({spending.full}) only where {spending.cheap} leaves doubt, "
        f"measured on {curve.n} answers; cost in greedy answers"
    )
    rows = [
        [name, f"{point.cost:.2f}", f"{point.auroc:.3f}"]
        for name, point in (
            ("cheapest", curve.cheapest),
            ("adaptive", curve.adaptive),
            ("everything", curve.everything),
        )
    ]
    yield from aligned(["", "cost", "AUROC"], rows)
    if curve.share_of_gain is None:
        yield "everything gains nothing here"
    else:
        yield (
            f"adaptive reaches {_percent(curve.share_of_gain)} of the gain for "
            f"{_percent(curve.share_of_cost)} of the extra cost"
        )


def _value(measured: Measured | None) -> str:
    return _number(None if measured is None else measured.value)


def _number(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
