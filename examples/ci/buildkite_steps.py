"""Turn `phipack matrix --format json` into steps of Buildkite: the jobs side by side, then finish, then a promotion.

phipack matrix --format json | python buildkite_steps.py | buildkite-agent pipeline upload
"""

from __future__ import annotations

import json
import sys

matrix = json.load(sys.stdin)
steps = [
    {
        "label": group["name"],
        "key": f"phipack-{number}",
        "command": [
            "bash ci/checkpoint.sh",
            " ".join(["phipack release --defer-registration", *(f"--job {name}" for name in group["last_jobs"])]),
        ],
        "agents": {"queue": group["machine"] if group["labels"] else "default"},
        "retry": {"automatic": [{"exit_status": 4, "limit": 2}]},  # a service did not answer
    }
    for number, group in enumerate(matrix["groups"])
]
finish = f"phipack release --finish --checkpoint-digest {matrix['checkpoint']} --junit junit.xml"
release = f"{matrix['model']}:{matrix['version']}"
steps += [
    {
        "label": "finish",
        "key": "finish",
        "depends_on": [{"step": step["key"], "allow_failure": True} for step in steps],
        "command": finish,
        "artifact_paths": "junit.xml",
    },
    {"block": f"promote {release}?", "depends_on": "finish", "key": "approval"},
    {
        "label": "promote",
        "depends_on": "approval",
        "command": f'phipack promote {release} --to production --reason "build $$BUILDKITE_BUILD_NUMBER"',
    },
]
json.dump({"steps": steps}, sys.stdout, indent=2)
