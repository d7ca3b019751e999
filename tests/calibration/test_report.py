"""The report: valid, self-contained HTML that says what the calibration says."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from calibration.artifact import Calibration
from calibration.feedback import Feedback, LabelledAnswer
from calibration.fit import Truth
from calibration.fit_results import FitReport
from calibration.report import (
    routing_curve_figure,
    write_report,
    write_routing_curve,
)
from calibration.report_parts import DARK, LIGHT, Theme
from calibration.thresholds import MIN_KEPT
from tests.calibration.test_fit import (
    bound_to,
    fit,
    fitted,
    fitted_on_long_answers,
    fitted_on_noise,
    fitted_on_states,
    fitted_on_too_dear,
    fitted_with_band,
    make_records,
)

VOID = {"meta", "br", "wbr", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Reads a page, and fails on a tag that closes nothing or stays open."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "svg"} & set(self.open):
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


@cache
def html() -> str:
    """The report of the calibration that `fitted` makes."""
    with TemporaryDirectory() as folder:
        return write_report(Path(folder) / "new" / "report.html", *fitted()).read_text("utf-8")


def page_of(tmp_path: Path, calibration: Calibration, report: FitReport) -> Page:
    return Page(write_report(tmp_path / "report.html", calibration, report).read_text("utf-8"))


class TestPage:
    def test_is_valid_html(self) -> None:
        page = Page(html())
        for tag in ("html", "head", "title", "main", "h1"):
            assert page.tags[tag] == 1
        assert page.tags["table"] == 5
        ids = page.values("id")
        assert len(ids) == len(set(ids))
        labels = [
            label for name in ("aria-labelledby", "aria-describedby") for label in page.values(name)
        ]
        assert labels
        assert set(labels) <= set(ids)

    def test_loads_nothing(self) -> None:
        assert "http" not in html()
        assert "//" not in re.sub(r"//+\s", "", html())
        assert "@import" not in html()
        page = Page(html())
        assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
        assert page.values("src") == []
        ids = set(page.values("id"))
        assert all(ref.startswith("#") and ref[1:] in ids for ref in page.values("href"))
        assert set(re.findall(r"url\(#([^)]*)\)", html())) <= ids
        assert len(re.findall(r"url\((?!#)", html())) == 0

    def test_has_three_plots_that_can_be_read_without_eyes(self) -> None:
        page = Page(html())
        assert page.tags["svg"] == 3
        roles = [(tag, value) for tag, name, value in page.attributes if name == "role"]
        assert roles.count(("div", "img")) == 3
        alternatives = [text for text in page.values("aria-label") if len(text) > 80]
        assert [text.split(" ")[0] for text in alternatives] == [
            "Routing",
            "Reliability",
            "Histogram",
        ]
        hidden = [
            tag for tag, name, value in page.attributes if (name, value) == ("aria-hidden", "true")
        ]
        assert hidden.count("svg") == 3

    def test_plots_follow_light_and_dark_mode(self) -> None:
        assert "prefers-color-scheme: dark" in html()
        for theme in (LIGHT, DARK):
            assert f"--blue: {theme.blue}" in html()
        svg = "".join(re.findall(r"<svg.*?</svg>", html(), flags=re.DOTALL))
        for name in ("ink", "muted", "grid", "surface", "blue", "orange"):
            assert f"var(--{name})" in svg
        assert not re.findall(r"#[0-9a-f]{6}\b", svg)

    def test_says_the_numbers(self) -> None:
        calibration, report = fitted()
        words = Page(html()).words
        assert f"answered {report.accuracy:.1%} of 600 labelled questions right" in words
        assert f"it sent {report.escalation_ratio:.1%} to the large model" in words
        assert f"{report.accuracy_kept:.1%} are right" in words
        assert f"keeping everything would give {report.accuracy_test:.1%}" in words
        assert f"may be up to {report.risk_upper:.1%}" in words
        assert "no guarantee" in words
        assert f"{calibration.threshold:.3f}" in words
        assert calibration.id in words
        for fact in ("abab", "Q4_1", "cdcd", "temperature=0.0", "build 1", "synthetic"):
            assert fact in words
        assert "but the 9 whose score is unknown" in words

    def test_tables_hold_every_row(self) -> None:
        calibration, report = fitted()
        words = Page(html()).words
        order = [words.index(point.target) for point in calibration.operating_points]
        assert len(order) == len(calibration.operating_points)
        for target in calibration.unreachable:
            assert f"{target} no threshold reached it" in words
        assert "escalation=0.3 (chosen)" in words
        signals = words.split("Which signal tells right from wrong")[1]
        ranked = sorted(report.estimators, key=lambda name: -(report.estimators[name].auroc or 0))
        first, last = ranked[0].replace("_", " "), ranked[-1].replace("_", " ")
        assert signals.index(first) < signals.index(last)
        for family in report.groups:
            assert family in words

    def test_says_why_the_method_was_chosen(self, tmp_path: Path) -> None:
        calibration, report = fitted_on_states()
        words = page_of(tmp_path, calibration, report).words
        why = words.split("signal AUROC extra cost value ")[1].split(" Compute where")[0]
        ranked = sorted(report.methods.items(), key=lambda entry: -entry[1].value)
        assert why == " ".join(
            f"{name.replace('_', ' ')}{' (in use)' if name == report.method else ''} "
            f"{it.auroc:.3f} {it.cost:.2f} {it.value:.3f}"
            for name, it in ranked
        )
        assert why.startswith(f"{report.method.replace('_', ' ')} (in use)")
        assert "probes in this folder: " in words

    def test_shows_what_looking_closer_costs_and_buys(self, tmp_path: Path) -> None:
        calibration, report = fitted_with_band()
        words = page_of(tmp_path, calibration, report).words
        band, spent = calibration.band, report.spending
        assert band is not None
        assert spent is not None
        assert spent.share_of_gain is not None
        assert f"cheapest 0% 1.00 {band.auroc_cheap:.3f} " in words
        assert f"adaptive {band.share:.0%} {spent.adaptive.cost:.2f} {band.auroc:.3f} " in words
        assert f"everything 100% 1.25 {band.auroc_everything:.3f} " in words
        assert f"Adaptive reaches {spent.share_of_gain:.0%} of what everything gains" in words
        assert "In use: adaptive." in words
        first = band.method.replace("_", " ")
        assert f"one number from each answer, its {first}, and" in words
        assert f"Where that leaves doubt, {band.share:.0%} of the time, it looks closer" in words
        assert "looked at closer" in write_report(
            tmp_path / "again.html", calibration, report
        ).read_text("utf-8")

    def test_says_why_there_is_no_closer_look(self, tmp_path: Path) -> None:
        assert "No costly score was gathered" in Page(html()).words
        words = page_of(tmp_path, *fitted_on_too_dear()).words
        assert "In use: cheapest; a unit of compute buys more there." in words
        assert "ask for --method stack" in words
        words = page_of(tmp_path, *fitted_on_noise()).words
        assert "In use: cheapest; on the fit part the closer look adds nothing." in words
        assert "Beware: stack was asked for" in words

    def test_shows_what_is_given_up_and_what_that_loses(self, tmp_path: Path) -> None:
        calibration, report = fitted_on_states()
        words, gate = page_of(tmp_path, calibration, report).words, report.gate
        assert gate is not None
        assert f"P(wrong) by p ik above {gate.above:.3f} {gate.gated:.1%} {gate.lost:.1%} 2.0%" in (
            words
        )
        assert "early stop, during an answer none: it takes" in words
        calibration, report = fitted_on_long_answers()
        words, stop = page_of(tmp_path, calibration, report).words, report.early_stop
        assert stop is not None
        assert "gate, before an answer none: it takes" in words
        assert f"above {stop.checkpoints[0][1]:.2f} after 16, " in words
        assert f"tokens {stop.stopped:.1%} {stop.lost:.1%} 2.0%" in words
        assert f"The early stop spares {stop.saved:.1%} of all tokens." in words

    def test_says_what_is_certain_and_of_what_questions(self, tmp_path: Path) -> None:
        calibration, report = fit(
            make_records(600),
            "risk=0.3",
            population="<script>faq</script>",
            calibrator="venn_abers",
        )
        certificate, page = report.certificate, page_of(tmp_path, calibration, report)
        assert certificate is not None
        (claim,) = certificate.claims
        assert f"Certificate: {certificate.describe()} It rests on 240 answers that" in page.words
        assert f"of which {claim.n_kept} are kept and {claim.n_errors} count as errors" in (
            page.words
        )
        assert "no guarantee" not in page.words
        assert "risk=0.3 (chosen)" in page.words
        assert "drawn from<script>faq</script>" in page.words
        assert page.tags["script"] == 0
        assert report.mean_width is not None
        assert f"interval of P(correct) is {report.mean_width:.3f} wide on average" in page.words
        assert "of live traffic" not in page.words

    def test_says_whose_labels_they_are_and_what_that_comes_to(self, tmp_path: Path) -> None:
        records = make_records(300)
        truth = Truth(labels="llm", labelled_by="gpt-x")
        feedback = Feedback.of([LabelledAnswer({"perplexity": 0.4}, True, 0.0, 1.0)] * 12)
        calibration, report = fit(records, "risk=0.4", truth=truth, feedback=feedback)
        words = page_of(tmp_path, calibration, report).words
        assert f"answered {report.accuracy:.1%} of 300 questions as gpt-x does" in words
        assert 'Labels by a model: "right" means here: agrees with gpt-x.' in words
        assert "An answer counts as wrong when it disagrees with the large model's." in words
        assert "12 labelled answers of live traffic" in words
        assert report.accuracy_overall is not None
        assert f"With the large model's answers to the rest, {report.accuracy_overall:.1%}" in words
        path = write_report(
            tmp_path / "claim.html", calibration, report, claim="At most 12% & no more."
        )
        words = Page(path.read_text("utf-8")).words
        assert "Labels by a model: At most 12% & no more." in words
        assert "means here" not in words

    def test_a_chosen_target_outside_the_table_gets_its_row(self, tmp_path: Path) -> None:
        calibration, report = fit(make_records(200), "threshold=0.55")
        assert "threshold=0.55 (chosen) 0.550" in page_of(tmp_path, calibration, report).words

    def test_nothing_kept(self, tmp_path: Path) -> None:
        calibration, report = fit(make_records(200), "escalation=1.0")
        words = page_of(tmp_path, calibration, report).words
        assert "it kept none: every question goes to the large model" in words
        assert "no guarantee" not in words

    def test_everything_kept(self, tmp_path: Path) -> None:
        calibration, report = fit(make_records(200), "escalation=0.0")
        assert "it sent 0.0% to the large model" in page_of(tmp_path, calibration, report).words

    def test_warnings_are_on_top(self, tmp_path: Path) -> None:
        calibration, report = fit(make_records(90))
        words = page_of(tmp_path, calibration, report).words
        assert words.index("Beware: Only") < words.index("What escalating buys")

    def test_unknown_figures_are_dashes(self, tmp_path: Path) -> None:
        calibration, report = fitted()
        unknown = replace(
            report,
            ece=replace(report.ece, before=None),
            brier=replace(report.brier, before=None),
            reliability_before=(),
            estimators={
                **report.estimators,
                "margin": replace(report.estimators["margin"], auroc=None, auroc_ci=None),
            },
        )
        words = page_of(tmp_path, calibration, unknown).words
        assert "was –; chance alone" in words
        assert "margin – too few known" in words

    def test_names_from_outside_are_text_not_markup(self, tmp_path: Path) -> None:
        hostile = "<script>alert(1)</script>"
        records = [
            replace(r, family=hostile) if r.family == "sums" else r for r in make_records(200)
        ]
        calibration, report = fit(
            records,
            binding=replace(bound_to("perplexity"), quantisation=hostile),
            holdout={"name": hostile, hostile: 1},
        )
        page = page_of(tmp_path, calibration, report)
        assert page.tags["script"] == 0
        assert page.words.count("alert(1)") >= 4

    def test_can_be_written_again(self, tmp_path: Path) -> None:
        calibration, report = fitted()
        path = write_report(tmp_path / "report.html", calibration, report)
        assert path.read_text("utf-8") == html()


class TestRoutingCurve:
    def test_shows_the_measured_curve_and_the_chosen_point(self) -> None:
        calibration, report = fitted()
        figure = routing_curve_figure(calibration)
        (axes,) = figure.axes
        curve, random, chosen = (line.get_xydata() for line in axes.get_lines())
        drawn = [p for p in calibration.routing_curve if p.n_kept >= MIN_KEPT]
        points = [[p.escalation_ratio, p.accuracy_kept] for p in drawn]
        assert np.asarray(curve).tolist() == points
        assert np.asarray(random)[:, 1].tolist() == [calibration.accuracy_test] * 2
        assert np.asarray(chosen).tolist() == [[report.escalation_ratio, report.accuracy_kept]]

    def test_draws_no_point_when_nothing_is_kept(self) -> None:
        calibration, _ = fit(make_records(100), "escalation=1.0")
        assert len(routing_curve_figure(calibration).axes[0].get_lines()) == 2

    def test_draws_no_curve_when_too_few_are_ever_kept(self) -> None:
        calibration, _ = fit(make_records(100), "escalation=1.0")
        few = replace(
            calibration,
            routing_curve=tuple(replace(p, n_kept=3) for p in calibration.routing_curve),
        )
        assert len(routing_curve_figure(few).axes[0].get_lines()) == 1

    @pytest.mark.parametrize("theme", [LIGHT, DARK])
    def test_has_its_own_background(self, theme: Theme) -> None:
        figure = routing_curve_figure(fitted()[0], theme)
        assert isinstance(figure, Figure)
        assert to_hex(figure.get_facecolor()) == theme.surface

    @pytest.mark.parametrize(("name", "start"), [("a.svg", b"<?xml"), ("a.png", b"\x89PNG")])
    def test_is_written_the_same_twice(self, tmp_path: Path, name: str, start: bytes) -> None:
        calibration, _ = fitted()
        one = write_routing_curve(tmp_path / name, calibration).read_bytes()
        two = write_routing_curve(tmp_path / f"again-{name}", calibration).read_bytes()
        assert one == two
        assert one.startswith(start)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_marks_stand_out(theme: Theme) -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(colour: str) -> float:
        light, dark = sorted([luminance(colour), luminance(theme.surface)], reverse=True)
        return (light + 0.05) / (dark + 0.05)

    # WCAG 2.2: text 4.5 (AA), graphics 3.
    assert contrast(theme.ink) > 7
    assert contrast(theme.muted) > 4.5
    assert contrast(theme.blue) > 3
    assert contrast(theme.orange) > 3
