"""Loops over weights, compiled by numba when they first run. Imported only where something is quantized."""
