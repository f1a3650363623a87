"""The catalog page: what is registered and what is published, for people, over HTTP. Nothing is written from here.

    Registry, published catalog
        └── source.py          what they say, kept for seconds, with its age or why it can't be read
              ├── standing.py  a channel: where the registry has it, next to what is published
              ├── cells.py     cells with their figures, and the filter over them
              ├── prepared.py  a promotion, retirement or rollback as the command to copy (pure)
              └── pages.py     what each page shows; rendering.py makes HTML of it (Jinja2, templates/)
                    └── app.py routes, headers, errors (Starlette)

`phipack.api.serving` runs the application on a port of its own, apart from the phones' one. The pages show names,
reasons and releases that are not published, so they are only served where that is asked for: docs/catalog-page.md.
"""
