"""The jobs of a release, and what does them: this machine, a CI matrix, a cluster.

`graph.py`: jobs and their order, without any work.
"""
