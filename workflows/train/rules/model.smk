# A training rule resumes: its run directory lies beside the output that Snakemake would delete.

CHROMATIN_STAGES = config["finetune"]["chromatin"]


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
        " --set tokenizer={input.tokenizer} --set fit.threads={threads} --resume --quiet > {log} 2>&1"


rule finetune_chromatin:
    input:
        # The model of the stage before this one.
        checkpoint=lambda wildcards: (
            f"{OUT}/chromatin/{int(wildcards.stage) - 1}/model"
            if int(wildcards.stage) > 1
            else f"{OUT}/pretrain/model"
        ),
        data=f"{OUT}/data/chromatin",
        auxiliary=f"{OUT}/data/auxiliary" if AUXILIARY else [],
        settings=lambda wildcards: CHROMATIN_STAGES[int(wildcards.stage) - 1],
    output:
        directory(f"{OUT}/chromatin/{{stage}}/model"),
    log:
        f"{OUT}/logs/finetune_chromatin.{{stage}}.log",
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
        auxiliary=lambda wildcards, input: (
            f"--set auxiliary_path={input.auxiliary}" if input.auxiliary else ""
        ),
    shell:
        "exec genobird finetune chromatin --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data} {params.auxiliary}"
        " --set fit.threads={threads} --resume --quiet > {log} 2>&1"


rule finetune_promoter:
    input:
        checkpoint=f"{OUT}/chromatin/{len(CHROMATIN_STAGES)}/model",
        data=f"{OUT}/data/promoters.parquet",
        settings=config["finetune"]["promoter"],
    output:
        directory(f"{OUT}/promoter/model"),
    log:
        f"{OUT}/logs/finetune_promoter.log",
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
        " --set fit.threads={threads} --resume --quiet > {log} 2>&1"


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
        " --set validation_shards={input.validation} --set fit.threads={threads} --resume --quiet"
        " > {log} 2>&1"
