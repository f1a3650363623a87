"""Plays GitHub's runner: runs the shell steps of a workflow of ours as they are written, job by job.

What a step `uses` is played by functions of the test: it has no Actions to download. Everything else is the workflow's
own text: needs, conditions, matrix, expressions, environment, outputs, summaries, `bash -eo pipefail`.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.workflow_expressions import condition, filled

# Plays an action: with its `with:`, in a job's workspace.
Action = Callable[[dict[str, Any], Path], None]
SHELL = ("bash", "--noprofile", "--norc", "-eo", "pipefail")


@dataclass
class JobRun:
    """One run of a job, or of one combination of its matrix. `result`: success, failure or skipped."""

    name: str
    matrix: dict[str, Any]
    result: str = "success"
    outputs: dict[str, str] = field(default_factory=dict)
    log: str = ""
    summary: str = ""
    runs_on: Any = None
    environment: Any = None


@dataclass
class Runner:
    """Runs a workflow.

    Attributes:
        workflow: its file.
        inputs, secrets: what the caller passes; inputs that it leaves out have their defaults.
        environment: of every step.
        workspace: gives each run of a job its folder.
        actions: what plays each action, by its name without the commit.
        before_step: called before each shell step, with the run and the step; it may add to the environment.
    """

    workflow: Path
    inputs: Mapping[str, Any]
    secrets: Mapping[str, str]
    environment: Mapping[str, str]
    workspace: Callable[[JobRun], Path]
    actions: Mapping[str, Action]
    before_step: Callable[[JobRun, dict[str, Any]], Mapping[str, str]] = lambda run, step: {}

    def run(self) -> dict[str, list[JobRun]]:
        """Run every job after those that it needs; return the runs of each."""
        content = yaml.safe_load(self.workflow.read_text("utf-8"))
        asked = content[True]["workflow_call"]["inputs"]  # YAML reads `on` as a truth value
        inputs = {name: self.inputs.get(name, one.get("default", "")) for name, one in asked.items()}
        if unknown := set(self.inputs) - set(asked):
            raise ValueError(f"no inputs of {self.workflow.name}: {sorted(unknown)}")
        done: dict[str, list[JobRun]] = {}
        for name, job in _in_order(content["jobs"]):
            needs = _listed(job.get("needs"))
            context = {
                "inputs": inputs,
                "secrets": self.secrets,
                "github": {"workspace": "", "sha": "0" * 40, "run_id": "1"},
                "runner": {"os": "Linux", "arch": "X64", "temp": ""},
                "needs": {one: {"result": _result(done[one]), "outputs": _outputs(done[one])} for one in needs},
                "success": all(_result(done[one]) == "success" for one in needs),
            }
            done[name] = list(self._job(name, job, context))
        return done

    def _job(self, name: str, job: dict[str, Any], context: dict[str, Any]) -> Iterator[JobRun]:
        if not condition(job.get("if"), context):
            yield JobRun(name, {}, result="skipped")
            return
        for combination in _combinations(filled(job.get("strategy", {}), context).get("matrix", {})):
            run = JobRun(name, combination)
            inside = context | {"matrix": combination, "steps": {}, "env": {}, "success": True}
            run.runs_on = filled(job["runs-on"], inside)
            run.environment = filled(job.get("environment"), inside)
            folder = self.workspace(run)
            for step in job["steps"]:
                if condition(step.get("if"), inside):
                    inside["success"] = self._step(run, job, step, inside, folder) and inside["success"]
            run.result = "success" if inside["success"] else "failure"
            run.outputs = filled(job.get("outputs", {}), inside)
            yield run

    def _step(
        self, run: JobRun, job: dict[str, Any], step: dict[str, Any], context: dict[str, Any], folder: Path
    ) -> bool:
        if "uses" in step:
            self.actions[step["uses"].partition("@")[0]](filled(step.get("with", {}), context), folder)
            return True
        files = {name: folder.parent / f"{folder.name}.{name}" for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("", "utf-8")
        own = filled({**job.get("env", {}), **step.get("env", {})}, context)
        done = subprocess.run(
            [*SHELL, "-c", filled(step["run"], context)],
            cwd=folder / filled(step.get("working-directory", "."), context),
            env={
                **self.environment,
                "GITHUB_ACTIONS": "true",
                "GITHUB_WORKSPACE": str(folder),
                **{name: str(path) for name, path in files.items()},
                **{name: _as_text(value) for name, value in own.items()},
                **self.before_step(run, step),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        run.log += done.stdout
        run.summary += files["GITHUB_STEP_SUMMARY"].read_text("utf-8")
        if "id" in step:
            context["steps"][step["id"]] = {"outputs": _read_outputs(files["GITHUB_OUTPUT"].read_text("utf-8"))}
        return done.returncode == 0 or bool(step.get("continue-on-error"))


def _in_order(jobs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    waiting, done = dict(jobs), set[str]()
    while waiting:
        ready = [name for name, job in waiting.items() if done.issuperset(_listed(job.get("needs")))]
        if not ready:
            raise ValueError(f"jobs wait for each other: {sorted(waiting)}")
        for name in ready:
            yield name, waiting.pop(name)
            done.add(name)


def _combinations(matrix: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the combinations of a matrix; one, of nothing, where there is no matrix. GitHub refuses an empty one."""
    if not matrix:
        return [{}]
    lists = {name: values for name, values in matrix.items() if name not in {"include", "exclude"}}
    crossed = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())] if lists else []
    if not (combinations := [*crossed, *matrix.get("include", [])]):
        raise ValueError("the matrix must define at least one vector")
    return combinations


def _read_outputs(text: str) -> dict[str, str]:
    """Return the outputs of a step: `name=value` lines, and values between `name<<MARK` and MARK."""
    outputs, lines = {}, iter(text.splitlines())
    for line in lines:
        name, marked, mark = line.partition("<<")
        if marked and "=" not in name:
            outputs[name] = "\n".join(itertools.takewhile(lambda one, end=mark: one != end, lines))
        else:
            name, _, outputs_value = line.partition("=")
            outputs[name] = outputs_value
    return outputs


def _result(runs: list[JobRun]) -> str:
    results = {run.result for run in runs}
    return next((one for one in ("failure", "skipped") if one in results), "success")


def _outputs(runs: list[JobRun]) -> dict[str, str]:
    return {name: value for run in runs for name, value in run.outputs.items()}


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or [])


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


def host_environment() -> dict[str, str]:
    """Return what a step of a fresh runner sees of this machine."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
