"""A Core ML session: `predict` on macOS, elsewhere an evaluator of the packaged program on its packaged weights.

Start at `session.py`. For the evaluator, `program_file.py` reads the package, `evaluate.py` walks the program,
`operations.py` computes its operations, and `liveness.py` says when a value can be dropped.
"""
