"""A bundle measured: compared with its checkpoint in float32 on the same tokens, and timed.

Start at `validate.py`, which decides what is measured and returns `Evidence`. `compare.py` computes KL divergence, same
top token and perplexity; `tokens.py` compares tokenizers; `speed.py` measures speed and memory in a process of its own;
`text.py` reads the evaluation text and cuts it into windows.
"""
