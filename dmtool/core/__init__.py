# SPDX-License-Identifier: Apache-2.0
"""The core process: the home of all mapped devices of one user.

``process.py`` is its life, ``devices.py`` the mapped devices by name, uuid and minor,
``state.py`` what outlives a crash, ``control.py`` the socket, ``methods.py`` what can be asked
over it. docs/control-protocol.md is the contract with clients.
"""
