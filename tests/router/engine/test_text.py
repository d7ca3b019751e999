"""What leaves the engine is whole characters, and never a part of a stop string."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from router.engine.text import AnswerText


def run(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, str, bool]:
    """Feed pieces until stopped; returns what was shown, the final text, whether it stopped."""
    answer = AnswerText(stop)
    shown = ""
    for piece in pieces:
        _, new = answer.push(piece)
        shown += new
        if answer.stopped:
            break
    shown += answer.finish()
    return shown, answer.text, answer.stopped


def test_a_character_that_spans_tokens_is_shown_once_it_is_whole() -> None:
    answer = AnswerText()
    emoji = "🦙".encode()
    assert answer.push(emoji[:1]) == (0, "")
    assert answer.push(emoji[1:3]) == (0, "")
    assert answer.push(emoji[3:] + b"!") == (0, "🦙!")


def test_an_unfinished_character_at_the_end_is_dropped() -> None:
    assert run([b"ok ", "é".encode()[:1]]) == ("ok ", "ok ", False)


def test_a_stop_string_across_tokens_ends_the_answer_and_none_of_it_is_shown() -> None:
    assert run([b"one ST", b"O", b"P two"], ("STOP",)) == ("one ", "one ", True)


def test_what_only_looked_like_a_stop_string_is_shown_after_all() -> None:
    answer = AnswerText(("STOP",))
    assert answer.push(b"a STO")[1] == "a "
    assert answer.push(b"RY")[1] == "STORY"


def test_the_earliest_of_several_stop_strings_wins() -> None:
    assert run([b"abcdef"], ("ef", "cd")) == ("ab", "ab", True)


def test_a_stop_string_that_begins_inside_held_back_text() -> None:
    assert run([b"aa", b"ab"], ("aab",)) == ("a", "a", True)


def test_an_empty_stop_string_stops_nothing() -> None:
    assert run([b"abc"], ("",)) == ("abc", "abc", False)


def test_offsets_are_where_each_token_begins() -> None:
    answer = AnswerText()
    assert [answer.push(p)[0] for p in (b"Hello", b" ", b"world")] == [0, 5, 6]


texts = st.text(alphabet="abST\n🦙é", max_size=30)


@given(texts, st.lists(st.integers(0, 60), max_size=8), st.lists(texts, max_size=3))
def test_any_cutting_into_tokens_shows_the_text_up_to_the_first_stop_string(
    text: str, cuts: list[int], stop: list[str]
) -> None:
    raw = text.encode()
    points = sorted({min(c, len(raw)) for c in cuts} | {0, len(raw)})
    pieces = [raw[a:b] for a, b in itertools.pairwise(points)]
    shown, final, stopped = run(pieces, tuple(stop))
    ends = [at for s in stop if s and (at := text.find(s)) >= 0]
    if not ends:
        assert (shown, final, stopped) == (text, text, False)
    else:
        assert stopped
        assert shown == final
        assert not any(s in final for s in stop if s)
        assert text.startswith(final)
