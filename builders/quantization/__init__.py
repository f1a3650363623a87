"""Which code each weight gets, and which type each matrix: one engine for all formats. Converters only place bytes.

    checkpoint ──calibration/──> statistics ──fold.py──> weights to store, and how much each column counts
                                                  │
                        grids/ (what a block can hold) ──rounding/──> codes

`calibration/` runs the checkpoint once over a text; `grids/` are the formats' blocks; `rounding/` chooses codes.
`sensitivity.py` measures what each matrix costs in few bits, `sensitivity_cache.py` keeps it; `budget.py` chooses types
under a number of bytes (`builders/choose_types.py` knows what else a bundle holds).
"""
