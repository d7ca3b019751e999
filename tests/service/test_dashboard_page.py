"""The operator's page in a real browser: with and without data, dark, narrow, by keyboard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from calibration.artifact import Calibration
from router.account import Account
from router.config import Settings
from router.keystore import KeyStore
from router.live import Live
from router.pipeline import Pipeline
from router.prices import Prices
from router.remote import Upstream
from router.upstreams.breaker import BreakerRules
from router.upstreams.health import Health
from router.upstreams.pool import Member, UpstreamPool
from service.app import create_app
from tests.chromium import Chromium, Page
from tests.router.traffic import LLM, USUAL, Engine, held_out, perplexities
from tests.service.scripted import (
    CONFIDENT,
    LOCAL,
    QUESTION,
    ScriptedPipeline,
    make_app,
    serving,
)

SHIPPED = Path(__file__).parents[2] / "calibration/shipped/smollm2-135m-instruct-q4_1"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def page(chromium: Chromium) -> Iterator[Page]:
    """A page with a screen, on which nothing may go wrong."""
    page = chromium.page()
    page.look()
    yield page
    complaints = page.complaints()
    page.close()
    assert complaints == []


def show(page: Page, address: str) -> None:
    page.open(f"{address}/dashboard")
    page.until(lambda: page.text("#status") == "Live")


@dataclass
class Served:
    """A gateway around a scripted engine, at an address."""

    address: str
    engine: Engine
    llm: LLM

    def ask(self, *perplexities: float, seed: int = 0) -> None:
        for n, perplexity in enumerate(perplexities, seed):
            self.engine.coming = [perplexity]
            body = {**QUESTION, "seed": n}
            httpx.post(f"{self.address}/v1/chat/completions", json=body).raise_for_status()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Sixty answers by a calibration with the shipped one's curve; three lacked the upstream."""
    folder = tmp_path_factory.mktemp("gateway")
    shipped = Calibration.load(SHIPPED)
    made = held_out(
        "threshold=0.5",
        routing_curve=shipped.routing_curve,
        operating_points=shipped.operating_points,
    )
    made.save(folder / "calibration")
    engine, llm = Engine(), LLM()

    def build_pipeline(_: Settings, *, live: Live) -> Pipeline:
        upstream: Any = llm
        where = str(folder / "calibration")
        return Pipeline(
            engine, calibration_folder=where, upstream=upstream, prices=Prices(1.0, 1.0), live=live
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.app.build_pipeline", build_pipeline)
        app = create_app(Settings(ledger=str(folder / "ledger.db"), audit_rate=0))
        with serving(app) as address:
            gateway = Served(address, engine, llm)
            gateway.ask(*perplexities(USUAL, 57))
            llm.down = True
            gateway.ask(1.3, 1.3, 1.3, seed=57)
            llm.down = False
            yield gateway


def figures(page: Page, body: str) -> dict[str, list[str]]:
    """Return a small table's rows by their heads."""
    rows: list[list[str]] = page.run(
        f"[...document.querySelectorAll('#{body} tr')].map("
        "row => [...row.cells].map(cell => cell.innerText))"
    )
    return {head: values for head, *values in rows}


def test_without_data_every_part_says_so(page: Page) -> None:
    with serving(make_app(ScriptedPipeline(calibration=None), ledger="off")) as address:
        show(page, address)
        labels: list[str] = page.run(
            "[...document.querySelectorAll('.chart svg')].map(image => image.ariaLabel)"
        )
        assert len(labels) == 4
        assert all(label.startswith(("No ", "Nothing ")) for label in labels)
        assert "nothing to drift from" in page.text("#drift")
        assert "Nothing was answered yet." in page.text("#decision-rows")
        assert "nothing to expect" in page.text("#what-if")
        assert "Nothing spent or saved yet" in page.text("#money-note")
        assert page.run("document.getElementById('threshold').disabled")


def test_shows_what_was_answered(page: Page, served: Served) -> None:
    show(page, served.address)
    data = httpx.get(f"{served.address}/v1/dashboard").json()
    assert page.text("#tiles li:first-child b") == "60"
    assert "upstream_down 3" in page.text("#reasons")
    assert "did not answer for 3" in page.text("#health")
    label: str = page.run("document.querySelector('#routing-chart svg').ariaLabel")
    kinds = [
        f"{sum(minute[kind] for minute in data['minutes'])} {kind}"
        for kind in ("local", "remote", "degraded")
    ]
    assert label == f"Answers a minute in the last hour: {', '.join(kinds)}."
    spent = figures(page, "money-rows")["Spent at the upstream"]
    assert spent[0] == spent[1] != "$0.00"
    assert page.run("document.querySelectorAll('#decision-rows tr').length") == 50
    last = data["decisions"][-1]
    assert page.text("#decision-rows tr:first-child").split("\t")[-1] == last["id"]
    assert "60 seen" in page.text("#drift")
    assert "300 held-out answers" in page.text("#confidence-about")


def test_shows_which_upstreams_are_left_alone(page: Page) -> None:
    names = ("near", "far.example-with-a-long-name.eu-west-1.production", "claude")
    healths = [Health(name, rules=BreakerRules(in_a_row=1, cool_down=3600.0)) for name in names]
    near, far, claude = healths
    for health, ends_well in ((near, True), (far, False)):
        call = health.enter()
        assert call is not None
        health.explain("status 503")
        (call.succeed if ends_well else call.fail)()
    assert far.enter() is None
    claude.rest(200.0)
    members = [
        Member(Upstream("http://127.0.0.1:1/v1", "m", name=health.name, health=health))
        for health in healths
    ]
    pipeline = ScriptedPipeline(upstream=UpstreamPool(members))
    with serving(make_app(pipeline, ledger="off")) as address:
        page.look(width=360, height=740)
        show(page, address)
        told = page.text("#health")
        assert "near\nbreaker closed" in told
        assert "breaker open, tried again in 3,600 s (status 503)" in told
        assert "resting as it asked, tried again in" in told
        page.run("document.querySelector('#calls summary').focus()")
        page.press("Enter")
        calls = figures(page, "call-rows")
        assert [calls[name] for name in names] == [
            ["1", "0", "0", "0"],  # answered, failed, spared, opened
            ["0", "1", "1", "1"],
            ["0", "0", "0", "0"],
        ]
        assert page.run("document.documentElement.scrollWidth") == 360


def test_news_arrive_by_themselves_until_paused(page: Page) -> None:
    pipeline = ScriptedPipeline()
    with serving(make_app(pipeline, ledger="off")) as address:
        show(page, address)
        httpx.post(f"{address}/v1/chat/completions", json=QUESTION).raise_for_status()
        page.until(lambda: page.text("#tiles li:first-child b") == "1")
        page.run("document.getElementById('pause').focus()")
        page.press("Enter")
        assert page.text("#status") == "Paused"
        assert page.run("page.timer") is not None
        httpx.post(f"{address}/v1/chat/completions", json=QUESTION).raise_for_status()
        assert page.text("#tiles li:first-child b") == "1"
        page.press(" ")
        page.until(lambda: page.text("#tiles li:first-child b") == "2")


def test_the_slider_tells_by_keyboard_what_another_threshold_would_do(
    page: Page, served: Served
) -> None:
    show(page, served.address)
    before = figures(page, "what-if")
    assert before["Threshold"] == ["0.500", "0.500"]
    page.run("document.getElementById('threshold').focus()")
    for _ in range(20):
        page.press("ArrowRight")
    stricter = figures(page, "what-if")
    assert stricter["Threshold"] == ["0.500", "0.700"]
    for row in ("Escalated, of held-out answers", "Right among kept, held-out"):
        now, then = (float(value.rstrip("%")) for value in stricter[row])
        assert now < then
    cost_now, cost_then = (float(v.lstrip("$")) for v in stricter["Cost of 1,000 queries"])
    assert cost_now < cost_then
    assert page.run("document.getElementById('threshold').ariaValueText") == page.run(
        "spoken(expected(page.calibration.routing_curve, page.data, 0.7))"
    )
    page.press("End")
    assert figures(page, "what-if")["Threshold"][1] == "1.000"
    page.press("Home")
    assert figures(page, "what-if")["Escalated, of held-out answers"][1] == "0.0%"
    page.press("Tab")
    page.press("Enter")
    assert figures(page, "what-if") == before
    assert page.run("document.activeElement.id") == "threshold"


def test_what_if_agrees_with_the_measured_points(page: Page, served: Served) -> None:
    show(page, served.address)
    points: list[Any] = httpx.get(f"{served.address}/v1/calibration").json()["calibration"][
        "operating_points"
    ]
    for point in points:
        told = page.run(f"atThreshold(page.calibration.routing_curve, {point['threshold']})")
        assert told["escalation"] == pytest.approx(point["escalation_ratio"], abs=0.011)
        assert told["accuracy"] == pytest.approx(point["accuracy_kept"], abs=0.02)


def test_the_curve_can_be_dragged(page: Page, served: Served) -> None:
    show(page, served.address)
    page.run("document.getElementById('curve-chart').scrollIntoView({block: 'center'})")
    box = "document.querySelector('#curve-chart svg').getBoundingClientRect()"
    at = json.loads(page.run(f"JSON.stringify({box})"))
    middle = at["top"] + at["height"] / 2
    page.drag((at["left"] + 60, middle), (at["left"] + at["width"] * 0.75, middle))
    now, then = figures(page, "what-if")["Escalated, of held-out answers"]
    assert now != then
    assert 60 < float(then.rstrip("%")) < 85


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_fits_a_narrow_screen(page: Page, served: Served, tmp_path: Path, dark: bool) -> None:
    page.look(width=360, height=740, dark=dark)
    show(page, served.address)
    assert page.run("document.documentElement.scrollWidth") == 360
    assert page.run(
        "[...document.querySelectorAll('.card, .tiles li, .chart svg')].every("
        "part => part.getBoundingClientRect().right <= 360)"
    )
    page.screenshot(tmp_path / "narrow.png")
    assert (tmp_path / "narrow.png").stat().st_size > 10_000


CONTRAST = """
(() => {
  const shown = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    const colour = getComputedStyle(node).backgroundColor;
    return colour === "rgba(0, 0, 0, 0)" ? behind(node.parentElement) : colour;
  };
  return [...document.querySelectorAll("p, td, th, h2, h3, b, dt, dd, button:enabled, svg text")]
    .filter((node) => node.textContent.trim() && node.getClientRects().length)
    .map((node) => {
      const style = getComputedStyle(node);
      const colour = node instanceof SVGElement ? style.fill : style.color;
      const [low, high] = [shown(colour), shown(behind(node))].sort((a, b) => a - b);
      return [(high + 0.05) / (low + 0.05), node.textContent];
    })
    .reduce((least, each) => (each[0] < least[0] ? each : least));
})()
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_can_be_read(page: Page, served: Served, dark: bool) -> None:
    page.look(dark=dark)
    show(page, served.address)
    least, text = page.run(CONTRAST)
    assert least >= 4.5, text
    background = page.run("getComputedStyle(document.body).backgroundColor")
    assert (int(background.split("(")[1].split(",")[0]) < 64) == dark


def test_everything_can_be_reached_by_keyboard(page: Page, served: Served) -> None:
    show(page, served.address)
    reached = []
    for _ in range(30):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.innerText"))
    assert {"pause", "key-open", "threshold", "As a table"} <= set(reached)
    assert page.run("[...document.querySelectorAll('.chart svg')].every(image => image.ariaLabel)")


def test_data_never_becomes_markup(page: Page) -> None:
    nasty = "<img src=x onerror=document.title='broken'>"
    unheard_of: Any = nasty
    decision = replace(CONFIDENT, reason=unheard_of)
    pipeline = ScriptedPipeline(reply=replace(LOCAL, decision=decision))
    pipeline.engine.alive, pipeline.engine.trouble = False, nasty
    with serving(make_app(pipeline, ledger="off")) as address:
        httpx.post(f"{address}/v1/chat/completions", json=QUESTION).raise_for_status()
        show(page, address)
        assert nasty in page.text("#decision-rows")
        assert nasty in page.text("#health")
        assert page.run("document.images.length") == 0
        assert page.run("document.title") == "Routing dashboard"


def test_asks_for_an_operators_key_and_keeps_it_for_the_tab(
    chromium: Chromium, tmp_path: Path
) -> None:
    store = KeyStore(tmp_path / "keys.db")
    user, _ = store.create(Account(name="alice"))
    admin, _ = store.create(Account(name="root"), admin=True)
    with serving(make_app(keys=str(store.path), ledger="off")) as address:
        page = chromium.page()
        page.look()
        page.open(f"{address}/dashboard")
        page.until(lambda: "API key" in page.text("#status"))
        assert page.run("document.activeElement.id") == "key"
        page.type(user)
        page.press("Enter")
        page.until(lambda: "--admin" in page.text("#status"))
        page.run("document.getElementById('key').focus()")
        page.type(admin)
        page.press("Enter")
        page.until(lambda: page.text("#status") == "Live")
        assert page.run("localStorage.length") == 0
        assert page.run("getComputedStyle(document.getElementById('key-form')).display") == "none"
        show(page, address)
        page.run("document.getElementById('key-open').click()")
        page.run("document.getElementById('key-forget').click()")
        page.until(lambda: "API key" in page.text("#status"))
        page.close()


def test_says_when_the_gateway_is_gone_and_when_it_is_back(page: Page) -> None:
    with serving(make_app(ledger="off")) as address:
        show(page, address)
        page.run("window.fetch_ = fetch; fetch = () => Promise.reject(new Error('cut off'))")
        page.until(lambda: page.text("#status") == "No news: cut off")
        page.run("fetch = fetch_")
        page.until(lambda: page.text("#status") == "Live")
