"""The project's own measurements, each one command: `python -m benchmarks.NAME`."""
