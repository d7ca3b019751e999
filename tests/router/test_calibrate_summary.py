"""What `router calibrate` says of its result."""

from __future__ import annotations

from typing import Any

from router.cli.calibrate_summary import summary
from tests.calibration.test_fit import fit, fitted, fitted_with_band, make_records

RESULT: dict[str, Any] = {
    "n": 200,
    "accuracy": 0.475,
    "method": "margin",
    "labels": "gold",
    "labelled_by": "",
    "estimators": {
        "perplexity": {"auroc": 0.6, "auroc_ci": (0.5, 0.7)},
        "margin": {"auroc": 0.75, "auroc_ci": (0.7, 0.8)},
        "broken": {"auroc": None, "auroc_ci": None},
    },
    "methods": {
        "p_true": {"auroc": 0.8, "cost": 0.25, "value": 0.24},
        "margin": {"auroc": 0.76, "cost": 0.0, "value": 0.26},
    },
    "spending": None,
    "gate": None,
    "early_stop": None,
    "ece": {
        "before": 0.2,
        "after": 0.05,
        "expected": 0.04,
        "smooth": 0.03,
        "smooth_expected": 0.02,
    },
    "brier": {"before": 0.3, "after": 0.2},
    "target": "escalation=0.3",
    "threshold": 0.5,
    "escalation_ratio": 1.0,
    "accuracy_kept": None,
    "accuracy_overall": None,
    "loss": None,
    "certificate": None,
}


def test_all_of_it() -> None:
    assert summary(RESULT).splitlines() == [
        "200 answers, 47.5% of them right",
        "",
        "score       AUROC  95% interval",
        "margin      0.750  0.700 to 0.800  <- decides",
        "perplexity  0.600  0.500 to 0.700",
        "too few known scores (see --signals): broken",
        "",
        "score   AUROC  cost  value = (AUROC - 0.5) / (1 + cost), on the fit part",
        "margin  0.760  0.00  0.260  <- decides",
        "p_true  0.800  0.25  0.240",
        "",
        "            before  after calibration  by chance alone",
        "ECE         0.2000  0.0500             0.0400",
        "smooth ECE          0.0300             0.0200",
        "Brier       0.3000  0.2000",
        "",
        "threshold 0.5000, chosen for escalation=0.3:",
        "  sent to the large model  100.0%",
        "  right among what is kept n/a, nothing is kept",
        "  measured, not certified: risk=R and loss=R come with a certificate",
    ]


def test_a_certificate_is_told_in_words() -> None:
    _, report = fit(make_records(600), "risk=0.3", population="600 synthetic questions")
    result = report.to_json()
    assert summary(result).endswith(
        "\n\nWith 95% confidence, at most 30% of the answers kept are wrong, for questions drawn "
        "like 600 synthetic questions; nothing is said of questions of another kind."
    )
    assert summary({**result, "claim": "And that is all."}).endswith("kind.\nAnd that is all.")


def test_what_is_known_of_the_large_model() -> None:
    result = {**RESULT, "accuracy_kept": 0.9, "accuracy_overall": 0.8, "loss": 0.0123}
    assert summary(result).splitlines()[-4:-1] == [
        "  right among what is kept 90.0%",
        "  right in all             80.0%",
        "  lost by not escalating   1.2%",
    ]


def test_labels_by_the_large_model() -> None:
    lines = summary({**RESULT, "labels": "llm", "labelled_by": "big"}).splitlines()
    assert lines[0] == "200 answers, 47.5% of them as big has it"
    assert lines[-1] == (
        "Right means here: agrees with big. Where big is wrong, so may be an answer that counts as "
        "right."
    )


def test_what_looking_closer_buys_and_what_is_given_up() -> None:
    calibration, report = fitted_with_band()
    spending = report.spending
    assert calibration.band is not None
    assert spending is not None
    assert spending.share_of_gain is not None
    result = {
        **report.to_json(),
        "gate": {"gated": 0.1, "lost": 0.015, "max_lost": 0.02, "probe": "p_ik", "above": 0.9},
        "early_stop": {"stopped": 0.2, "lost": 0.01, "max_lost": 0.02, "saved": 0.15},
    }
    lines = summary(result).splitlines()
    first = lines.index("look        cost  AUROC, on the test part")
    share = f"{spending.share:.1%}"
    assert lines[first + 1 : first + 8] == [
        f"cheapest    1.00  {spending.cheapest.auroc:.3f}  {calibration.band.method} alone",
        f"adaptive    {spending.adaptive.cost:.2f}  {spending.adaptive.auroc:.3f}  "
        f"stack for {share}",
        f"everything  1.25  {spending.everything.auroc:.3f}  stack for all",
        f"adaptive reaches {spending.share_of_gain:.1%} of the gain for {share} of the extra cost",
        "",
        "gate: 10.0% of the answers are not begun; 1.5% (set for at most 2.0%) of the right ones "
        "are lost",
        "early stop: 20.0% are broken off, which spares 15.0% of the tokens; 1.0% (set for at most "
        "2.0%) of those to keep are lost",
    ]


def test_the_best_methods_and_the_one_that_decides() -> None:
    _, report = fitted()
    result = report.to_json()
    ranked = sorted(result["methods"], key=lambda name: -result["methods"][name]["value"])
    result["method"] = ranked[-1]
    lines = summary(result).splitlines()
    first = next(i for i, line in enumerate(lines) if "value = " in line) + 1
    shown = [line.split()[0] for line in lines[first : lines.index("", first)]]
    assert shown == [*ranked[:5], ranked[-1]]
    assert lines[first + 5].endswith("<- decides")
