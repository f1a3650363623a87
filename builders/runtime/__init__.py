"""Bundles run in their own runtimes: one session class a format, isolation in a child process, generation.

Start at `session.py` (the protocol that all sessions implement) and `sessions.py` (opens the right one). `isolation.py`
runs a session in a process of its own; `generation.py` answers prompts. Converters never import this room.
"""
