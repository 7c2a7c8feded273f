"""What holds of every script: bash can read it, shellcheck finds nothing, --help and wrong options end well."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from clock_scripts import SCRIPTS, WRONG_USE

COMMANDS = sorted(SCRIPTS.glob("*.sh"))
ALL = [*COMMANDS, *sorted(SCRIPTS.glob("lib/*.sh"))]


def names(paths: list[Path]) -> list[str]:
    return [path.name for path in paths]


def test_every_lock_has_its_restore() -> None:
    verbs = {"jetson": set(), "nvidia": set(), "cpu": set()}
    for name in names(COMMANDS):
        subject, verb, _ = name.split("_")
        verbs[subject].add(verb)
    assert all(found == {"lock", "restore"} for found in verbs.values())


@pytest.mark.parametrize("path", ALL, ids=names(ALL))
def test_bash_can_read_it(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_shellcheck_finds_nothing() -> None:
    if shutil.which("shellcheck") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("shellcheck is missing; on Debian: apt-get install shellcheck")
        pytest.skip("shellcheck is not installed")
    found = subprocess.run(["shellcheck", "-x", *map(str, ALL)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", COMMANDS, ids=names(COMMANDS))
def test_help_and_unknown_options(path: Path) -> None:
    assert os.access(path, os.X_OK)
    helped = subprocess.run([str(path), "--help"], capture_output=True, text=True, check=True)
    for option in ("--dry-run", "--state-dir", "--sysroot", "Exit status"):
        assert option in helped.stdout
    for wrong in (["--nonsense", "1"], ["--nonsense"], ["word"], ["--sysroot", "/no/such/folder"]):
        refused = subprocess.run([str(path), *wrong], capture_output=True, text=True)
        assert refused.returncode == WRONG_USE
        assert refused.stdout == "" and refused.stderr.count("\n") == 1
