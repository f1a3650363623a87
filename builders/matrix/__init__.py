"""The jobs of a release, and what does them: this machine, a CI matrix, a cluster.

| module | what is in it |
|---|---|
| `graph.py` | jobs and their order, without any work |
| `keys.py`, `records.py` | a job's inputs as one digest; what the store has recorded |
| `cell_plan.py`, `planning.py` | what is known of each cell beforehand; the graph of a release |
| `rates.py`, `validation_cost.py` | what jobs are estimated to need, with sources |
| `work.py` | does jobs on this machine |
| `grouping.py` | pending jobs in groups, for a CI matrix |
| `judging.py` | evidence against gates |

The store is the state: a job reads digests, writes blobs and a record, and may die at any point.
"""
