"""The recorded commands, one line each: a name, and the commands after `genobird`.

They run one after the other in an empty folder that holds the world (`world.py`) as `in`.
`python -m pytest tests/golden --update-golden` records anew; look at `git diff` then.
"""

from __future__ import annotations

ON = "-f in/genome.fa -m in/model --device cpu --threads 1 -q"
PLAIN = "-m in/model --device cpu --threads 1 -q"
FIT = "--set fit.steps=2 --set fit.warmup_steps=1 --set fit.device=cpu --set fit.threads=1"
FIT += " --set fit.precision=float32 --set fit.log_every=1"
START = f"--output run --set checkpoint=in/model {FIT}"
SHAPE = "passes=1 start_max=500 sentences=[4,9] sentence_bp=[90,110]"
LAW = " ".join(f"--set {setting}" for setting in SHAPE.split())

CASES = {
    "demo": "demo --output out -m in/model --device cpu --threads 1 -q",
    "score-bed": f"score in/regions.bed {ON} -o out.tsv",
    "score-odd": f"score in/odd.bed {ON} -o out.tsv --keep-going",
    "score-off": f"score in/odd.bed {ON} -o out.tsv",
    "score-fasta": f"score in/regions.fa {PLAIN} -o out.parquet",
    "score-region": f"score chr1:701-900:- {ON} -o - --features TF",
    "score-json": f"score in/regions.bed {ON} -o out.tsv.gz --json",
    "score-liftover": f"score in/old.bed {ON} -o out.tsv --liftover in/old.chain",
    "score-bigwig": f"score in/regions.bed {ON} -o out.tsv --bigwig tracks --features DNase",
    "variants-vcf": f"variants in/calls.vcf {ON} -o out.vcf --table out.tsv",
    "variants-bcf": f"variants in/calls.bcf {ON} -o out.bcf --table out.parquet --embedding",
    "variants-gz": f"variants in/calls.vcf {ON} -o out.vcf.gz --ref-mismatch swap --json",
    "variants-tsv": f"variants in/calls.tsv {ON} -o out.tsv --scores probability,diff,logfold",
    "variants-strings": f"variants chr1:300:T>G chr2-400-A-C {ON} -o -",
    "variants-options": f"variants in/calls.vcf {ON} -o out.vcf --shifts 2 --segmentations 3"
    " --seed 4 --window-grid 64",
    "variants-phased": f"variants in/calls.vcf {ON} -o out.vcf --phased me --table out.tsv",
    "variants-parts": f"variants in/calls.vcf {ON} -o 1.vcf.gz --table 1.parquet --shard 1/2"
    f" && variants in/calls.vcf {ON} -o 2.vcf.gz --table 2.parquet --shard 2/2"
    " && variants merge 1.vcf.gz 2.vcf.gz -o out.vcf -q"
    " && variants merge 1.parquet 2.parquet -o out.tsv -q",
    "variants-liftover": f"variants in/old.vcf {ON} -o out.vcf --liftover in/old.chain",
    "variants-background": f"variants in/calls.vcf {ON} -o out.vcf --table out.tsv"
    " --background in/background.npz",
    "variants-report": f"variants in/calls.vcf {ON} -o out.vcf --report out.html --report-logos 1",
    "variants-mismatch": f"variants in/calls.vcf {ON} -o out.vcf --ref-mismatch error",
    "build-db": f"build-db chr1:900-902 {ON} -o out.vcf.gz --background in/background.npz",
    "background": f"background build in/calls.vcf {ON} -o out.npz --limit 5 --seed 2 --json"
    " && background info out.npz && background info out.npz --json",
    "mutagenesis-long": f"mutagenesis chr1:751-754:- {ON} -o out.tsv",
    "mutagenesis-wide": f"mutagenesis chr1:751-754 {ON} -o out.parquet --form wide"
    " --features promoter,TF --logo out.svg",
    "compat-kipoi": f"compat kipoi-veff2 in/calls.vcf in/genome.fa out.tsv {PLAIN} -s diff",
    "compat-selene": f"compat selene in/calls.vcf in/genome.fa out {PLAIN} -s diffs -s predictions",
    "report": f"score in/regions.bed {ON} -o regions.tsv"
    f" && variants in/calls.tsv {ON} -o variants.tsv"
    " && report --regions regions.tsv --variants variants.tsv -o out.html"
    " && report multiqc regions.tsv variants.tsv -o statuses_mqc.tsv",
    "corpus": f"corpus in/long.fa -o out --regions in/peaks.bed {LAW} --set both_strands=true",
    "tokenizer": "tokenizer train in/corpus -o out.model --vocab-size 40 --max-piece 6"
    " && tokenizer info out.model && tokenizer encode out.model GATTACANNGATTACA",
    "shards": "shards in/held --tokenizer in/tokenizer.model -o out",
    "pretrain": "pretrain --output run --set shards=in/corpus.shards"
    " --set validation_shards=in/held.shards --set validation_batches=1"
    " --set tokenizer=in/tokenizer.model --set preset=tiny"
    f" --set model.stem=none --set data.max_tokens=66 --set data.sequences=2 {FIT}",
    "finetune-chromatin": f"finetune chromatin {START} --set data_path=in/chromatin"
    " --set data.window_bp=2000 --set data.margin_bp=400 --set data.sequences=2",
    "finetune-promoter": f"finetune promoter {START} --set data_path=in/promoters.parquet"
    " --set data.sequences=2 --set head.before_bp=300 --set head.after_bp=200",
    "finetune-mlm": f"finetune mlm {START} --set shards=in/corpus.shards --set least=[2]"
    " --set data.max_tokens=66",
    "finetune-peaks": "finetune chromatin --output run --peaks in/peaks.bed --fasta in/long.fa"
    " --model in/model --held-out chr1:1-10,000 --steps 2 --name mine"
    " --set context_bp=200 --set resamples=5 --set device=cpu --set min_positives=5"
    " --set threads=1 --set precision=float32",
    "finetune-table": "finetune table in/table.tsv --fasta in/long.fa --target height,width"
    f" --model in/model --output run {FIT} --set window_bp=400 --set regions=8"
    " && evaluate run/model --table in/table.tsv --fasta in/long.fa --output out"
    " --set resamples=5 && info run/model"
    " && score chr1:701-900:- -f in/long.fa -m run/model --device cpu --threads 1 -q -o -",
    "evaluate": "baselines --promoters in/promoters.parquet --chromatin in/chromatin --output b"
    " --models composition"
    " && evaluate in/model --promoters in/promoters.parquet --chromatin in/chromatin"
    " --shards in/held.shards --output out --baselines b --set resamples=5 --name mine"
    " && card in/model --evaluation out/evaluation.json --output card.md",
    # Without baselines, beside which a page says how many seconds they took to train.
    "tables": "evaluate in/model --promoters in/promoters.parquet --output out --set resamples=5"
    " && pipelines.tables --table table6-genomic=out/evaluation.json --output page.html",
    "baselines": "baselines --promoters in/promoters.parquet --output out --models kmers"
    " --set kmers.k=2",
    "baselines-sequence": "baselines --shards in/corpus.shards --held-out in/held.shards"
    " --tokenizer in/tokenizer.model --output out --models ngram_bases,ngram_tokens",
    "info": "info in/model && info in/model --json",
}
"""Name -> commands, joined by `&&`."""

LOOSE = {
    # What is encoded is rounded to float16, and ranks move when two places change theirs.
    "finetune-peaks": 0.01,
    "finetune-table": 0.01,
}
"""Absolute tolerances of cases whose numbers move by more between machines."""
