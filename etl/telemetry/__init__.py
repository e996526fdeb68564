"""What others are told about a run: metrics, hooks, traces. None of it may fail a run, or hold it up for long."""
