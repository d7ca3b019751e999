"""The arithmetic of the routing benchmark, and small runs of it on made-up answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import benchmarks.routing
from benchmarks.routing import (
    RANDOM,
    Settings,
    cross_fit,
    main,
    measure,
    parts_of,
    read_records,
    recorded_population,
    study,
    traced_population,
)
from benchmarks.routing_measures import (
    Group,
    Outcomes,
    Worth,
    apgr_draws,
    compare,
    cost,
    difference,
    random_worth,
    worth,
)
from benchmarks.routing_routers import (
    AUTO,
    CONFIDENCE,
    OURS_RECORDED,
    PERPLEXITY,
    PERPLEXITY_ROUTER,
    QUERY_ROUTER,
    QUERY_WRONG,
    UCCI,
    Population,
    Routed,
    Router,
    query_only,
    route_by_margin,
)
from benchmarks.routing_table import tables
from calibration.datasets import write_items
from calibration.errors import DataError, FitError
from calibration.evaluated_rows import EvaluatedRow
from calibration.items import Item
from calibration.metrics import BoolArray
from calibration.records import Record, RecordLog
from tests.calibration.test_fit import make_records
from tests.calibration.told import with_p_true

NAN = float("nan")
LLM = "large"


def outcomes(slm: Sequence[int], llm: Sequence[int], n_boot: int = 50) -> Outcomes:
    return Outcomes.of(np.array(slm, bool), np.array(llm, bool), n_boot=n_boot, seed=0)


class TestMeasures:
    def test_a_cascade_pays_for_the_small_model_on_every_question(self) -> None:
        assert cost(0.0, 0.1) == pytest.approx(0.1)
        assert cost(1.0, 0.1) == pytest.approx(1.1)
        assert cost(0.4, 0.1, looks=2.0) == pytest.approx(0.7)

    def test_a_router_that_decides_before_pays_for_either(self) -> None:
        assert cost(0.0, 0.1, before=True) == pytest.approx(0.1)
        assert cost(1.0, 0.1, before=True) == pytest.approx(1.0)

    def test_worth_by_hand(self) -> None:
        # Accuracy 1/2, 3/4, 1 at shares 0, 1/4, 3/4: a lead of 1/2, half of it for a quarter.
        asked = outcomes([1, 0, 0, 1] * 10, [1, 1, 1, 1] * 10)
        found = worth(np.array([0.1, 0.9, 0.5, 0.5] * 10), asked, 0.1, looks=1.0)
        assert found.apgr.value == pytest.approx(0.6875)
        assert found.cpt == pytest.approx({0.5: 0.25, 0.8: 0.55, 0.95: 0.7})
        assert found.cost == pytest.approx({0.5: 0.45, 0.8: 0.75, 0.95: 0.9})

    def test_what_is_unknown_is_sent_first(self) -> None:
        asked = outcomes([1, 0, 1, 1] * 10, [1, 1, 1, 1] * 10)
        found = worth(np.array([0.1, NAN, 0.5, 0.5] * 10), asked, 0.1)
        assert found.cpt[0.95] == pytest.approx(0.25 * 0.95)

    def test_each_resample_is_measured_as_its_rows_would_be(self) -> None:
        rng = np.random.default_rng(0)
        ranks, slm = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.3
        asked = Outcomes.of(slm, rng.random(60) < 0.9, n_boot=5, seed=1)
        drawn = apgr_draws(ranks, asked)
        for value, count in zip(drawn, asked.counts, strict=True):
            rows = np.repeat(np.arange(60), count)
            once = Outcomes(slm[rows], asked.llm[rows], np.ones((1, 60), dtype=np.int32))
            assert value == pytest.approx(apgr_draws(ranks[rows], once)[0])

    def test_random_is_one_half(self) -> None:
        asked = outcomes([1, 0, 0, 0] * 10, [1, 1, 1, 0] * 10)
        tied = worth(np.zeros(40), asked, 0.05)
        chance = random_worth(asked, 0.05)
        assert tied.apgr.value == chance.apgr.value == 0.5
        assert tied.drawn == pytest.approx(chance.drawn)
        assert tied.cpt == pytest.approx(chance.cpt)
        assert chance.cost[0.5] == pytest.approx(0.525)
        assert tied.cost[0.5] == pytest.approx(0.55)

    def test_differences_are_paired(self) -> None:
        asked = outcomes([1, 0, 0, 1] * 10, [1, 1, 1, 1] * 10)
        sure = np.array([0.1, 0.9, 0.8, 0.2] * 10)
        same = difference(worth(sure, asked, 0.1), worth(2 * sure, asked, 0.1))
        assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
        better = difference(worth(sure, asked, 0.1), random_worth(asked, 0.1))
        assert better.value == pytest.approx(0.25)
        assert better.low > 0

    @pytest.mark.parametrize(
        ("slm", "llm", "reason"),
        [
            ([0] * 40, [1] * 40, "0 right and 40 wrong answers; 10 of each are needed"),
            ([1, 0] * 20, [1] * 5 + [0] * 35, "large model has 5 right"),
            ([1, 0] * 20, [0, 1] * 20, "not clearly better"),
            ([1, 0] * 20, [1, 1] * 20, ""),
        ],
    )
    def test_why_nothing_is_measured(self, slm: list[int], llm: list[int], reason: str) -> None:
        why = outcomes(slm, llm).why_not(at_least=10)
        assert reason in why
        assert bool(why) == bool(reason)

    def test_ours_is_ahead_in_the_sets_where_it_is(self) -> None:
        asked = outcomes([1, 0, 0, 1] * 10, [1, 1, 1, 1] * 10)
        good = worth(np.array([0.1, 0.9, 0.8, 0.2] * 10), asked, 0.1)
        bad = worth(np.array([0.9, 0.1, 0.2, 0.8] * 10), asked, 0.1)

        def group(ours: Worth | str, other: Worth | str) -> Group:
            return Group(40, 0.5, 1.0, {"ours": ours, "other": other})

        sets = {"a": group(good, bad), "b": group(bad, good), "c": group(good, "why not")}
        found = compare(group(good, bad), sets, "ours", {"other", "not there"})
        assert found.keys() == {"other"}
        assert (found["other"]["ahead"], found["other"]["sets"]) == (1, 2)
        assert found["other"]["pooled"]["value"] == pytest.approx(0.5)
        assert found["other"]["mean_over_sets"]["value"] == pytest.approx(0.0)


class TestRouters:
    def test_words_that_tell_are_learned(self) -> None:
        texts = [f"{word} number {i}" for i in range(40) for word in ("divide", "colour")]
        label = np.array([True, False] * 40)
        p = query_only(texts, label, ["divide it", "colour it", "neither"], seed=0)
        assert p[0] > 0.9
        assert p[1] < 0.1
        assert 0.4 < p[2] < 0.6

    @pytest.mark.parametrize(
        ("texts", "n_wrong", "reason"),
        [(["a b"] * 40, 3, "3 of 40"), ([f"w{i}" for i in range(40)], 20, "in common")],
    )
    def test_what_nothing_is_learned_from(
        self, texts: list[str], n_wrong: int, reason: str
    ) -> None:
        with pytest.raises(FitError, match=reason):
            query_only(texts, np.arange(40) < n_wrong, ["a"], seed=0)

    def test_the_margin_becomes_a_probability_in_steps(self) -> None:
        margins, right = [0.1, 0.2, 0.8, 0.9, 0.15, 0.85], [1, 1, 0, 0, 0, 1]
        rows = [
            EvaluatedRow("a", bool(r), {"margin": m}) for m, r in zip(margins, right, strict=True)
        ]
        population = Population("p", rows, ["?"] * 6, np.ones(6))
        learn = np.array([True] * 4 + [False] * 2)
        p = route_by_margin(population, learn, 0)[UCCI].uncertainty
        assert p == pytest.approx([0.25, 0.75])  # two of each pure level: (2 + 1) / (2 + 2)


def spied(population: Population) -> Router:
    """Knows the outcomes of the rows it learns from, and asserts that it is given no others."""

    def route(given: Population, learn: BoolArray, _seed: int) -> dict[str, Routed]:
        assert given is population
        if "b" not in given.sets[learn]:
            raise FitError("there is no b to learn from")
        return {"spy": Routed(np.full(int((~learn).sum()), learn.sum()), 0.5, "all")}

    return Router(("spy",), route)


class TestCrossFit:
    @pytest.fixture
    def population(self) -> Population:
        rows = [EvaluatedRow("ab"[i % 2], i % 3 == 0, {}) for i in range(60)]
        return Population("p", rows, ["?"] * 60, np.ones(60))

    def test_every_row_is_routed_by_a_fit_without_it(self, population: Population) -> None:
        parts = parts_of(population, seed=0)
        assert list(parts) == ["left out", "in domain"]
        _, sizes = np.unique(parts["in domain"], return_counts=True)
        assert sizes.tolist() == [12] * 5
        column = cross_fit(population, [spied(population)], parts["in domain"], 0)["spy"]
        assert column.uncertainty.tolist() == [48.0] * 60
        assert set(column.looks.tolist()) == {0.5}
        assert not column.failed

    def test_a_failure_is_told_where_it_matters(self, population: Population) -> None:
        parts = parts_of(population, seed=0)["left out"]
        columns = cross_fit(population, [spied(population)], parts, 0)
        assert columns["spy"].failed == {"b": "there is no b to learn from"}
        how = Settings(at_least=5, n_boot=20)
        for dataset, why in (("a", ""), ("b", "there is no b"), (None, "there is no b")):
            group = measure(population, columns, parts, frozenset(), how, dataset=dataset)
            found = group.routers["spy"]
            assert why in found if isinstance(found, str) else not why
            assert not isinstance(group.routers[RANDOM], str)

    def test_a_set_without_outcomes_is_not_measured(self, population: Population) -> None:
        unknown = replace(population, llm=np.where(population.sets == "a", np.nan, 1.0))
        parts = parts_of(unknown, seed=0)["in domain"]
        columns = cross_fit(unknown, [spied(unknown)], parts, 0)
        how = Settings(at_least=5, n_boot=20)
        assert measure(unknown, columns, parts, frozenset(), how, dataset="a").n == 0
        assert measure(unknown, columns, parts, frozenset(), how).n == 30


def mmlu_items(n: int) -> list[Item]:
    """Questions of `mmlu_val`'s name; confidence tells where the small models are wrong."""
    rng = np.random.default_rng(3)
    items = []
    for i in range(n):
        conf = float(rng.uniform(0.3, 1.0))
        right = bool(rng.random() < conf)
        names = ("llama3.2-1b", "llama3.2-3b", "llama3.1-8b")
        items.append(
            Item(
                id=f"q{i}",
                dataset="mmlu_val",
                domain="knowledge",
                question=f"What is {('red', 'blue', 'green')[i % 3]} thing {i % 7}?",
                answer="A",
                grader="choice",
                choices=("this", "that"),
                llm={**dict.fromkeys(names, right), "gpt-4o": bool(rng.random() < 0.95)},
                conf=dict.fromkeys(names, conf),
            )
        )
    return items


def traced(n: int, sets: Sequence[str]) -> tuple[list[Record], list[Item]]:
    """Answers whose perplexity and p(True) tell, and questions whose words don't."""
    records = [
        replace(record, dataset=sets[i % len(sets)], family=None)
        for i, record in enumerate(with_p_true(make_records(n), strength=1.0))
    ]
    items = [
        Item(r.item_id, r.dataset, "", f"what about thing {i % 11}?", "x", "text", llm={LLM: True})
        for i, r in enumerate(records)
    ]
    return records, items


class TestPopulations:
    def test_recorded(self) -> None:
        items = mmlu_items(30)
        population = recorded_population(items, "llama3.2-1b", "gpt-4o")
        assert population.right.tolist() == [item.llm["llama3.2-1b"] for item in items]
        assert population.llm.tolist() == [float(item.llm["gpt-4o"]) for item in items]
        assert population.texts[0] == items[0].prompt()

    def test_a_record_of_other_words_is_left_out(self) -> None:
        records, items = traced(10, ["a"])
        records[3] = replace(records[3], asked="0123456789abcdef")
        population, large = traced_population(records, items[:-1], "", "p")
        assert len(population.rows) == 8
        assert large == {"a": LLM}
        with pytest.raises(DataError, match="no record"):
            traced_population(records, [], "", "p")

    def test_a_torn_last_line_is_dropped(self, tmp_path: Path) -> None:
        records, _ = traced(4, ["a"])
        path = tmp_path / "records.jsonl"
        with RecordLog(path, {}) as log:
            for record in [*records, replace(records[0], correct=not records[0].correct)]:
                log.append(record)
        path.write_bytes(path.read_bytes() + b'{"torn')
        found = read_records(path)
        assert [record.key for record in found] == [record.key for record in records]
        assert found[0].correct != records[0].correct

    @pytest.mark.parametrize("content", ["", "{}\n", '{"record_log": 1}\n{"item_id": 1}\n'])
    def test_what_is_no_record_log(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "records.jsonl"
        path.write_text(content)
        with pytest.raises(DataError, match=r"records\.jsonl"):
            read_records(path)


@pytest.mark.no_cover  # other tests cover what it calls: tracing that would take longest
def test_a_run_from_files_to_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.routing, "RECORDED_SLMS", ("llama3.2-1b",))
    monkeypatch.setattr(benchmarks.routing, "FOLDS", 3)
    records, items = traced(240, ["a", "b"])
    write_items(items + mmlu_items(120), tmp_path / "all.jsonl.gz")
    log = tmp_path / "records.jsonl"
    with RecordLog(log, {}) as written:
        for record in records:
            written.append(record)
    arguments = ["--records", str(log), "--data", str(tmp_path), "--quick"]
    out = tmp_path / "out.json"
    assert main([*arguments, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert printed == "\n".join(tables(report)) + "\n"
    assert "--quick" in report["command"]
    ours, *recorded = report["studies"]
    assert [len(recorded), ours["rows"], ours["upstream"]["a"]] == [1, 240, LLM]
    assert list(ours["protocols"]) == ["left out", "in domain"]
    for found in ours["protocols"].values():
        assert found["sets"].keys() == {"a", "b"}
        apgr = {name: row["apgr"]["value"] for name, row in found["pooled"]["routers"].items()}
        assert apgr[RANDOM] == 0.5
        assert apgr[QUERY_WRONG] == pytest.approx(0.5, abs=0.1)
        assert apgr["oracle"] > apgr[found["headline"]] > apgr[PERPLEXITY] > 0.55
        assert apgr[AUTO] > 0.55
        beaten = found["differences"][found["headline"]]
        assert beaten[RANDOM]["pooled"]["low"] > 0
        assert beaten[RANDOM]["ahead"] == beaten[RANDOM]["sets"] == 2
    for pair in recorded:
        (found,) = pair["protocols"].values()
        assert found["headline"] == OURS_RECORDED
        worths = found["pooled"]["routers"]
        assert worths[OURS_RECORDED]["apgr"]["value"] == pytest.approx(
            worths[CONFIDENCE]["apgr"]["value"], abs=0.03
        )


@pytest.mark.no_cover
def test_the_same_records_give_the_same_figures() -> None:
    population = recorded_population(mmlu_items(100), "llama3.2-1b", "gpt-4o")
    routers, how = (QUERY_ROUTER, PERPLEXITY_ROUTER), Settings(n_boot=50)
    assert study(population, routers, how, {}) == study(population, routers, how, {})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--ratio", "2"], "--ratio"), (["--limit", "0"], "--limit"), ([], "no *.jsonl.gz")],
)
def test_arguments_that_make_no_sense(
    tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*arguments, "--data", str(tmp_path)])
    assert said in capsys.readouterr().err
