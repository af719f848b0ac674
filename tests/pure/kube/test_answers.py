"""HTTP answers are read whole however they are cut; what is none is refused."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehive.kube.answers import Answer, AnswerReader, AnswerTooLarge, BadAnswer

LIMIT = 1000
ANSWERS = {
    "length": (
        b'HTTP/1.1 200 OK\r\nWarning: 299 - "a"\r\nContent-Length: 5\r\nwarning: 299 - "b"\r\n\r\nhello',
        b"hello",
    ),
    "chunks": (
        b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"hello",
    ),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n", b"hello"),
    "empty": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "notice": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
}


def feed(text: bytes, cuts: list[int]) -> Answer | None:
    reader, places = AnswerReader(LIMIT), [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    answer = None
    for start, end in itertools.pairwise(places):
        assert answer is None or start == end
        answer = reader.feed(text[start:end]) if start != end else answer
    return answer


@pytest.mark.parametrize("name", ANSWERS)
@given(cuts=st.lists(st.integers(0, 200), max_size=8))
def test_an_answer_is_whole_however_it_is_cut(name: str, cuts: list[int]) -> None:
    text, body = ANSWERS[name]
    answer = feed(text, cuts)
    assert answer is not None
    assert answer.body == body
    assert answer.reusable


def test_headers_are_found_whatever_their_case() -> None:
    answer = feed(ANSWERS["length"][0], [])
    assert answer is not None
    assert answer.values("Warning") == ['299 - "a"', '299 - "b"']


def test_a_body_may_run_to_the_end_of_the_connection() -> None:
    reader = AnswerReader(LIMIT)
    assert reader.feed(b"HTTP/1.1 200 OK\r\n\r\nhel") is None
    assert reader.feed(b"lo") is None
    answer = reader.end()
    assert answer is not None
    assert (answer.body, answer.reusable) == (b"hello", False)


def test_a_cut_answer_is_none() -> None:
    for text, _ in ANSWERS.values():
        reader = AnswerReader(LIMIT)
        assert reader.feed(text[:-1]) is None
        assert reader.end() is None


def test_a_connection_is_not_used_again_when_the_server_ends_it_or_says_too_much() -> None:
    for text in (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy",
    ):
        answer = feed(text, [])
        assert answer is not None
        assert (answer.body, answer.reusable) == (b"x", False)


@pytest.mark.parametrize(
    "text",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"x" * (65 * 1024),
    ],
)
def test_what_is_no_answer_is_refused(text: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerReader(LIMIT).feed(text)


@pytest.mark.parametrize(
    "text",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1001,
    ],
)
def test_what_is_too_large_is_refused(text: bytes) -> None:
    with pytest.raises(AnswerTooLarge):
        AnswerReader(LIMIT).feed(text)
