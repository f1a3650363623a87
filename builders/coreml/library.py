"""coremltools, imported without the libraries whose models it could convert: phipack writes the program itself."""

from __future__ import annotations

from targets.own_process import importing_without

_FRONTENDS = (
    *("sklearn", "libsvm", "xgboost", "tensorflow", "torch", "torchvision", "torchaudio", "executorch", "torchao"),
    *("scipy", "transformers"),
)


def load_coremltools() -> None:
    """Import it, in less than a fifth of the time where the process is phipack's own."""
    with importing_without(*_FRONTENDS):
        import coremltools  # noqa: F401
