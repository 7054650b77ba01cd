"""How published data become genobird's tables: one module a source, each runnable as a command.

`manifest` reads the facts in `data_manifests/`, `fetch` downloads, `grch37` checks the genome,
`epdnew` and `lift` bring promoters to it, `promoters`, `chromatin` and `deepsea_bundle` build the
datasets that `genobird.tasks` reads, `cagi` compares effects of variants with measured ones, `demo`
cuts the region that ships with the package. Nothing in `genobird` imports from here.
"""
