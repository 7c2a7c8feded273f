"""The commands, one file each: options in, tables and exit codes out. Work is imported when it begins."""
