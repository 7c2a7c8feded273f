"""What runs on a board that this package can't run on: `board.py`, one file for Python 3.6 without any library."""
