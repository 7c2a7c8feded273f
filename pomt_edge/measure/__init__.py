"""How a number is obtained: samples, intervals, the sweep, accuracy, the environment."""
