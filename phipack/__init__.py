"""phipack: build, prove, register and deliver Phi-3 models for phones.

The public API. A name's module is imported when the name is first used, so that `import phipack` is quick, and
`phipack.fetch` works with the base install.

    import phipack

    registry = phipack.Registry.from_project("phipack.toml")
    report = registry.release("phipack.toml")
    try:
        registry.promote("phi-3-mini:1.0.0", to="production", reason="passed review")
    except phipack.GateError as error:
        print(error.failures)

| name | what it does | install |
|---|---|---|
| `fetch`, `fetch_from_catalog`, `Device` | bundles from a folder, a URL or a catalog | phipack |
| `open_bundle`, `verify`, `inspect`, `diff_bundles`, `split`, `join` | bundles that are here | phipack |
| `list_targets`, `open_target`, `list_recipes`, `fit` | what fits on which device | phipack |
| `import_measurements`, `Measurement` | figures that were measured on devices | phipack |
| `create_keys`, `open_keys`, `rotate_keys`, `renew_root` | keys that sign a catalog | phipack |
| `Registry` | versions, channels, publication, fetch by reference | phipack[registry] |
| `report_bundle`, `Registry.report` | what a reviewer reads, as one HTML page | phipack[report] |
| `Registry.plan`, `matrix`, `run_jobs`, `finish` | a release as jobs on several machines | phipack[build,registry] |
| `open_checkpoint`, `build`, `build_each`, `calibrate` | checkpoints in, bundles out | phipack[build] |
| `validate`, `judge`, `Gate`, `Evidence`, `generate` | bundles in, evidence and answers out | phipack[build] |
| `list_devices`, `measure`, `Measurement` | bundles on real phones | phipack[build] |
| `serve_catalog` | a published catalog over HTTP | phipack[serve] |
| `create_pages`, `ServedPages` | pages over registry and catalog, by any ASGI server | phipack[serve,registry] |

Text is accepted wherever the command line accepts it: paths, references, names of recipes, targets and channels. Long
work takes `on_progress`, which is called with `Step`, `Notice` and `Phase` events. Every error is a `PhipackError`
(`phipack.errors`) and says how to fix it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from phipack import errors as errors
    from phipack.api.building import build as build
    from phipack.api.building import build_each as build_each
    from phipack.api.building import convert_layout as convert_layout
    from phipack.api.building import export_onnx as export_onnx
    from phipack.api.building import inspect as inspect
    from phipack.api.building import open_checkpoint as open_checkpoint
    from phipack.api.calibrating import calibrate as calibrate
    from phipack.api.comparing import diff_bundles as diff_bundles
    from phipack.api.delivery import fetch as fetch
    from phipack.api.delivery import fetch_from_catalog as fetch_from_catalog
    from phipack.api.delivery import join as join
    from phipack.api.delivery import open_bundle as open_bundle
    from phipack.api.delivery import split as split
    from phipack.api.delivery import verify as verify
    from phipack.api.evidence_import import import_measurements as import_measurements
    from phipack.api.fitting import fit as fit
    from phipack.api.fitting import list_recipes as list_recipes
    from phipack.api.fitting import list_targets as list_targets
    from phipack.api.fitting import open_target as open_target
    from phipack.api.job_results import JobPlan as JobPlan
    from phipack.api.job_results import JobsReport as JobsReport
    from phipack.api.job_results import Matrix as Matrix
    from phipack.api.keys import create_keys as create_keys
    from phipack.api.keys import open_keys as open_keys
    from phipack.api.keys import renew_root as renew_root
    from phipack.api.keys import rotate_keys as rotate_keys
    from phipack.api.measuring import list_devices as list_devices
    from phipack.api.measuring import measure as measure
    from phipack.api.registry import Registry as Registry
    from phipack.api.reporting import report_bundle as report_bundle
    from phipack.api.results import BuildReport as BuildReport
    from phipack.api.results import CalibrationReport as CalibrationReport
    from phipack.api.results import CellReport as CellReport
    from phipack.api.results import FitReport as FitReport
    from phipack.api.results import ReleaseReport as ReleaseReport
    from phipack.api.results import ReportPage as ReportPage
    from phipack.api.serving import ServedPages as ServedPages
    from phipack.api.serving import serve_catalog as serve_catalog
    from phipack.api.validation import generate as generate
    from phipack.api.validation import judge as judge
    from phipack.api.validation import validate as validate
    from phipack.web.app import create_pages as create_pages
    from registry.bundle.folder import Bundle as Bundle
    from registry.fetch import Fetched as Fetched
    from targets.budget import Budget as Budget
    from targets.calibration import CalibrationSettings as CalibrationSettings
    from targets.errors import Failure as Failure
    from targets.errors import GateError as GateError
    from targets.errors import PhipackError as PhipackError
    from targets.evidence import Evidence as Evidence
    from targets.evidence import Figure as Figure
    from targets.gates import Gate as Gate
    from targets.measurement import Measurement as Measurement
    from targets.progress import Notice as Notice
    from targets.progress import Phase as Phase
    from targets.progress import Progress as Progress
    from targets.progress import Step as Step
    from targets.selection import Device as Device

    __version__: str

_MODULES: dict[str, tuple[str, ...]] = {
    "phipack.api.building": (
        "build",
        "build_each",
        "convert_layout",
        "export_onnx",
        "inspect",
        "open_checkpoint",
    ),
    "phipack.api.calibrating": ("calibrate",),
    "phipack.api.comparing": ("diff_bundles",),
    "phipack.api.delivery": ("fetch", "fetch_from_catalog", "join", "open_bundle", "split", "verify"),
    "phipack.api.fitting": ("fit", "list_recipes", "list_targets", "open_target"),
    "phipack.api.job_results": ("JobPlan", "JobsReport", "Matrix"),
    "phipack.api.keys": ("create_keys", "open_keys", "renew_root", "rotate_keys"),
    "phipack.api.measuring": ("list_devices", "measure"),
    "phipack.api.evidence_import": ("import_measurements",),
    "phipack.api.registry": ("Registry",),
    "phipack.api.reporting": ("report_bundle",),
    "phipack.api.results": (
        "BuildReport",
        "CalibrationReport",
        "CellReport",
        "FitReport",
        "ReleaseReport",
        "ReportPage",
    ),
    "phipack.api.serving": ("ServedPages", "serve_catalog"),
    "phipack.api.validation": ("generate", "judge", "validate"),
    "phipack.web.app": ("create_pages",),
    "registry.bundle.folder": ("Bundle",),
    "registry.fetch": ("Fetched",),
    "targets.budget": ("Budget",),
    "targets.calibration": ("CalibrationSettings",),
    "targets.errors": ("Failure", "GateError", "PhipackError"),
    "targets.evidence": ("Evidence", "Figure"),
    "targets.gates": ("Gate",),
    "targets.measurement": ("Measurement",),
    "targets.progress": ("Notice", "Phase", "Progress", "Step"),
    "targets.selection": ("Device",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from where it is defined (PEP 562)."""
    if name == "errors":
        return importlib.import_module("phipack.errors")
    if name == "__version__":
        from importlib.metadata import version

        return version("phipack")
    if name not in _HOMES:
        raise AttributeError(f"module 'phipack' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__", "errors"])
