# SPDX-License-Identifier: Apache-2.0
"""From a command line to an exit status: dispatch, and what becomes of errors."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

import click

from dmtool.cli.command import Command, Function
from dmtool.cli.commands import BY_NAME
from dmtool.cli.getopt import CommandLineError
from dmtool.cli.options import Switches
from dmtool.cli.session import Failed, Rejected, Session
from dmtool.errors import DmtoolError

UNPROCESSED = "Couldn't process command line."
# Set by the shells' completion (completion/): what would fit is printed, and nothing is done.
COMPLETE = "_DMTOOL_COMPLETE"
# The name under which a command line is two numbers, and nothing else.
DEVMAP_NAME = "devmap_name"


class ReaderGone(Exception):
    """Nobody reads standard output any more. Not an OSError: click would end the process."""


class CommandGroup(click.Group):
    """All commands. The options are read by dmsetup's rules, which bring the command to the front;
    from there on it is click's: dispatch, and the help of our own commands.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        prog = ctx.info_name or "dmtool"
        if prog == DEVMAP_NAME:
            from dmtool.cli.devmap import command_line

            args = command_line(args)
        switches, operands = Switches.of(args, prog)
        ctx.obj = Session(prog, switches)
        ctx.args = operands
        return operands

    def invoke(self, ctx: click.Context) -> int:
        session: Session = ctx.obj
        session.error(*session.switches.warnings)
        name, operands = _choose(session, ctx.args)
        command = self.get_command(ctx, name)
        assert command is not None
        try:
            with command.make_context(name, operands, parent=ctx) as inner:
                status: int = command.invoke(inner)
        except BrokenPipeError:
            raise ReaderGone from None
        # An answer to --help or --version is never an error.
        return 0 if {"help", "version"} & session.switches.given().keys() else status

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(BY_NAME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = BY_NAME.get(cmd_name)
        return None if command is None else CommandEntry(command)


class CommandEntry(click.Command):
    """One command, as click sees it: its declaration becomes parameters for help."""

    def __init__(self, command: Command) -> None:
        super().__init__(command.name, help=command.summary or None, add_help_option=command.own)
        self.command = command

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        from dmtool.cli.parameters import parameters

        return [*parameters(self.command), *super().get_params(ctx)]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def invoke(self, ctx: click.Context) -> int:
        session: Session = ctx.obj
        if "help" in session.switches and self.command.own:
            session.out(self.get_help(ctx) + "\n")
            return 0
        return perform(self.command, session, ctx.args)


def _choose(session: Session, words: list[str]) -> tuple[str, list[str]]:
    """The command and its operands. Raises Rejected."""
    switches = session.switches
    if session.prog == "dmstats":
        words = ["stats", *words]
    session.stats = words[:1] == ["stats"]
    own = words and words[0] in BY_NAME and BY_NAME[words[0]].own
    if "help" in switches and not own:
        return "help", []
    if "version" in switches:
        return "version", []
    if not words or (session.prog == "dmstats" and len(words) == 1):
        raise _misused(session)
    name, *operands = words
    command = BY_NAME.get(name)
    if command is None:
        raise _misused(session, "Unknown command.")
    number = len(operands)
    if "help" not in switches and (
        number < command.least or (command.most is not None and number > command.most)
    ):
        raise _misused(session, "Incorrect number of arguments.")
    _check_names_option(session, command)
    return name, operands


def _misused(session: Session, *lines: str) -> Rejected:
    from dmtool.cli.usage import usage_of

    return Rejected(*lines, usage_of(session).removesuffix("\n"))


def _check_names_option(session: Session, command: Command) -> None:
    """``-o`` outside of reports: how devices are named, or how a tree is drawn."""
    if command.name == "info" and "format" in session.switches:
        session.switches.put("columns")
    options = session.switches.value("options")
    if options is None or command.name in {"splitname", "stats"}:
        return
    if "tree" in session.switches:
        from dmtool.cli.tree import Style

        Style.of(options)
    elif "columns" not in session.switches:
        from dmtool.cli.ls import naming_of

        naming_of(options)


def perform(command: Command, session: Session, operands: list[str]) -> int:
    """Run one command for all its operands, a report as often as it was asked for; the status."""
    from dmtool.cli.output import finish, prepare, repetitions, selects

    if command.subcommands:
        session.subcommand, *operands = operands
    try:
        if not prepare(session, command):
            return 1
        function = _selecting(session, command) if selects(session, command) else command.load()
        for _ in repetitions(session):
            status = _once(command, function, session, operands)
            finish(session)
            if status:
                return status
        return session.status
    finally:
        session.close()


def _selecting(session: Session, command: Command) -> Function:
    """The command's function, called for those devices that ``-S`` selects."""
    from dmtool.cli.show import selected

    if session.json and "json" in command.options:
        session.add_json("devices")
    function = command.load()
    return lambda session, operands: selected(session, operands, function)


def _once(command: Command, function: Function, session: Session, operands: list[str]) -> int:
    switches = session.switches
    named = operands or "uuid" in switches or "major" in switches
    session.many = command.repeat and (len(operands) > 1 or not named)
    try:
        for words in [[word] for word in operands] if command.repeat and operands else [operands]:
            function(session, words)
    except Failed as failure:
        session.fault(*failure.args)
        session.error("Command failed.")
    except DmtoolError as error:
        session.fault(f"{session.prog}: {error}")
        if error.hint:
            session.error(f"hint: {error.hint}")
        session.error("Command failed.")
    else:
        return 0
    return 1


def run(args: Sequence[str] | None = None) -> int:
    """The whole program; never raises but for what ends a process."""
    words = list(sys.argv[1:] if args is None else args)
    prog = program_name()
    group = CommandGroup(prog)
    status = 1
    try:
        _bytes_as_they_are()
        status = _status_of(group, words, prog)
        sys.stdout.flush()
    except (BrokenPipeError, ReaderGone):
        _end_by_sigpipe()
    except (click.Abort, KeyboardInterrupt):
        _mute_stdout()
        return 130
    except OSError as error:
        _mute_stdout()
        status = _broken(error, prog, words)
    return status


def _status_of(group: click.Group, words: list[str], prog: str) -> int:
    """Run the group; an error that belongs to the command line is printed here."""
    try:
        if COMPLETE in os.environ:
            from dmtool.cli.completion import answer

            sys.stdout.write(answer(words, prog))
            return 0
        return int(group.main(words, prog, standalone_mode=False) or 0)
    except CommandLineError as error:
        from dmtool.cli.terminal import RED, painted

        _rejected(painted(str(error.args[0]), RED), *error.args[1:], UNPROCESSED)
        return error.status
    except Rejected as error:
        return _rejected(*error.args)
    except click.ClickException as error:
        return _rejected(f"{prog}: {error.format_message()}", UNPROCESSED)
    except (BrokenPipeError, ReaderGone, click.Abort):
        raise
    except Exception as error:  # noqa: BLE001 -- a user never sees a traceback
        return _broken(error, prog, words)


def _rejected(*lines: str) -> int:
    sys.stdout.flush()
    sys.stderr.write("".join(line + "\n" for line in lines))
    return 1


def _broken(error: BaseException, prog: str, words: list[str]) -> int:
    """What is printed of an exception that nobody expected."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _rejected(f"{prog}: {os.strerror(error.errno)}")
    if "--debug" in words:
        import traceback

        traceback.print_exception(error)
        return 1
    what = " ".join(str(error).split())
    return _rejected(f"{prog}: internal error: {type(error).__name__}: {what} (--debug shows more)")


def _end_by_sigpipe() -> None:
    """End as any program does whose reader went away."""
    import signal

    _mute_stdout()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)


def _mute_stdout() -> None:
    """What is still buffered would raise again when Python ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        return


def _bytes_as_they_are() -> None:
    """Names and paths are bytes: what came in through argv or the core goes out unchanged."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")


def program_name() -> str:
    """The name that we were called by."""
    base = os.path.basename(sys.argv[0] if sys.argv else "")
    return "dmtool" if base in {"", "__main__.py", "-c", "-m"} else base
