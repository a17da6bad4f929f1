"""The operating system: files that last, locks, processes, signals, memory."""
