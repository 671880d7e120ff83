# SPDX-License-Identifier: Apache-2.0
"""Target types: ``registry.py`` finds them by name, ``target.py`` is one target of a table,
``args.py`` its arguments, ``io.py`` what its ``map`` is asked and may answer."""
