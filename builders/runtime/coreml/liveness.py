"""When a program's variables can be dropped, and which updates of a state may be made in the state itself.

In MIL `read_state` copies a state and `write_state` copies it back. A decoder does both with its whole cache in every
layer, and an evaluation would spend most of its time on that. Where no result can differ the copy is left out:

    v = read_state(S) ... u = slice_update(v, ...) ... write_state(S, u)

v may be the state itself if v is not used after the next write to S, and u may be written into it if no other variable
that is S is used after that, and u is not used after it was written. A slice of v may be a view of the state if it is
not used after the next update or write of S.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.runtime.coreml.program_file import Step, StoredProgram, Variable


@dataclass(frozen=True)
class Liveness:
    """What can be dropped and what needs no copy. Steps are given by their index."""

    deaths: dict[int, tuple[str, ...]]  # variables that no later step uses
    shared_reads: frozenset[int]  # read_state steps that may return the state itself
    in_place: frozenset[int]  # slice_update steps that may change their x
    views: frozenset[int]  # slice_by_index steps that may return a part of a state itself
    copies_no_state: bool  # whether every state is read and updated in place


def analyse(program: StoredProgram) -> Liveness:
    """Return a program's liveness."""
    steps = program.steps
    last_use = _last_uses(program)
    shared: dict[str, int] = {}  # variable that is a state: the read that returned it
    writes = {
        state: [i for i, step in enumerate(steps) if step.operator == "write_state" and _state_of(step) == state]
        for state in program.states
    }
    for index, step in enumerate(steps):
        if step.operator == "read_state":
            name = step.results[0].name
            following = _next(writes[_state_of(step)], index)
            if following is None or last_use.get(name, index) <= following:
                shared[name] = index
    in_place = {
        index
        for index, step in enumerate(steps)
        if step.operator == "slice_update" and _may_change_its_x(index, steps, shared, last_use)
    }
    views = {
        index
        for index, step in enumerate(steps)
        if step.operator == "slice_by_index" and _may_be_a_view(index, program, shared, last_use)
    }
    deaths: dict[int, list[str]] = {}
    for name, index in last_use.items():
        if name not in program.outputs:
            deaths.setdefault(index, []).append(name)
    return Liveness(
        deaths={index: tuple(names) for index, names in deaths.items()},
        shared_reads=frozenset(shared.values()),
        in_place=frozenset(in_place),
        views=frozenset(views),
        copies_no_state=_copies_no_state(steps, shared, in_place),
    )


def _may_change_its_x(index: int, steps: tuple[Step, ...], shared: dict[str, int], last_use: dict[str, int]) -> bool:
    updated = steps[index].arguments.get("x")
    if not isinstance(updated, Variable) or updated.name not in shared:
        return False
    state = _state_of(steps[shared[updated.name]])
    if any(
        _state_of(steps[read]) == state and last_use.get(name, read) > index
        for name, read in shared.items()
        if read < index
    ):
        return False
    result = steps[index].results[0].name
    touching = (
        later
        for later in range(index + 1, len(steps))
        if steps[later].operator in ("read_state", "write_state") and _state_of(steps[later]) == state
    )
    following = next(touching, None)
    return (
        following is not None
        and steps[following].operator == "write_state"
        and steps[following].arguments["data"] == Variable(result)
        and last_use[result] == following
    )


def _may_be_a_view(index: int, program: StoredProgram, shared: dict[str, int], last_use: dict[str, int]) -> bool:
    steps = program.steps
    sliced, result = steps[index].arguments.get("x"), steps[index].results[0].name
    if not isinstance(sliced, Variable) or sliced.name not in shared or result in program.outputs:
        return False
    state = _state_of(steps[shared[sliced.name]])
    return not any(_changes(step, state, shared, steps) for step in steps[index + 1 : last_use[result] + 1])


def _changes(step: Step, state: str, shared: dict[str, int], steps: tuple[Step, ...]) -> bool:
    """Return whether a step may change a state: writes it, or updates a variable that may be it."""
    if step.operator == "write_state":
        return _state_of(step) == state
    updated = step.arguments.get("x")
    if step.operator != "slice_update" or not isinstance(updated, Variable) or updated.name not in shared:
        return False
    return _state_of(steps[shared[updated.name]]) == state


def _copies_no_state(steps: tuple[Step, ...], shared: dict[str, int], in_place: set[int]) -> bool:
    updated = {steps[index].results[0].name for index in in_place}
    reads = {step.results[0].name for step in steps if step.operator == "read_state"}
    written = [step.arguments["data"] for step in steps if step.operator == "write_state"]
    return reads <= shared.keys() and all(isinstance(data, Variable) and data.name in updated for data in written)


def _last_uses(program: StoredProgram) -> dict[str, int]:
    uses: dict[str, int] = {}
    for index, step in enumerate(program.steps):
        for result in step.results:
            uses[result.name] = index
        for argument in step.arguments.values():
            for part in argument if isinstance(argument, tuple) else (argument,):
                if isinstance(part, Variable):
                    uses[part.name] = index
    return uses


def _state_of(step: Step) -> str:
    state = step.arguments["input"]
    assert isinstance(state, Variable)
    return state.name


def _next(indices: list[int], after: int) -> int | None:
    return next((index for index in indices if index > after), None)
