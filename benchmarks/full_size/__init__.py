"""Builds at the released models' real sizes, compared with the tools in use today, with time and peak memory.

    python -m benchmarks.full_size [--only mini] [--scratch DIR] [--out docs/benchmarks/full-size.md]

- `synthetic.py`: checkpoints of the right shapes with random weights, streamed to disk.
- `measure.py`: runs a command in its own process and measures its time and peak resident memory.
- `rows.py`: the builds, the tools, and the bounds.
- `report.py`: the table and the plot.

Weights are random: for time, memory and size. Accuracy is measured on a trained model (`benchmarks/four_bit.py`).
"""
