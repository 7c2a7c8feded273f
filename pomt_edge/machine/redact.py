"""Serial numbers and unique ids do not leave the machine: results are shared, and they name their owner."""

from __future__ import annotations

import re
from typing import Any

from pomt_edge.machine.facts import asked
from pomt_edge.machine.gpu import Device
from pomt_edge.machine.system import System, read

REDACTED = "(redacted)"
UUID = re.compile(r"(?:(?:GPU|MIG)-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
FILES = (
    "/proc/device-tree/serial-number",
    "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_serial",
    "/sys/class/dmi/id/board_serial",
    "/sys/class/dmi/id/chassis_serial",
    "/etc/machine-id",
)
SHORTEST = 6
"""A shorter one is no serial number but a filler, and would be found inside versions and sizes."""


def secrets(system: System, device: Device | None = None) -> set[str]:
    """The serial numbers of this machine and of its GPU, as far as they can be read."""
    found = {read(system.path(path)) for path in FILES}
    if device is not None:
        found |= {
            _text(asked(lambda: device.nvml.nvmlDeviceGetSerial(device.handle))),
            _text(asked(lambda: device.nvml.nvmlDeviceGetUUID(device.handle))),
        }
    return {text for text in found if text and len(text) >= SHORTEST and any(map(str.isdigit, text))}


def redacted(value: Any, secret: set[str]) -> Any:
    """Plain JSON data with every secret, and whatever looks like a unique id, taken out of its texts."""
    if isinstance(value, dict):
        return {redacted(name, secret): redacted(item, secret) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, secret) for item in value]
    if not isinstance(value, str):
        return value
    for text in sorted(secret, key=len, reverse=True):
        value = value.replace(text, REDACTED)
    return UUID.sub(REDACTED, value)


def _text(value: Any) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
