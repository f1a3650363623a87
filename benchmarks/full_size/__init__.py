"""Builds at the released models' real sizes, beside the tools that people use today, with time and peak memory.

    python -m benchmarks.full_size [--only mini] [--scratch DIR] [--out docs/benchmarks/full-size.md]

- `synthetic.py`: checkpoints of the right shapes with random weights, streamed to disk.
- `measure.py`: a command run by itself, its time and its peak resident memory.
- `rows.py`: what is built, by whom, and the bounds that issue and README name.
- `report.py`: the table and the plot.

Weights are random: for time, memory and size. Accuracy is measured on a trained model (`benchmarks/four_bit.py`).
"""
