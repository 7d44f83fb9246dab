"""What the books promise: nothing twice, nothing lost, and sums that are plain sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from bursar.books.books import FILE_NAME, Books, open_books
from bursar.errors import BooksError
from bursar.usage.rollup import Batch, Calls, Group, Query

HOUR_MS = 3_600_000


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    opened = open_books(tmp_path)
    yield opened
    opened.close()


def group(
    feature: str, tokens: int, *, hour: int = 0, component: str = "", calls: int = 1
) -> Group:
    labels = {"feature": feature, "tenant": "acme", "component": component}
    return Group(hour * HOUR_MS, labels, {(1, 1): tokens}, Calls(calls=calls))


def test_usage_is_summed_by_label(books: Books) -> None:
    books.take([Batch(0, 7, (group("chat", 10), group("search", 5), group("chat", 1, hour=1)))])
    page = books.query(Query(group_by=("feature",)))
    assert [(row.group, row.tokens, row.calls.calls) for row in page.rows] == [
        (("chat",), 11, 2),
        (("search",), 5, 1),
    ]
    assert page.through_sequence == 7
    assert not page.more


def test_a_batch_is_never_taken_twice(books: Books) -> None:
    batch = Batch(0, 7, (group("chat", 10),))
    assert books.take([batch]) == 7
    assert books.take([batch]) == 7
    assert books.query(Query()).rows[0].tokens == 10


def test_a_batch_that_leaves_a_gap_changes_nothing(books: Books) -> None:
    books.take([Batch(0, 7, (group("chat", 10),))])
    with pytest.raises(BooksError, match="up to sequence 7, but the next usage begins after 9"):
        books.take([Batch(9, 12, (group("chat", 1),))])
    assert books.through_sequence() == 7
    assert books.query(Query()).rows[0].tokens == 10


def test_an_error_between_pages_takes_none_of_them(books: Books) -> None:
    def pages() -> Iterator[Batch]:
        yield Batch(0, 7, (group("chat", 10),))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        books.take(pages())
    assert books.through_sequence() == 0
    assert books.query(Query()).rows[0].tokens == 0


def test_books_are_as_they_were_after_they_are_opened_again(tmp_path: Path) -> None:
    first = open_books(tmp_path)
    first.take([Batch(0, 7, (group("chat", 10),))])
    first.close()
    again = open_books(tmp_path)
    assert again.through_sequence() == 7
    assert again.query(Query()).rows[0].tokens == 10
    again.close()


def test_a_file_that_is_not_books_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database, but long enough to be read as one" * 100)
    with pytest.raises(BooksError, match=FILE_NAME):
        open_books(tmp_path)


def test_a_label_that_is_absent_groups_as_empty_and_matches_empty(books: Books) -> None:
    nameless = Group(0, {"tenant": "acme"}, {(4, 3): 3}, Calls())
    books.take([Batch(0, 1, (group("chat", 10), nameless))])
    by_feature = books.query(Query(group_by=("feature",))).rows
    assert [(row.group, row.tokens) for row in by_feature] == [(("",), 3), (("chat",), 10)]
    without = books.query(Query(match={"feature": ""})).rows[0]
    assert (without.output_tokens, without.input_tokens, without.assumed_tokens) == (3, 0, 3)


def test_a_question_that_splits_calls_has_none(books: Books) -> None:
    books.take([Batch(0, 1, (group("chat", 10), group("chat", 4, component="tools", calls=0)))])
    by_component = books.query(Query(group_by=("component",))).rows
    assert [(row.group, row.tokens, row.calls.calls) for row in by_component] == [
        (("",), 10, 0),
        (("tools",), 4, 0),
    ]
    by_meter = books.query(Query(group_by=("meter", "basis"))).rows
    assert [(row.group, row.tokens) for row in by_meter] == [((1, 1), 14)]


def test_hours_outside_the_span_are_left_out(books: Books) -> None:
    books.take([Batch(0, 1, tuple(group("chat", 1, hour=hour) for hour in range(5)))])
    span = Query(from_unix_ms=HOUR_MS, until_unix_ms=3 * HOUR_MS, group_by=("hour",))
    assert [row.group for row in books.query(span).rows] == [(HOUR_MS,), (2 * HOUR_MS,)]


def test_pages_follow_one_another_without_a_row_twice(books: Books) -> None:
    features = [f"feature-{number:02}" for number in range(10)]
    groups = tuple(group(name, 1, hour=hour) for name in features for hour in range(3))
    books.take([Batch(0, 1, groups)])
    seen: list[tuple[str | int, ...]] = []
    after: tuple[str | int, ...] = ()
    more = True
    while more:
        page = books.query(Query(group_by=("feature", "hour"), rows_max=7, after=after))
        seen += [row.group for row in page.rows]
        after, more = seen[-1], page.more
    assert seen == [(name, hour * HOUR_MS) for name in features for hour in range(3)]


@st.composite
def histories(draw: st.DrawFn) -> list[list[Batch]]:
    """Batches that follow one another, each as its pages."""
    words: SearchStrategy[str] = st.sampled_from(["", "a", "b", "ü", "'", '"'])
    groups = st.builds(
        Group,
        hour_unix_ms=st.integers(0, 3).map(lambda hour: hour * HOUR_MS),
        labels=st.fixed_dictionaries({"feature": words, "tenant": words, "component": words}),
        tokens=st.dictionaries(
            st.tuples(st.integers(1, 11), st.integers(1, 3)), st.integers(-(2**40), 2**40)
        ),
        calls=st.builds(Calls, calls=st.integers(-3, 3), latency_ms_sum=st.integers(-9, 9)),
    )
    history = []
    after = 0
    for steps in draw(st.lists(st.integers(1, 9), max_size=4)):
        pages = draw(st.lists(st.lists(groups, max_size=4), min_size=1, max_size=3))
        history.append([Batch(after, after + steps, tuple(page)) for page in pages])
        after += steps
    return history


@settings(max_examples=60, deadline=None)
@given(history=histories(), repeats=st.lists(st.booleans(), min_size=4, max_size=4))
def test_the_books_are_plain_sums_however_batches_are_repeated(
    tmp_path_factory: pytest.TempPathFactory, history: list[list[Batch]], repeats: list[bool]
) -> None:
    tokens: Counter[tuple[str, int, int]] = Counter()
    calls: Counter[str] = Counter()
    books = open_books(tmp_path_factory.mktemp("books"))
    for pages, again in zip(history, repeats, strict=False):
        books.take(pages)
        if again:
            books.take(pages)
        for each in (each for page in pages for each in page.groups):
            calls[each.labels["feature"]] += each.calls.calls
            for (meter, _), amount in each.tokens.items():
                tokens[each.labels["feature"], each.hour_unix_ms, meter] += amount
    by_all = books.query(Query(group_by=("feature", "hour", "meter")))
    assert {row.group: row.tokens for row in by_all.rows if row.tokens} == {
        key: amount for key, amount in tokens.items() if amount
    }
    by_feature = books.query(Query(group_by=("feature",)))
    assert {row.group[0]: row.calls.calls for row in by_feature.rows if row.calls.calls} == {
        key: amount for key, amount in calls.items() if amount
    }
    books.close()
