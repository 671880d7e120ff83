# SPDX-License-Identifier: Apache-2.0
"""How fast dmtool is, beside every peer that is installed, in one run on one machine.

``make bench`` or ``python -m benchmarks`` runs all of it and writes docs/benchmarks/; the page
there says what each row is. What counts is the ratio of a row, not the numbers in it: everybody
takes turns, round by round, so that all see the same machine.

``__main__.py``   options, and which groups of rows there are.
``bench.py``      what a group works with: settings, turns, and the record of what was measured.
``exports.py``    NBD: warm loads, by the light client and by fio. ``sharing.py``: loads that meet.
``index.py``      the sector index, and the charter's own benchmark.
``tables.py``     large tables. ``startup.py``: a command of the command line.
``servers.py``    how dmtool and each peer are started; ``loads.py``: how they are loaded, with
                  ``light.c``, a client that costs little; ``remap.py``: a target type in Python.
``machine.py``    what the numbers depend on. ``report.py``, ``picture.py``: what is left behind.
"""
