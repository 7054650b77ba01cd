# A training rule resumes: its run directory lies beside the output that Snakemake would delete.


rule pretrain:
    input:
        shards=f"{OUT}/shards/train",
        validation=f"{OUT}/shards/validation",
        tokenizer=f"{OUT}/tokenizer.model",
        settings=config["pretrain"],
    output:
        directory(f"{OUT}/pretrain/model"),
    log:
        f"{OUT}/logs/pretrain.log",
    benchmark:
        f"{OUT}/benchmarks/pretrain.tsv"
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
        "exec genobird pretrain --config {input.settings} --output {params.run}"
        " --set shards={input.shards} --set validation_shards={input.validation}"
        " --set tokenizer={input.tokenizer} --set fit.threads={threads} --resume > {log} 2>&1"


if LOCAL:

    # What is written around a place: a network that reads bases alone, and needs no encoder.
    rule finetune_local:
        input:
            checkpoint=f"{OUT}/pretrain/model",
            data=f"{OUT}/data/chromatin",
            auxiliary_path=f"{OUT}/data/auxiliary" if AUXILIARY else [],
            sites=f"{OUT}/data/sites.npz" if SITES else [],
            motifs=MOTIFS or [],
            settings=LOCAL,
        output:
            directory(f"{OUT}/local/model"),
        log:
            f"{OUT}/logs/finetune_local.log",
        benchmark:
            f"{OUT}/benchmarks/finetune_local.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: config["threads"]
        resources:
            gpu=config["gpus"],
            mem_mb=16000,
            runtime=1440,
        params:
            run=subpath(output[0], parent=True),
            auxiliary=given("auxiliary_path"),
            sites=given("sites"),
            motifs=given("motifs"),
        shell:
            "exec genobird finetune chromatin --config {input.settings} --output {params.run}"
            " --set checkpoint={input.checkpoint} --set data_path={input.data}"
            " {params.auxiliary} {params.sites} {params.motifs}"
            " --set fit.threads={threads} --resume > {log} 2>&1"


rule finetune_chromatin:
    input:
        # The model of the stage before this one.
        checkpoint=lambda wildcards: (
            f"{OUT}/chromatin/{int(wildcards.stage) - 1}/model"
            if int(wildcards.stage) > 1
            else f"{OUT}/pretrain/model"
        ),
        data=f"{OUT}/data/chromatin",
        auxiliary_path=f"{OUT}/data/auxiliary" if AUXILIARY else [],
        settings=lambda wildcards: CHROMATIN_STAGES[int(wildcards.stage) - 1],
    output:
        directory(f"{OUT}/chromatin/{{stage}}/model"),
    log:
        f"{OUT}/logs/finetune_chromatin.{{stage}}.log",
    benchmark:
        f"{OUT}/benchmarks/finetune_chromatin.{{stage}}.tsv"
    wildcard_constraints:
        stage="[1-9]",
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=1440,
    params:
        run=subpath(output[0], parent=True),
        auxiliary=given("auxiliary_path"),
    shell:
        "exec genobird finetune chromatin --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data}"
        " {params.auxiliary}"
        " --set fit.threads={threads} --resume > {log} 2>&1"


if LOCAL:

    rule combine:
        input:
            model=LAST_STAGE,
            local=f"{OUT}/local/model",
            chromatin=f"{OUT}/data/chromatin",
        output:
            directory(f"{OUT}/combined"),
        log:
            f"{OUT}/logs/combine.log",
        benchmark:
            f"{OUT}/benchmarks/combine.tsv"
        conda:
            "../envs/genobird.yaml"
        threads: config["threads"]
        resources:
            mem_mb=16000,
            runtime=120,
        shell:
            "python -m pipelines.combine --model {input.model} --local {input.local}"
            " --chromatin {input.chromatin} --output {output} --threads {threads} --force"
            " > {log} 2>&1"


rule finetune_promoter:
    input:
        checkpoint=f"{OUT}/combined" if LOCAL else LAST_STAGE,
        data=f"{OUT}/data/promoters.parquet",
        settings=config["finetune"]["promoter"],
    output:
        directory(f"{OUT}/promoter/model"),
    log:
        f"{OUT}/logs/finetune_promoter.log",
    benchmark:
        f"{OUT}/benchmarks/finetune_promoter.tsv"
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


rule finetune_mlm:
    input:
        checkpoint=f"{OUT}/promoter/model",
        shards=f"{OUT}/shards/train",
        validation=f"{OUT}/shards/validation",
        settings=config["finetune"]["mlm"],
    output:
        directory(f"{OUT}/mlm/model"),
    log:
        f"{OUT}/logs/finetune_mlm.log",
    benchmark:
        f"{OUT}/benchmarks/finetune_mlm.tsv"
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
        "exec genobird finetune mlm --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set shards={input.shards}"
        " --set validation_shards={input.validation} --set fit.threads={threads} --resume"
        " > {log} 2>&1"
