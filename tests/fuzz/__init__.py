"""Every parser that meets bytes from outside: it reads them, or raises `PhipackError`, in bounded time and memory.

`targets.py` lists the parsers with a small corpus each, made by the code that writes the format. `mutation.py` damages
them, the same way in every run. `test_fuzz.py` is the bounded run of the test suite; a longer one is

    python -m tests.fuzz [TARGET …] [--inputs 100000] [--seed 7]
    python -m tests.fuzz TARGET --atheris        coverage-guided, where atheris is installed (pip install atheris)

What one of them finds becomes a test of the parser's own.
"""
