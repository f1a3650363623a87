"""Phones through adb: Android's own tool, which is started for each question. phipack speaks no protocol of its own.

- `client.py`: adb's program and server; one command on one phone, and what a lost connection means.
- `listing.py`: which phones there are, and what they say of themselves.
- `storage.py`: the folder on the phone, and how files get there. `sensors.py`: temperature and battery.
- `program.py`: a program that runs on the phone, watched. `measuring.py`: the provider that puts it together.
"""
