# Tables 6 and 7: promoters against three kinds of negatives and in a scan, and chromatin profiles.


use rule promoters as negatives with:
    output:
        f"{OUT}/data/promoters.{{negatives}}.parquet",
    log:
        f"{OUT}/logs/promoters.{{negatives}}.log",
    benchmark:
        f"{OUT}/benchmarks/promoters.{{negatives}}.tsv"
    params:
        fasta=lambda wildcards, input: [f"--fasta {path}" for path in input.fasta],
        exclude=lambda wildcards, input: [f"--exclude {path}" for path in input.exclude],
        negatives=lambda wildcards: wildcards.negatives,
        split=config["split"],
        file=SPLITS_FILE,


rule finetune_promoter:
    input:
        checkpoint=START,
        data=f"{OUT}/data/promoters.{{negatives}}.parquet",
        settings=config["finetune"]["promoter"],
    output:
        directory(f"{OUT}/promoter/{{negatives}}/model"),
    log:
        f"{OUT}/logs/finetune_promoter.{{negatives}}.log",
    benchmark:
        f"{OUT}/benchmarks/finetune_promoter.{{negatives}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=480,
    params:
        run=subpath(output[0], parent=True),
    shell:
        "exec genobird finetune promoter --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data}"
        " --set fit.threads={threads} --resume > {log} 2>&1"


rule promoter_baselines:
    input:
        promoters=f"{OUT}/data/promoters.{{negatives}}.parquet",
        scan=scan_of,
        settings=config["baselines"],
    output:
        directory(f"{OUT}/promoter_baselines/{{negatives}}"),
    log:
        f"{OUT}/logs/promoter_baselines.{{negatives}}.log",
    benchmark:
        f"{OUT}/benchmarks/promoter_baselines.{{negatives}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16000,
        runtime=240,
    params:
        models=PROMOTER_MODELS,
        scan=scan_option,
    shell:
        "exec genobird baselines --models {params.models} --config {input.settings}"
        " --promoters {input.promoters} {params.scan} --output {output} --set threads={threads}"
        " --resume --force > {log} 2>&1"


rule compare_promoters:
    input:
        model=f"{OUT}/promoter/{{negatives}}/model",
        promoters=f"{OUT}/data/promoters.{{negatives}}.parquet",
        scan=scan_of,
        baselines=f"{OUT}/promoter_baselines/{{negatives}}",
        settings=config["evaluate"],
    output:
        report(
            f"{OUT}/table6/{{negatives}}/evaluation.json",
            caption="../report/evaluation.rst",
        ),
    log:
        f"{OUT}/logs/table6.{{negatives}}.log",
    benchmark:
        f"{OUT}/benchmarks/table6.{{negatives}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=240,
    params:
        folder=subpath(output[0], parent=True),
        scan=scan_option,
    shell:
        "exec genobird evaluate {input.model} --config {input.settings} --promoters {input.promoters}"
        " {params.scan} --baselines {input.baselines} --set threads={threads}"
        " --output {params.folder} --force > {log} 2>&1"


rule finetune_chromatin:
    input:
        checkpoint=START,
        data=f"{OUT}/data/chromatin",
        settings=config["finetune"]["chromatin"],
    output:
        directory(f"{OUT}/chromatin/model"),
    log:
        f"{OUT}/logs/finetune_chromatin.log",
    benchmark:
        f"{OUT}/benchmarks/finetune_chromatin.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=1440,
    params:
        run=subpath(output[0], parent=True),
    shell:
        "exec genobird finetune chromatin --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data}"
        " --set fit.threads={threads} --resume > {log} 2>&1"


if ETC_PROFILES:

    use rule finetune_chromatin as finetune_chromatin_etc with:
        input:
            checkpoint=f"{OUT}/runs/{ETC}/model",
            data=f"{OUT}/data/chromatin",
            settings=config["finetune"]["chromatin"],
        output:
            directory(f"{OUT}/chromatin_etc/model"),
        log:
            f"{OUT}/logs/finetune_chromatin_etc.log",
        benchmark:
            f"{OUT}/benchmarks/finetune_chromatin_etc.tsv"

    rule evaluate_etc:
        input:
            model=f"{OUT}/chromatin_etc/model",
            chromatin=f"{OUT}/data/chromatin",
            settings=config["evaluate"],
        output:
            directory(f"{OUT}/profiles/{ETC}"),
        log:
            f"{OUT}/logs/evaluate_etc.log",
        benchmark:
            f"{OUT}/benchmarks/evaluate_etc.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: config["threads"]
        resources:
            gpu=config["gpus"],
            mem_mb=16000,
            runtime=480,
        params:
            name=ETC,
        shell:
            "exec genobird evaluate {input.model} --name {params.name} --config {input.settings}"
            " --chromatin {input.chromatin} --set threads={threads} --output {output} --force"
            " > {log} 2>&1"


rule chromatin_baselines:
    input:
        chromatin=f"{OUT}/data/chromatin",
        settings=config["baselines"],
    output:
        directory(f"{OUT}/chromatin_baselines"),
    log:
        f"{OUT}/logs/chromatin_baselines.log",
    benchmark:
        f"{OUT}/benchmarks/chromatin_baselines.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        mem_mb=16000,
        runtime=1440,
    params:
        models=CHROMATIN_MODELS,
    shell:
        "exec genobird baselines --models {params.models} --config {input.settings}"
        " --chromatin {input.chromatin} --output {output} --set threads={threads}"
        " --resume --force > {log} 2>&1"


rule compare_chromatin:
    input:
        model=config["chromatin_model"] or f"{OUT}/chromatin/model",
        chromatin=f"{OUT}/data/chromatin",
        baselines=[
            f"{OUT}/chromatin_baselines",
            *([f"{OUT}/profiles/{ETC}"] if ETC_PROFILES else []),
        ],
        settings=config["evaluate"],
    output:
        figures=report(
            f"{OUT}/table7/evaluation.json", caption="../report/evaluation.rst"
        ),
        features=report(
            f"{OUT}/table7/per_feature.tsv", caption="../report/evaluation.rst"
        ),
    log:
        f"{OUT}/logs/table7.log",
    benchmark:
        f"{OUT}/benchmarks/table7.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=480,
    params:
        folder=subpath(output.figures, parent=True),
        baselines=lambda wildcards, input: [
            f"--baselines {path}" for path in input.baselines
        ],
    shell:
        "exec genobird evaluate {input.model} --config {input.settings} --chromatin {input.chromatin}"
        " {params.baselines} --set threads={threads} --output {params.folder} --force"
        " > {log} 2>&1"
