"""FHIR R4: resources of files and servers become the declared tables (:mod:`plasmid.data.sources.fhir`).

The parts, in the order in which a resource meets them::

    reading.py     files: bundles and NDJSON, plain or gzip        server.py    a REST server, page by page
    document.py    one JSON text: its entries, strictly decoded
    validating.py  one resource against the release's model
    flattening.py  one resource -> rows of the declared tables     statuses.py  what did not happen
    loading.py     all resources -> a store                        store.py     DuckDB: versions, references
    tally.py       what was found on the way, counted              preset.py    the mapping of a view
"""
