rule split:
    output:
        f"{OUT}/data/{{part}}.bed",
    log:
        f"{OUT}/logs/split.{{part}}.log",
    params:
        name=config["split"],
        force="--force",
    wildcard_constraints:
        part="train|validation|test",
    shell:
        "python -m pipelines.manifest split {wildcards.part} {output} --name {params.name}"
        " {params.force} 2> {log}"


rule corpus:
    input:
        fasta=config["genome"],
        regions=f"{OUT}/data/{{part}}.bed",
    output:
        directory(f"{OUT}/corpus/{{part}}"),
    log:
        f"{OUT}/logs/corpus.{{part}}.log",
    params:
        passes=lambda wildcards: config["passes"] if wildcards.part == "train" else 1,
    shell:
        "genobird corpus {input.fasta} --regions {input.regions} --output {output}"
        " --set passes={params.passes} --force > {log} 2>&1"


rule tokenizer:
    input:
        f"{OUT}/corpus/train",
    output:
        f"{OUT}/tokenizer.model",
    log:
        f"{OUT}/logs/tokenizer.log",
    params:
        settings=config["tokenizer"],
    shell:
        "genobird tokenizer train {input} --output {output} --kind {params.settings[kind]}"
        " --vocab-size {params.settings[vocab_size]} --max-piece {params.settings[max_piece]}"
        " --sample-bp {params.settings[sample_bp]} --force > {log} 2>&1"


rule shards:
    input:
        corpus=f"{OUT}/corpus/{{part}}",
        tokenizer=f"{OUT}/tokenizer.model",
    output:
        directory(f"{OUT}/shards/{{part}}"),
    log:
        f"{OUT}/logs/shards.{{part}}.log",
    threads: 2
    shell:
        "genobird shards {input.corpus} --tokenizer {input.tokenizer} --output {output}"
        " --threads {threads} --force > {log} 2>&1"


rule promoters:
    input:
        bed=config["promoters"]["bed"],
        fasta=config["genome"],
        exclude=config["promoters"]["exclude"],
    output:
        f"{OUT}/data/promoters.parquet",
    log:
        f"{OUT}/logs/promoters.log",
    params:
        fasta=lambda wildcards, input: " ".join(f"--fasta {path}" for path in config["genome"]),
        exclude=lambda wildcards, input: " ".join(f"--exclude {path}" for path in input.exclude),
        negatives=config["promoters"]["negatives"],
        split=config["split"],
    shell:
        "python -m pipelines.promoters --bed {input.bed} {params.fasta} {params.exclude}"
        " --negatives {params.negatives} --splits {params.split} --output {output} --force"
        " > {log} 2>&1"


rule chromatin:
    input:
        fasta=config["genome"],
        peaks=config["chromatin"]["peaks"],
        tracks=config["chromatin"]["tracks"],
    output:
        directory(f"{OUT}/data/chromatin"),
    log:
        f"{OUT}/logs/chromatin.log",
    params:
        fasta=lambda wildcards, input: " ".join(f"--fasta {path}" for path in config["genome"]),
        split=config["split"],
        positives=config["chromatin"]["min_positives"],
    shell:
        "python -m pipelines.chromatin {params.fasta} --peaks {input.peaks} --tracks {input.tracks}"
        " --splits {params.split} --min-positives {params.positives} --output {output} --force"
        " > {log} 2>&1"
