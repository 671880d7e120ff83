# SPDX-License-Identifier: Apache-2.0
"""Ways out of the core for bytes: each serves mapped devices to programs that know nothing of
them. A way out enters a device through its suspend gate, and counts as an opener of it."""
