# SPDX-License-Identifier: Apache-2.0
"""What ``-S help`` says of the language of selections, and what stands above some errors."""

from __future__ import annotations


def selection_help() -> list[str]:
    """The lines that explain the language (libdm-report.c: _display_selection_help)."""
    lines = _OPERANDS.splitlines()
    lines += [f"    {operator:>6}  - {what}" for operator, what in _COMPARISONS]
    lines += [" ", "  Logical and grouping operators:"]
    lines += [f"    {operator:>4}  - {what}" for operator, what in _LOGICAL]
    return [*lines, " "]


_OPERANDS = """\
Selection operands
------------------
  field               - Reporting field.
  number              - Non-negative integer value.
  size                - Floating point value with units, 'm' unit used by default if not specified.
  percent             - Non-negative integer with or without % suffix.
  string              - Characters quoted by ' or " or unquoted.
  string list         - Strings enclosed by [ ] or { } and elements delimited by either
                        "all items must match" or "at least one item must match" operator.
  regular expression  - Characters quoted by ' or " or unquoted.
\x20
Selection operators
-------------------
  Comparison operators:
"""
_ORDERED = "[number, size, percent, time]"
_COMPARISONS = (
    ("=~", "Matching regular expression. [regex]"),
    ("!~", "Not matching regular expression. [regex]"),
    ("=", "Equal to. [number, size, percent, string, string list, time]"),
    ("!=", "Not equal to. [number, size, percent, string, string_list, time]"),
    (">=", f"Greater than or equal to. {_ORDERED}"),
    (">", f"Greater than. {_ORDERED}"),
    ("<=", f"Less than or equal to. {_ORDERED}"),
    ("<", f"Less than. {_ORDERED}"),
    ("since", "Since specified time (same as '>='). [time]"),
    ("after", "After specified time (same as '>'). [time]"),
    ("until", "Until specified time (same as '<='). [time]"),
    ("before", "Before specified time (same as '<'). [time]"),
)
_LOGICAL = (
    ("&&", "All fields must match"),
    (",", "All fields must match"),
    ("||", "At least one field must match"),
    ("#", "At least one field must match"),
    ("!", "Logical negation"),
    ("(", "Left parenthesis"),
    (")", "Right parenthesis"),
    ("[", "List start"),
    ("]", "List end"),
    ("{", "List subset start"),
    ("}", "List subset end"),
)
