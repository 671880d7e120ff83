# SPDX-License-Identifier: Apache-2.0
"""Recorded transcripts of dmsetup commands, command by command: ours answer the same.

Each command ran in a shell
of its own, one after the other on one machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.kernel.bench import Bench, Done
from tests.kernel.differences import NOT_REPLAYED, STEPS
from tests.kernel.recordings import answers, comparable, needs_loops, parameter, recorded
from tests.kernel.resync import without_progress
from tests.kernel.steps import Steps

Scenario = dict[str, Any]
Step = dict[str, Any]


def _commands(scenario: Scenario) -> list[str]:
    return [step["cmd"] for step in scenario["6.1"]]


def _scenarios() -> Iterator[Any]:
    for scenario in recorded("scenarios.jsonl"):
        text = "\n".join(_commands(scenario))
        if comparable(re.findall(r"\b\d+ \d+ ([\w-]+)", text)):
            yield parameter(scenario, loops=needs_loops(text))


SCENARIOS = list(_scenarios())
# (scenario, command) of every step
COMMANDS = {
    (scenario["id"], command)
    for param in SCENARIOS
    for scenario in param.values[:1]
    for command in _commands(scenario)
}


def _cut(command: str) -> str:
    """What is replayed of a command."""
    for pattern in NOT_REPLAYED:
        command = re.sub(pattern, "", command)
    return command


def _disagreements(bench: Bench, step: Step, done: Done, *, stdout: bool) -> Iterator[str]:
    if step["rc"] != done.status:
        yield f"exit status: {step['rc']}, here: {done.status}"
    for what in ("stdout", "stderr") if stdout else ("stderr",):
        known = bench.recorded(_without_chance(step[what]))
        here = _without_chance(bench.theirs(getattr(done, what)))
        known, here = without_progress(known, here)
        if known != here and not (what == "stderr" and _is_longer(known, here)):
            yield f"{what}:\n{known}here:\n{here}"


def _without_chance(text: str) -> str:
    """Without what is another each time: how fast dd was, what time a command took, and pids."""
    text = re.sub(r"(?<= bytes copied), .*", "", text)
    text = re.sub(r"^(real|user|sys)\t.*", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"(?<=kill: )\(\d+\)", "", text)


def _is_longer(known: str, here: str) -> bool:
    """Whether what is said here more is between the lines."""
    said, lines = known.splitlines(), here.splitlines()
    left = iter(lines)
    same_ends = [*said[:1], *said[-1:]] == [*lines[:1], *lines[-1:]]
    return same_ends and all(line in left for line in said)


def _replay(bench: Bench, scenario: Scenario) -> Iterator[str]:
    with Steps(bench) as steps:
        for each in zip(*answers(scenario).values(), strict=True):
            command = each[0]["cmd"]
            replayed = _cut(command)
            if not replayed:
                continue
            done = steps.run(replayed)
            whole = replayed == command
            found = [list(_disagreements(bench, step, done, stdout=whole)) for step in each]
            least = min(found, key=len)
            if (scenario["id"], command) in STEPS:
                least = [] if least else ["agrees: take it off the list of differences"]
            if least:
                yield "\n".join([f"$ {command}", *least])


@pytest.mark.parametrize(("scenario", "loops"), SCENARIOS)
def test_agrees_with_the_recording(
    scenario: Scenario, loops: bool, request: pytest.FixtureRequest
) -> None:
    bench = request.getfixturevalue("on_loops" if loops else "on_images")
    disagreements = list(_replay(bench, scenario))
    if disagreements:
        pytest.fail("\n\n".join(disagreements), pytrace=False)


def test_differences_are_of_steps() -> None:
    assert STEPS.keys() <= COMMANDS


@pytest.mark.parametrize("pattern", NOT_REPLAYED)
def test_what_is_not_replayed_is_in_the_scenarios(pattern: str) -> None:
    assert any(re.search(pattern, command) for _, command in COMMANDS)


def test_every_mirror_is_compared() -> None:
    mirrors = {
        "mirror-disklog",
        "mirror-error-leg",
        "mirror-status",
        "version-noctl",
        "wait-mirror",
    }
    assert mirrors <= {scenario for scenario, _ in COMMANDS}
