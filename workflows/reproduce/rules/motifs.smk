# Does the model know what factors bind? Held-out sites broken, and public pairs of alleles.


rule motif_effects:
    input:
        chromatin=f"{OUT}/data/chromatin",
        motifs=config["motifs"]["matrices"],
        model=config["motif_model"] or [],
    output:
        f"{OUT}/motif_effects.json",
    log:
        f"{OUT}/logs/motif_effects.log",
    benchmark:
        f"{OUT}/benchmarks/motif_effects.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        model=MOTIF_MODEL,
    shell:
        "python -m pipelines.motif_effects {params.model} --chromatin {input.chromatin}"
        " --motifs {input.motifs} --output {output} --threads {threads} --force > {log} 2>&1"


# The rivals of table 7 are asked the same.
use rule motif_effects as rival_effects with:
    input:
        chromatin=f"{OUT}/data/chromatin",
        motifs=config["motifs"]["matrices"],
        baselines=f"{OUT}/chromatin_baselines",
    output:
        f"{OUT}/motif_effects.{{rival}}.json",
    log:
        f"{OUT}/logs/motif_effects.{{rival}}.log",
    benchmark:
        f"{OUT}/benchmarks/motif_effects.{{rival}}.tsv"
    params:
        model=rival_option,


rule alleles:
    input:
        data=config["motifs"]["variants"],
        fasta=config["motifs"]["genome"],
        sites=config["motifs"]["sites"],
        motifs=config["motifs"]["matrices"],
        model=config["motif_model"] or [],
    output:
        f"{OUT}/alleles.json",
    log:
        f"{OUT}/logs/alleles.log",
    benchmark:
        f"{OUT}/benchmarks/alleles.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=8000,
        runtime=480,
    params:
        model=MOTIF_MODEL,
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
    shell:
        "python -m pipelines.alleles {params.model} --data {input.data} {params.fasta}"
        " --sites {input.sites} --motifs {input.motifs} --output {output} --threads {threads}"
        " --force > {log} 2>&1"


use rule alleles as rival_alleles with:
    input:
        data=config["motifs"]["variants"],
        fasta=config["motifs"]["genome"],
        sites=config["motifs"]["sites"],
        motifs=config["motifs"]["matrices"],
        baselines=f"{OUT}/chromatin_baselines",
    output:
        f"{OUT}/alleles.{{rival}}.json",
    log:
        f"{OUT}/logs/alleles.{{rival}}.log",
    benchmark:
        f"{OUT}/benchmarks/alleles.{{rival}}.tsv"
    params:
        model=rival_option,
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
