"""From what a user asks of a simulated device to what the model takes."""

from __future__ import annotations

from pomt_edge.errors import UserError
from pomt_edge.profiles.profile import PowerMode, Profile
from pomt_edge.simulator import processor
from pomt_edge.simulator.device import Way, device_of

ENGINES = {"torch": "graph", "trt": "tensorrt"}
"""Those that can be simulated, and how they launch kernels."""
CURRENT = "current"
"""The power mode that a board is in; a simulated one is in that of its figures."""


def check(
    profile: Profile,
    *,
    engine: str,
    precision: str,
    batch_size: int,
    cuda_graphs: bool | None = None,
    power_mode: str | None = None,
) -> None:
    """Raise a UserError for what can't be simulated of this device."""
    way = way_of(profile, engine=engine, precision=precision, batch_size=batch_size, cuda_graphs=cuda_graphs)
    mode = mode_of(profile, power_mode)
    if profile.kind == "cpu":
        processor.check(profile, precision)
    else:
        device_of(profile, way, mode)


def way_of(profile: Profile, *, engine: str, precision: str, batch_size: int, cuda_graphs: bool | None = None) -> Way:
    """How a simulated device runs the model with this package's engine.

    Raises:
        UserError: the engine is not simulated there.
    """
    known = ["torch"] if profile.kind == "cpu" else list(ENGINES)
    if engine not in known:
        raise UserError(
            f"--device sim:{profile.id} is simulated with --engine {' or '.join(known)}, not {engine}; leave it out"
        )
    eager = engine == "torch" and cuda_graphs is False
    return Way(precision, batch_size, "eager" if eager else ENGINES[engine])


def mode_of(profile: Profile, name: str | None) -> PowerMode | None:
    """The power mode of that name; None: that of the profile's figures.

    Raises:
        UserError: it has no such mode, or what the mode caps is not known.
    """
    if name is None or name == CURRENT:
        return None
    mode = profile.mode(name)
    known = ", ".join(mode.name for mode in profile.modes if mode.sm_count is not None)
    if mode is None:
        there = f"{profile.name} has {', '.join(mode.name for mode in profile.modes)}"
        raise UserError(f"--power-mode {name}: {there if profile.modes else f'{profile.name} has none; leave it out'}")
    if mode.sm_count is None:
        raise UserError(
            f"--power-mode {name}: what it caps on {profile.name} is not known, so that it can't be simulated; "
            f"give {known or 'none'}"
        )
    return mode


def assumptions(profile: Profile, mode: PowerMode | None) -> tuple[str, ...]:
    """What of a mode is not known and taken from the mode of the profile's figures, a sentence each."""
    if mode is None:
        return ()
    taken = {
        "GPU clock": (mode.gpu_clock_mhz, "gpu_clock_ghz", "GHz"),
        "memory bandwidth": (mode.memory_gb_per_s, "memory_gb_per_s", "GB/s"),
    }
    return tuple(
        f"The {what} in {mode.name} is not known: that of {profile.figures_in} is taken, "
        f"{profile.figures[key].value:g} {unit}."
        for what, (known, key, unit) in taken.items()
        if known is None
    )
