"""The agent's stream taken apart, however it is cut, and whoever else speaks on it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.jobs.frames import Frames, NotFrames

answers = st.dictionaries(st.sampled_from(["status", "manifest"]), st.text(), min_size=1)


def encoded(items: list[dict[str, str] | bytes]) -> bytes:
    return b"".join(
        b'{"log": %d}\n' % len(item) + item
        if isinstance(item, bytes)
        else json.dumps(item).encode() + b"\n"
        for item in items
    )


@settings(deadline=None)
@given(st.lists(st.one_of(answers, st.binary(max_size=40)), max_size=8), st.integers(1, 50))
def test_every_byte_and_answer_arrives_whatever_the_pieces(items, size):
    log, said = bytearray(), []
    frames = Frames(said.append, log.extend)
    stream = encoded(items)
    for start in range(0, len(stream), size):
        frames.feed(stream[start : start + size])
    assert bytes(log) == b"".join(item for item in items if isinstance(item, bytes))
    assert said == [item for item in items if not isinstance(item, bytes)]


@pytest.mark.parametrize(
    "stream",
    [
        b"Welcome to the pod!\n",
        b"[1]\n",
        b'{"log": -1}\n',
        b'{"log": "x"}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
    ids=["greeting", "list", "negative", "text", "deep", "binary"],
)
def test_what_is_no_such_stream_is_refused_with_its_beginning(stream):
    frames = Frames(lambda _answer: None, lambda _data: None)
    with pytest.raises(NotFrames) as refused:
        frames.feed(stream)
    assert stream.decode("utf-8", "replace").startswith(str(refused.value))


def test_a_line_without_end_is_not_kept_for_ever():
    frames = Frames(lambda _answer: None, lambda _data: None)
    for _ in range(16):
        frames.feed(b"x" * (1 << 20))
    with pytest.raises(NotFrames):
        frames.feed(b"x")
