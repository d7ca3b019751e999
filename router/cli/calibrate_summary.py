"""What `router calibrate` says of its result, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calibration.certificates import Certificate
from router.cli.calibration import exit_lines

_BEST = 5
"""How many of the scores are shown with what speaks for them."""


def summary(result: Mapping[str, Any]) -> str:
    """Write the figures of `FitReport.to_json` for people."""
    width = max(len(name) for name in result["estimators"])
    right = "right" if result["labels"] == "gold" else f"as {result['labelled_by']} has it"
    lines = [
        f"{result['n']} answers, {_percent(result['accuracy'])} of them {right}",
        "",
        f"{'score':{width}}  AUROC  95% interval",
    ]
    ranked = sorted(result["estimators"].items(), key=lambda entry: -(entry[1]["auroc"] or 0))
    for name, quality in ranked:
        if quality["auroc"] is None:
            continue
        low, high = quality["auroc_ci"]
        chosen = "  <- decides" if name == result.get("method") else ""
        lines.append(f"{name:{width}}  {quality['auroc']:.3f}  {low:.3f} to {high:.3f}{chosen}")
    unknown = [name for name, quality in ranked if quality["auroc"] is None]
    if unknown:
        lines.append(f"too few known scores (see --signals): {', '.join(unknown)}")
    kept = result["accuracy_kept"]
    lines += [
        *_why(result),
        *_spent(result),
        "",
        "            before  after calibration  by chance alone",
        *(
            f"{label:10}  {_number(before):6}  {after:.4f}             {_number(chance)}".rstrip()
            for label, before, after, chance in _errors(result)
        ),
        "",
        f"threshold {result['threshold']:.4f}, chosen for {result['target']}:",
        f"  sent to the large model  {_percent(result['escalation_ratio'])}",
        f"  right among what is kept {'n/a, nothing is kept' if kept is None else _percent(kept)}",
        *_with_large_model(result),
        *_certainty(result),
    ]
    return "\n".join(lines)


def _errors(result: Mapping[str, Any]) -> list[tuple[str, float | None, float, float | None]]:
    ece, brier = result["ece"], result["brier"]
    return [
        ("ECE", ece["before"], ece["after"], ece["expected"]),
        ("smooth ECE", None, ece["smooth"], ece["smooth_expected"]),
        ("Brier", brier["before"], brier["after"], None),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _with_large_model(result: Mapping[str, Any]) -> list[str]:
    """What is known where the large model's outcomes are."""
    lines = []
    if result["accuracy_overall"] is not None:
        lines.append(f"  right in all             {_percent(result['accuracy_overall'])}")
    if result["loss"] is not None:
        lines.append(f"  lost by not escalating   {_percent(result['loss'])}")
    return lines


def _certainty(result: Mapping[str, Any]) -> list[str]:
    """The certificate in words, and what stands against it."""
    if result["certificate"] is None:
        lines = ["  measured, not certified: risk=R and loss=R come with a certificate"]
    else:
        lines = ["", Certificate.from_dict(result["certificate"]).describe()]
    if result.get("claim"):
        return [*lines, result["claim"]]
    if result["labels"] == "llm":
        name = result["labelled_by"]
        lines.append(
            f"Right means here: agrees with {name}. Where {name} is wrong, so may be an answer "
            "that counts as right."
        )
    return lines


def _why(result: Mapping[str, Any]) -> list[str]:
    """The methods of highest value, the one that decides among them in any case."""
    ranked = sorted(result["methods"].items(), key=lambda entry: -entry[1]["value"])
    shown = ranked[:_BEST]
    shown += [entry for entry in ranked[_BEST:] if entry[0] == result["method"]]
    width = max(len("score"), *(len(name) for name, _ in shown))
    lines = [
        "",
        f"{'score':{width}}  AUROC  cost  value = (AUROC - 0.5) / (1 + cost), on the fit part",
    ]
    for name, it in shown:
        chosen = "  <- decides" if name == result["method"] else ""
        lines.append(
            f"{name:{width}}  {it['auroc']:.3f}  {it['cost']:.2f}  {it['value']:.3f}{chosen}"
        )
    return lines


def _spent(result: Mapping[str, Any]) -> list[str]:
    """What looking closer costs and buys, and what is given up early."""
    lines: list[str] = []
    spending = result["spending"]
    if spending is not None:
        lines += ["", f"{'look':10}  cost  AUROC, on the test part"]
        for look, what in (
            ("cheapest", f"{spending['cheap']} alone"),
            ("adaptive", f"{spending['costly']} for {_percent(spending['share'])}"),
            ("everything", f"{spending['costly']} for all"),
        ):
            auroc = spending[look]["auroc"]
            shown = "  n/a" if auroc is None else f"{auroc:.3f}"
            lines.append(f"{look:10}  {spending[look]['cost']:.2f}  {shown}  {what}")
        if spending["share_of_gain"] is not None:
            gain = _percent(spending["share_of_gain"])
            cost = _percent(spending["share"])
            lines.append(f"adaptive reaches {gain} of the gain for {cost} of the extra cost")
    exits = exit_lines(result["gate"], result["early_stop"])
    return [*lines, "", *exits] if exits else lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
