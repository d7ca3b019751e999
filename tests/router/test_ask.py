"""`router ask`: how an answer is shown."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from io import StringIO

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from router.answer import Answer, Usage
from router.cli import main
from router.cli.ask import (
    as_dict,
    build_query,
    coloured,
    legend,
    show,
    status_line,
    tokens_per_second,
    words,
)
from router.engine.messages import Message
from tests.router.samples import answer, trace

NAN = math.nan


def shown(given_answer: Answer, *, colours: bool, method: str | None = None) -> str:
    out = StringIO()
    console = Console(
        file=out,
        force_terminal=colours,
        color_system="truecolor" if colours else None,
        highlight=False,
        soft_wrap=True,
        _environ={},
    )
    show(given_answer, method, console)
    return out.getvalue()


def test_the_query_is_what_the_gateway_would_have_received() -> None:
    query = build_query("2 + 2?", "remote", 64)
    assert query.messages == (Message("user", "2 + 2?"),)
    assert (query.mode, query.max_tokens) == ("remote", 64)
    assert query.body == {
        "model": "remote",
        "messages": [{"role": "user", "content": "2 + 2?"}],
        "max_tokens": 64,
    }


class TestWords:
    @pytest.mark.parametrize(
        ("pieces", "expected"),
        [
            ([("Paris", 0.9)], [("Paris", 0.9)]),
            ([("Par", 0.9), ("is", 0.5)], [("Paris", 0.5)]),
            ([("The", 0.9), (" cat", 0.8)], [("The ", 0.8), ("cat", 0.8)]),
            ([("a ", 0.9), ("b", 0.2)], [("a ", 0.9), ("b", 0.2)]),
            ([("  ", 0.9), ("x", 0.4)], [("  ", 0.9), ("x", 0.4)]),
            ([("a", NAN), (" ", 0.9), ("b", 0.5)], [("a ", NAN), ("b", 0.5)]),
            ([("two\n\nparts", 0.7)], [("two\n\n", 0.7), ("parts", 0.7)]),
            ([], []),
        ],
    )
    def test_known(
        self, pieces: list[tuple[str, float]], expected: list[tuple[str, float]]
    ) -> None:
        result = list(words(trace(*pieces)))
        assert [word for word, _ in result] == [word for word, _ in expected]
        assert [p for _, p in result] == pytest.approx([p for _, p in expected], nan_ok=True)

    def test_tokens_that_share_a_character_all_count(self) -> None:
        seen = trace(("a ", 0.9), ("", 0.3), ("", 0.8), ("é", 0.7), (" b", 0.6))
        result = list(words(seen))
        assert [word for word, _ in result] == ["a ", "é ", "b"]
        assert [p for _, p in result] == pytest.approx([0.9, 0.3, 0.6])

    def test_a_stop_string_may_have_shortened_the_text(self) -> None:
        seen = trace(("yes", 0.9), ("END", 0.1), text="yes")
        ((word, probability),) = words(seen)
        assert word == "yes"
        assert probability == pytest.approx(0.9)

    def test_text_without_tokens_is_unknown(self) -> None:
        result = list(words(trace(text="hello")))
        assert result[0][0] == "hello"
        assert math.isnan(result[0][1])

    @given(st.lists(st.tuples(st.text(alphabet="ab \n", max_size=4), st.floats(0.01, 1.0))))
    def test_nothing_is_lost(self, pieces: list[tuple[str, float]]) -> None:
        seen = trace(*pieces)
        result = list(words(seen))
        assert "".join(word for word, _ in result) == seen.text
        assert all(0.0 < p <= 1.0 + 1e-12 for _, p in result)


class TestColours:
    def test_each_probability_has_its_style(self) -> None:
        seen = trace(("a ", 0.95), ("b ", 0.7), ("c ", 0.4), ("d ", 0.1), ("e", NAN))
        text = coloured(seen)
        assert text.plain == "a b c d e"
        assert [str(span.style) for span in text.spans] == [
            "green",
            "yellow",
            "dark_orange",
            "bold red",
        ]

    def test_the_legend_names_them_all(self) -> None:
        assert legend().plain == (
            "least likely token of a word:  p >= 0.9  p >= 0.6  p >= 0.3  below"
        )


class TestShow:
    def test_plain_without_a_terminal(self) -> None:
        output = shown(answer(trace(("Paris", 0.9)), p_correct=0.8, threshold=0.5), colours=False)
        assert output == (
            "Paris\nlocal: confident | p_correct 0.800 | threshold 0.500 | 100 tokens/s\n"
        )

    def test_coloured_on_a_terminal(self) -> None:
        output = shown(answer(trace(("Paris", 0.1))), colours=True)
        assert "\x1b[1;31mParis" in output
        assert "least likely token of a word" in output

    def test_no_colour_when_told_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NO_COLOR", "1")
        out = StringIO()
        console = Console(file=out, force_terminal=True, highlight=False)
        show(answer(trace(("Paris", 0.1))), None, console)
        assert "least likely" not in out.getvalue()
        assert "31m" not in out.getvalue()

    def test_an_answer_from_elsewhere_is_not_coloured(self) -> None:
        remote = answer(trace(("no", 0.1)), text="yes", route="remote", reason="uncertain")
        output = shown(remote, colours=True)
        assert "yes" in output
        assert "31m" not in output
        assert "least likely" not in output

    def test_brackets_are_text(self) -> None:
        assert "[red]x[/red]" in shown(answer(trace(("[red]x[/red]", 0.9))), colours=False)
        remote = answer(None, text="[b]a", route="remote", reason="policy")
        assert "[b]a" in shown(remote, colours=False)


class TestStatusLine:
    def test_the_deciding_score(self) -> None:
        given_answer = answer(None, text="x", uncertainty={"perplexity": 1.25, "margin": 0.5})
        assert "| perplexity 1.250 |" in status_line(given_answer, "perplexity")
        assert "perplexity" not in status_line(given_answer, None)
        assert "other" not in status_line(given_answer, "other")

    def test_what_is_unknown(self) -> None:
        line = status_line(
            answer(
                None, text="x", p_correct=NAN, reason="uncalibrated", uncertainty={"margin": NAN}
            ),
            "margin",
        )
        assert line.startswith("local: uncalibrated | p_correct unknown | threshold unknown | ")
        assert "margin unknown" in line

    def test_degraded_and_cost(self) -> None:
        base = answer(None, text="x", reason="no_upstream", degraded=True)
        assert status_line(base, None).startswith("local: no_upstream | degraded | ")
        paid = Answer(**{**{f: getattr(base, f) for f in base.__slots__}, "cost_usd": 0.0012})
        assert status_line(paid, None).endswith("0.001200 USD")

    def test_speed(self) -> None:
        base = answer(None, text="x")
        fields = {name: getattr(base, name) for name in base.__slots__}
        assert tokens_per_second(base) == pytest.approx(100.0)
        assert tokens_per_second(Answer(**{**fields, "usage_local": None})) is None
        assert tokens_per_second(Answer(**{**fields, "usage_local": Usage(5, 0)})) is None
        assert tokens_per_second(Answer(**{**fields, "timings_ms": {}})) is None


class TestJson:
    def test_everything_is_json(self) -> None:
        given_answer = answer(
            trace(("Paris", 0.9)),
            p_correct=0.8,
            threshold=0.5,
            uncertainty={"perplexity": 1.25, "margin": NAN},
            calibration="sha256:ab",
        )
        result = json.loads(json.dumps(as_dict(given_answer), allow_nan=False))
        assert result["text"] == "Paris"
        assert result["route"] == "local"
        assert result["p_correct"] == 0.8
        assert result["uncertainty"] == {"perplexity": 1.25, "margin": None}
        assert result["usage"] == {
            "local": asdict(Usage(5, 20)),
            "remote": None,
        }
        assert result["tokens_per_second"] == pytest.approx(100.0)

    def test_remote_usage(self) -> None:
        base = answer(None, text="x", p_correct=NAN)
        fields = {name: getattr(base, name) for name in base.__slots__}
        result = as_dict(Answer(**{**fields, "usage_remote": Usage(1, 2), "usage_local": None}))
        assert result["usage"] == {
            "local": None,
            "remote": asdict(Usage(1, 2)),
        }
        assert result["p_correct"] is None


@pytest.mark.model
class TestCommand:
    ARGS = ("ask", "--context", "256", "--max-tokens", "12")

    def test_it_answers_and_says_why(self) -> None:
        result = CliRunner().invoke(main, [*self.ARGS, "How many days are in a week?"])
        assert result.exit_code == 0
        *text, status = result.output.splitlines()
        assert "7 days" in " ".join(text)
        assert status.startswith("local: ")
        assert "tokens/s" in status
        assert "\x1b" not in result.output

    def test_as_json_from_stdin(self) -> None:
        result = CliRunner().invoke(
            main, [*self.ARGS, "--mode", "local", "--json", "-"], input="What is 2 + 2?\n"
        )
        assert result.exit_code == 0
        body = json.loads(result.output)
        assert "4" in body["text"]
        assert (body["route"], body["reason"]) == ("local", "policy")
        assert body["uncertainty"]["perplexity"] > 0

    def test_an_error_ends_it_cleanly(self) -> None:
        result = CliRunner().invoke(main, [*self.ARGS, "--mode", "remote", "hello"])
        assert result.exit_code == 1
        assert result.stderr.startswith("error: ")
        assert "upstream" in result.stderr
