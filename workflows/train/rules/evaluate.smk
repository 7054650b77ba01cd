# What is measured is what ships: the model is calibrated and rounded first, then evaluated, then given its card.

BACKGROUND = [f"{OUT}/background.npz"] if config["background"] else []


rule baselines:
    input:
        chromatin=f"{OUT}/data/chromatin",
        promoters=f"{OUT}/data/promoters.parquet",
        scan=f"{OUT}/data/scan.parquet",
        auxiliary_path=f"{OUT}/data/auxiliary" if AUXILIARY else [],
        sites=f"{OUT}/data/sites.npz" if SITES else [],
        settings=config["baselines"],
    output:
        directory(f"{OUT}/baselines"),
    log:
        f"{OUT}/logs/baselines.log",
    benchmark:
        f"{OUT}/benchmarks/baselines.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16000,
        runtime=1440,
    params:
        auxiliary=given("auxiliary_path"),
        sites=given("sites"),
    shell:
        "exec genobird baselines --config {input.settings} --chromatin {input.chromatin}"
        " --promoters {input.promoters} --scan {input.scan} --output {output}"
        " {params.auxiliary} {params.sites} --set threads={threads} --resume --force"
        " > {log} 2>&1"


rule calibrate:
    input:
        model=f"{OUT}/mlm/model",
        chromatin=f"{OUT}/data/chromatin",
        promoters=f"{OUT}/data/scan.parquet",  # promoters are as rare as where somebody looks for them
    output:
        directory(f"{OUT}/calibrated"),
    log:
        f"{OUT}/logs/calibrate.log",
    benchmark:
        f"{OUT}/benchmarks/calibrate.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16000,
        runtime=120,
    shell:
        "python -m pipelines.calibrate --model {input.model} --chromatin {input.chromatin}"
        " --promoters {input.promoters} --output {output} --threads {threads} --force"
        " > {log} 2>&1"


rule round:
    input:
        f"{OUT}/calibrated",
    output:
        directory(f"{OUT}/float16"),
    log:
        f"{OUT}/logs/round.log",
    benchmark:
        f"{OUT}/benchmarks/round.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        notes=[f"--note={note}" for note in config["notes"]],
    shell:
        "python -m pipelines.bundle --model {input} --output {output} {params.notes:q} --force"
        " > {log} 2>&1"


rule evaluate:
    input:
        model=f"{OUT}/float16",
        chromatin=f"{OUT}/data/chromatin",
        promoters=f"{OUT}/data/promoters.parquet",
        scan=f"{OUT}/data/scan.parquet",
        shards=f"{OUT}/shards/test",
        baselines=f"{OUT}/baselines",
        settings=config["evaluate"],
    output:
        figures=report(
            f"{OUT}/evaluation.json",
            caption="../report/evaluation.rst",
            category="Test figures",
        ),
        features=report(
            f"{OUT}/per_feature.tsv",
            caption="../report/features.rst",
            category="Test figures",
        ),
    log:
        f"{OUT}/logs/evaluate.log",
    benchmark:
        f"{OUT}/benchmarks/evaluate.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=480,
    params:
        folder=subpath(output.figures, parent=True),
    shell:
        "exec genobird evaluate {input.model} --config {input.settings} --chromatin {input.chromatin}"
        " --promoters {input.promoters} --scan {input.scan} --shards {input.shards}"
        " --baselines {input.baselines} --output {params.folder} --set threads={threads} --force > {log} 2>&1"


if config["background"]:

    rule genome:
        input:
            config["genome"],
        output:
            f"{OUT}/data/genome.fa.gz",
        log:
            f"{OUT}/logs/genome.log",
        benchmark:
            f"{OUT}/benchmarks/genome.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        shell:
            "python -m pipelines.grch37 join {input} --output {output} --force > {log} 2>&1"

    rule background:
        input:
            model=f"{OUT}/float16",
            fasta=f"{OUT}/data/genome.fa.gz",
            variants=config["background"]["variants"],
            # What the model is measured on stays out of what it is set against.
            held_out=[f"{OUT}/data/validation.bed", f"{OUT}/data/test.bed"],
        output:
            f"{OUT}/background.npz",
        log:
            f"{OUT}/logs/background.log",
        benchmark:
            f"{OUT}/benchmarks/background.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: config["threads"]
        resources:
            gpu=config["gpus"],
            mem_mb=8000,
            runtime=1440,
        params:
            held_out=lambda wildcards, input: [
                f"--exclude {path}" for path in input.held_out
            ],
            limit=config["background"]["limit"],
            seed=config["background"]["seed"],
        shell:
            "exec genobird background build {input.variants} --model {input.model} --fasta {input.fasta}"
            " {params.held_out} --limit {params.limit} --seed {params.seed} --output {output}"
            " --threads {threads} --resume --quiet > {log} 2>&1"


rule card:
    input:
        model=f"{OUT}/float16",
        evaluation=f"{OUT}/evaluation.json",
    output:
        report(f"{OUT}/card.md", caption="../report/card.rst", category="Model card"),
    log:
        f"{OUT}/logs/card.log",
    benchmark:
        f"{OUT}/benchmarks/card.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    shell:
        "exec genobird card {input.model} --evaluation {input.evaluation} --output {output} --force"
        " > {log} 2>&1"


rule bundle:
    input:
        model=f"{OUT}/float16",
        card=f"{OUT}/card.md",
        evaluation=f"{OUT}/evaluation.json",
        background=BACKGROUND,
    output:
        directory(f"{OUT}/model"),
    log:
        f"{OUT}/logs/bundle.log",
    benchmark:
        f"{OUT}/benchmarks/bundle.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        background=[f"--background {path}" for path in BACKGROUND],
    shell:
        "python -m pipelines.bundle --model {input.model} --card {input.card}"
        " --evaluation {input.evaluation} {params.background} --output {output} --force"
        " > {log} 2>&1"
