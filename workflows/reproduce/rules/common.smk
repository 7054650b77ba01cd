# Which models a table compares, and what makes them.
LONGEST = max(config["contexts"])
# Dense attention, as BERT's: table 1 trains it, figure 8 and table 5 compare with it.
DENSE = "pattern-full"


def context_run(context):
    return f"context-{context}"


# BigBird-ETC: global tokens are learned and stand before the sequence. Elsewhere they are its own first ones (ITC).
ETC = f"etc-{LONGEST}"
WITH_ETC = config["etc"]
# Table 7 compares both where their heads are trained alike.
ETC_PROFILES = WITH_ETC and not (config["start"] or config["chromatin_model"])


# Run -> what its configuration has beside the file: a key of `pretrain`, tokens at once, pattern.
RUNS = {
    **{
        f"pattern-{name}": ("table1", config["table1_context"], name)
        for name in config["patterns"]
    },
    **{
        context_run(length): ("figure8", length, "bigbird")
        for length in config["contexts"]
    },
    **({ETC: ("figure8", LONGEST, "bigbird")} if WITH_ETC else {}),
}


# Table -> the run that others are compared with, and these.
COMPARED = {
    "table1": (
        f"pattern-{config['patterns'][-1]}",
        [f"pattern-{name}" for name in config["patterns"][:-1]],
    ),
    "figure8": (
        context_run(LONGEST),
        [
            DENSE,
            *(
                context_run(length)
                for length in sorted(config["contexts"])
                if length != LONGEST
            ),
            *([ETC] if WITH_ETC else []),
        ],
    ),
    "table5": (context_run(LONGEST), [DENSE]),
}


def run_settings(wildcards):
    _, context, pattern = RUNS[wildcards.run]
    sequences = max(1, config["tokens_per_step"] // context)
    # Dense attention is the same function with blocks of any size; large ones are faster.
    dense = ["--set model.block_size=64"] if pattern == "full" else []
    learned = ["--set model.global_tokens=extra"] if wildcards.run == ETC else []
    return [
        f"--set data.max_tokens={context}",
        f"--set data.sequences={sequences}",
        f"--set model.pattern={pattern}",
        *dense,
        *learned,
    ]


START = config["start"] or f"{OUT}/runs/{context_run(LONGEST)}/model"
# Motifs are asked of the bundled model unless another is named.
MOTIF_MODEL = (
    "" if config["motif_model"] is None else f"--model {config['motif_model']}"
)
PROMOTER_MODELS = "composition,kmers,gapped_kmers,convolution,cnnprom,deepromoter"
CHROMATIN_MODELS = "composition,gapped_kmers,convolution,deepsea,danq"
RIVALS = CHROMATIN_MODELS.split(",")


def rival_option(wildcards, input):
    """Ask a baseline about motifs instead of a model."""
    return f"--baselines {input.baselines} --rival {wildcards.rival}"


TABLES = ["table1", "figure8", "table5", "table6", "table7"]
EVALUATIONS = {
    **{name: {name: f"{OUT}/{name}/evaluation.json"} for name in COMPARED},
    "table6": {
        f"table6-{kind}": f"{OUT}/table6/{kind}/evaluation.json"
        for kind in config["negatives"]
    },
    "table7": {"table7": f"{OUT}/table7/evaluation.json"},
}
EVALUATIONS["tables"] = {
    name: path for table in TABLES for name, path in EVALUATIONS[table].items()
}


def curves_of(page):
    """Return the pretraining runs whose curves a page shows."""
    tables = TABLES if page == "tables" else [page]
    runs = [
        run
        for table in tables
        for run in (*COMPARED.get(table, ("", []))[1], COMPARED.get(table, ("", []))[0])
    ]
    return [run for run in dict.fromkeys(runs) if run]


def scan_of(wildcards):
    """Return the scan that the models of some negatives are measured on too."""
    if wildcards.negatives != config["scan"]:
        return []
    return f"{OUT}/data/promoters.scan.parquet"


def scan_option(wildcards, input):
    return f"--scan {input.scan}" if input.scan else ""
