FEATURES = ["--features", ",".join(config["features"])] if config["features"] else []
SHARDS = [f"{part}-of-{config['shards']}" for part in range(1, config["shards"] + 1)]


wildcard_constraints:
    shard=r"\d+-of-\d+",


# Both rules make the same files.
if len(SHARDS) > 1:

    ruleorder: merge > variants

else:

    ruleorder: variants > merge


rule regions:
    input:
        bed=lambda wildcards: REGIONS[wildcards.sample],
        fasta=config["fasta"],
        model=config["model"] or [],
    output:
        report(
            f"{OUT}/regions/{{sample}}.tsv",
            caption="../report/regions.rst",
            category="Regions",
        ),
    log:
        f"{OUT}/logs/regions.{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/regions.{{sample}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=8000,
        runtime=240,
    params:
        model=lambda wildcards, input: ["--model", input.model] if input.model else [],
        features=FEATURES,
        keep_going="--keep-going" if config["keep_going"] else "",
        device=config["device"],
        batch_size=config["batch_size"],
    shell:
        "exec genobird score {input.bed:q} --fasta {input.fasta:q} --output {output:q} {params.model:q}"
        " --device {params.device} --batch-size {params.batch_size} --threads {threads}"
        " {params.features:q} {params.keep_going} --resume --force > {log:q} 2>&1"


rule variants:
    input:
        vcf=lambda wildcards: VARIANTS[wildcards.sample],
        fasta=config["fasta"],
        model=config["model"] or [],
    output:
        vcf=report(
            f"{OUT}/variants/{{sample}}.vcf.gz",
            caption="../report/variants.rst",
            category="Variants",
        ),
        index=f"{OUT}/variants/{{sample}}.vcf.gz.tbi",
        table=f"{OUT}/variants/{{sample}}.parquet",
    log:
        f"{OUT}/logs/variants.{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/variants.{{sample}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=8000,
        runtime=1440,
    params:
        model=lambda wildcards, input: ["--model", input.model] if input.model else [],
        mismatch=config["ref_mismatch"],
        features=FEATURES,
        device=config["device"],
        batch_size=config["batch_size"],
        shard=lambda wildcards: (
            ["--shard", wildcards.shard.replace("-of-", "/")]
            if "shard" in wildcards.keys()
            else []
        ),
    shell:
        "exec genobird variants {input.vcf:q} --fasta {input.fasta:q} --output {output.vcf:q}"
        " --table {output.table:q} {params.model:q} --ref-mismatch {params.mismatch}"
        " --device {params.device} --batch-size {params.batch_size} --threads {threads}"
        " {params.features:q} {params.shard:q} --resume --force > {log:q} 2>&1"


use rule variants as shard with:
    output:
        vcf=temp(f"{OUT}/shards/{{sample}}.{{shard}}.vcf.gz"),
        index=temp(f"{OUT}/shards/{{sample}}.{{shard}}.vcf.gz.tbi"),
        table=temp(f"{OUT}/shards/{{sample}}.{{shard}}.parquet"),
    log:
        f"{OUT}/logs/shards.{{sample}}.{{shard}}.log",
    benchmark:
        f"{OUT}/benchmarks/shards.{{sample}}.{{shard}}.tsv"


rule merge:
    input:
        vcfs=expand(rules.shard.output.vcf, shard=SHARDS, allow_missing=True),
        tables=expand(rules.shard.output.table, shard=SHARDS, allow_missing=True),
    output:
        vcf=report(
            f"{OUT}/variants/{{sample}}.vcf.gz",
            caption="../report/variants.rst",
            category="Variants",
        ),
        index=f"{OUT}/variants/{{sample}}.vcf.gz.tbi",
        table=f"{OUT}/variants/{{sample}}.parquet",
    log:
        f"{OUT}/logs/merge.{{sample}}.log",
    benchmark:
        f"{OUT}/benchmarks/merge.{{sample}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    shell:
        "(genobird variants merge {input.vcfs:q} --output {output.vcf:q} --force"
        " && genobird variants merge {input.tables:q} --output {output.table:q} --force)"
        " > {log:q} 2>&1"


# Seconds of one core, so it does not wait in the queue of a cluster.
rule statuses:
    input:
        expand(rules.regions.output, sample=REGIONS.index),
        expand(f"{OUT}/variants/{{sample}}.parquet", sample=VARIANTS.index),
    output:
        f"{OUT}/statuses_mqc.tsv",
    log:
        f"{OUT}/logs/statuses.log",
    benchmark:
        f"{OUT}/benchmarks/statuses.tsv"
    localrule: True
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    shell:
        "exec genobird report multiqc {input:q} --output {output:q} --force > {log:q} 2>&1"
