"""What is context worth for text? Chapters of pages, told from 512 to 4,096 tokens of them.

A manual of HTML that Sphinx wrote becomes a Parquet table of pages (chapter, page, part, text),
such as that of Debian's `linux-doc-6.1` (the Linux kernel's documentation, GPL-2, with the licence
of each page in its source). The chapter of a page is its first folder. A whole page belongs to one
part, by a hash of its name.

Pages are cut by a SentencePiece model of the training part. A BigBird is trained anew for each
context, on stretches of as many tokens, with as many tokens in all; TF-IDF with logistic regression
gets all stretches of the same pages. Both are asked about the same stretches of 4,096 tokens of
held-out pages, of which a shorter context sees the beginning alone, or all pieces one by one, whose
log-probabilities are added. 512 tokens are eight blocks, which see one another: that model is a
BERT. Nothing is chosen by the test part; the strength of the regression is by validation.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import sentencepiece
import torch
import typer
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor, nn
from torch.nn import functional as F

from genobird.batch import pack
from genobird.errors import InputError
from genobird.model import BigBird, BigBirdConfig
from pipelines import steps

app = typer.Typer(add_completion=False, no_args_is_help=True, help="What is context worth?")

LONGEST = 4096
PIECES = 4096
MOST_STRETCHES = 4
STRENGTHS = (1.0, 10.0, 100.0)
SHAPE = {
    "vocab_size": PIECES,
    "width": 64,
    "layers": 2,
    "heads": 2,
    "mlp_width": 128,
    "dropout": 0.1,
    "position": "rope",
}
Ids = NDArray[np.uint16]
Answer = Callable[[list[Ids]], NDArray[np.float32]]
"""Log-probabilities [S, chapters] of stretches."""

_MAIN = re.compile(r'<div role="main".*?>(.*?)<footer>', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")


@app.command("pages")
def make_pages(
    manual: Annotated[Path, typer.Argument(help="Folder with a folder of pages per chapter.")],
    chapters: Annotated[list[str], typer.Option("--chapter", help="A chapter to take.")],
    output: Annotated[Path, typer.Option(help="Parquet file to write.")],
    force: steps.Force = False,
) -> None:
    """Make a table of a manual's pages."""
    rows = [row for chapter in chapters for row in read_chapter(manual, chapter)]
    with steps.new_file(output, force) as part:
        pd.DataFrame(rows, columns=["chapter", "page", "part", "text"]).to_parquet(part)


def read_chapter(manual: Path, chapter: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield chapter, page, part and text of each page, in the order of their names.

    Raises:
        InputError: the chapter has no pages.
    """
    found = 0
    for path in sorted((manual / chapter).rglob("*.html")):
        body = _MAIN.search(path.read_text("utf-8", errors="replace"))
        if body is not None:
            found += 1
            page = path.relative_to(manual).as_posix()
            yield chapter, page, part_of(page), text_of(body.group(1))
    if not found:
        raise InputError(
            f"{manual / chapter} has no pages of Sphinx; give the manual's html folder"
        )


def text_of(body: str) -> str:
    """Return what a reader sees: no tags, single spaces."""
    return " ".join(html.unescape(_TAG.sub(" ", body)).split())


def part_of(page: str) -> str:
    """Return the part of a page: six in ten train, one validates, three test."""
    tenth = hashlib.sha256(page.encode()).digest()[0] * 10 // 256
    return "train" if tenth < 6 else "validation" if tenth == 6 else "test"


@app.command("tell")
def tell(
    pages: Annotated[Path, typer.Argument(help="Table of pages.")],
    output: steps.OutputJson,
    contexts: Annotated[list[int], typer.Option("--context", help="Tokens.")],
    parts: Annotated[list[str], typer.Option("--part", help="Asked about: validation, test.")],
    tokens: Annotated[int, typer.Option(help="Trained on, for each context.")] = 1_000_000,
    seed: Annotated[int, typer.Option(help="Of weights and draws.")] = 0,
    threads: steps.Threads = 1,
    force: steps.Force = False,
) -> None:
    """Train, ask and print the share of pages whose chapter is told."""
    torch.set_num_threads(threads)
    table = pd.read_parquet(steps.require(pages))
    chapters = sorted(table.chapter.unique())
    table["label"] = table.chapter.map(chapters.index)
    processor = train_pieces(table.text[table.part == "train"])
    ids = [np.array(processor.encode(text), dtype=np.uint16) for text in table.text]
    table["ids"] = pd.Series(ids, dtype=object)
    of = {str(name): group for name, group in table.groupby("part")}
    rows = []
    with steps.new_file(output, force) as path:
        for context in contexts:
            for name, train in (("TF-IDF", train_regression), ("BigBird", train_bigbird)):
                start = time.process_time()
                answer = train(of, context, processor, tokens, seed)
                seconds = time.process_time() - start
                facts = {"model": name, "context": context, "cpu_s": round(seconds, 1)}
                for part in parts:
                    rows.append({**facts, "part": part, **ask(answer, of[part], context)})
                    typer.echo(json.dumps(rows[-1]))
        path.write_text(json.dumps({"tokens": tokens, "rows": rows}, indent=1) + "\n")


def train_pieces(texts: pd.Series[str]) -> Any:
    """Learn pieces of text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(text[i : i + 2000] for text in texts for i in range(0, len(text), 2000)),
        model_writer=model,
        model_type="bpe",
        vocab_size=PIECES,
        hard_vocab_limit=False,
        max_sentence_length=10_000,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def train_regression(
    of: dict[str, pd.DataFrame], context: int, processor: Any, _tokens: int, _seed: int
) -> Answer:
    """Fit logistic regression to the words of all stretches; validation chooses its strength."""

    def texts(stretches: list[Ids]) -> list[str]:
        return [processor.decode(ids.tolist()) for ids in stretches]

    stretches, labels = zip(*all_stretches(of["train"], context), strict=True)
    train = texts(list(stretches))
    fitted = []
    for strength in STRENGTHS:
        model = make_pipeline(
            TfidfVectorizer(sublinear_tf=True, min_df=2),
            LogisticRegression(C=strength, class_weight="balanced", max_iter=300),
        )
        model.fit(train, labels)

        def answer(asked: list[Ids], model: Any = model) -> NDArray[np.float32]:
            return model.predict_log_proba(texts(asked))  # type: ignore[no-any-return]

        fitted.append((ask(answer, of["validation"], context)["pieces"], answer))
    return max(fitted, key=lambda pair: pair[0])[1]


def all_stretches(pages: pd.DataFrame, context: int) -> Iterator[tuple[Ids, int]]:
    """Cut every page, and yield each stretch with its label."""
    for ids, label in zip(pages.ids, pages.label, strict=True):
        for start in range(0, len(ids), context):
            yield ids[start : start + context], label


def train_bigbird(
    of: dict[str, pd.DataFrame], context: int, _processor: Any, tokens: int, seed: int
) -> Answer:
    """Train an encoder and a linear layer on the mean of its states."""
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, context))
    encoder = BigBird(BigBirdConfig.model_validate(SHAPE))
    head = nn.Linear(encoder.config.width, of["train"].label.max() + 1)
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05)
    n_steps = tokens // (2 * LONGEST)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=n_steps, pct_start=0.1)

    def logits(stretches: list[Ids]) -> Tensor:
        batch = pack(stretches, encoder.config.block_size)
        hidden = encoder(batch)[batch.valid]
        owner = batch.sequence[batch.valid]
        sums = torch.zeros(len(stretches), hidden.shape[1]).index_add(0, owner, hidden)
        return head(sums / torch.tensor(batch.lengths)[:, None])  # type: ignore[no-any-return]

    def answer(stretches: list[Ids]) -> NDArray[np.float32]:
        encoder.eval()
        with torch.no_grad():
            return torch.cat([logits([one]).log_softmax(1) for one in stretches]).numpy()

    encoder.train()
    for _ in range(n_steps):
        stretches, labels = zip(
            *draw(of["train"], context, 2 * LONGEST // context, rng), strict=True
        )
        loss = F.cross_entropy(logits(list(stretches)), torch.tensor(labels))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        rates.step()
    return answer


def draw(
    pages: pd.DataFrame, context: int, count: int, rng: np.random.Generator
) -> Iterator[tuple[Ids, int]]:
    """Draw stretches: a chapter, one of its pages by its length, a place in it."""
    for label in rng.integers(0, pages.label.max() + 1, count):
        own = pages.ids[pages.label == label].to_numpy()
        lengths = np.array([min(len(ids), MOST_STRETCHES * LONGEST) for ids in own])
        ids = own[rng.choice(len(own), p=lengths / lengths.sum())]
        start = rng.integers(0, max(1, len(ids) - context + 1))
        yield ids[start : start + context], int(label)


def ask(answer: Answer, pages: pd.DataFrame, context: int) -> dict[str, Any]:
    """Ask about stretches of pages that have `LONGEST` tokens; each page counts once.

    Returns:
        `pages` asked about, the shares that are told from the `beginning` of a stretch
        and from all `pieces`, each with its standard error over pages.
    """
    right: list[tuple[float, float]] = []
    long = pages[pages.ids.map(len) >= LONGEST]
    for ids, label in zip(long.ids, long.label, strict=True):
        n = min(MOST_STRETCHES, len(ids) // LONGEST)
        starts = np.linspace(0, len(ids) - LONGEST, n).astype(int)
        pieces = [ids[s + i : s + i + context] for s in starts for i in range(0, LONGEST, context)]
        found = answer(pieces).reshape(n, LONGEST // context, -1)
        told = [found[:, 0].argmax(1) == label, found.sum(1).argmax(1) == label]
        right.append((float(told[0].mean()), float(told[1].mean())))
    share = np.array(right)
    mean, error = share.mean(0), share.std(0) / np.sqrt(len(share))
    return {
        "pages": len(share),
        "beginning": mean[0],
        "beginning_error": error[0],
        "pieces": mean[1],
        "pieces_error": error[1],
    }


if __name__ == "__main__":
    steps.run(app)
