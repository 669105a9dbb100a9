"""Where failures go: `counters` and `spans`. A sink knows `Failure`, and no SDK."""
