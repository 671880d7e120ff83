# SPDX-License-Identifier: Apache-2.0
"""The usage text: dmsetup's to the byte, and behind it, under any other name, what is ours."""

from __future__ import annotations

from dmtool.cli.commands import COMMANDS
from dmtool.cli.session import Session

_HEAD = """\
Usage:

{prog}
        [--version] [-h|--help [-c|-C|--columns]]
        [-v|--verbose [-v|--verbose ...]] [-f|--force]
        [--checks] [--manglename {{none|hex|auto}}]
        [-r|--readonly] [--noopencount] [--noflush] [--nolockfs] [--inactive]
        [--udevcookie <cookie>] [--noudevrules] [--noudevsync] [--verifyudev]
        [-y|--yes] [--readahead {{[+]<sectors>|auto|none}}] [--retry]
        [-c|-C|--columns] [-o <fields>] [-O|--sort <sort_fields>]
        [-S|--select <selection>] [--nameprefixes] [--noheadings]
        [--separator <separator>]
"""

_TAIL = """
<device> may be device name or (if only one) -u <uuid> or -j <major> -m <minor>
<mangling_mode> is one of 'none', 'auto' and 'hex'.
<fields> are comma-separated.  Use 'help -c' for list.
<concise_device_specification> has single-device entries separated by semi-colons:
    <name>,<uuid>,<minor>,<flags>,<table>
        where <flags> is 'ro' or 'rw' (the default) and any of <uuid>, <minor>
        and <flags> may be empty. Separate extra table lines with commas.
    E.g.: dev1,,,,0 100 linear 253:1 0,100 100 error;dev2,,,ro,0 1 error
Table_file contents may be supplied on stdin.
Options are: devno, devname, blkdevname.
Tree specific options are: ascii, utf, vt100; compact, inverted, notrunc;
                           blkdevname, [no]device, active, open, rw and uuid.

"""


def is_dmsetup(prog: str) -> bool:
    """Whether we were called by a name of dmsetup's, and so show nothing that it does not have."""
    return prog in {"dmsetup", "dmstats"}


def usage_of(session: Session) -> str:
    """The usage text of the whole, or of `stats`."""
    if not session.stats:
        return usage(session.prog)
    from dmtool.cli.stats import usage as stats_usage

    return stats_usage(session.prog if session.prog == "dmstats" else f"{session.prog} stats")


def usage(prog: str) -> str:
    """The whole usage text."""
    ours = not is_dmsetup(prog)
    text = [_HEAD.format(prog=prog)]
    if ours:
        text.append("        [--json] [--format <format>] [--debug]\n")
    text.append("\n")
    text += [f"\t{command.name} {command.usage}\n" for command in COMMANDS if not command.own]
    if ours:
        text.append("\n")
        text += [f"\t{command.name} {command.usage}\n" for command in COMMANDS if command.own]
        text.append("\tls --dot|--mermaid [-S|--select <selection>]\n")
    text.append(_TAIL)
    return "".join(text)


def help_command(session: Session, _operands: list[str]) -> None:
    """``help [-c]``: the usage text on stderr, with -c also the columns of reports."""
    session.error(usage_of(session).removesuffix("\n"))
    if "columns" in session.switches:
        from dmtool.cli.fields import field_help

        session.error(*field_help(), " ")
