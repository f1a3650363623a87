"""Release every cell of a project file, and promote the release if all of it passes.

    python examples/release_and_promote.py [PROJECT]

PROJECT is a project file, phipack.toml by default. Needs phipack[build,registry]. The exit codes are those of the
command line: 0 promoted, 1 an error, 3 a gate failed, 4 MLflow or the store is unreachable (try again).
"""

from __future__ import annotations

import sys

import phipack


def main(project: str = "phipack.toml") -> int:
    """Release and promote. Return the exit code."""
    try:
        registry = phipack.Registry.from_project(project)
        plan = registry.release(project, dry_run=True)
        for cell in plan.cells:
            print(f"{cell.cell}: {'to build' if cell.built else 'built already'}, {cell.size_bytes or 0:,} bytes")
        report = registry.release(project)
        for cell in report.cells:
            print(f"{cell.cell}: {'registered' if cell.problem is None else cell.problem.problem}")
        report.raise_for_failures()
        release = f"{report.model}:{report.version}"
        move = registry.promote(release, to="candidate", reason="passed its gates")
        print(f"{move.title}: {', '.join(cell.cell for cell in move.cells) or 'it was there already'}")
    except phipack.GateError as error:
        for failure in error.failures:
            print(f"{failure.cell}: {failure.problem}", file=sys.stderr)
        return error.exit_code
    except phipack.PhipackError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
