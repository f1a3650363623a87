"""A Core ML session: `predict` on macOS, elsewhere an evaluator of the packaged program on its packaged weights.

Start at `session.py`; `program_file.py` reads the package, `operations.py` computes its operations, `evaluate.py` walks
the program, `liveness.py` says when a value may be dropped.
"""
