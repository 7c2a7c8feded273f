"""`python offline_compute.py …` from a checkout; installed, the command is `offline_compute`."""

import sys

try:
    from pomt_edge.cli import main
except ModuleNotFoundError as error:
    missing = f"{error.name} is missing in {sys.executable}"
    print(f"error: {missing}; type: make setup && .venv/bin/offline_compute", file=sys.stderr)
    sys.exit(2)

main()
