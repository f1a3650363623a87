"""Chat templates rendered in a process of their own: a template is a program that a stranger wrote.

jinja's sandbox keeps it from files and from Python's insides, but not from running for ever or filling the memory.
`process.py` starts the other process, waits for a limited time and says why a template failed. `program.py` is what
runs there, in limited memory and without the environment's secrets. It imports jinja2 and nothing of phipack's, so that
it starts in a tenth of a second; `engine="transformers"` renders by transformers' own function, for the oracle.
"""

from builders.templates.process import ChatTemplateError, render_chat

__all__ = ["ChatTemplateError", "render_chat"]
