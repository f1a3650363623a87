"""A bundle measured: compared with its checkpoint in float32 on the same tokens, and timed.

Start at `validate.py`, which decides what is measured and returns `Evidence`. `compare.py` computes KL divergence, same
top token and perplexity, `standard_error.py` how sure a mean is, `breakdown.py` all of it by position and kind of
token; `measurement.py` runs windows of tokens through both. `text.py` reads the evaluation text and cuts it into
windows, `by_text.py` compares texts of several kinds (`sampled_texts.py`), `stretches.py` long sequences. `prompts.py`
decides what is asked: answers to read (`answers.py`), tasks and safety (`tasks/`). `tokens.py` compares tokenizers;
`speed.py` measures speed and memory in a process of its own.
"""
