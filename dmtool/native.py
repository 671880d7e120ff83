# SPDX-License-Identifier: Apache-2.0
"""The parts in C (native/), each optional: which of the two is used, C or Python."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def in_c(module: str, variable: str, wanted: str) -> ModuleType | None:
    """``dmtool.<module>`` where it is to be used, None where Python is.

    ``wanted`` is what the environment's ``variable`` has: ``native`` or ``python``, or nothing, and
    C is used where it is there. Raises ImportError for another word, and for C that is missing.
    """
    if wanted not in ("", "native", "python"):
        msg = f"{variable}={wanted}: neither native nor python"
        raise ImportError(msg)
    if wanted == "python":
        return None
    try:
        return import_module(f"dmtool.{module}")
    except ImportError as error:
        if not wanted:
            return None
        msg = (
            f"{variable}=native, but dmtool.{module} is missing: this dmtool was"
            f" installed without a C compiler ({error})"
        )
        raise ImportError(msg) from error
