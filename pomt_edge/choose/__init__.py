"""The fit of the staircase and the choice of R: numpy and scipy only, no torch."""
