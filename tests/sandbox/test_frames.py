"""The parser of result frames, on valid and on hostile bytes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamprm_jax.sandbox.inside import frames, jobs

good = st.builds(
    frames.Frame,
    test=st.integers(0, 2**32 - 1),
    status=st.integers(0, 7),
    last=st.booleans(),
    output_end=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=40),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(good, max_size=5), st.integers(0, 200))
def test_frames_come_back_whole_and_in_order(sent: list[frames.Frame], cut: int) -> None:
    data = b"".join(map(frames.pack, sent))
    header = len(frames.pack(frames.Frame(0, 0, False, 0, b"")))
    assert frames.parse(data) == (sent, len(data), header)
    some, used, missing = frames.parse(data[:cut])
    assert some == sent[: len(some)]
    assert missing > 0
    again = frames.parse(data[: cut + missing - 1])  # fewer bytes give nothing new
    assert again[:2] == (some, used) or cut > len(data)
    rest, end, _ = frames.parse(data, used)  # continues where it stopped
    assert some + rest == sent
    assert end == len(data)


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.binary(max_size=60).map(lambda tail: b"DPF1" + tail)))
def test_any_bytes_give_frames_or_a_frame_error(data: bytes) -> None:
    try:
        found, used, _ = frames.parse(data)
    except frames.FrameError:
        return
    assert 0 <= used <= len(data)
    assert b"".join(map(frames.pack, found)) == data[:used]


@pytest.mark.parametrize("position", [0, 8, 9])
def test_a_changed_header_is_refused(position: int) -> None:
    data = bytearray(frames.pack(frames.Frame(0, frames.OK, True, 3, b"x")))
    data[position] = 0xEE
    with pytest.raises(frames.FrameError):
        frames.parse(bytes(data))


def test_a_frame_longer_than_the_file_is_waited_for() -> None:
    data = bytearray(frames.pack(frames.Frame(0, frames.OK, True, 3, b"x")))
    data[18:22] = b"\xff\xff\xff\xff"
    assert frames.parse(bytes(data)) == ([], 0, (1 << 32) - 2)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=50), st.binary(max_size=10), st.lists(st.binary(max_size=20), max_size=5))
def test_job_files_come_back(code: bytes, function: bytes, inputs: list[bytes]) -> None:
    job = jobs.Job(jobs.FAITHFUL, jobs.FUNCTION, 6, 1 << 30, code, function, inputs)
    assert jobs.Job.unpack(job.pack()) == job


def test_messages_come_back() -> None:
    request = jobs.Request(jobs.RUN, 7, 1.5, 2.5, 5.0, 1 << 30, 1 << 20)
    assert jobs.Request.unpack(request.pack()) == request
    reply = jobs.Reply(7, jobs.FAILED, 9, 0.25, 0.5, 1000, 0.125, "fork: é")
    assert jobs.Reply.unpack(reply.pack()) == reply
