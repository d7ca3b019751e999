r"""Uncertainty over the tokens that state the answer, leaving out the words around them."""

from __future__ import annotations

import functools
import re

from uq.estimator import AnswerOnly
from uq.trace import FloatArray, Trace
from uq.validity import mean, usable_logprobs, usable_offsets

_MARKER = re.compile(
    r"""
    (?P<boxed> \\boxed\s*\{ )
  | \banswer\b (?: [ ]to\b[^.:\n]{1,60}? )?           # "answer", "answer to this question"
    [*_"]* \s* (?: \bis\b | : ) [*_]*                 # ... followed by "is" or ":"
  | \#\#\#\# (?= [ ]* [-+$]* [.]?\d )                 # GSM8K's; with words it is a heading
    """,
    re.IGNORECASE | re.VERBOSE,
)
_BEFORE_ANSWER = re.compile(r"[\s:*_\"'`$(\[]*")
_AFTER_ANSWER = frozenset(".,;:!?*_\"'`$")
# Not after "J.R.R" or "D.C"; after a lone letter yes, for "B. Paris" chooses an option.
_END_OF_STATEMENT = re.compile(r"\n|(?<!\.[A-Z])[.!?](?=[*_\"')\]]*(?:\s|\Z))")

_NUMBER = re.compile(r"(?<![\w.)])[-+]?[$€£]?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?%?|\d+(?:\.\d+)?%?")
_COMPUTATION = re.compile(r"[=≈]\s*[-+]?[$€£]?\d")


def find_answer_span(text: str, *, cut: bool = False) -> slice:
    r"""Return where in `text` the answer is stated, as a slice of characters.

    The first rule that applies:

    1. The last of these markers that something follows: ``\boxed{`` (what its braces hold), "answer
       is", "answer to ... is", "answer:" and ``####`` before a number (what follows, to the end of
       the sentence or line). Emphasis, quotes and brackets around it are left out.
    2. The last number, if the text ends in a worked computation: it has a number after an equals
       sign, and its last line has a number. Not for a text that was cut short: its last number is
       a step on the way.
    3. The whole text, without the white space around it.

    Parameters
    ----------
    text : str
    cut : bool
        Whether the token limit cut the text short.

    Returns
    -------
    slice
        ``0 <= start <= stop <= len(text)``; empty only for a blank text.

    Examples
    --------
    >>> text = "2 + 3 = 5, so the answer is **5 apples**."
    >>> text[find_answer_span(text)]
    '5 apples'
    >>> text = "So she pays 3 * $4 = $12 in all."
    >>> text[find_answer_span(text)]
    '$12'
    """
    for marker in reversed(list(_MARKER.finditer(text))):
        find = _boxed if marker["boxed"] else _stated
        span = find(text, marker.end())
        if span.start < span.stop:
            return span
    return (None if cut else _computed_number(text)) or _without_space(text)


class AnswerSpanMean(AnswerOnly):
    """Mean over the answer's own tokens: ``u = -mean_{t in span} log p(y_t)``, in nats.

    The span is what `find_answer_span` finds, mapped to tokens through the trace's offsets; a token
    that reaches into it counts whole. Range [0, inf). Reads the chosen tokens' log-probabilities;
    costs nothing beyond the answer. Where the answer is the whole text it equals `Perplexity`.

    References
    ----------
    Token probabilities restricted to the answer: Kadavath et al., "Language Models (Mostly) Know
    What They Know", arXiv:2207.05221; Wang and Zhou, "Chain-of-Thought Reasoning Without
    Prompting", arXiv:2402.10200.
    """

    name = "answer_span_mean"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``-mean log p`` over the span; NaN when it can't be told (see `span_logprobs`)."""
        logprobs = span_logprobs(trace)
        return float("nan") if logprobs is None else -mean(logprobs)


class AnswerSpanMin(AnswerOnly):
    """Least likely of the answer's own tokens: ``u = -min_{t in span} log p(y_t)``, in nats.

    As `AnswerSpanMean`, with the minimum in place of the mean. Range [0, inf).
    """

    name = "answer_span_min"
    version = 1

    def score(self, trace: Trace) -> float:
        """Return ``-min log p`` over the span; NaN when it can't be told (see `span_logprobs`)."""
        logprobs = span_logprobs(trace)
        return float("nan") if logprobs is None else float(-logprobs.min())


@functools.lru_cache(maxsize=16)  # three estimators ask the same of a trace
def span_logprobs(trace: Trace) -> FloatArray | None:
    """Return the log-probabilities of the tokens that state the answer, or None.

    None when the trace's log-probabilities can't be believed (`uq.validity.usable_logprobs`), when
    its offsets decrease or leave the text, or when the text is blank.

    Returns
    -------
    float array of shape (m,), 1 <= m <= n, in (-inf, 0]; or None
    """
    logprobs = usable_logprobs(trace)
    if logprobs is None or not usable_offsets(trace):
        return None
    span = find_answer_span(trace.text, cut=trace.finish_reason == "length")
    starts = trace.offsets
    first, last = starts.searchsorted(span.start, side="right"), starts.searchsorted(span.stop)
    if first > 0:  # the one before reaches into it, and so do all that share its first character
        first = starts.searchsorted(starts[first - 1])
    return logprobs[first:last] if first < last else None


def _stated(text: str, start: int) -> slice:
    """What is stated from `start` on: to the end of the sentence or line."""
    start = _skip_decoration(text, start)
    end = _END_OF_STATEMENT.search(text, start)
    return _without_tail(text, start, end.start() if end else len(text))


def _boxed(text: str, start: int) -> slice:
    """What the braces hold whose first one ends at `start`; all the rest if they never close."""
    depth = 1
    for stop in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[stop], 0)
        if depth == 0:
            break
    else:
        stop = len(text)
    start = min(_skip_decoration(text, start), stop)
    return _without_tail(text, start, stop)


def _skip_decoration(text: str, start: int) -> int:
    match = _BEFORE_ANSWER.match(text, start)
    return match.end() if match else start


def _without_tail(text: str, start: int, stop: int) -> slice:
    """Cut punctuation, emphasis and brackets that nothing in the slice opened off its end."""
    while stop > start and (
        text[stop - 1].isspace()
        or text[stop - 1] in _AFTER_ANSWER
        or _unopened_bracket(text, start, stop)
    ):
        stop -= 1
    return slice(start, stop)


def _unopened_bracket(text: str, start: int, stop: int) -> bool:
    opener = {")": "(", "]": "["}.get(text[stop - 1])
    return opener is not None and text.count(text[stop - 1], start, stop) > text.count(
        opener, start, stop
    )


def _computed_number(text: str) -> slice | None:
    last_line = text.rstrip().rfind("\n") + 1
    numbers = list(_NUMBER.finditer(text, last_line))
    if not numbers or not _COMPUTATION.search(text):
        return None
    return slice(*numbers[-1].span())


def _without_space(text: str) -> slice:
    stop = len(text.rstrip())
    return slice(min(stop, len(text) - len(text.lstrip())), stop)
