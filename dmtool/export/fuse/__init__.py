# SPDX-License-Identifier: Apache-2.0
"""Mapped devices as files, and their control as files: the kernel's FUSE protocol.

``export.py``     FuseExport: both file systems of a core, ``mapper/`` and ``control/``.
``protocol.py``   numbers and layouts of linux/fuse.h.
``mount.py``      mount and unmount, with or without the right to; ``guardian.py`` does the
                  latter for a core that was killed.
``session.py``    one mount's connection to the kernel: requests in, replies out.
``tree.py``       what both file systems share: directories, attributes, handles.
``mapper.py``     a file for each mapped device; ``transfer.py`` its reads and writes,
                  ``emptied.py`` what O_TRUNC means to it.
``control.py``    what writing to control files does; ``controlfiles.py`` which there are,
                  ``texts.py`` what is read from them, ``events.py`` who waits for events,
                  ``callers.py`` who waits for what was written.
``loop.py``       loop devices over the files.
``views.py``      what a core has to give.

docs/fuse.md is for users; docs/adr/0005-fuse.md says why no library is in between.
"""

from __future__ import annotations

from dmtool.export.fuse.export import FuseExport
from dmtool.export.fuse.mount import FuseUnavailable
from dmtool.export.fuse.views import Access, ControlPort, DevicesView

__all__ = ["Access", "ControlPort", "DevicesView", "FuseExport", "FuseUnavailable"]
