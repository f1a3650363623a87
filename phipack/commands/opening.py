"""How commands open the registry that the common options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phipack.options import State

if TYPE_CHECKING:
    from phipack.api.registry import Registry


def open_registry(state: State) -> Registry:
    """Return the registry of the options, the environment, or the project file."""
    from phipack.api.registry import Registry

    return Registry(state.tracking_uri, state.store, home=state.home, on_progress=state.output.on_progress)


def open_project_registry(state: State, model: str | None = None) -> Registry:
    """Return it with the project file, whose lists of promoters and target files then hold.

    `model`: refuse a project file that `--project` names and that is another model's.
    """
    from phipack.api.registry import Registry

    plan = state.project
    if plan is not None and model is not None and state.named_project is not None and plan.model != model:
        raise click.UsageError(f"--project {state.named_project} is of model {plan.model}, not of {model}")
    on_progress = state.output.on_progress
    return Registry(state.tracking_uri, state.store, home=state.home, project=plan, on_progress=on_progress)
