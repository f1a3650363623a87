"""Where a run is found."""

from __future__ import annotations

from registry.ledger.tracking import run_link


def test_a_link_to_a_run_has_no_login() -> None:
    assert (
        run_link("https://ann:secret@mlflow.example:5000/ml/?a=b", "12ab")
        == "https://mlflow.example:5000/ml/#/runs/12ab"
    )
    assert run_link("sqlite:////home/ann/mlflow.db", "12ab") == "runs:/12ab"
