"""Does a graph's jobs on a cluster of machines, through dask.distributed. Needs `phipack[cluster]`.

    graph ──jobs──> scheduler ──> workers ──bytes and records──> store
                                                                   │
    outcome <──────────── looked at again by the coordinator ──────┘

dask decides where and when a job runs, and carries nothing but the job and a few words on its progress: what a job does
is in the store, and a job is done when the coordinator, which started it, finds its record there.

- `address.py`: where the cluster is, and whether its network is encrypted.
- `connection.py`: the client, and the cluster of this machine alone (`local:N`).
- `machine.py`: what a worker offers: its code, packages, devices, memory and disk, as dask's resources.
- `needs.py`: what a job needs, in the same resources, and why nobody has them.
- `task.py`: what runs on a worker.
- `work.py`: what a worker must know to do a release's jobs.
- `coordinator.py`: submits the jobs, follows each, tries again what failed for a machine's reasons.
- `watch.py`: sees machines come, go and hang, and jobs that wait for what nobody has.

dask and distributed are imported here and nowhere else.
"""
