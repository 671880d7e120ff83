# SPDX-License-Identifier: Apache-2.0
"""The handshake, byte by byte."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from dmtool.client.nbd import Nbd, NbdError, connect, exports
from dmtool.export.nbd import NbdServer
from dmtool.export.nbd import protocol as p


def receive(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        got = sock.recv(length - len(data))
        assert got, "the server closes the connection"
        data += got
    return data


def greeted(served: Any, flags: int = 3) -> socket.socket:
    sock: socket.socket = served.raw()
    assert receive(sock, 18) == b"NBDMAGICIHAVEOPT\x00\x03"
    sock.sendall(struct.pack(">I", flags))
    return sock


def option(sock: socket.socket, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data)
    replies = []
    while True:
        magic, answered, kind, length = struct.unpack(">QIII", receive(sock, 20))
        assert (magic, answered) == (0x3E889045565A9, number)
        replies.append((kind, receive(sock, length)))
        if kind not in (p.REP_SERVER, p.REP_INFO, p.REP_META_CONTEXT):
            return replies


def closed(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1)
    except ConnectionResetError:
        return True


def named(name: bytes, *infos: int) -> bytes:
    return struct.pack(f">I{len(name)}sH{len(infos)}H", len(name), name, len(infos), *infos)


def queries(name: bytes, *words: bytes) -> bytes:
    out = struct.pack(f">I{len(name)}sI", len(name), name, len(words))
    return out + b"".join(struct.pack(f">I{len(word)}s", len(word), word) for word in words)


def test_unknown_client_flags_end_the_connection(disk: Any) -> None:
    assert closed(greeted(disk, 1 << 7))


def test_wrong_option_magic_ends_the_connection(disk: Any) -> None:
    sock = greeted(disk)
    sock.sendall(b"IHAVEOPS" + bytes(8))
    assert closed(sock)


def test_options_that_are_not_known_are_refused_and_no_more(disk: Any) -> None:
    sock = greeted(disk)
    for number in (4, p.OPT_EXTENDED_HEADERS, 12, 0xFFFFFFFF):
        ((kind, text),) = option(sock, number, b"some data")
        assert kind == p.REP_ERR_UNSUP
        assert str(number).encode() in text
    assert option(sock, p.OPT_STARTTLS)[0][0] == p.REP_ERR_POLICY
    assert option(sock, p.OPT_ABORT, b"ignored") == [(p.REP_ACK, b"")]
    assert closed(sock)


def test_huge_option_is_skipped(disk: Any) -> None:
    sock = greeted(disk)
    ((kind, _),) = option(sock, p.OPT_GO, bytes((64 << 10) + 1))
    assert kind == p.REP_ERR_TOO_BIG
    assert option(sock, p.OPT_GO, bytes(64 << 10))[0][0] == p.REP_ERR_INVALID
    assert option(sock, p.OPT_LIST)[-1][0] == p.REP_ACK


def test_huge_export_name_ends_the_connection(disk: Any) -> None:
    sock = greeted(disk)
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", p.OPT_EXPORT_NAME, 70_000) + bytes(70_000))
    assert closed(sock)


def test_list_has_what_can_be_used(disk: Any) -> None:
    sock = greeted(disk)
    ack = (p.REP_ACK, b"")
    assert option(sock, p.OPT_LIST) == [(p.REP_SERVER, b"\0\0\0\3dev"), ack]
    assert option(sock, p.OPT_LIST, b"x")[0][0] == p.REP_ERR_INVALID
    assert exports(disk.socket) == ["dev"]
    disk.device.live, live = None, disk.device.live
    assert option(sock, p.OPT_LIST) == [ack]
    disk.device.live = live


def test_info_tells_and_go_goes(disk: Any) -> None:
    sock = greeted(disk)
    for number in (p.OPT_INFO, p.OPT_GO):
        assert disk.device.open_count == 0
        replies = option(sock, number, named(b"", 3, 2, 1, 99))
        flags = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 10
        assert replies == [
            (p.REP_INFO, struct.pack(">HQH", 0, 4 << 20, flags)),
            (p.REP_INFO, b"\0\1dev"),
            (p.REP_INFO, b"\0\2mapped device 1000:3, 1 target"),
            (p.REP_INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
            (p.REP_ACK, b""),
        ]
    assert disk.device.open_count == 1
    sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_READ, b"12345678", 512, 512))
    assert receive(sock, 16 + 512) == b"gDf\x98\0\0\0\x0012345678" + disk.data[512:1024]


def test_only_what_is_asked_for_is_told(disk: Any) -> None:
    assert len(option(greeted(disk), p.OPT_GO, named(b"dev"))) == 2


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_export_name(disk: Any, flags: int) -> None:
    sock = greeted(disk, flags)
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 3) + b"dev")
    assert struct.unpack(">QH", receive(sock, 10))[0] == 4 << 20
    if not flags & 2:
        assert receive(sock, 124) == bytes(124)
    sock.sendall(p.REQUEST.pack(p.REQUEST_MAGIC, 0, p.CMD_FLUSH, b"12345678", 0, 0))
    assert receive(sock, 16) == b"gDf\x98\0\0\0\x0012345678"


def test_export_name_that_is_not_there(disk: Any) -> None:
    sock = greeted(disk)
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 4) + b"none")
    assert closed(sock)


def test_export_that_is_not_there(disk: Any) -> None:
    sock = greeted(disk)
    for number in (p.OPT_INFO, p.OPT_GO):
        assert option(sock, number, named(b"none")) == [
            (p.REP_ERR_UNKNOWN, b"no mapped device none")
        ]
    with pytest.raises(NbdError, match=r"^no mapped device none$"):
        connect(disk.socket, "none")


def test_names_need_not_be_utf8(disk: Any) -> None:
    asked: list[str] = []
    disk.server._lookup = asked.append
    option(greeted(disk), p.OPT_INFO, named(b"a\xffb"))
    assert asked == ["a\udcffb"]


def test_device_without_a_table(served: Any) -> None:
    with pytest.raises(NbdError, match=r"^dev has no live table$"):
        served.nbd()
    sock = greeted(served)
    sock.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 3) + b"dev")
    assert closed(sock)


def test_device_too_large_for_the_protocol(disk: Any) -> None:
    disk.device.live.size = 1 << 63
    with pytest.raises(NbdError, match=r"^dev has 9223372036854775808 bytes"):
        disk.nbd()
    disk.device.live.size = (1 << 63) - 512
    assert disk.nbd().size == (1 << 63) - 512


def test_device_that_is_removed_meanwhile(disk: Any) -> None:
    lookup = disk.server._lookup

    def removed(name: str) -> Any:
        device = lookup(name)
        device._gone = True
        return device

    disk.server._lookup = removed
    with pytest.raises(NbdError, match=r"^dev: No such device or address$"):
        disk.nbd()
    disk.device._gone = False


def test_read_only_device_says_so(disk: Any) -> None:
    disk.table("0 8192 linear a.img 0", readonly=True)
    flags = disk.nbd().flags
    assert flags & p.FLAG_READ_ONLY
    assert not flags & (p.FLAG_SEND_TRIM | p.FLAG_SEND_WRITE_ZEROES)


def test_structured_replies_bring_the_flag_df(disk: Any) -> None:
    assert disk.nbd(structured=True).flags & p.FLAG_SEND_DF
    assert not disk.nbd(structured=False).flags & p.FLAG_SEND_DF
    assert option(greeted(disk), p.OPT_STRUCTURED_REPLY, b"x")[0][0] == p.REP_ERR_INVALID


def test_meta_contexts(disk: Any) -> None:
    sock = greeted(disk)
    for number in (p.OPT_LIST_META_CONTEXT, p.OPT_SET_META_CONTEXT):
        assert option(sock, number, queries(b"dev"))[0][0] == p.REP_ERR_INVALID
    assert option(sock, p.OPT_STRUCTURED_REPLY) == [(p.REP_ACK, b"")]
    ack = (p.REP_ACK, b"")
    listed = (p.REP_META_CONTEXT, b"\0\0\0\0base:allocation")
    for words, answer in (
        ((), [listed, ack]),
        ((b"base:",), [listed, ack]),
        ((b"x-other:all", b"base:allocation"), [listed, ack]),
        ((b"base:dirty", b"qemu:"), [ack]),
    ):
        assert option(sock, p.OPT_LIST_META_CONTEXT, queries(b"dev", *words)) == answer
    chosen = (p.REP_META_CONTEXT, b"\0\0\0\1base:allocation")
    for words, answer in (
        ((), [ack]),
        ((b"base:",), [ack]),
        ((b"base:allocation",) * 3, [chosen, ack]),
        ((b"nbd-server:x",), [ack]),
    ):
        assert option(sock, p.OPT_SET_META_CONTEXT, queries(b"dev", *words)) == answer
    assert option(sock, p.OPT_SET_META_CONTEXT, queries(b"none"))[0][0] == p.REP_ERR_UNKNOWN


@pytest.mark.parametrize("spoil", ["by another", "by none", "by a refused one"])
def test_the_last_choice_of_contexts_counts(disk: Any, spoil: str) -> None:
    nbd = Nbd(disk.raw())
    nbd.greet()
    nbd.option(p.OPT_STRUCTURED_REPLY)
    good = queries(b"dev", b"base:allocation")
    assert nbd.option(p.OPT_SET_META_CONTEXT, good)
    if spoil == "by a refused one":
        with pytest.raises(NbdError):
            nbd.option(p.OPT_SET_META_CONTEXT, good[:-1])
    else:
        words = (b"base:x",) if spoil == "by another" else ()
        nbd.option(p.OPT_SET_META_CONTEXT, queries(b"dev", *words))
    nbd.structured = True
    nbd.option(p.OPT_GO, named(b"dev"))
    with pytest.raises(OSError, match="no metadata context"):
        nbd.block_status(512, 0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\4dev",
        b"\0\0\0\3dev",
        b"\0\0\0\3dev\0",
        b"\0\0\0\3dev\0\1",
        b"\0\0\0\3dev\0\0x",
        b"\xff\xff\xff\xffdev\0\0",
    ],
)
def test_data_that_does_not_fit(disk: Any, data: bytes) -> None:
    sock = greeted(disk)
    for number in (p.OPT_GO, p.OPT_INFO):
        assert option(sock, number, data)[0][0] == p.REP_ERR_INVALID
    option(sock, p.OPT_STRUCTURED_REPLY)
    assert option(sock, p.OPT_SET_META_CONTEXT, data)[0][0] == p.REP_ERR_INVALID


def test_name_that_is_too_long(disk: Any) -> None:
    sock = greeted(disk)
    assert option(sock, p.OPT_GO, named(b"x" * 4097))[0][0] == p.REP_ERR_TOO_BIG
    assert option(sock, p.OPT_GO, named(b"x" * 4096))[0][0] == p.REP_ERR_UNKNOWN


@pytest.mark.parametrize("said", [b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT", b"\0\0\0\3IHAVEOPT\0\0"])
def test_client_that_says_no_more(tmp_path: Path, said: bytes) -> None:
    server = NbdServer(lambda name: None, list, handshake_seconds=0.05)
    server.listen_unix(tmp_path / "nbd.sock")
    with server, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(tmp_path / "nbd.sock"))
        assert len(receive(sock, 18)) == 18
        sock.sendall(said)
        assert closed(sock)


def test_client_that_goes_in_the_middle(disk: Any) -> None:
    for said in (b"", b"\0\0\0\3", b"\0\0\0\3IHAVEOPT\0\0\0\7\0\0\1\0dev"):
        sock = disk.raw()
        sock.sendall(said)
        sock.close()
    assert disk.nbd().size == 4 << 20


def test_socket_is_the_users_own_and_replaces_an_old_one(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 80) / "nbd.sock"
    path.parent.mkdir()
    for _ in range(2):
        server = NbdServer(lambda name: None, list)
        server.listen_unix(path)
        with server:
            assert path.stat().st_mode & 0o777 == 0o600
            assert exports(path) == []
    path.unlink()
    path.write_bytes(b"a file is not replaced")
    with pytest.raises(OSError, match="in use"):
        NbdServer(lambda name: None, list).listen_unix(path)
