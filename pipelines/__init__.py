"""How published data become genobird's tables: one module a source, each runnable as a command.

`manifest` reads the facts in `data_manifests/`, `fetch` downloads, `grch37` checks the genome,
`promoters` and `chromatin` build the datasets that `genobird.tasks` reads, `demo` cuts the region
that ships with the package. Nothing in `genobird` imports from here.
"""
