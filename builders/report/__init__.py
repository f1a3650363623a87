"""What a reviewer reads before a promotion: evidence as one page, and a model card for MLflow.

    Content (content.py) ──┬── findings.py     the verdict, and what to look at first
                           │                   (regressions.py, lost_checks.py, openings.py, own_turns.py, refusals.py:
                           │                   next to production's)
                           ├── comparing.py    figures next to production's; noise.py: which difference may be chance
                           ├── two_references.py  both checkpoints in float32; predictions.py: how sure a change is
                           ├── changes.py      what it is made from, and what changes for an app (with reach.py,
                           │                   layers.py, same_prompts.py)
                           ├── answers.py      answers in three columns, differences marked
                           ├── charts.py       what is drawn; drawing.py makes SVG or PNG of it (matplotlib)
                           ├── page.py         all of it as one HTML file (Jinja2, templates/); look.py: its style
                           └── card.py         the model card, in Markdown

Everything here is pure: it opens no file of a bundle and asks no registry. `phipack.api.reporting` collects what is
shown.
"""
