"""What `--json` prints: one typed model for each command, and a function that makes it from what the API returned.

- `form.py`: what all of them share. `making.py`, `registry.py`, `difference.py`, `delivery.py`, `devices.py`: forms.
- `commands.py`: which command prints which; `docs/json.md` is written from it.

Keys do not change within a major version: they may be added.
"""
