"""Kill real runs again and again, resume them, and count what was lost.

    python -m benchmarks.faults --kills 50 --json [--quick] [--scenarios single,...]

A scenario is one file here with a function `run(settings: Settings) -> Outcome`, and one line in `SCENARIOS` of
__main__.py. It raises `Unavailable` where what it needs is not installed. What it can use:

- `child.py`, the command line in a process of its own (`start` in process.py starts one): it writes down in a journal
  each moment that it passes (`MOMENTS`: a training, a line of measurements.csv, a write to study.db, a checkpoint, a
  packing, an export) and kills itself with SIGKILL in the one that it is told, so many seconds after it began.
- `journal.py`, what such a process wrote down, read after its death: finished measurements, the moment that was hit,
  the work that was lost, when it was at work again.
- `checks.py`, what must hold of a folder after a kill, and of a finished run beside one that was never killed.
- `tally.py`, which counts it all up to the promised keys.
"""
