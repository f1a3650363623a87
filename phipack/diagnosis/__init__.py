"""What `phipack doctor` looks at. Nothing is created, changed or repaired.

`check.py`: the result of a check. `machine.py`: Python, extras, runtimes, optimum's environment, disks, the
project file. `services.py`: the
registry, the store, and the clock against theirs.
"""
