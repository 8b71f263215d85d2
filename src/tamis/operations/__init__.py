"""A workspace in use: locks, deadlines, what runs have used and what may go, health, logs and metrics."""
