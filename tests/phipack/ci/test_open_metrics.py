"""OpenMetrics' text, read by Prometheus' own parser."""

from __future__ import annotations

import math

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from phipack.ci.open_metrics import metrics_of_release
from tests.phipack.ci.reports import at_gates, broken, passing, release


def test_every_figure_of_every_cell_is_a_sample() -> None:
    families = list(text_string_to_metric_families(metrics_of_release(release(passing(), at_gates(), broken()))))
    samples = {(sample.name, sample.labels["cell"]): sample.value for family in families for sample in family.samples}

    assert {family.type for family in families} == {"gauge"}
    assert samples == {
        ("phipack_kl_mean", "iphone-15"): 0.0123,
        ("phipack_same_top_share", "iphone-15"): 0.982,
        ("phipack_kl_mean", "galaxy-s24"): 0.3,
        ("phipack_kl_max", "galaxy-s24"): math.inf,
    }
    kl = next(family for family in families if family.name == "phipack_kl_mean")
    assert kl.documentation.endswith("[nat]")
    assert kl.samples[0].labels == {
        "model": "phi", "version": "1.0.0", "cell": "iphone-15", "recipe": "onnx-int4", "kind": "measured",
    }  # fmt: skip


def test_a_release_without_figures_is_an_empty_exposition() -> None:
    assert metrics_of_release(release(broken())) == "# EOF\n"
    assert list(text_string_to_metric_families("# EOF\n")) == []
