# SPDX-License-Identifier: Apache-2.0
"""The suspend gate: drains, holds, lets go, turns away."""

from __future__ import annotations

import os
import select
import socket
import threading

import pytest

from dmtool.device.gate import Gate


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_close_waits_for_who_is_inside() -> None:
    gate = Gate()
    assert gate.enter()
    closed = threading.Event()
    thread = threading.Thread(target=lambda: (gate.close(), closed.set()))
    thread.start()
    select.select([gate.closed_fd], [], [])  # the close has begun
    assert gate.try_enter() is None
    assert not closed.is_set()
    gate.leave()
    assert closed.wait(10)
    thread.join()


def test_who_comes_while_closed_goes_in_at_open() -> None:
    gate = Gate()
    gate.close()
    entered = threading.Event()
    thread = threading.Thread(target=lambda: (gate.enter(), entered.set()))
    thread.start()
    assert not entered.is_set()
    gate.open()
    assert entered.wait(10)
    thread.join()
    gate.leave()


def test_two_closes_want_two_opens() -> None:
    gate = Gate()
    gate.close()
    gate.close()
    gate.open()
    assert gate.try_enter() is None
    gate.open()
    assert gate.try_enter() is True


def test_destroy_turns_away() -> None:
    gate = Gate()
    gate.close()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(gate.enter()))
    thread.start()
    gate.destroy()
    thread.join(10)
    assert answers == [False]
    assert gate.try_enter() is False


def test_descriptors_follow_the_gate() -> None:
    gate = Gate()
    closed, opened = gate.closed_fd, gate.open_fd
    assert (_readable(closed), _readable(opened)) == (False, True)
    gate.close()
    assert (_readable(closed), _readable(opened)) == (True, False)
    gate.open()
    assert (_readable(closed), _readable(opened)) == (False, True)
    gate.destroy()
    assert (_readable(closed), _readable(opened)) == (True, True)


def test_who_wants_it_closed_may_leave() -> None:
    gate = Gate()
    ours, client = socket.socketpair()
    assert gate.enter()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(gate.close(ours.fileno())))
    thread.start()
    select.select([gate.closed_fd], [], [])
    client.close()
    thread.join(10)
    assert answers == [False]
    assert gate.try_enter() is True
    gate.leave()
    gate.leave()
    # nobody is inside: there is nothing to wait for
    assert gate.close(ours.fileno())
    assert gate.try_enter() is None
    gate.open()
    ours.close()


def test_a_client_that_stays_gets_it_closed() -> None:
    gate = Gate()
    ours, client = socket.socketpair()
    client.shutdown(socket.SHUT_WR)  # which is not to leave
    assert gate.enter()
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(gate.close(ours.fileno())))
    thread.start()
    select.select([gate.closed_fd], [], [])
    gate.leave()
    thread.join(10)
    assert answers == [True]
    ours.close()
    client.close()


def test_descriptors_can_be_given_back() -> None:
    gate = Gate()
    fds = {gate.closed_fd, gate.open_fd}
    gate.destroy()
    gate.free()
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
    assert _readable(gate.open_fd)


class Visitor:
    """Who enters and leaves by a flag."""

    def __init__(self) -> None:
        self.inside = False

    def left(self) -> None:
        self.inside = False


def test_close_waits_for_a_visitor() -> None:
    gate, visitor = Gate(), Visitor()
    gate.visit(visitor)
    turn = gate.turn_if_open()
    assert turn == gate.turn[0]
    visitor.inside = True
    closed = threading.Event()
    thread = threading.Thread(target=lambda: (gate.close(), closed.set()))
    thread.start()
    select.select([gate.closed_fd], [], [])  # the close has begun
    assert gate.turn[0] != turn
    assert gate.turn_if_open() is None
    assert not closed.is_set()
    visitor.inside = False
    gate.left()
    assert closed.wait(10)
    thread.join()
    gate.open()
    assert gate.turn_if_open() not in (None, turn)


def test_a_visitor_that_is_admitted_leaves_as_all_do() -> None:
    gate, visitor = Gate(), Visitor()
    gate.visit(visitor)
    visitor.inside = True
    closed = threading.Event()
    thread = threading.Thread(target=lambda: (gate.close(), closed.set()))
    thread.start()
    select.select([gate.closed_fd], [], [])
    gate.admit(visitor)
    assert not visitor.inside
    assert not closed.is_set()
    gate.leave()
    assert closed.wait(10)
    thread.join()


def test_nobody_waits_for_a_visitor_that_is_forgotten() -> None:
    gate, visitor = Gate(), Visitor()
    gate.visit(visitor)
    visitor.inside = True
    closed = threading.Event()
    thread = threading.Thread(target=lambda: (gate.close(), closed.set()))
    thread.start()
    select.select([gate.closed_fd], [], [])
    gate.forget(visitor)
    assert closed.wait(10)
    thread.join()


def test_recall_changes_the_turn_only() -> None:
    gate = Gate()
    turn = gate.turn_if_open()
    gate.recall()
    assert gate.turn_if_open() not in (None, turn)
    assert gate.try_enter() is True
