SPLITS = config["splits_file"] or []
SPLITS_FILE = f"--splits-file {config['splits_file']}" if config["splits_file"] else ""
# Peaks; the paper's tables have none.
AUXILIARY = config["chromatin"].get("auxiliary") or []
OTHER_TRACKS = []
if AUXILIARY is True:  # other tracks of the table, where there is one
    OTHER_TRACKS = config["chromatin"]["tracks"] or []
    AUXILIARY = config["chromatin"]["peaks"] if OTHER_TRACKS else []


SITES = config["chromatin"].get("sites")


rule split:
    input:
        splits=SPLITS,
    output:
        f"{OUT}/data/{{part}}.bed",
    log:
        f"{OUT}/logs/split.{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/split.{{part}}.tsv"
    wildcard_constraints:
        part="train|validation|test",
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        name=config["split"],
        file=SPLITS_FILE,
        force="--force",
    shell:
        "python -m pipelines.manifest split {wildcards.part} {output} --name {params.name}"
        " {params.file} {params.force} 2> {log}"


rule corpus:
    input:
        fasta=config["genome"],
        regions=f"{OUT}/data/{{part}}.bed",
    output:
        directory(f"{OUT}/corpus/{{part}}"),
    log:
        f"{OUT}/logs/corpus.{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/corpus.{{part}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        passes=lambda wildcards: config["passes"] if wildcards.part == "train" else 1,
    shell:
        "exec genobird corpus {input.fasta} --regions {input.regions} --output {output}"
        " --set passes={params.passes} --force > {log} 2>&1"


rule tokenizer:
    input:
        f"{OUT}/corpus/train",
    output:
        f"{OUT}/tokenizer.model",
    log:
        f"{OUT}/logs/tokenizer.log",
    benchmark:
        f"{OUT}/benchmarks/tokenizer.tsv"
    conda:
        "../envs/genobird.yaml"
    # BPE trains on one.
    threads: config["threads"] if config["tokenizer"]["kind"] == "unigram" else 1
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        settings=config["tokenizer"],
    shell:
        "exec genobird tokenizer train {input} --output {output} --kind {params.settings[kind]}"
        " --vocab-size {params.settings[vocab_size]} --max-piece {params.settings[max_piece]}"
        " --sample-bp {params.settings[sample_bp]} --threads {threads} --force > {log} 2>&1"


rule shards:
    input:
        corpus=f"{OUT}/corpus/{{part}}",
        tokenizer=f"{OUT}/tokenizer.model",
    output:
        directory(f"{OUT}/shards/{{part}}"),
    log:
        f"{OUT}/logs/shards.{{part}}.log",
    benchmark:
        f"{OUT}/benchmarks/shards.{{part}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=240,
    params:
        # A stopped job goes on here: Snakemake deletes what there is of an output.
        unfinished=f"{OUT}/shards/{{part}}.unfinished",
    shell:
        "genobird shards {input.corpus} --tokenizer {input.tokenizer} --output {params.unfinished}"
        " --threads {threads} > {log} 2>&1 && mv {params.unfinished} {output}"


rule promoters:
    input:
        bed=config["promoters"]["bed"],
        fasta=config["genome"],
        exclude=config["promoters"]["exclude"],
        splits=SPLITS,
    output:
        f"{OUT}/data/promoters.parquet",
    log:
        f"{OUT}/logs/promoters.log",
    benchmark:
        f"{OUT}/benchmarks/promoters.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=8000,
        runtime=60,
    params:
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
        exclude=lambda wildcards, input: [f"--exclude {path}" for path in input.exclude],
        negatives=config["promoters"]["negatives"],
        scanned=config["promoters"].get("scanned", 0),
        split=config["split"],
        file=SPLITS_FILE,
    shell:
        "python -m pipelines.promoters --bed {input.bed} {params.fasta} {params.exclude}"
        " --negatives {params.negatives} --scanned {params.scanned} --splits {params.split} {params.file}"
        " --output {output} --force > {log} 2>&1"


# The promoters among all windows of the held-out parts, as somebody who scans a genome for them meets them.
use rule promoters as scan with:
    output:
        f"{OUT}/data/scan.parquet",
    log:
        f"{OUT}/logs/scan.log",
    benchmark:
        f"{OUT}/benchmarks/scan.tsv"
    params:
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
        exclude=lambda wildcards, input: [f"--exclude {path}" for path in input.exclude],
        negatives="scan",
        scanned=0,
        split=config["split"],
        file=SPLITS_FILE,


rule chromatin:
    input:
        fasta=config["genome"],
        peaks=config["chromatin"]["peaks"],
        tracks=config["chromatin"]["tracks"] or [],
        splits=SPLITS,
    output:
        directory(f"{OUT}/data/chromatin"),
    log:
        f"{OUT}/logs/chromatin.log",
    benchmark:
        f"{OUT}/benchmarks/chromatin.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=120,
    params:
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
        peaks=lambda wildcards, input: (
            f"--peaks {input.peaks} --tracks {input.tracks}"
            if input.tracks
            else [f"--bed {path}" for path in input.peaks]
        ),
        split=config["split"],
        file=SPLITS_FILE,
        positives=config["chromatin"]["min_positives"],
    shell:
        "python -m pipelines.chromatin {params.fasta} {params.peaks}"
        " --splits {params.split} {params.file} --min-positives {params.positives}"
        " --output {output} --force > {log} 2>&1"


# Labels of the same bins that are learnt beside, and not predicted: peak files, or the other tracks of the table.
use rule chromatin as auxiliary with:
    input:
        fasta=config["genome"],
        peaks=AUXILIARY,
        tracks=OTHER_TRACKS,
        splits=SPLITS,
    output:
        directory(f"{OUT}/data/auxiliary"),
    log:
        f"{OUT}/logs/auxiliary.log",
    benchmark:
        f"{OUT}/benchmarks/auxiliary.tsv"
    params:
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
        peaks=lambda wildcards, input: (
            f"--peaks {input.peaks} --tracks {input.tracks} --others"
            if input.tracks
            else [f"--bed {path}" for path in input.peaks]
        ),
        split=config["split"],
        file=SPLITS_FILE,
        positives=config["chromatin"]["min_positives"],


if SITES:

    rule sites:
        input:
            sites=SITES["table"],
            peaks=[config["chromatin"]["peaks"], SITES["peaks"]],
            tracks=config["chromatin"]["tracks"],
            chromatin=f"{OUT}/data/chromatin",
            auxiliary=f"{OUT}/data/auxiliary" if AUXILIARY else [],
            splits=SPLITS,
        output:
            f"{OUT}/data/sites.npz",
        log:
            f"{OUT}/logs/sites.log",
        benchmark:
            f"{OUT}/benchmarks/sites.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=30,
        params:
            peaks=lambda wildcards, input: [f"--peaks {path}" for path in input.peaks],
            auxiliary=lambda wildcards, input: (
                f"--auxiliary {input.auxiliary}" if input.auxiliary else ""
            ),
            split=SITES["split"],
            file=SPLITS_FILE,
        shell:
            "python -m pipelines.sites --sites {input.sites} {params.peaks}"
            " --tracks {input.tracks} --chromatin {input.chromatin} {params.auxiliary}"
            " --splits {params.split} {params.file} --output {output} --force > {log} 2>&1"
