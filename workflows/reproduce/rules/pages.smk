# One HTML page of any of the tables, and one of all.


rule page:
    input:
        evaluations=lambda wildcards: EVALUATIONS[wildcards.page].values(),
        runs=lambda wildcards: [
            f"{OUT}/runs/{run}/model" for run in curves_of(wildcards.page)
        ],
        published=lambda wildcards: (
            [config["published"]]
            if config["published"] and "table7" in EVALUATIONS[wildcards.page]
            else []
        ),
    output:
        report(f"{OUT}/{{page}}.html", caption="../report/tables.rst"),
    log:
        f"{OUT}/logs/{{page}}.page.log",
    benchmark:
        f"{OUT}/benchmarks/{{page}}.page.tsv"
    wildcard_constraints:
        page="|".join(EVALUATIONS),
    conda:
        "../envs/genobird.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=10,
    params:
        tables=lambda wildcards: [
            f"--table {name}={path}"
            for name, path in EVALUATIONS[wildcards.page].items()
        ],
        runs=lambda wildcards: [
            f"--run {run}={OUT}/runs/{run}" for run in curves_of(wildcards.page)
        ],
        published=lambda wildcards, input: [
            f"--published {path}" for path in input.published
        ],
    shell:
        "python -m pipelines.tables {params.tables} {params.runs} {params.published} --output {output}"
        " --force > {log} 2>&1"
