"""From a plan to a proven and measured engine, and to a folder that runs on a board without this package."""
