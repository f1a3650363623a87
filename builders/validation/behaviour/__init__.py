"""The behaviour suite: what averages over a text hide. Checks that pass or fail, each with what was expected.

Start at `suite.py`, which runs the groups. `edges.py`: logits at the lengths where attention or the rope changes,
however the tokens are read. `ids.py`: stop ids, added tokens, BOS, rows of special tokens, short prompts.
`template.py`: conversations in every engine. `degeneration.py`: loops, empty and endless answers. `cache.py`: that a
quantized KV cache was measured. `yardstick.py` says how far a bundle may be from the reference.
"""
