# SPDX-License-Identifier: Apache-2.0
"""Mapped devices over the Network Block Device protocol.

``server.py``     NbdServer: sockets and threads.
``handshake.py``  fixed newstyle negotiation, up to the export.
``connection.py`` the transmission phase: a batch of requests at a time. ``batch.py`` is its
                  replies, ``largeread.py`` and ``largewrite.py`` what is too large for them,
                  ``passage.py`` its way through the suspend gates, ``residency.py`` what it knows
                  of the page cache, ``handedover.py`` what it has left to workers, ``reads.py``
                  reads that need a look. ``lane.py`` is its way through C for what needs none.
``incoming.py``, ``outgoing.py``  the two halves of a connection's socket.
``commands.py``   what one request does to a table, and its reply.
``spin.py``       how long it looks for a request before it sleeps.
``workers.py``    threads for what would block a connection.
``protocol.py``   numbers and layouts; ``address.py`` paths of sockets: clients use them too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmtool.export.nbd.server import NbdServer

__all__ = ["NbdServer"]


def __getattr__(name: str) -> Any:
    # late: clients come here for protocol.py, and need nothing of devices and tables
    if name == "NbdServer":
        from dmtool.export.nbd.server import NbdServer

        return NbdServer
    raise AttributeError(name)
