# Tables 1 and 5 and figure 8: masked language models, all asked for the same held-out tokens.


rule pretrain:
    input:
        shards=f"{OUT}/shards/train",
        validation=f"{OUT}/shards/validation",
        tokenizer=f"{OUT}/tokenizer.model",
        settings=lambda wildcards: config["pretrain"][RUNS[wildcards.run][0]],
    output:
        directory(f"{OUT}/runs/{{run}}/model"),
    log:
        f"{OUT}/logs/pretrain.{{run}}.log",
    benchmark:
        f"{OUT}/benchmarks/pretrain.{{run}}.tsv"
    wildcard_constraints:
        run="pattern-[^/]+|context-[0-9]+|etc-[0-9]+",
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=1440,
    params:
        run=subpath(output[0], parent=True),
        settings=run_settings,
    shell:
        "exec genobird pretrain --config {input.settings} --output {params.run}"
        " --set shards={input.shards} --set validation_shards={input.validation}"
        " --set tokenizer={input.tokenizer} {params.settings} --set fit.threads={threads}"
        " --resume > {log} 2>&1"


rule ngrams:
    input:
        train=f"{OUT}/shards/train",
        test=f"{OUT}/shards/test",
        tokenizer=f"{OUT}/tokenizer.model",
        settings=config["baselines"],
    output:
        directory(f"{OUT}/ngrams"),
    log:
        f"{OUT}/logs/ngrams.log",
    benchmark:
        f"{OUT}/benchmarks/ngrams.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=16000,
        runtime=240,
    shell:
        "exec genobird baselines --models ngram_bases,ngram_tokens --config {input.settings}"
        " --shards {input.train} --held-out {input.test} --tokenizer {input.tokenizer}"
        " --output {output} --force > {log} 2>&1"


rule masked:
    input:
        model=f"{OUT}/runs/{{run}}/model",
        shards=f"{OUT}/shards/test",
        repeats=config["repeats"],
        settings=config["evaluate"],
    output:
        directory(f"{OUT}/masked/{{run}}"),
    log:
        f"{OUT}/logs/masked.{{run}}.log",
    benchmark:
        f"{OUT}/benchmarks/masked.{{run}}.tsv"
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=240,
    params:
        context=lambda wildcards: RUNS[wildcards.run][1],
        repeats=lambda wildcards, input: [f"--repeats {path}" for path in input.repeats],
    shell:
        "exec genobird evaluate {input.model} --name {wildcards.run} --config {input.settings}"
        " --shards {input.shards} {params.repeats} --set masked_context={params.context}"
        " --set threads={threads} --output {output} --force > {log} 2>&1"


rule compare_masked:
    input:
        model=lambda wildcards: f"{OUT}/runs/{COMPARED[wildcards.table][0]}/model",
        others=lambda wildcards: [
            f"{OUT}/masked/{run}" for run in COMPARED[wildcards.table][1]
        ],
        ngrams=lambda wildcards: (
            [f"{OUT}/ngrams"] if wildcards.table == "table5" else []
        ),
        shards=f"{OUT}/shards/test",
        repeats=config["repeats"],
        settings=config["evaluate"],
    output:
        report(f"{OUT}/{{table}}/evaluation.json", caption="../report/evaluation.rst"),
    log:
        f"{OUT}/logs/{{table}}.log",
    benchmark:
        f"{OUT}/benchmarks/{{table}}.tsv"
    wildcard_constraints:
        table="table1|figure8|table5",
    conda:
        "../envs/genobird.yaml"
    threads: config["threads"]
    resources:
        gpu=config["gpus"],
        mem_mb=16000,
        runtime=240,
    params:
        folder=subpath(output[0], parent=True),
        context=lambda wildcards: RUNS[COMPARED[wildcards.table][0]][1],
        others=lambda wildcards, input: [
            f"--baselines {path}" for path in (*input.others, *input.ngrams)
        ],
        repeats=lambda wildcards, input: [f"--repeats {path}" for path in input.repeats],
    shell:
        "exec genobird evaluate {input.model} --config {input.settings} --shards {input.shards}"
        " {params.repeats} {params.others} --set masked_context={params.context}"
        " --set threads={threads} --output {params.folder} --force > {log} 2>&1"
