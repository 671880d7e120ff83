# SPDX-License-Identifier: Apache-2.0
"""path, mount-point, attach, detach: devices as files, and as block devices over these."""

from __future__ import annotations

from dmtool.cli.session import Device, Failed, Session
from dmtool.client import ClientError
from dmtool.errors import os_reason


def path(session: Session, operands: list[str]) -> None:
    """``path DEVICE``."""
    _say(session, path=_path(session, operands))


def mount_point(session: Session, _operands: list[str]) -> None:
    """``mount-point``."""
    try:
        answer = session.client.call("mount_point")
    except ClientError as error:
        raise Failed(*_why(error)) from None
    if session.json:
        session.put_json(**answer)
    else:
        session.out(answer["directory"] + "\n")


def attach(session: Session, operands: list[str]) -> None:
    """``attach DEVICE``."""
    from dmtool.export.fuse import loop

    file = _path(session, operands)
    info = session.ioctl("info", session.device(operands), "info")
    if info["suspended"]:
        # the kernel looks for partitions at once, and for so long nobody could end this command
        raise Failed(f"Cannot attach {file}: the device is suspended.", "hint: resume it first")
    try:
        _say(session, device=loop.attach(file, readonly=info["readonly"]))
    except OSError as error:
        raise Failed(f"Cannot attach {file}: {os_reason(error)}") from None


def detach(session: Session, operands: list[str]) -> None:
    """``detach DEVICE`` or ``detach /dev/loopN``."""
    from dmtool.export.fuse import loop

    if operands and operands[0].startswith("/dev/loop"):
        loops = [operands[0]]
    else:
        file = _path(session, operands)
        try:
            loops = loop.attached(file)
        except OSError as error:
            raise Failed(f"Cannot look for loop devices: {os_reason(error)}") from None
        if not loops:
            raise Failed("No loop device is attached.")
    for device in loops:
        try:
            if not loop.detach(device):
                session.error(f"{device} is in use; it is freed when its last user has gone.")
        except OSError as error:
            raise Failed(f"Cannot detach {device}: {os_reason(error)}") from None


def _path(session: Session, operands: list[str]) -> str:
    device: Device = session.device(operands)
    try:
        answer: dict[str, str] = session.ask(device, "path")
    except ClientError as error:
        if error.data.get("error") == "NoSuchDevice":
            session.fail("info", device, error)
        raise Failed(*_why(error)) from None
    return answer["path"]


def _why(error: ClientError) -> list[str]:
    hint = error.data.get("hint")
    return [str(error), *([f"hint: {hint}"] if hint else [])]


def _say(session: Session, **words: str) -> None:
    if session.json:
        session.put_json(**words)
    else:
        session.out("".join(word + "\n" for word in words.values()))
