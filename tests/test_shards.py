from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from genobird import shards
from genobird.corpus import Corpus, CorpusSettings, build, read
from genobird.errors import AssemblyError, GenobirdError, ShardError, UsageError
from genobird.genome.interval import Interval
from genobird.genome.sequence import reverse_complement
from genobird.shards import Shards
from genobird.tokenizer import N_SPECIAL, Tokenizer
from tests.conftest import write_fasta

SETTINGS = CorpusSettings(
    passes=2, start_max=500, sentences=(3, 6), sentence_bp=(50, 100), both_strands=True
)


@pytest.fixture(scope="module")
def corpus(tiny_genome_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build([tiny_genome_path], tmp_path_factory.mktemp("corpus") / "corpus", SETTINGS)


@pytest.fixture(scope="module")
def written(
    corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Shards:
    return shards.write(corpus.path, tiny_tokenizer, tmp_path_factory.mktemp("shards") / "s")


def hashes(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def copy_of(written: Shards, path: Path) -> Path:
    path.mkdir()
    for file in written.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def test_documents_decode_to_their_sentences_in_order(
    written: Shards, corpus: Corpus, tiny_contigs: dict[str, str], tiny_tokenizer: Tokenizer
) -> None:
    frame = pd.read_parquet(corpus.path / "sentences.parquet")
    documents = frame.groupby(["contig", "pass", "document"], observed=True, sort=False)
    assert len(documents) == len(written) == len(written.documents)
    for i, ((contig, _, document), group) in enumerate(documents):
        texts = [
            tiny_contigs[str(contig)][a:b] for a, b in zip(group.start, group.end, strict=True)
        ]
        if group.strand.iloc[0] == "-":
            texts = [reverse_complement(text) for text in texts]
        ids = written.document(i)
        assert ids.dtype == np.uint16
        assert ids.min() >= N_SPECIAL
        assert tiny_tokenizer.decode(ids) == "".join(texts)
        offsets = written.sentences(i)
        assert [tiny_tokenizer.decode(part) for part in np.split(ids, offsets[1:])] == texts
        assert offsets[0] == 0
        assert written.positions(i) == (contig, group.start.iloc[0])
        rows = written.rows(i)
        assert set(rows["document"]) == {document}
        assert rows["start"].tolist() == group.start.tolist()
        assert {strand.decode() for strand in rows["strand"]} == set(group.strand)


def test_files_are_named_and_typed_as_documented(written: Shards) -> None:
    tokens = np.load(written.path / "chr1.pass0.tokens.npy")
    table = np.load(written.path / "chr1.pass0.sentences.npy")
    assert tokens.dtype == np.uint16
    assert table.dtype.names == ("document", "start", "token", "strand")
    assert table["token"][0] == 0
    assert (np.diff(table["token"].astype(np.int64)) > 0).all()
    assert table["token"][-1] < len(tokens)


def test_the_index_counts_and_names_its_sources(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer
) -> None:
    index = json.loads((written.path / "index.json").read_text())
    assert index["complete"] is True
    assert index["tokenizer_sha256"] == tiny_tokenizer.sha256
    assert index["genome_sha256"] == corpus.index.genome_sha256
    assert index["corpus_sha256"] == corpus.sha256
    assert index["vocab_size"] == 64
    assert index["bp"] == corpus.index.counts.bp
    assert index["sentences"] == corpus.index.counts.sentences
    assert (
        index["tokens"]
        == written.tokens
        == sum(len(written.document(i)) for i in range(len(written)))
    )
    for file in index["files"]:
        for part in ("tokens", "sentences"):
            path = written.path / f"{file['name']}.{part}.npy"
            assert file[f"{part}_file"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_documents_are_read_only_views_of_the_file(written: Shards) -> None:
    with pytest.raises(ValueError, match="read-only"):
        written.document(0)[0] = 7


def test_shards_can_be_sent_to_a_process(written: Shards) -> None:
    again: Shards = pickle.loads(pickle.dumps(written))
    assert np.array_equal(again.document(3), written.document(3))


def test_processes_write_the_same_bytes_as_one(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    shards.write(corpus.path, tiny_tokenizer, tmp_path / "s", threads=2)
    assert hashes(tmp_path / "s") == hashes(written.path)


def test_contigs_of_any_name_get_a_file(
    tiny_contigs: dict[str, str], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    name = "HLA-A*01:01/alt|x"
    (tmp_path / "g.fa").write_text(f">{name}\n{tiny_contigs['chr2']}\n")
    corpus = build([tmp_path / "g.fa"], tmp_path / "c", SETTINGS)
    written = shards.write(corpus.path, tiny_tokenizer, tmp_path / "s")
    assert written.positions(0)[0] == name


KILLED = """
import os, signal, sys
from itertools import count
from pathlib import Path
from genobird import shards
from genobird.tokenizer import Tokenizer

saved = count()

def save(part, array, save=shards.np.save):
    if next(saved) == int(sys.argv[4]):
        part.write_bytes(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
    save(part, array)

shards.np.save = save
shards.write(Path(sys.argv[1]), Tokenizer.load(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.parametrize("n_files", [1, 3])
def test_shards_survive_a_kill_with_the_same_bytes(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path, n_files: int
) -> None:
    tiny_tokenizer.save(tmp_path / "t.model")
    output = tmp_path / "s"
    arguments = [str(corpus.path), str(tmp_path / "t.model"), str(output), str(n_files)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], check=False)
    assert killed.returncode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in output.glob("chr*.npy")}
    assert len(kept) == n_files
    with pytest.raises(ShardError, match=r"is not complete; run `genobird shards` again"):
        Shards.open(output)
    shards.write(corpus.path, tiny_tokenizer, output)
    assert hashes(output) == hashes(written.path)
    whole_pairs = n_files // 2 * 2
    untouched = [path for path, time_ns in kept.items() if path.stat().st_mtime_ns == time_ns]
    assert len(untouched) >= whole_pairs


# A worker that saves kills its parent, and would wait for ever.
KILLED_POOL = """
import os, signal, sys
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from genobird import shards
from genobird.tokenizer import Tokenizer

def save(path, array):
    with suppress(ProcessLookupError):
        os.kill(parent_process().pid, signal.SIGKILL)
    signal.pause()

shards._save = save
if __name__ == "__main__":
    shards.write(Path(sys.argv[1]), Tokenizer.load(sys.argv[2]), Path(sys.argv[3]), threads=2)
"""


def test_workers_end_with_a_killed_parent(
    corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    tiny_tokenizer.save(tmp_path / "t.model")
    (tmp_path / "program.py").write_text(KILLED_POOL)
    arguments = [str(corpus.path), str(tmp_path / "t.model"), str(tmp_path / "s")]
    # Its output ends with the last of its processes, since all of them hold the pipe.
    killed = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), *arguments],
        stdout=subprocess.PIPE, check=False,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL


def test_finished_shards_are_left_alone(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer
) -> None:
    before = {path: path.stat().st_mtime_ns for path in written.path.iterdir()}
    shards.write(corpus.path, tiny_tokenizer, written.path)
    assert {path: path.stat().st_mtime_ns for path in written.path.iterdir()} == before


@pytest.mark.parametrize("part", ["tokens", "sentences"])
def test_a_damaged_file_is_named_and_made_anew(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path, part: str
) -> None:
    output = copy_of(written, tmp_path / "s")
    path = output / f"chr2.pass1.{part}.npy"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(
        ShardError, match=rf"chr2\.pass1\.{part}\.npy has [\d,]+ bytes, [\d,]+ expect"
    ):
        Shards.open(output)
    shards.write(corpus.path, tiny_tokenizer, output)
    assert hashes(output) == hashes(written.path)
    path.unlink()
    with pytest.raises(ShardError, match=rf"{part}\.npy is missing; run `genobird shards` again"):
        Shards.open(output)
    shards.write(corpus.path, tiny_tokenizer, output)
    assert hashes(output) == hashes(written.path)


@pytest.mark.parametrize("part", ["tokens", "sentences"])
def test_an_altered_file_is_found_by_its_hash(written: Shards, tmp_path: Path, part: str) -> None:
    output = copy_of(written, tmp_path / "s")
    path = output / f"chr1.pass0.{part}.npy"
    content = bytearray(path.read_bytes())
    content[-50 if part == "tokens" else -1] ^= 1
    path.write_bytes(content)
    Shards.open(output)
    with pytest.raises(ShardError, match=rf"{part}\.npy has been altered .*; delete it and run"):
        Shards.open(output, check_hashes=True)
    Shards.open(written.path, check_hashes=True)


@pytest.mark.parametrize("spared", [0, 128])  # the header of a .npy file has 128 bytes
@pytest.mark.parametrize("filling", [b"\x00", b"\xfe"])
def test_a_file_of_other_bytes_is_named_when_shards_are_opened(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path,
    spared: int, filling: bytes,
) -> None:  # fmt: skip
    # Its size is right; torch failed on ids that the tokenizer does not have.
    output = copy_of(written, tmp_path / "s")
    path = output / "chr2.pass1.tokens.npy"
    content = path.read_bytes()
    path.write_bytes(content[:spared] + filling * (len(content) - spared))
    with pytest.raises(
        ShardError, match=r"chr2\.pass1\.tokens\.npy holds other ids than 5 to \d+; "
    ):
        Shards.open(output)
    shards.write(corpus.path, tiny_tokenizer, output)
    assert hashes(output) == hashes(written.path)


def test_shards_of_something_else_are_refused_unless_forced(
    written: Shards,
    corpus: Corpus,
    tiny_genome_path: Path,
    tiny_tokenizer: Tokenizer,
    tiny_contigs: dict[str, str],
    tmp_path: Path,
) -> None:
    output = copy_of(written, tmp_path / "s")
    other = Tokenizer.train([tiny_contigs["chr2"]], tmp_path / "t.model", vocab_size=30)
    message = rf"\(tokenizer {other.sha256[:12]}, before {tiny_tokenizer.sha256[:12]}\); give wh"
    with pytest.raises(UsageError, match=message):
        shards.write(corpus.path, other, output)
    moved = build([tiny_genome_path], tmp_path / "c", SETTINGS.model_copy(update={"seed": 5}))
    with pytest.raises(
        UsageError, match=r"s is of another run \(corpus \w{12}, before \w{12}\); give"
    ):
        shards.write(moved.path, tiny_tokenizer, output)
    assert shards.write(corpus.path, other, output, force=True).index.vocab_size == 30


def test_where_no_shard_can_be_written_is_told_before_the_corpus_is_read(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "shards"):
        with pytest.raises(UsageError, match="file is a file, and output"):
            shards.write(tmp_path / "no corpus", tiny_tokenizer, output)


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_of_other_things_is_spared(
    corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path, force: bool
) -> None:
    (tmp_path / "chapter.txt").write_text("years of work")
    with pytest.raises(UsageError, match="exists and is no folder of token shards: it holds"):
        shards.write(corpus.path, tiny_tokenizer, tmp_path, force=force)
    assert (tmp_path / "chapter.txt").exists()


def test_force_never_removes_the_corpus_or_shards_that_cannot_be_made_anew(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tiny_contigs: dict[str, str],
    tmp_path: Path,
) -> None:  # fmt: skip
    # index.json was all that it asked for, and a corpus has one; shards went before FASTA files
    # that had changed were seen.
    before = hashes(corpus.path)
    with pytest.raises(UsageError, match="exists and is no folder of token shards"):
        shards.write(corpus.path, tiny_tokenizer, corpus.path, force=True)
    assert hashes(corpus.path) == before
    output = copy_of(written, tmp_path / "s")
    (output / "notes.txt").write_text("mine")
    fasta = write_fasta(tmp_path / "g.fa", tiny_contigs)
    other = build([fasta], tmp_path / "c", SETTINGS)
    write_fasta(fasta, {name: text[::-1] for name, text in tiny_contigs.items()})
    with pytest.raises(AssemblyError):
        shards.write(other.path, tiny_tokenizer, output, force=True)
    (output / "notes.txt").unlink()
    assert hashes(output) == hashes(written.path)


def test_what_holds_no_shards_is_misuse(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        with pytest.raises(UsageError, match=r"holds no index\.json; make shards with"):
            Shards.open(path)
        with pytest.raises(UsageError, match=r"is not a corpus"):
            read(path)


def test_a_damaged_index_is_named(
    written: Shards, corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    output = copy_of(written, tmp_path / "s")
    index = output / "index.json"
    index.write_text(index.read_text()[:-30])
    with pytest.raises(ShardError, match=r"index\.json is damaged .* make all anew by force"):
        Shards.open(output)
    shards.write(corpus.path, tiny_tokenizer, output, force=True)
    assert hashes(output) == hashes(written.path)


def test_a_killed_worker_is_told(
    corpus: Corpus, tiny_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_work", os._exit)
    with pytest.raises(GenobirdError, match="one of 2 processes that make shards was killed"):
        shards.write(corpus.path, tiny_tokenizer, tmp_path / "s", threads=2)


def test_no_torch_is_loaded() -> None:
    program = "import sys, genobird.shards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_chromosome_decodes_to_its_corpus(shared_data: Path, tmp_path: Path) -> None:
    corpus = build(
        [shared_data / "genome" / "chr20.fa.gz"], tmp_path / "c", CorpusSettings(passes=1),
        [Interval("chr20", 0, 8_000_000)],
    )  # fmt: skip
    tokenizer = Tokenizer.train(
        corpus.sample_text(2_000_000, seed=0), tmp_path / "t.model", vocab_size=4_096
    )
    written = shards.write(corpus.path, tokenizer, tmp_path / "s")
    tokens = np.load(tmp_path / "s" / "chr20.pass0.tokens.npy")
    assert tokenizer.decode(tokens) == "".join(corpus.iter_text())
    assert written.tokens == len(tokens)
