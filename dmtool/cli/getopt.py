# SPDX-License-Identifier: Apache-2.0
"""The getopt_long(3) of glibc, which is how dmsetup reads its command line.

Options may stand before and behind operands; a long option may be abbreviated as far as it stays
unambiguous; short options cluster; ``--`` ends the options. Python's own getopt module knows the
rules but not glibc's messages, nor an option whose argument is optional.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple


class CommandLineError(Exception):
    """The command line cannot be read; the arguments are the lines to print.

    ``status`` is the exit status.
    """

    status = 1


class Option(NamedTuple):
    """One option: its long ``name`` and its ``short`` letters.

    ``argument``: it has one. ``value_allowed``: ``--name=value`` is accepted, the value means
    nothing. ``own``: dmsetup does not have it, and it cannot be abbreviated, so that each of
    dmsetup's abbreviations means what it means there.
    """

    name: str
    argument: bool = False
    short: str = ""
    value_allowed: bool = False
    own: bool = False


def scan(
    args: Sequence[str],
    options: Sequence[Option],
    prog: str,
    accept: Callable[[Option, str], None],
) -> list[str]:
    """Call ``accept(option, argument)`` for each option in order ("" for none); the operands.

    Raises CommandLineError with glibc's message at the first option that is wrong, after all
    before it were accepted.
    """
    letters = {letter: option for option in options for letter in option.short}
    operands: list[str] = []
    rest = list(reversed(args))
    # POSIX wants options to end at the first operand; glibc does so if asked to
    permute = "POSIXLY_CORRECT" not in os.environ
    while rest:
        word = rest.pop()
        if word == "--":
            operands += reversed(rest)
            break
        if word.startswith("--"):
            option, value = _long(word[2:], options, prog)
            if value is None and option.argument:
                if not rest:
                    message = f"{prog}: option '--{option.name}' requires an argument"
                    raise CommandLineError(message)
                value = rest.pop()
            accept(option, value or "")
        elif word.startswith("-") and word != "-":
            _cluster(word[1:], rest, letters, prog, accept)
        else:
            operands.append(word)
            if not permute:
                operands += reversed(rest)
                break
    return operands


def _long(text: str, options: Sequence[Option], prog: str) -> tuple[Option, str | None]:
    """The option that ``name`` or ``name=value`` means, and the value if there is one."""
    name, equals, value = text.partition("=")
    exact = [option for option in options if option.name == name]
    found = exact or [o for o in options if not o.own and o.name.startswith(name)]
    if not found:
        raise CommandLineError(f"{prog}: unrecognized option '--{text}'")
    if len(found) > 1:
        possible = " ".join(f"'--{option.name}'" for option in found)
        message = f"{prog}: option '--{text}' is ambiguous; possibilities: {possible}"
        raise CommandLineError(message)
    option = found[0]
    if equals and not (option.argument or option.value_allowed):
        raise CommandLineError(f"{prog}: option '--{option.name}' doesn't allow an argument")
    return option, value if equals else None


def _first_byte(letter: str) -> str:
    """What getopt, to which a letter is a byte, shows of one that is several."""
    return letter.encode("utf-8", "surrogateescape")[:1].decode("utf-8", "surrogateescape")


def _cluster(
    text: str,
    rest: list[str],
    letters: dict[str, Option],
    prog: str,
    accept: Callable[[Option, str], None],
) -> None:
    """``-abc``: letters until one that has an argument, which is what follows or the next word."""
    for place, letter in enumerate(text):
        option = letters.get(letter)
        if option is None:
            raise CommandLineError(f"{prog}: invalid option -- '{_first_byte(letter)}'")
        if option.argument:
            value = text[place + 1 :]
            if not value:
                if not rest:
                    message = f"{prog}: option requires an argument -- '{letter}'"
                    raise CommandLineError(message)
                value = rest.pop()
            accept(option, value)
            return
        accept(option, "")
