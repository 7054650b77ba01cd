FEATURES = ["--features", ",".join(config["features"])] if config["features"] else []


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
        "genobird score {input.bed:q} --fasta {input.fasta:q} --output {output:q} {params.model:q}"
        " --device {params.device} --batch-size {params.batch_size} --threads {threads}"
        " {params.features:q} {params.keep_going} --force > {log:q} 2>&1"


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
    shell:
        "genobird variants {input.vcf:q} --fasta {input.fasta:q} --output {output.vcf:q}"
        " --table {output.table:q} {params.model:q} --ref-mismatch {params.mismatch}"
        " --device {params.device} --batch-size {params.batch_size} --threads {threads}"
        " {params.features:q} --force > {log:q} 2>&1"
