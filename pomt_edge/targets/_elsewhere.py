"""What a device that is not this machine says of itself in a record."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Mapping
from typing import Any

from pomt_edge import __version__
from pomt_edge.engines import Setting
from pomt_edge.measure.environment import git_commit
from pomt_edge.records import Environment


def environment(
    setting: Setting,
    engine: str,
    device_name: str,
    origin: str,
    system: str,
    details: Mapping[str, Any],
    python: str | None = None,
    versions: Mapping[str, str] | None = None,
) -> Environment:
    """The record of a device elsewhere; `system`: its platform, or that it has none. `python`: None is this one."""
    return Environment(
        device=setting.device,
        device_name=device_name,
        engine=engine,
        precision=setting.precision,
        batch_size=setting.batch_size,
        image_px=setting.image_px,
        threads=0,
        platform=system,
        python=python or platform.python_version(),
        versions=dict(versions or {}),
        toolkit_version=__version__,
        git_commit=git_commit(),
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        details=dict(details),
        origin=origin,
    )
