"""Where a request is put, and what it need not read again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.engine.sequences import WORTH_COPYING, Held, Place, Sequences, common_prefix

LONG = list(range(100))
OTHER = list(range(500, 600))


def filled(*held: Held) -> Sequences:
    """As many sequences, all free, holding these; the first was free for the longest."""
    sequences = Sequences(len(held))
    places = [sequences.take("", [], {}).seq for _ in held]
    for seq, each in zip(sorted(places), held, strict=True):
        sequences.release(seq, each)
    return sequences


def test_a_conversation_that_goes_on_stays_where_it_is() -> None:
    sequences = filled(Held("", OTHER), Held("", LONG), Held("", OTHER))
    assert sequences.take("", [*LONG, 7, 8], {}) == Place(seq=1, n_shared=100, source=1)


def test_another_conversation_with_the_same_beginning_gets_a_copy() -> None:
    sequences = filled(Held("", OTHER), Held("", LONG))
    beginning = [*LONG[:40], 7, 8, 9]
    assert sequences.take("", beginning, {}) == Place(seq=0, n_shared=40, source=1)


def test_a_beginning_that_another_request_is_using_is_copied() -> None:
    sequences = Sequences(2)
    first = sequences.take("", LONG, {})
    live = {first.seq: Held("", LONG)}
    assert sequences.take("", [*LONG, 7], live) == Place(seq=1, n_shared=100, source=0)


def test_what_is_not_worth_a_copy_is_read_again() -> None:
    few = LONG[: WORTH_COPYING - 1]
    sequences = filled(Held("", OTHER), Held("", LONG))
    assert sequences.take("", [*few, 7], {}) == Place(seq=0, n_shared=0, source=0)


def test_tenants_never_share() -> None:
    sequences = filled(Held("mine", LONG), Held("", OTHER))
    assert sequences.take("theirs", LONG, {0: Held("mine", LONG)}).n_shared == 0
    assert sequences.take("", LONG, {}).n_shared == 0


def test_the_one_free_for_the_longest_goes_first() -> None:
    sequences = filled(Held("", LONG), Held("", OTHER))
    assert sequences.take("", [1], {}).seq == 0
    sequences.release(0, Held())
    assert sequences.take("", [1], {}).seq == 1


def test_requests_sit_next_to_each_other() -> None:
    sequences = filled(*[Held("", OTHER)] * 3, Held("", LONG), Held("", OTHER))
    first = sequences.take("", OTHER, {})
    assert first.seq == 0
    beside = sequences.take("", LONG, {0: Held("", OTHER)})
    assert beside == Place(seq=1, n_shared=100, source=3)


def test_borrowed_sequences_hold_nothing_afterwards() -> None:
    sequences = filled(Held("", LONG), Held("", LONG))
    assert sequences.neighbours(5) == [0, 1]
    assert sequences.n_free == 2
    assert sequences.take("", LONG, {}).n_shared == 0


tokens = st.lists(st.integers(0, 2), max_size=40)
steps = st.lists(st.tuples(st.sampled_from(["a", "b"]), tokens, st.booleans()), max_size=30)


@given(steps)
def test_no_sequence_is_given_twice_and_nothing_is_shared_that_is_not_there(
    steps: list[tuple[str, list[int], bool]],
) -> None:
    sequences = Sequences(4)
    live: dict[int, Held] = {}
    held = {seq: Held() for seq in range(4)}
    for tenant, prompt, ends in steps:
        if sequences.n_free:
            place = sequences.take(tenant, prompt, live)
            assert place.seq not in live
            found = live.get(place.source, held[place.source])
            if place.n_shared:
                assert found.tenant == tenant
                assert list(found.tokens[: place.n_shared]) == prompt[: place.n_shared]
            live[place.seq] = Held(tenant, prompt)
        if live and (ends or not sequences.n_free):
            seq = min(live)
            held[seq] = live.pop(seq)
            sequences.release(seq, held[seq])


@given(tokens, tokens)
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
