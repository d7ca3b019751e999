"""What is gathered for a decision, when an answer is given up, and what is decided."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Mapping
from typing import Any

import pytest

from calibration.artifact import Calibration
from calibration.certificates import Certificate, Claim
from calibration.learned import Learned
from calibration.thresholds import OperatingPoint
from router.answer import Decision, Query
from router.engine.messages import GenerateRequest, Message, Sampler
from router.judge import Judge, Stance, degraded
from tests.router.calibrations import (
    BAND,
    EARLY_STOP,
    GATE,
    LAYERS,
    PROBES,
    calibration,
    stack,
    states,
)
from tests.router.samples import trace
from uq import Trace

SURE = trace(("Pa", 0.9), ("ris", 0.9))
DOUBTED = trace(("Pa", 0.5), ("ris", 0.2))  # perplexity 1.15, inside the band
UNSURE = trace(("Lo", 0.02), ("ndon", 0.03))
BROKEN = trace(("Lo", math.nan), ("ndon", 0.9))

BANDED = calibration("p_true", band=BAND)
EXITING = calibration(learned=Learned(PROBES), gate=GATE, early_stop=EARLY_STOP)


def query(**options: Any) -> Query:
    return Query(messages=(Message("user", "Which capital?"),), body={}, **options)


def seen(base: Trace = SURE, **signals: Any) -> Trace:
    return dataclasses.replace(base, **signals)


def decide(judge: Judge, asked: Query, answer: Trace, *rest: Any, **options: Any) -> Decision:
    return judge.decide(asked, judge.scores(answer), *rest, **options)


def p_true(probability: float) -> tuple[float, float]:
    return math.log(probability), math.log(1 - probability)


@pytest.mark.parametrize(
    ("made", "estimators", "signals"),
    [
        (None, None, set()),
        (None, ("perplexity",), set()),
        (None, ("p_true", "verbal_2s"), {"p_true", "verbal_2s"}),
        (calibration(), None, set()),
        (calibration(), ("jaccard_degree",), {"samples"}),
        (calibration("p_true"), None, {"p_true"}),
        (calibration("p_true"), ("jaccard_degree", "p_true"), {"p_true", "samples"}),
        (BANDED, None, set()),
        (BANDED, ("p_true",), {"p_true"}),
        (calibration("answer_probe", learned=Learned(PROBES)), None, {"hidden"}),
        (EXITING, None, set()),  # the gate has the engine read what it needs
        (
            calibration(
                "stack", learned=Learned(PROBES, {"stack": stack("answer_probe", "p_true")})
            ),
            None,
            {"hidden", "p_true"},
        ),
    ],
)
def test_gathered_is_what_the_calibration_reads_and_the_query_asks_for(
    made: Calibration | None, estimators: tuple[str, ...] | None, signals: set[str]
) -> None:
    assert Judge(made).signals(query(estimators=estimators)) == signals


@pytest.mark.parametrize(
    ("answer", "signals"),
    [(SURE, set()), (DOUBTED, {"p_true"}), (UNSURE, set()), (BROKEN, {"p_true"})],
)
def test_only_doubt_is_looked_at_closer(answer: Trace, signals: set[str]) -> None:
    assert Judge(BANDED).closer_signals(query(), answer) == signals
    assert Judge(BANDED).closer_signals(query(threshold=0.9, local_only=True), answer) == signals
    assert Judge(BANDED).closer_signals(query(mode="local"), answer) == set()
    assert Judge(calibration("p_true")).closer_signals(query(), answer) == set()
    assert Judge(None).closer_signals(query(), answer) == set()


def test_outside_the_band_the_cheap_score_decides_and_inside_the_costly_one() -> None:
    judge = Judge(BANDED)
    for answer, likely_true, reason in [
        (SURE, 0.1, "confident"),
        (UNSURE, 0.9, "uncertain"),
        (DOUBTED, 0.9, "confident"),
        (DOUBTED, 0.1, "uncertain"),
    ]:
        decision = decide(judge, query(), seen(answer, p_true=p_true(likely_true)))
        assert decision.reason == reason


@pytest.mark.parametrize("answer", [DOUBTED, BROKEN])
def test_a_costly_score_that_is_missing_inside_the_band_escalates(answer: Trace) -> None:
    decision = decide(Judge(BANDED), query(), answer)
    assert (decision.route, decision.reason) == ("remote", "uncertain")
    assert decision.p_correct is None


def test_exits_are_those_of_the_calibration() -> None:
    exits = Judge(EXITING).exits(query())
    assert exits is not None
    assert exits.gate is PROBES["p_ik"]
    assert exits.gate_above == GATE.above
    assert exits.checkpoints == EARLY_STOP.checkpoints
    gate_only = Judge(dataclasses.replace(EXITING, early_stop=None)).exits(query())
    assert gate_only is not None
    assert (gate_only.gate, gate_only.checkpoints) == (PROBES["p_ik"], ())
    stop_only = Judge(dataclasses.replace(EXITING, gate=None)).exits(query())
    assert stop_only is not None
    assert (stop_only.gate, stop_only.checkpoints) == (None, EARLY_STOP.checkpoints)


def test_exits_survive_the_way_to_the_engines_process() -> None:
    exits = Judge(EXITING).exits(query())
    there = pickle.loads(pickle.dumps(GenerateRequest((), exits=exits))).exits
    assert there.checkpoints == EARLY_STOP.checkpoints
    assert there.gate_above == GATE.above
    assert there.gate.score_states(states(1.0)) == PROBES["p_ik"].score_states(states(1.0))


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": 0.5},
        {"max_risk": 0.2},
        {"sampler": Sampler(temperature=0.7)},
        {"sampler": Sampler(logit_bias=((5, 1.0),))},
        {"mode": "local"},
        {"mode": "remote"},
        {"local_only": True},
    ],
)
def test_nothing_is_given_up_under_a_policy_that_exits_were_not_set_for(
    options: Mapping[str, Any],
) -> None:
    assert Judge(EXITING).exits(query(**options)) is None


def test_nothing_is_given_up_without_exits() -> None:
    assert Judge(None).exits(query()) is None
    assert Judge(calibration(learned=Learned(PROBES))).exits(query()) is None


@pytest.mark.parametrize("reason", ["gated", "stopped"])
def test_an_answer_given_up_is_escalated_whatever_it_looks_like(reason: str) -> None:
    decision = Judge(EXITING).given_up(seen(finish_reason=reason))
    assert decision is not None
    assert (decision.route, decision.reason, decision.degraded) == ("remote", reason, False)
    assert (decision.p_correct, decision.threshold) == (None, 0.5)
    assert decision.calibration == EXITING.id
    assert not decision.uncertainty


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_whole_answer_is_not_given_up(reason: str) -> None:
    assert Judge(EXITING).given_up(seen(finish_reason=reason)) is None


def test_learned_scores_decide_and_are_shown_as_far_as_they_are_known() -> None:
    judge = Judge(calibration("answer_probe", learned=Learned(PROBES)))
    sure = decide(judge, query(), seen(hidden=states(5.0, answer=-1.0)))
    assert sure.reason == "confident"
    assert sure.uncertainty["answer_probe"] == pytest.approx(1 / (1 + math.exp(2)))
    assert sure.uncertainty["p_ik"] > 0.99
    assert "p_true" not in sure.uncertainty
    assert "perplexity" in sure.uncertainty
    unknown = decide(judge, query(), BROKEN)
    assert (unknown.reason, unknown.p_correct) == ("uncertain", None)
    assert "answer_probe" not in unknown.uncertainty
    assert math.isnan(unknown.uncertainty["perplexity"])
    other_layers = dataclasses.replace(states(0, -1.0), layers=tuple(n + 5 for n in LAYERS))
    assert decide(judge, query(), seen(hidden=other_layers)).reason == "uncertain"


def test_scores_asked_for_by_name_are_shown_known_or_not() -> None:
    decision = decide(Judge(BANDED), query(estimators=("p_true", "margin")), SURE)
    assert set(decision.uncertainty) == {"p_true", "margin"}
    assert math.isnan(decision.uncertainty["p_true"])


def test_a_local_answer_in_place_of_a_remote_one_keeps_what_is_known_of_it() -> None:
    wanted = decide(Judge(BANDED), query(), UNSURE)
    given = degraded(wanted, "upstream_down")
    assert (given.route, given.reason, given.degraded) == ("local", "upstream_down", True)
    assert given.p_correct == wanted.p_correct


CERTIFICATE = Certificate(
    threshold=0.5,
    claims=(Claim("risk", "risk=0.1", 0.1, 100, 70, 2, 0.02, "fixed-sequence exact binomial"),),
    confidence=0.95,
    population="100 questions made by hand",
    labels="gold",
)
CERTIFIED = calibration(
    target="risk=0.1",
    operating_point=OperatingPoint(
        "risk=0.1", 0.5, 0.3, 0.8, 0.1, 70, 100, certificate=CERTIFICATE
    ),
    operating_points=(
        OperatingPoint(
            "risk=0.2",
            0.4,
            0.2,
            0.8,
            0.2,
            80,
            100,
            certificate=dataclasses.replace(
                CERTIFICATE,
                threshold=0.4,
                claims=(dataclasses.replace(CERTIFICATE.claims[0], bound=0.2),),
            ),
        ),
    ),
)


@pytest.mark.parametrize("answer", [SURE, UNSURE])
def test_the_certificate_is_that_of_the_threshold_in_use(answer: Trace) -> None:
    decision = decide(Judge(CERTIFIED), query(), answer)
    assert decision.certificate == CERTIFICATE.to_dict()
    for_risk = decide(Judge(CERTIFIED), query(max_risk=0.25), answer)
    assert for_risk.threshold == 0.4
    assert for_risk.certificate is not None
    assert for_risk.certificate["claims"][0]["bound"] == 0.2


@pytest.mark.parametrize(
    ("options", "stance"),
    [
        ({"threshold": 0.5}, Stance()),
        ({"max_risk": 0.15}, Stance()),
        ({"mode": "local"}, Stance()),
        ({"sampler": Sampler(temperature=0.7)}, Stance()),
        ({}, Stance(threshold=0.4)),
        ({}, Stance(drifted=True)),
        ({"max_risk": 0.25}, Stance(drifted=True)),
        ({}, Stance(drifted=True, at_least=1.0)),
        ({}, Stance(drifted=True, escalate=True)),
    ],
)
@pytest.mark.parametrize("answer", [SURE, UNSURE])
def test_no_other_rule_has_one(options: Mapping[str, Any], stance: Stance, answer: Trace) -> None:
    assert decide(Judge(CERTIFIED), query(**options), answer, stance).certificate is None


def test_nor_has_an_answer_that_no_rule_decided() -> None:
    judge = Judge(CERTIFIED)
    wanted = decide(judge, query(), UNSURE)
    assert degraded(wanted, "no_upstream").certificate is None
    assert decide(judge, query(local_only=True), UNSURE).certificate is None
    assert judge.escalate("busy").certificate is None


def test_what_was_certified_behind_a_gate_is_certified_behind_it_alone() -> None:
    judge = Judge(dataclasses.replace(CERTIFIED, learned=Learned(PROBES), gate=GATE))
    exits = judge.exits(query())
    assert decide(judge, query(), SURE, exits=exits).certificate == CERTIFICATE.to_dict()
    assert decide(judge, query(), SURE).certificate is None
    assert decide(judge, query(max_risk=0.25), SURE).certificate is not None
    gated = seen(finish_reason="gated")
    shown = judge.given_up(gated)
    assert shown is not None
    assert shown.certificate == CERTIFICATE.to_dict()
    in_doubt = judge.given_up(gated, Stance(drifted=True))
    assert in_doubt is not None
    assert in_doubt.certificate is None


def test_a_threshold_that_is_moved_leaves_answers_whole() -> None:
    assert Judge(EXITING).exits(query(), Stance(threshold=0.4)) is None
    assert Judge(EXITING).exits(query(), Stance(drifted=True)) is not None


@pytest.mark.parametrize(
    ("stance", "options", "threshold", "reason"),
    [
        (Stance(threshold=0.9), {}, 0.9, "confident"),
        (Stance(threshold=1.0), {}, 1.0, "uncertain"),
        (Stance(threshold=1.0), {"threshold": 0.2}, 0.2, "confident"),
        (Stance(threshold=1.0), {"max_risk": 0.25}, 0.4, "confident"),
        (Stance(at_least=1.0), {}, 1.0, "drift"),
        (Stance(threshold=0.2, at_least=1.0), {}, 1.0, "drift"),
        (Stance(at_least=0.3), {}, 0.5, "confident"),
        (Stance(at_least=1.0), {"threshold": 0.2}, 0.2, "confident"),
        (Stance(at_least=1.0), {"max_risk": 0.25}, 1.0, "drift"),
        (Stance(at_least=1.0), {"max_risk": 0.01}, None, "uncertain"),
        (Stance(at_least=1.0), {"local_only": True}, 0.5, "confident"),
        (Stance(escalate=True), {}, 0.5, "drift"),
        (Stance(escalate=True), {"threshold": 0.2}, 0.2, "drift"),
        (Stance(escalate=True), {"max_risk": 0.01}, None, "drift"),
        (Stance(escalate=True), {"local_only": True}, 0.5, "confident"),
        (Stance(escalate=True), {"mode": "local"}, 0.5, "policy"),
    ],
)
def test_what_live_traffic_asks_for(
    stance: Stance, options: Mapping[str, Any], threshold: float | None, reason: str
) -> None:
    decision = decide(Judge(CERTIFIED), query(**options), SURE, stance)
    assert (decision.threshold, decision.reason) == (threshold, reason)
    assert decision.route == ("remote" if reason in ("uncertain", "drift") else "local")


def test_an_unknown_score_never_keeps_an_answer() -> None:
    for stance in (Stance(threshold=0.0), Stance(at_least=0.0), Stance(drifted=True)):
        assert decide(Judge(CERTIFIED), query(), BROKEN, stance).reason == "uncertain"
