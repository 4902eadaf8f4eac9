"""The channel between gateway and worker: whole frames, caps before memory, and an end that is seen."""

from __future__ import annotations

import os
import socket
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plasmid.core.bounds import MAX_BODY_BYTES
from plasmid.core.errors import ProtocolError
from plasmid.protocol.channel import _LENGTHS, MAX_HEADER_BYTES, Channel, ChannelClosed


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    one, two = socket.socketpair()
    yield one, Channel(two)
    one.close()
    two.close()


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, two = (Channel(end) for end in socket.socketpair())
    yield one, two
    one.close()
    two.close()


def in_thread(work: Any) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("body", [b"", b"x", bytes(range(256)) * 20_000])
def test_a_frame_comes_out_as_it_went_in(ends: tuple[Channel, Channel], body: bytes) -> None:
    header = {"type": "compute", "seed": 2**62, "text": "é\n", "none": None}
    sender = in_thread(lambda: ends[0].send(header, body))
    assert ends[1].receive() == (header, body)
    sender.join()


def test_frames_of_many_threads_stay_whole(ends: tuple[Channel, Channel]) -> None:
    def send(name: int) -> None:
        for number in range(30):
            ends[0].send({"name": name, "number": number}, bytes([name]) * 10_000)

    threads = [in_thread(lambda name=name: send(name)) for name in range(4)]
    found: dict[int, list[int]] = {name: [] for name in range(4)}
    for _ in range(120):
        header, body = ends[1].receive()
        assert body == bytes([header["name"]]) * 10_000
        found[header["name"]].append(header["number"])
    assert found == {name: list(range(30)) for name in range(4)}
    for thread in threads:
        thread.join()


@pytest.mark.parametrize(
    ("header", "body"), [(MAX_HEADER_BYTES + 1, 0), (2**32 - 1, 0), (2, MAX_BODY_BYTES + 1), (2, 2**64 - 1)]
)
def test_a_frame_over_the_caps_is_refused_before_it_is_read(
    raw: tuple[socket.socket, Channel], header: int, body: int
) -> None:
    raw[0].sendall(_LENGTHS.pack(header, body))
    with pytest.raises(ProtocolError, match="too large") as caught:
        raw[1].receive()
    assert caught.value.code == "protocol.frame"


@pytest.mark.parametrize("sent", [b"", b"\0", _LENGTHS.pack(2, 5), _LENGTHS.pack(2, 5) + b"{}abc"])
def test_the_end_of_the_other_side_is_seen_within_a_frame(
    raw: tuple[socket.socket, Channel], sent: bytes
) -> None:
    raw[0].sendall(sent)
    raw[0].close()
    with pytest.raises(ChannelClosed):
        raw[1].receive()


def test_a_frame_that_is_not_json_is_refused(raw: tuple[socket.socket, Channel]) -> None:
    raw[0].sendall(_LENGTHS.pack(3, 0) + b"{x}")
    with pytest.raises(ProtocolError) as caught:
        raw[1].receive()
    assert caught.value.code == "protocol.frame"


def test_a_header_that_is_not_json_is_not_sent(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        ends[0].send({"value": float("nan")})
    ends[0].send({"after": 1})
    assert ends[1].receive() == ({"after": 1}, b"")


def test_closing_wakes_whoever_waits(ends: tuple[Channel, Channel]) -> None:
    seen = []

    def wait(end: Channel) -> None:
        try:
            end.receive()
        except ChannelClosed:
            seen.append(1)

    threads = [in_thread(lambda end=end: wait(end)) for end in ends]
    ends[0].close()
    for thread in threads:
        thread.join(10)
    assert seen == [1, 1]
    for end in ends:
        with pytest.raises(ChannelClosed):
            end.send({}, b"x" * 10_000_000)
    ends[0].close()  # again


# -- open files over the channel -----------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """An open file that holds ``rows``."""
    (tmp_path / "rows").write_bytes(b"rows")
    descriptor = os.open(tmp_path / "rows", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_file_arrives_and_is_the_same(ends: tuple[Channel, Channel], file: int) -> None:
    ends[0].send({"type": "opened"}, b"body", descriptor=file)
    header, body = ends[1].receive(files=True)
    found = header.pop("descriptor")
    assert (header, body) == ({"type": "opened"}, b"body")
    assert found != file
    assert os.path.samestat(os.fstat(found), os.fstat(file))
    assert not os.get_inheritable(found)
    os.close(found)
    assert os.pread(file, 9, 0) == b"rows", "the sender's stays open"
    ends[0].send({"type": "next"})
    assert ends[1].receive(files=True) == ({"type": "next", "descriptor": None}, b"")


def test_a_file_comes_with_a_large_frame(ends: tuple[Channel, Channel], file: int) -> None:
    body = bytes(range(256)) * 20_000
    sender = in_thread(lambda: ends[0].send({"type": "opened"}, body, descriptor=file))
    header, found = ends[1].receive(files=True)
    sender.join()
    assert found == body
    os.close(header["descriptor"])


def test_a_file_does_not_arrive_where_none_was_asked_for(ends: tuple[Channel, Channel], file: int) -> None:
    before = descriptors()
    for _ in range(20):
        ends[0].send({"type": "result"}, descriptor=file)
        assert ends[1].receive() == ({"type": "result"}, b"")
    assert descriptors() == before


def test_a_header_cannot_claim_a_file(ends: tuple[Channel, Channel]) -> None:
    ends[0].send({"type": "opened", "descriptor": 0})
    assert ends[1].receive(files=True)[0] == {"type": "opened", "descriptor": None}


def hostile(end: socket.socket, files: list[int], data: bytes) -> None:
    end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))])


@pytest.mark.parametrize("files", [False, True])
def test_a_peer_that_sends_a_hundred_files_leaves_none_behind(
    raw: tuple[socket.socket, Channel], file: int, files: bool
) -> None:
    before = descriptors()
    frame = _LENGTHS.pack(2, 100) + b"{}" + b"x" * 100
    for _ in range(5):
        for part in (frame[:4], frame[4:9], frame[9:50], frame[50:]):  # with every part of the frame
            hostile(raw[0], [file] * 100, part)
        header, body = raw[1].receive(files=files)
        assert body == b"x" * 100
        if files and header["descriptor"] is not None:
            assert os.path.samestat(os.fstat(header["descriptor"]), os.fstat(file))
            os.close(header["descriptor"])
    assert descriptors() == before


@pytest.mark.parametrize(
    "sent",
    [b"\0", _LENGTHS.pack(2, 5), _LENGTHS.pack(2, 5) + b"{}abc", _LENGTHS.pack(3, 0) + b"{x}",
     _LENGTHS.pack(MAX_HEADER_BYTES + 1, 0), _LENGTHS.pack(2, MAX_BODY_BYTES + 1),
     _LENGTHS.pack(2, 0) + b"[]"],
)  # fmt: skip
def test_a_frame_that_comes_to_nothing_closes_its_file(
    raw: tuple[socket.socket, Channel], file: int, sent: bytes
) -> None:
    before = descriptors()
    hostile(raw[0], [file], sent)
    raw[0].shutdown(socket.SHUT_WR)
    with pytest.raises((ChannelClosed, ProtocolError)):
        raw[1].receive(files=True)
    assert descriptors() == before


def test_a_file_cannot_be_sent_to_nobody(ends: tuple[Channel, Channel], file: int) -> None:
    ends[1].close()
    with pytest.raises(ChannelClosed):
        ends[0].send({}, b"x" * 10_000_000, descriptor=file)
    assert os.pread(file, 4, 0) == b"rows"
