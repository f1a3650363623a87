"""A phone of the tests' own: it speaks adbd's protocol over TCP, and runs this machine's programs.

`adbd.py` is the protocol, `device.py` the phone behind it (files, programs, sensors, faults), `server.py` an adb server
of the tests' own that is connected to phones. `bin/` has what Android has and this machine has not; `runtimes/` the
programs that stand in for llama.cpp's.
"""
