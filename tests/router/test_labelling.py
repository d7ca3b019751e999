"""`router calibrate` with a large model: its recorded outcomes, its own answers, what they cost."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from calibration.artifact import Calibration
from calibration.fit import Truth
from calibration.items import Item
from calibration.records import Record
from calibration.targets import CostModel, parse_targets
from router.binding import binding_of
from router.cli.collecting import Answers
from router.cli.labelling import Labelled, Wanted, check_cost, choose_recorded, cost_model
from router.config import Settings
from router.labels import JUDGE_PROMPT
from tests.router.colours import (
    INFO,
    LocalModel,
    N,
    is_right,
    knows,
    large_model,
    local_model,
    question,
    run,
    unanswered,
    written,
)
from tests.router.fake_upstream import Server, Step
from tests.router.llm import DOWN, cut_answer
from tests.router.samples import trace

__all__ = ["local_model"]  # a fixture

more_of_the_same = pytest.mark.no_cover
"""Tracing a fit takes as long as the fit; the tests without this mark cover the same lines."""

QUICK = ("--signals", "none", "--method", "perplexity", "--calibrator", "platt")


def calibrated(data: Path, *words: str) -> Result:
    return run("calibrate", "--dataset", data, "--out", data.parent / "made", *QUICK, *words)


def at(server: Server, *words: str) -> tuple[str, ...]:
    return ("--upstream", server.url, "--upstream-model", "big", *words)


def made_in(folder: Path) -> Calibration:
    return Calibration.load(folder / "made")


pytestmark = pytest.mark.usefixtures("local_model")


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    return written(tmp_path / "own.jsonl", [question(i) for i in range(N)])


@pytest.fixture
def traffic(tmp_path: Path) -> Path:
    return written(tmp_path / "traffic.jsonl", [unanswered(i) for i in range(N)])


def wanted(**more: Any) -> Wanted:
    fields: dict[str, Any] = {"by_llm": False, "judge": False, "llm": "", "targets": {"loss"}}
    return Wanted(frozenset(), **(fields | more))


class TestRecordedOutcomes:
    @pytest.fixture
    def recorded(self, tmp_path: Path) -> Path:
        """One large model is right nine times in ten, another half of the time."""
        rows = [question(i, llm={"big-1": i % 10 > 0, "small": i % 2 > 0}) for i in range(N)]
        return written(tmp_path / "own.jsonl", rows)

    def test_a_loss_and_an_accuracy(self, recorded: Path, local_model: LocalModel) -> None:
        result = calibrated(recorded, "--target", "loss=0.15", "--target", "accuracy=0.75")
        assert result.exit_code == 0, result.stderr
        assert len(local_model.asked) == N
        assert "at most 15 in 100 queries keep a wrong answer where the large" in result.stdout
        assert "right in all" in result.stdout
        assert "lost by not escalating" in result.stdout
        made = made_in(recorded.parent)
        assert made.holdout["llm_recorded"] == {"own": "big-1"}
        assert made.population == "the 250 questions of own.jsonl"
        point = made.operating_point
        assert point.certificate is not None
        assert [(claim.kind, claim.n) for claim in point.certificate.claims] == [("loss", 100)]
        assert point.loss is not None
        assert point.loss <= 0.15
        assert point.accuracy_overall is not None
        assert point.accuracy_overall > 0.7

    def test_of_the_model_that_is_named(self) -> None:
        item = Item("a", "d", "", "Q?", "x", "text", llm={"big-1": True, "small": False})
        assert choose_recorded([item], wanted(llm="sm")) == {"d": "small"}
        assert choose_recorded([item], wanted()) == {"d": "big-1"}
        assert choose_recorded([item], wanted(llm={"d": "small"})) == {"d": "small"}

    def test_of_a_model_that_is_not_there(self, recorded: Path, local_model: LocalModel) -> None:
        result = calibrated(recorded, "--target", "loss=0.1", "--llm", "gpt")
        assert result.exit_code == 1
        assert "no set holds outcomes of 'gpt'; there are big-1, small" in result.stderr
        assert local_model.asked == []

    @pytest.mark.parametrize("kind", ["loss", "accuracy"])
    def test_none_are_recorded(self, gold: Path, local_model: LocalModel, kind: str) -> None:
        result = calibrated(gold, "--target", f"{kind}=0.1")
        assert result.exit_code == 1
        assert f"the target {kind} is about what the large" in result.stderr
        assert "ask it with --llm upstream, or use files with the key `llm`" in result.stderr
        assert local_model.asked == []

    def test_where_some_are_missing_the_certificate_says_so(
        self, tmp_path: Path, local_model: LocalModel
    ) -> None:
        rows = [question(i, **({"llm": {"big": True}} if i % 5 else {})) for i in range(N)]
        data = written(tmp_path / "own.jsonl", rows)
        result = calibrated(data, "--target", "loss=0.15")
        assert result.exit_code == 0, result.stderr
        assert len(local_model.asked) == N
        certificate = made_in(tmp_path).operating_point.certificate
        assert certificate is not None
        assert certificate.population == (
            "the 250 questions of own.jsonl, where the loss is about the 200 to which it is known "
            "whether the large model is right"
        )
        assert certificate.claims[0].n < 100


class TestAskedOutcomes:
    @more_of_the_same
    def test_the_upstream_is_asked_once(self, gold: Path, local_model: LocalModel) -> None:
        def reply(prompt: str) -> str | Step:
            return cut_answer("Well") if prompt == "Name colour 7." else knows(prompt)

        words = ("--target", "loss=0.15", "--llm", "upstream")
        with large_model(reply) as server:
            result = calibrated(gold, *words, *at(server))
            assert result.exit_code == 0, result.stderr
            assert len(server.requests) == len(local_model.asked) == N
            again = calibrated(gold, *words, *at(server))
            assert again.exit_code == 0, again.stderr
            assert len(server.requests) == len(local_model.asked) == N
        made = made_in(gold.parent)
        assert (made.labels, made.holdout["llm"]) == ("gold", "big")
        assert made.holdout["llm_left_out"] == {"cut": 1}
        assert ", where the loss is about the 249 to which it is known" in made.population
        assert made.operating_point.accuracy_overall is not None

    def test_without_an_upstream(self, gold: Path, local_model: LocalModel) -> None:
        result = calibrated(gold, "--target", "loss=0.1", "--llm", "upstream")
        assert result.exit_code == 2
        assert "knowing what the large model gets right needs an upstream" in result.stderr
        assert local_model.asked == []

    def test_an_upstream_that_is_not_named(self, gold: Path, local_model: LocalModel) -> None:
        with large_model(knows) as server:
            words = ("--target", "loss=0.1", "--llm", "upstream", "--upstream", server.url)
            result = calibrated(gold, *words)
            assert server.requests == []
        assert result.exit_code == 2
        assert "set `upstream_model`" in result.stderr
        assert local_model.asked == []

    def test_an_upstream_that_is_down_costs_no_local_answer(
        self, gold: Path, local_model: LocalModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("ROUTER_UPSTREAM_RETRIES", "0")
        with large_model(lambda _: DOWN) as server:
            result = calibrated(gold, "--target", "loss=0.1", "--llm", "upstream", *at(server))
        assert result.exit_code == 1
        assert local_model.asked == []

    def test_fresh_keeps_what_was_paid_for_where_nobody_is_asked(
        self, gold: Path, local_model: LocalModel
    ) -> None:
        words = ("--target", "loss=0.1", "--llm", "upstream", "--limit", "10")
        with large_model(knows) as server:
            calibrated(gold, *words, *at(server))
            paid = gold.parent / "made" / "llm-answers.jsonl"
            before = paid.read_bytes()
            calibrated(gold, "--fresh", "--limit", "10")
            calibrated(gold, *words, "--fresh")  # no upstream is set
            assert paid.read_bytes() == before
            calibrated(gold, *words, "--fresh", *at(server))
            assert len(server.requests) == 20
        assert len(local_model.asked) == 30


class TestCost:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--target", "cost=1/1k"), "cost=1.0/1k needs prices: set upstream_price_in and"),
            (
                ("--target", "cost=1/day", "--usd-per-escalation", "0.01"),
                "cost=1.0/day needs the expected traffic: give --queries-per-day N",
            ),
            (("--target", "cost=1/week"), "unknown per 'week'"),
            (("--usd-per-escalation", "nan"), "escalated_usd is nan; a price is a number from 0"),
            (("--queries-per-day", "inf"), "queries_per_day is inf; expected traffic is a number"),
        ],
    )
    def test_what_is_missing_is_said_before_anyone_is_asked(
        self, gold: Path, local_model: LocalModel, words: Sequence[str], message: str
    ) -> None:
        result = calibrated(gold, *words)
        assert result.exit_code == 1
        assert message in result.stderr
        assert local_model.asked == []

    def test_a_price_by_hand(self, gold: Path) -> None:
        settings = Settings()
        targets = parse_targets(["cost=4/1k"])
        check_cost(targets, settings, None, 0.01)
        assert cost_model(targets, labelled(gold), settings, None, 0.01) == CostModel(0.01)
        assert cost_model(parse_targets(["risk=0.1"]), labelled(gold), settings, None, 0.01) is None

    def test_by_the_upstreams_prices_and_the_small_models_tokens(self, gold: Path) -> None:
        settings = Settings(upstream_price_in=2.0, upstream_price_out=4.0)
        targets = parse_targets(["cost=5/day"])
        check_cost(targets, settings, 1000, None)
        found = cost_model(targets, labelled(gold), settings, 1000, None)
        assert found is not None
        assert found.escalated_usd == pytest.approx((5 * 2.0 + 1 * 4.0) / 1e6)  # 5 and 1 tokens
        assert found.queries_per_day == 1000

    def test_by_what_the_upstream_took(self, gold: Path) -> None:
        targets = parse_targets(["cost=5/1k"])
        settings = Settings(upstream_price_in=2.0)
        found = cost_model(targets, labelled(gold, upstream_usd=0.25), settings, None, None)
        assert found == CostModel(0.25)

    @more_of_the_same
    def test_a_budget_a_day(self, gold: Path, local_model: LocalModel) -> None:
        words = ("--target", "cost=4/day", "--usd-per-escalation", "0.01")
        result = calibrated(gold, *words, "--queries-per-day", "1000")
        assert result.exit_code == 0, result.stderr
        assert len(local_model.asked) == N
        made = made_in(gold.parent)
        assert made.cost == CostModel(0.01, queries_per_day=1000)
        assert made.operating_point.escalation_ratio == pytest.approx(0.4, abs=0.15)

    def test_a_budget_that_a_risk_does_not_keep(self, gold: Path) -> None:
        words = ("--target", "risk=0.2", "--target", "cost=1/1k", "--usd-per-escalation", "0.01")
        result = calibrated(gold, *words)
        assert result.exit_code == 3
        assert "escalated, cost=1.0/1k allows 10%" in result.stderr


def labelled(folder: Path, **more: Any) -> Labelled:
    record = Record("q", "own.jsonl", True, trace(("blue", 0.9)))
    return Labelled(Answers(folder, "m", 4, binding_of(INFO), [record], ()), Truth(), **more)


class TestLabelsByTheLargeModel:
    def test_with_a_certificate(self, traffic: Path, local_model: LocalModel) -> None:
        words = ("--labels", "llm", "--target", "risk=0.2", "--json")
        with large_model(knows) as server:
            result = calibrated(traffic, *words, *at(server))
            assert result.exit_code == 0, result.stderr
            asked = len(server.requests), len(local_model.asked)
            assert asked == (N, N)
            again = calibrated(traffic, *words, *at(server))
            assert (len(server.requests), len(local_model.asked)) == asked
        found = json.loads(result.stdout)
        assert found["accuracy"] == pytest.approx(sum(map(is_right, range(N))) / N)
        assert (found["labels"], found["labelled_by"]) == ("llm", "big")
        claim = (
            "At most 20% of what is kept differs from big's answer. This is no share of wrong "
            "answers: where big itself is wrong in a share e of what is kept, up to 20% + e may "
            "be wrong. It rests on 250 questions (250 compared by rule)."
        )
        assert found["claim"] == claim
        assert found["certificate"]["labels"] == "llm"
        assert json.loads(again.stdout) == found
        page = (traffic.parent / "made" / "report.html").read_text(encoding="utf-8")
        assert "Labels by a model:" in page
        assert "differs from big" in page
        made = made_in(traffic.parent)
        assert (made.labels, made.labelled_by) == ("llm", "big")
        assert made.population == "the 250 questions of traffic.jsonl"
        assert made.holdout["n_match"] == N

    @more_of_the_same
    def test_without_one_it_still_says_whose_labels(self, traffic: Path) -> None:
        with large_model(knows) as server:
            result = calibrated(traffic, "--labels", "llm", *at(server))
        assert "of them as big has it" in result.stdout
        assert "Right means here: agrees with big." in result.stdout
        page = (traffic.parent / "made" / "report.html").read_text(encoding="utf-8")
        assert '"right" means here: agrees with big' in page

    def test_the_judge_and_what_is_left_out(self, traffic: Path, local_model: LocalModel) -> None:
        """Every tenth answer is long; one of those gets no verdict, and two are cut."""
        calls = {"judge": 0}

        def reply(prompt: str) -> str | Step:
            found = re.search(r"Name colour (\d+)\.", prompt)
            assert found is not None
            i = int(found[1])
            if prompt.startswith(JUDGE_PROMPT.split("\n", 1)[0]):
                calls["judge"] += 1
                return "unknown" if i == 13 else "yes" if is_right(i) else "no"
            if i in (8, 18):
                return cut_answer("It is")
            return (
                f"{'That is quite a story, and a long one. ' * 5}{i}"
                if i % 10 == 3
                else knows(prompt)
            )

        words = ("--labels", "llm", "--target", "escalation=0.5", "--usd-per-escalation", "0.01")
        rows = [unanswered(i) for i in range(N)] + [unanswered(0) | {"id": "again"}]
        written(traffic, rows)
        with large_model(reply) as server:
            plain = calibrated(traffic, *words, "--json", *at(server))
            assert plain.exit_code == 0, plain.stderr
            assert (calls["judge"], len(local_model.asked)) == (0, N - 27)
            assert made_in(traffic.parent).holdout["left_out"] == {"incomparable": 25, "cut": 2}
            judged = calibrated(traffic, *words, "--judge", "--json", *at(server))
            assert judged.exit_code == 0, judged.stderr
            assert (calls["judge"], len(local_model.asked)) == (25, N - 2)
            assert len(server.requests) == N + 25
        found = json.loads(judged.stdout)
        assert found["n"] == N - 3
        made = made_in(traffic.parent)
        assert made.population == (
            "the 250 different questions of traffic.jsonl, the 247 of them that have a label"
        )
        noted = made.holdout
        assert (noted["judge"], noted["n_match"], noted["n_judge"]) == (True, 223, 24)
        assert noted["left_out"] == {"cut": 2, "no verdict": 1}
        assert noted["repeated"] == 1

    @more_of_the_same
    def test_a_judges_verdicts_are_no_part_of_the_price(self, traffic: Path) -> None:
        def reply(prompt: str) -> str:
            found = re.search(r"Name colour (\d+)\.", prompt)
            assert found is not None
            if prompt.startswith(JUDGE_PROMPT.split("\n", 1)[0]):
                return "yes" if is_right(int(found[1])) else "no"
            return "That is quite a story, and a long one. " * 5

        prices = ("--upstream-price-in", "1000", "--upstream-price-out", "1000")
        words = ("--labels", "llm", "--judge", "--target", "cost=5/1k")
        with large_model(reply) as server:
            result = calibrated(traffic, *words, *prices, *at(server))
        assert result.exit_code == 0, result.stderr
        cost = made_in(traffic.parent).cost
        assert cost is not None
        assert cost.escalated_usd == pytest.approx(0.01)  # 7 tokens in, 3 out

    def test_without_an_upstream(self, traffic: Path, local_model: LocalModel) -> None:
        result = calibrated(traffic, "--labels", "llm")
        assert result.exit_code == 2
        assert "--labels llm needs an upstream, and none is set; add --upstream" in result.stderr
        assert local_model.asked == []
