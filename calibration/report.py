"""The report: one HTML page that shows what a calibration was fitted on and what it measures.

The page is self-contained: its plots are SVG inside it and it loads nothing. Its colours follow the
reader's light or dark mode, the plots' as well: those are drawn in placeholder colours that become
CSS variables.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from calibration.artifact import Calibration
from calibration.fit_results import FitReport, ReliabilityBin
from calibration.report_parts import (
    DARK,
    LIGHT,
    PLACEHOLDER,
    Theme,
    as_percent,
    canvas,
    inline_svg,
    legend,
    page_environment,
)
from calibration.thresholds import MIN_KEPT, OperatingPoint, binomial_interval


def write_report(
    path: str | os.PathLike[str], calibration: Calibration, report: FitReport, *, claim: str = ""
) -> Path:
    """Write the HTML page to `path` (its folder is made when missing) and return it.

    `claim` is what a certificate comes to where the labels are not gold answers.
    """
    environment = page_environment()
    page = environment.get_template("report.html.j2").render(
        calibration=calibration,
        report=report,
        point=calibration.operating_point,
        claim=claim,
        light=LIGHT,
        dark=DARK,
        first_look=calibration.first_look,
        n_unplotted=report.n - sum(report.scores.right) - sum(report.scores.wrong),
        estimators=_by_auroc(report),
        methods=sorted(report.methods.items(), key=lambda pair: (-pair[1].value, pair[0])),
        operating_rows=_operating_rows(calibration),
        groups=sorted(report.groups.items(), key=lambda pair: -pair[1].accuracy),
        figures={
            "routing": inline_svg(routing_curve_figure(calibration, PLACEHOLDER), "routing"),
            "reliability": inline_svg(_reliability_figure(report, PLACEHOLDER), "reliability"),
            "scores": inline_svg(_score_figure(calibration, report, PLACEHOLDER), "scores"),
        },
        min_kept=MIN_KEPT,
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path


def write_routing_curve(
    path: str | os.PathLike[str], calibration: Calibration, theme: Theme = LIGHT
) -> Path:
    """Write the routing curve as a picture (.svg or .png) and return its path.

    The same calibration gives the same bytes.
    """
    path = Path(path)
    figure = routing_curve_figure(calibration, theme)
    with mpl.rc_context({"svg.hashsalt": "routing-curve", "svg.fonttype": "path"}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=200, metadata=metadata)
    return path


def routing_curve_figure(calibration: Calibration, theme: Theme = LIGHT) -> Figure:
    """Draw accuracy of what is kept over the escalation ratio, on the test part.

    With exact 95% binomial intervals, the chosen point, and what escalating at random would keep.
    Points at which fewer than `MIN_KEPT` answers are kept are not drawn. The caller saves it:
    ``routing_curve_figure(calibration).savefig("curve.png")``.
    """
    drawn = [
        (point.escalation_ratio, point.accuracy_kept, point.n_kept)
        for point in calibration.routing_curve
        if point.accuracy_kept is not None and point.n_kept >= MIN_KEPT
    ]
    figure, axes = canvas(theme, "share of questions escalated", "share of kept answers right")
    if drawn:
        ratio, accuracy, n_kept = (np.array(column) for column in zip(*drawn, strict=True))
        low, high = _intervals(accuracy, n_kept)
        axes.fill_between(ratio, low, high, color=theme.blue, alpha=0.18, linewidth=0)
        axes.plot(ratio, accuracy, color=theme.blue, linewidth=2, label="router, with 95% interval")
    axes.axhline(
        calibration.accuracy_test,
        color=theme.muted,
        linewidth=1.5,
        linestyle=(0, (4, 3)),
        label="escalating at random",
    )
    point = calibration.operating_point
    if point.accuracy_kept is not None:
        axes.plot(
            [point.escalation_ratio],
            [point.accuracy_kept],
            marker="o",
            markersize=9,
            linestyle="none",
            markerfacecolor=theme.orange,
            markeredgecolor=theme.surface,
            markeredgewidth=1.5,
            label=f"chosen: {point.escalation_ratio:.0%} escalated, "
            f"{point.accuracy_kept:.0%} of kept right",
        )
    axes.set_xlim(0, 1)
    _, top = axes.get_ylim()
    axes.set_ylim(top=min(top, 1.02))
    as_percent(axes)
    legend(axes, theme)
    return figure


def _reliability_figure(report: FitReport, theme: Theme) -> Figure:
    figure, axes = canvas(theme, "confidence", "share of answers right")
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1.5, linestyle=(0, (4, 3)))
    _reliability_points(axes, report.reliability_before, theme.orange, "s", "raw token probability")
    _reliability_points(axes, report.reliability_after, theme.blue, "o", "calibrated P(correct)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    as_percent(axes)
    legend(axes, theme)
    return figure


def _reliability_points(
    axes: Axes, bins: Sequence[ReliabilityBin], color: str, marker: str, label: str
) -> None:
    if not bins:
        return
    accuracy = np.array([b.accuracy for b in bins])
    errors = np.array([[b.accuracy - b.low for b in bins], [b.high - b.accuracy for b in bins]])
    axes.errorbar(
        [b.confidence for b in bins],
        accuracy,
        yerr=np.maximum(errors, 0.0),
        color=color,
        marker=marker,
        markersize=5,
        linewidth=1.2,
        elinewidth=1,
        label=label,
    )


def _score_figure(calibration: Calibration, report: FitReport, theme: Theme) -> Figure:
    scores, method = report.scores, calibration.first_look.replace("_", " ")
    edges = np.array(scores.edges)
    figure, axes = canvas(theme, f"uncertainty: {method} (right = less sure)", "answers")
    axes.stairs(scores.right, edges, fill=True, color=theme.blue, alpha=0.45, label="right")
    axes.stairs(scores.right, edges, color=theme.blue, linewidth=1)
    axes.stairs(
        scores.wrong,
        edges,
        fill=True,
        facecolor="none",
        edgecolor=theme.orange,
        hatch="////",
        linewidth=1.5,
        label="wrong",
    )
    band = calibration.band
    if band is not None:
        low, high = max(band.low, edges[0]), min(band.high, edges[-1])
        axes.axvspan(
            low, high, color=theme.muted, alpha=0.18, linewidth=0, label="looked at closer"
        )
    border = _border(calibration, edges)
    if border is not None:
        axes.axvline(border, color=theme.ink, linewidth=1.5, linestyle=(0, (4, 3)))
        axes.annotate(
            "kept ◂",
            (border, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-8, 4),
            textcoords="offset points",
            ha="right",
            color=theme.ink,
        )
        axes.annotate(
            "▸ escalated",
            (border, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(8, 4),
            textcoords="offset points",
            color=theme.ink,
        )
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=0)
    legend(axes, theme)
    return figure


def _border(calibration: Calibration, edges: np.ndarray[Any, Any]) -> float | None:
    """The highest plotted uncertainty that is kept; None when all or nothing of the plot is.

    None with a band too: there another score decides.
    """
    if calibration.band is not None:
        return None
    grid = np.linspace(edges[0], edges[-1], 2001)
    kept = calibration.calibrator.predict(grid) >= calibration.threshold
    return None if kept.all() or not kept.any() else float(grid[kept][-1])


def _intervals(
    accuracy: np.ndarray[Any, Any], n_kept: np.ndarray[Any, Any]
) -> tuple[list[float], list[float]]:
    bounds = [
        binomial_interval(round(share * n), int(n))
        for share, n in zip(accuracy, n_kept, strict=True)
    ]
    return [low for low, _ in bounds], [high for _, high in bounds]


def _by_auroc(report: FitReport) -> list[tuple[str, Any]]:
    """Estimators, best first; those that can't be judged last."""
    return sorted(
        report.estimators.items(),
        key=lambda pair: (pair[1].auroc is None, -(pair[1].auroc or 0.0), pair[0]),
    )


def _operating_rows(calibration: Calibration) -> list[tuple[str, OperatingPoint | None]]:
    """Every target with its point, None where no threshold reached it; by kind, then value."""
    rows: dict[str, OperatingPoint | None] = dict.fromkeys(calibration.unreachable)
    for point in (*calibration.operating_points, calibration.operating_point):
        rows[point.target] = point
    return sorted(rows.items())
