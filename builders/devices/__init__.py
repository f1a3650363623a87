"""Devices that bundles are measured on: phones that this machine reaches, and farms.

`provider.py` is the one face of all of them. Each way to reach devices has a room or module of its own.
"""
