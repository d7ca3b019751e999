"""Personal data found by Microsoft Presidio. Needs the extra ``presidio``.

Presidio joins a spaCy model, which finds names by how they are used, with patterns and their check
digits. Nothing is downloaded, neither when it is loaded nor while it searches.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import spacy
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import NerModelConfiguration, SpacyNlpEngine
from presidio_analyzer.predefined_recognizers import SpacyRecognizer
from spacy.language import Language
from tldextract import TLDExtract, tldextract

from router.errors import ConfigError

NOBODYS = frozenset({"DATE_TIME", "URL"})
"""What has a pattern and yet is nobody's: not searched for unless it is asked for."""

# It checks the domains of e-mail addresses; its own would fetch a list of them at the first one.
tldextract.TLD_EXTRACTOR = TLDExtract(suffix_list_urls=(), cache_dir=None)

_logger = logging.getLogger("presidio-analyzer")


class SearchFailed(Exception):
    """Presidio gave up a part of its search. Says nothing of the text."""


class Analyzer:
    """Searches texts for `entities`, such as PERSON; made by `load_analyzer`.

    What it finds with a score below `score` does not count. Not for several threads at a time.
    """

    def __init__(
        self, nlp: Language, engine: AnalyzerEngine, entities: Collection[str], score: float
    ) -> None:
        self.language: str = nlp.meta["lang"]
        self.entities = sorted(entities)
        self._nlp = nlp
        self._engine = engine
        self._score = score

    def find(self, text: str) -> str | None:
        """Return the name of what is most surely in `text`; None when nothing is.

        Raises SearchFailed, and whatever else goes wrong in there: its message may quote the text.
        """
        # spaCy keeps every word it meets; those of a memory zone it forgets.
        with _no_complaints(), self._nlp.memory_zone():
            found = self._engine.analyze(
                text, self.language, entities=self.entities, score_threshold=self._score
            )
            best = max(found, key=lambda one: one.score, default=None)
            return None if best is None else str(best.entity_type)


def load_analyzer(model: str, entities: Collection[str], score: float) -> Analyzer:
    """Load the spaCy model that is called `model`, or lies in a folder of that name.

    Its language is that of the patterns too. Without `entities` the search is for PERSON and all
    that has a pattern, NOBODYS excepted. Raises ConfigError when the model can't be loaded or marks
    no entities, and for entities that nothing would find.
    """
    nlp = _load(model)
    engine = _engine_around(nlp, model)
    language = nlp.meta["lang"]
    known = set(engine.get_supported_entities(language))
    if unknown := sorted(set(entities) - known):
        raise ConfigError(
            f"`presidio_entities` names {unknown[0]!r}, which nothing finds with `presidio_model` "
            f"= {model!r}, language {language}; there are {', '.join(sorted(known))}"
        )
    return Analyzer(nlp, engine, entities or _personal(engine, language), score)


def _load(model: str) -> Language:
    try:
        return spacy.load(model)
    except (OSError, ImportError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"`presidio_model` = {model!r} can't be loaded: {reason} One of spaCy's own is "
            f"installed with: python -m spacy download {model}"
        ) from error


def _engine_around(nlp: Language, model: str) -> AnalyzerEngine:
    mapping = NerModelConfiguration().model_to_presidio_entity_mapping or {}
    names = {label: mapping.get(label, label) for label in _labels(nlp)}
    if not names:
        raise ConfigError(
            f"`presidio_model` = {model!r} marks no entities, so it would find no names; "
            "take one that does, such as en_core_web_sm"
        )
    # With the labels that this model has, not with all that any model may have; and loaded already:
    # one that is missing it would download.
    around = SpacyNlpEngine(
        ner_model_configuration=NerModelConfiguration(model_to_presidio_entity_mapping=names)
    )
    language = nlp.meta["lang"]
    around.nlp = {language: nlp}  # type: ignore[assignment]  # inferred from its first value, None
    return AnalyzerEngine(nlp_engine=around, supported_languages=[language])


def _labels(nlp: Language) -> Iterator[str]:
    """Of the entities that the parts of the model mark."""
    for part, labels in nlp.pipe_labels.items():
        if "doc.ents" in nlp.get_pipe_meta(part).assigns:
            yield from labels


def _personal(engine: AnalyzerEngine, language: str) -> set[str]:
    found: set[str] = set()
    for recognizer in engine.get_recognizers(language):
        names = set(recognizer.get_supported_entities())
        found |= names & {"PERSON"} if isinstance(recognizer, SpacyRecognizer) else names
    return found - NOBODYS


class _Complaints(logging.Handler):
    """Presidio logs what it leaves out, such as a pattern that took too long, and may quote it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard = False

    def emit(self, record: logging.LogRecord) -> None:
        del record
        self.heard = True


@contextmanager
def _no_complaints() -> Iterator[None]:
    """Keep what Presidio logs from all logs; raise SearchFailed at the end if it warned."""
    complaints, propagated = _Complaints(), _logger.propagate
    _logger.addHandler(complaints)
    _logger.propagate = False
    try:
        yield
    finally:
        _logger.propagate = propagated
        _logger.removeHandler(complaints)
    if complaints.heard:
        raise SearchFailed("Presidio left out a part of the search")
