"""Which command prints which form, and the JSON Schemas of all of them. `docs/json.md` is written from here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, JsonValue, TypeAdapter

from phipack.json_form.clusters import WorkersForm
from phipack.json_form.delivery import FetchForm, GenerateForm, SplitForm
from phipack.json_form.devices import DevicesForm
from phipack.json_form.difference import DiffForm
from phipack.json_form.form import Form, ProblemForm
from phipack.json_form.imported import ImportedForm
from phipack.json_form.jobs import JobsForm, MatrixForm, PlanForm
from phipack.json_form.making import (
    BuildForm,
    BundleForm,
    CalibrationForm,
    ConvertForm,
    ExportForm,
    FitForm,
    InspectedBundleForm,
    InspectedCheckpointForm,
    RecipesForm,
    ReleaseForm,
    TargetsForm,
)
from phipack.json_form.registry import (
    GarbageForm,
    HistoryForm,
    KeysForm,
    MoveForm,
    PublishForm,
    RefreshForm,
    RelocationForm,
    ShownForm,
    VersionsForm,
)
from phipack.json_form.reporting import ReportForm
from targets.devices import Target
from targets.evidence import Evidence
from targets.measurement import Measurement


class CheckForm(Form):
    """One check of this machine."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str | None


class DoctorForm(Form):
    """What works on this machine."""

    checks: list[CheckForm]


class CompletionForm(Form):
    """A shell's script."""

    shell: Literal["bash", "zsh", "fish"]
    script: str


class ErrorForm(ProblemForm):
    """Why a command failed.

    `kind` is also `UsageError`, `Interrupted`, or a name that Python has for it.
    """

    registry: str | None = Field(description="the registry that was read, where that matters")


class SpentForm(Form):
    """What something took. What is done at the same time shares seconds and processor seconds equally."""

    seconds: float
    processor_seconds: float | None = Field(description="of all processes together; Linux alone")
    peak_memory_bytes: int | None = Field(description="of all processes together, mapped files included; Linux alone")


class PhaseForm(SpentForm):
    """What one phase took."""

    phase: str = Field(description="such as `quantize` or `compare`; `wait`: another process does the work")
    worked_bytes: int | None = Field(description="bytes that it read or wrote; null where they are not counted")


class SubjectForm(SpentForm):
    """What the phases of one subject took."""

    subject: str = Field(description="a cell, a recipe or a job; empty for the command itself")
    phases: list[PhaseForm]


class ProfileForm(SpentForm):
    """What a command took."""

    subjects: list[SubjectForm]
    unattributed: SpentForm = Field(description="what belongs to no phase: the whole less all subjects")


class DocumentForm(Form):
    """The document that `--json` prints on standard output, whatever happens."""

    schema_: Literal["phipack.cli/1"] = Field(alias="schema")
    ok: bool
    command: str | None = Field(description="such as `targets ls`; null for a call that could not be parsed")
    result: JsonValue = Field(default=None, description="what the command found; may be there although it failed")
    profile: ProfileForm | None = Field(default=None, description="with `--profile`")
    error: ErrorForm | None = Field(default=None, description="absent where it succeeded")


# Path of each command, and the type of its `result`.
RESULTS: dict[str, Any] = {
    "targets ls": TargetsForm,
    "targets show": Target,
    "recipes": RecipesForm,
    "fit": FitForm,
    "build": BuildForm,
    "calibrate": CalibrationForm,
    "convert": ConvertForm,
    "export": ExportForm,
    "inspect": InspectedBundleForm | InspectedCheckpointForm,
    "validate": Evidence,
    "plan": PlanForm,
    "matrix": MatrixForm,
    "release": ReleaseForm | JobsForm,
    "devices ls": DevicesForm,
    "measure": Measurement,
    "evidence import": ImportedForm,
    "workers": WorkersForm,
    "ls": VersionsForm,
    "show": ShownForm,
    "report": ReportForm,
    "promote": MoveForm,
    "retire": MoveForm,
    "rollback": MoveForm,
    "history": HistoryForm,
    "diff": DiffForm,
    "publish": PublishForm | RefreshForm,
    "keys init": KeysForm,
    "keys rotate": KeysForm,
    "keys show": KeysForm,
    "gc": GarbageForm,
    "registry relocate": RelocationForm,
    "serve": None,
    "fetch": FetchForm,
    "split": SplitForm,
    "join": BundleForm,
    "generate": GenerateForm,
    "doctor": DoctorForm,
    "schema": dict[str, JsonValue],
    "completion": CompletionForm,
}


def document_schema() -> dict[str, Any]:
    """Return the JSON Schema of the document that all commands print."""
    return DocumentForm.model_json_schema(by_alias=True)


def result_schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of a command's `result`; `command` is its path, such as `targets ls`."""
    return TypeAdapter(RESULTS[command]).json_schema(by_alias=True, mode="serialization")
