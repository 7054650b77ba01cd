# A training rule resumes: its run directory lies beside the output that Snakemake would delete.

LABELLED = (
    "context" if config["finetune"]["context"] else "chromatin"
)  # last chromatin stage


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
        "genobird pretrain --config {input.settings} --output {params.run}"
        " --set shards={input.shards} --set validation_shards={input.validation}"
        " --set tokenizer={input.tokenizer} --set fit.threads={threads} --resume --quiet > {log} 2>&1"


rule finetune_chromatin:
    input:
        checkpoint=f"{OUT}/pretrain/model",
        data=f"{OUT}/data/chromatin",
        settings=config["finetune"]["chromatin"],
    output:
        directory(f"{OUT}/chromatin/model"),
    log:
        f"{OUT}/logs/finetune_chromatin.log",
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
        "genobird finetune chromatin --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data}"
        " --set fit.threads={threads} --resume --quiet > {log} 2>&1"


if config["finetune"]["context"]:

    rule finetune_context:
        input:
            checkpoint=f"{OUT}/chromatin/model",
            data=f"{OUT}/data/chromatin",
            settings=config["finetune"]["context"],
        output:
            directory(f"{OUT}/context/model"),
        log:
            f"{OUT}/logs/finetune_context.log",
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
            "genobird finetune chromatin --config {input.settings} --output {params.run}"
            " --set checkpoint={input.checkpoint} --set data_path={input.data}"
            " --set fit.threads={threads} --resume --quiet > {log} 2>&1"


rule finetune_promoter:
    input:
        checkpoint=f"{OUT}/{LABELLED}/model",
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
        "genobird finetune promoter --config {input.settings} --output {params.run}"
        " --set checkpoint={input.checkpoint} --set data_path={input.data}"
        " --set fit.threads={threads} --resume --quiet > {log} 2>&1"
