"""`python deploy.py …` from a checkout; installed, the command is `deploy`."""

import sys

try:
    from pomt_edge.cli import main_of_deploy
except ModuleNotFoundError as error:
    missing = f"{error.name} is missing in {sys.executable}"
    print(f"error: {missing}; type: make setup && .venv/bin/deploy", file=sys.stderr)
    sys.exit(2)

main_of_deploy()
