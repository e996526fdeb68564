"""What others are told about a run: metrics, hooks, traces. None of it may fail or delay a run."""
