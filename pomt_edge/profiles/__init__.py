"""What is known of a device before anything is measured: one TOML file each, the package's and the user's own."""

from pomt_edge.profiles.folders import load, names, own_folder, read_all
from pomt_edge.profiles.profile import (
    EVIDENCE,
    FIGURES,
    PRECISIONS,
    Board,
    ClockLock,
    Figure,
    PowerMode,
    Profile,
    Software,
)
from pomt_edge.profiles.reading import parse
from pomt_edge.profiles.recognition import recognise, recognise_board, recognise_here

__all__ = [
    "EVIDENCE",
    "FIGURES",
    "PRECISIONS",
    "Board",
    "ClockLock",
    "Figure",
    "PowerMode",
    "Profile",
    "Software",
    "load",
    "names",
    "own_folder",
    "parse",
    "read_all",
    "recognise",
    "recognise_board",
    "recognise_here",
]
