"""The fleet file: devices under names of the user's own, each with the options that are its own."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from pomt_edge import catalogue, engines
from pomt_edge.errors import UserError
from pomt_edge.records.fleet import in_words
from pomt_edge.request import OF_A_RECORDING, Request, default_engine
from pomt_edge.targets._ssh_link import Address

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
"""Names are folders of the results, beside files that have a dot."""
EXPECTED = {str: 'a text in quotes, such as "x"', int: "a whole number", float: "a number", bool: "true or false"}

Options = dict[str, list[str]]
"""What is typed for each option, by the option's first name: {'--bs': ['--bs=4']}."""


@dataclass(frozen=True)
class Option:
    """An option of the command that one device can have for itself."""

    kind: type
    field: str
    """Of Request; behind 'not ' where it means the opposite."""
    option: str


def _option(name: str, kind: type, field: str | None = None) -> tuple[str, Option]:
    return name, Option(kind, field or name, f"--{name.replace('_', '-')}")


OPTIONS = dict(
    [
        _option("bs", int, "batch_size"),
        _option("power_mode", str),
        _option("gpu_clock", int, "gpu_clock_mhz"),
        _option("precision", str),
        _option("engine", str),
        _option("compile", bool),
        _option("provider", str),
        _option("threads", int),
        _option("cuda_graphs", bool),
        _option("noise", str),
        _option("method", str),
        _option("block", str),
        _option("budget_ms", float),
        _option("max_drop", float),
        _option("alpha", float),
        _option("keep", float),
        _option("grid_start", int),
        _option("grid_stop", int),
        _option("grid_stride", int),
        _option("interval", float, "interval_percent"),
        _option("point_seconds", float),
        _option("no_lock", bool, "not lock"),
        _option("require_locked", bool),
    ]
)
"""By their names in the file. Model and images are not among them: other ones could not be compared."""

OF_ONE_KIND = {"noise": "sim", "ssh_config": "ssh"}
"""Options that only devices of this kind take: typed for the whole fleet, they go to these alone."""


@dataclass(frozen=True)
class FleetDevice:
    """One device of the file."""

    name: str
    device: str
    """As `--device` takes it."""
    own: Mapping[str, Any]
    """By names of OPTIONS; these come before what is typed for all devices."""
    file: Path

    @property
    def _others_options(self) -> list[str]:
        kind = self.device.partition(":")[0]
        return [name for name, owner in OF_ONE_KIND.items() if owner != kind]

    @property
    def is_elsewhere(self) -> bool:
        return Request(device=self.device).is_elsewhere

    @property
    def board(self) -> str | None:
        """What can serve one run at a time: a board's address, or this machine; None: a simulated or recorded one."""
        if self.device.startswith("ssh:"):
            address = Address.parse(self.device)
            return f"{address.host.lower()}:{address.port or 22}"
        return None if self.is_elsewhere else "this machine"

    def request(self, typed: Request, engine_typed: bool) -> Request:
        """What is asked of this device: what is typed, but for what is its own.

        Raises:
            UserError: a value out of its range, or options that exclude each other; names the file and the device.
        """
        changes: dict[str, Any] = {"device": self.device, **dict.fromkeys(self._others_options)}
        changes["typed"] = typed.typed | set(self.own).intersection(OF_A_RECORDING)
        for name, value in self.own.items():
            field = OPTIONS[name].field
            changes[field.removeprefix("not ")] = not value if field.startswith("not ") else value
        if "engine" in changes:
            changes["engine"] = engines.as_typed(changes["engine"])
        try:
            if "engine" not in self.own and not engine_typed:
                changes["engine"] = default_engine(self.device)
            request = dataclasses.replace(typed, **changes)
            request.check()
            if self.device.startswith("ssh:"):
                Address.parse(self.device)
        except UserError as error:
            raise UserError(f"{self.file}, devices.{self.name}: {error}") from error
        return request

    def options(self, typed: Options) -> Options:
        """The same as options of the command."""
        own = {OPTIONS[name].option: _words(name, value) for name, value in self.own.items()}
        others = [f"--{name.replace('_', '-')}" for name in self._others_options]
        taken = {option: words for option, words in typed.items() if option not in others}
        return {**taken, **own, "--device": [f"--device={self.device}"]}

    def __str__(self) -> str:
        return ", ".join(filter(None, [self.device, in_words(self.own)]))


def user_file() -> Path:
    """Where names are looked up without --fleet; it need not exist."""
    return platformdirs.user_config_path("pomt-edge") / "fleet.toml"


def named(name: str, file: Path | None) -> FleetDevice | None:
    """The device of that name in `file`, else in the user's own; None where it is no name but a device itself.

    Raises:
        UserError: no such name, or a file that is no fleet file.
    """
    if file is None:
        kind, colon, _ = name.partition(":")
        if colon or kind in ("auto", "cpu", "cuda") or not user_file().is_file():
            return None
        file = user_file()
    devices = {device.name: device for device in load(file)}
    if name not in devices:
        raise UserError(
            f"--device {name}: {file} has no device of that name; known: {catalogue.listed(name, list(devices))}"
        )
    return devices[name]


def load(file: Path) -> list[FleetDevice]:
    """The devices of a fleet file, in its order.

    Raises:
        UserError: no such file, no TOML, or a field that is missing, unknown or wrong; names the file and the field.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--fleet {file}: can't be read ({error.strerror}); expected a TOML file") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{file}: no TOML: {error}") from error
    unknown = next((key for key in data if key != "devices"), None)
    if unknown is not None:
        raise UserError(f"{file}: unknown field {unknown}; expected tables [devices.NAME]")
    tables = data.get("devices")
    if not isinstance(tables, dict) or not tables:
        raise UserError(f'{file}: no devices; expected tables [devices.NAME], each with device = "…"')
    return [_device(file, name, table) for name, table in tables.items()]


def _device(file: Path, name: str, table: Any) -> FleetDevice:
    where = f"{file}: devices.{name}"
    if not NAME.fullmatch(name):
        raise UserError(f"{where}: a name has letters, digits, _ and - alone, for it is a folder of the results")
    if not isinstance(table, dict):
        raise UserError(f"{where} is {table!r}; expected a table [devices.{name}]")
    for key, value in table.items():
        if key != "device" and key not in OPTIONS:
            raise UserError(f"{where}: unknown field {key}; known: {catalogue.listed(key, ['device', *OPTIONS])}")
        kind = str if key == "device" else OPTIONS[key].kind
        if not _is(kind, value):
            raise UserError(f"{where}.{key} is {value!r}; expected {EXPECTED[kind]}")
    if "device" not in table:
        raise UserError(f'{where}: the field device is missing, such as device = "ssh://USER@HOST"')
    own = {key: value for key, value in table.items() if key != "device"}
    return FleetDevice(name, table["device"], own, file)


def _is(kind: type, value: Any) -> bool:
    """A boolean is an int to Python, and a whole number is a number to a user."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _words(name: str, value: Any) -> list[str]:
    option = OPTIONS[name]
    if option.kind is not bool:
        return [f"{option.option}={value}"]
    if value:
        return [option.option]
    return [f"--no-{option.option.removeprefix('--')}"] if name == "cuda_graphs" else []
