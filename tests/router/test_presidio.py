"""Personal data found by the real Presidio, around a spaCy model that knows one name."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import spacy

from router.cli.doctor import check_presidio, guarded
from router.config import Settings
from router.errors import ConfigError
from router.personal_data import MOST, OVERLAP, WINDOW, PersonalData, open_personal_data
from router.presidio import Analyzer, load_analyzer
from tests.names_model import NAME, save_names_model

CARD = "4111 1111 1111 1111"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_names_model(tmp_path_factory.mktemp("presidio") / "model")


@pytest.fixture(scope="module")
def analyzer(model: str) -> Analyzer:
    return load_analyzer(model, (), 0.4)


@asynccontextmanager
async def opened(model: str, **settings: Any) -> AsyncIterator[PersonalData]:
    personal = await open_personal_data(Settings(presidio_model=model, **settings))
    assert personal is not None
    try:
        yield personal
    finally:
        personal.close()


def said(text: str) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        (f"Tell {NAME} that I am late.", "PERSON"),
        ("write to ada@example.org, please", "EMAIL_ADDRESS"),
        (f"my card is {CARD}", "CREDIT_CARD"),
        ("pay to DE89 3704 0044 0532 0130 00", "IBAN_CODE"),
        ("call 212-555-5555 tonight", "PHONE_NUMBER"),
        ("the host 192.168.17.3 is down", "IP_ADDRESS"),
    ],
)
def test_what_is_personal_is_found(analyzer: Analyzer, text: str, entity: str) -> None:
    assert analyzer.find(text) == entity


@pytest.mark.parametrize(
    "text",
    [
        "Name a colour.",
        "What is 17 * 23?",
        "my card is 4111 1111 1111 1112",
        "That cost ten guilders at 12:30 on 4/7/1976.",
        "See https://example.org/page for more.",
    ],
)
def test_the_rest_is_not(analyzer: Analyzer, text: str) -> None:
    assert analyzer.find(text) is None


def test_the_surest_is_named(analyzer: Analyzer) -> None:
    assert analyzer.find(f"{NAME}, {CARD}") == "CREDIT_CARD"


def test_only_what_is_asked_for_is_found(model: str) -> None:
    analyzer = load_analyzer(model, ["MONEY", "DATE_TIME"], 0.4)
    assert analyzer.find(f"{NAME} pays by {CARD}") is None
    assert analyzer.find("It cost ten guilders") == "MONEY"
    assert analyzer.find("on 4/7/1976") == "DATE_TIME"


def test_what_scores_below_the_threshold_does_not_count(model: str) -> None:
    sure, surest = load_analyzer(model, (), 0.85), load_analyzer(model, (), 0.9)
    assert sure.find(NAME) == "PERSON"
    assert surest.find(NAME) is None
    assert sure.find("212-555-5555") is None
    assert surest.find(CARD) == "CREDIT_CARD"


def test_the_language_is_the_models(tmp_path: Path) -> None:
    analyzer = load_analyzer(save_names_model(tmp_path, lang="es", label="PER"), (), 0.4)
    assert analyzer.language == "es"
    assert analyzer.find(f"Soy {NAME}") == "PERSON"
    assert {"PERSON", "ES_NIF"} <= set(analyzer.entities)
    assert "US_SSN" not in analyzer.entities


def test_nothing_is_fetched(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_analyzer(model, (), 0.4).find("ada@example.org") == "EMAIL_ADDRESS"
    with pytest.raises(ConfigError):
        load_analyzer("en_core_web_none", (), 0.4)


def test_what_was_read_is_forgotten(model: str) -> None:
    analyzer = load_analyzer(model, (), 0.4)
    words = analyzer._nlp.vocab.strings
    before = len(words)
    assert analyzer.find("an unheard-of zorkmidical sentence") is None
    assert len(words) == before


class TestWhatCanNotBeUsed:
    async def test_a_model_that_is_not_there(self) -> None:
        said = r"'en_core_web_none' can't be loaded: .*python -m spacy download en_core_web_none"
        with pytest.raises(ConfigError, match=said):
            await open_personal_data(Settings(presidio_model="en_core_web_none"))

    def test_a_folder_that_is_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="can't be loaded"):
            load_analyzer(str(tmp_path), (), 0.4)

    def test_a_model_that_finds_no_names(self, tmp_path: Path) -> None:
        spacy.blank("en").to_disk(tmp_path)
        with pytest.raises(ConfigError, match=r"marks no entities.* such as en_core_web_sm"):
            load_analyzer(str(tmp_path), (), 0.4)

    async def test_an_entity_that_nothing_finds(self, model: str) -> None:
        settings = Settings(presidio_model=model, presidio_entities="PERSON, NAME")
        with pytest.raises(ConfigError, match=r"names 'NAME'.* language en; there are CREDIT_CARD"):
            await open_personal_data(settings)

    async def test_names_that_the_model_does_not_mark(self, tmp_path: Path) -> None:
        places = save_names_model(tmp_path, label="GPE")
        with pytest.raises(ConfigError, match="names 'PERSON'"):
            await open_personal_data(Settings(presidio_model=places, presidio_entities="PERSON"))

    @pytest.mark.parametrize("missing", ["presidio_analyzer", "spacy"])
    async def test_without_the_extra_the_start_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        monkeypatch.delitem(sys.modules, "router.presidio")
        monkeypatch.delattr("router.presidio")
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(ConfigError, match=r"pip install 'seek-stronger\[presidio\]'"):
            await open_personal_data(Settings(presidio_model="en_core_web_sm"))


def test_off_it_is_not_loaded() -> None:
    script = (
        "import sys, asyncio, service.app\n"
        "from router.config import Settings\n"
        "from router.personal_data import open_personal_data\n"
        "assert asyncio.run(open_personal_data(Settings())) is None\n"
        "print([m for m in ('spacy', 'presidio_analyzer', 'router.presidio') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


class TestRequests:
    @pytest.mark.parametrize(
        "body",
        [
            said(f"I am {NAME}"),
            {"messages": [{"role": "system", "content": [{"type": "text", "text": NAME}]}]},
            {"messages": [], "tools": [{"function": {"description": f"of {NAME}"}}]},
            {"messages": [{"tool_calls": [{"function": {"arguments": f'{{"to": "{NAME}"}}'}}]}]},
            {"messages": [], "metadata": {"x": NAME}},
        ],
    )
    async def test_all_texts_are_searched(self, model: str, body: dict[str, Any]) -> None:
        async with opened(model) as personal:
            assert await personal.match(body) == "presidio: PERSON"

    async def test_nothing_is_found_where_nothing_is(self, model: str) -> None:
        async with opened(model) as personal:
            assert await personal.match(said("Name a colour.")) is None
            assert await personal.match({"messages": []}) is None

    @pytest.mark.parametrize(
        "begin", [0, WINDOW - OVERLAP - 9, WINDOW - 9, 2 * WINDOW, MOST - OVERLAP]
    )
    async def test_a_long_text_is_searched_everywhere(self, model: str, begin: int) -> None:
        text = " " * begin + NAME
        async with opened(model, presidio_entities="PERSON") as personal:
            assert await personal.match(said(text)) == "presidio: PERSON"

    async def test_one_that_is_too_long_is_kept_unsearched(self, model: str) -> None:
        async with opened(model) as personal:
            kept = await personal.match(said("a" * (MOST + 1)))
            assert kept == f"presidio: more than {MOST} characters, not searched"

    async def test_what_can_not_be_searched_is_kept_and_not_quoted(
        self, model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        async with opened(model) as personal:
            with monkeypatch.context() as patched:
                patched.setattr("presidio_analyzer.AnalyzerEngine.analyze", _raise_with_the_text)
                assert await personal.match(said("unlikely word")) == "presidio: search failed"
            (line,) = [one for one in caplog.records if one.name == "router.personal_data"]
            assert (line.levelname, vars(line)["error"]) == ("ERROR", "ValueError")
            assert "unlikely" not in caplog.text
            assert await personal.match(said("unlikely word")) is None, "the next is searched again"

    async def test_what_presidio_leaves_out_is_kept_and_not_quoted(
        self, model: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        # A pattern that takes too long it skips, with no more than a line in its own log.
        monkeypatch.setattr("presidio_analyzer.pattern_recognizer.REGEX_TIMEOUT_SECONDS", 1e-9)
        caplog.set_level(logging.DEBUG)
        async with opened(model) as personal:
            kept = await personal.match(said("an unlikely word " * 500))
        assert kept == "presidio: search failed"
        assert "unlikely" not in caplog.text
        assert "SearchFailed" in str([vars(one) for one in caplog.records])

    async def test_it_searches_in_a_thread_of_its_own(
        self, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = set()

        def note(*_: object) -> None:
            seen.add(threading.current_thread().name)

        monkeypatch.setattr(Analyzer, "find", note)
        async with opened(model) as personal:
            for _ in range(3):
                await personal.match(said("Name a colour."))
        assert seen == {"presidio_0"}


class TestDoctor:
    async def test_it_says_what_is_looked_for(self, model: str) -> None:
        settings = Settings(presidio_model=model, presidio_entities="PERSON,IBAN_CODE")
        finding = await check_presidio(settings)
        assert finding.status == "ok"
        said = f"{model} (language en) finds IBAN_CODE, PERSON with a score of at least 0.4"
        assert finding.detail == said

    async def test_it_says_what_is_wrong(self) -> None:
        settings = Settings(presidio_model="en_core_web_none")
        finding = await guarded("presidio", lambda: check_presidio(settings))
        assert finding.status == "FAIL"
        assert "spacy download" in finding.detail


def _raise_with_the_text(_: object, text: str, *__: object, **___: object) -> None:
    raise ValueError(text)
