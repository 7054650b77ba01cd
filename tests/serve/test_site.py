from __future__ import annotations

import asyncio
import gzip
import re
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html import escape

import numpy as np
import pandas as pd
import pytest

from genobird.genome.fasta import Genome
from genobird.serve import jobs as queue
from genobird.serve.jobs import REPORT, Job, State
from genobird.serve.question import Limits
from tests.serve.conftest import TOKEN, desk_of

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
FORM = (b"content-type", b"multipart/form-data; boundary=x")
HEADER = f"##fileformat=VCFv4.2\n{COLUMNS}"


@pytest.fixture
def change(tiny_contigs) -> tuple[str, str]:
    """REF of chr1:20,001, and another base."""
    ref = tiny_contigs["chr1"][20_000]
    return ref, "AC"[ref == "A"]


@pytest.fixture
def held(tmp_path, tiny_genome_path):
    """A page whose queue works on nothing before `go` is set."""
    go = threading.Event()

    def work(job: Job) -> Counter[str]:
        go.wait()
        held.jobs.require_wanted()
        return Counter(OK=1)

    with Genome(tiny_genome_path) as genome:
        for held in desk_of(tmp_path, work, genome, Limits(upload=1000, items=3)):
            held.go = go
            yield held
            go.set()


def test_a_typed_variant_is_answered_as_the_library_does(
    desk, change, tiny_scorer, tiny_genome_path
):
    ref, alt = change
    job = desk.ask(f"1:20,001 {ref}>{alt}\n\nchr1-20001-{ref}-{ref}\n")
    desk.wait(job)
    assert (job.state, job.done) == (State.DONE, 2)
    page = desk.page(job)
    assert "Done." in page
    assert "1 scored" in page
    assert "ALT equals REF" in page
    table = pd.read_parquet(job.folder / "scored.parquet")
    expected = tiny_scorer.screen_variants([f"chr1:20001:{ref}>{alt}"], tiny_genome_path)
    deltas = [name for name in table if name.endswith("|delta")]
    np.testing.assert_array_equal(table[deltas].head(1), expected[deltas])
    assert f"chr1:20,001 {ref}&gt;{alt}" in desk.page(job, "report.html")
    assert desk.page(job, "scored.tsv").startswith("chrom\tpos\tref\talt\t")
    vcf = desk.client.get(f"jobs/{job.id}/scored.vcf.gz")
    assert vcf.headers["content-disposition"] == 'attachment; filename="scored.vcf.gz"'
    assert "GB_STATUS=OK" in gzip.decompress(vcf.content).decode()


def test_regions_are_answered_without_a_vcf(desk, tiny_scorer, tiny_genome_path):
    job = desk.ask("chr1:701-900:-\nchr1:70,000-70,001")
    desk.wait(job)
    page = desk.page(job)
    assert "1 scored" in page
    assert "another assembly?" in page
    assert "scored.vcf.gz" not in page
    assert desk.client.get(f"jobs/{job.id}/scored.vcf.gz").status_code == 404
    table = pd.read_parquet(job.folder / "scored.parquet")
    expected = tiny_scorer.score_regions(["chr1:701-900:-"], tiny_genome_path)
    np.testing.assert_array_equal(table["promoter"].head(1), expected["promoter"])
    assert "probability against bp from the midpoint: chr1:701-900" in desk.page(job, REPORT)


def test_an_uploaded_vcf_keeps_its_records_and_its_name_is_only_shown(desk, change):
    ref, alt = change
    text = f"{HEADER}chr1\t20001\trs<b>7\t{ref}\t{alt},*\t.\t.\tAC=1\n"
    name = "../../<script>alert(1)</script>\u202e.vcf"
    job = desk.ask(files={"vcf": (name, gzip.compress(text.encode()))})
    desk.wait(job)
    assert job.state is State.DONE, job.message
    page = desk.page(job)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\N{REPLACEMENT CHARACTER}.vcf" in page
    assert "rs&lt;b&gt;7" in desk.page(job, "report.html")
    assert job.folder.parent == desk.folder
    assert sorted(path.name for path in job.folder.iterdir()) == [
        *("asked.vcf", "report.html", "scored.parquet", "scored.tsv"),
        *("scored.vcf.gz", "scored.vcf.gz.tbi"),
    ]


def test_what_genobird_warns_of_reaches_who_asked(desk, change):
    ref, alt = change
    job = desk.ask(files={"vcf": ("mine.vcf", f"{HEADER}chr1\t20001\t.\t{alt}\t{ref}\t.\t.\t.\n")})
    desk.wait(job)
    assert "is not that of tiny.fa; is the VCF from another assembly?" in desk.page(job)


def test_a_failure_names_the_files_as_its_user_does(desk, tiny_genome_path):
    lines = [f"chr1\t{20_001 + k}\t.\tN\tA\t.\t.\t.\n" for k in range(2)]
    header = HEADER.replace("#CHROM", "##contig=<ID=chr1,length=7>\n#CHROM")
    job = desk.ask(files={"vcf": ("mine.vcf", header + "".join(lines))})
    desk.wait(job)
    assert job.state is State.FAILED
    assert job.message.startswith("mine.vcf is of another assembly")
    assert "mine.vcf is of another assembly than tiny.fa: contig chr1" in desk.page(job)
    assert str(desk.folder) not in desk.page(job)
    assert str(tiny_genome_path) not in desk.page(job)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "nothing was asked"),
        ("what", "no variant and no region"),
        ("rs12345", "no list of dbSNP"),
        ("chr9:100 A>C", "chr9"),
        ("chr1:100 A><DEL\t>", "no sequence"),
        ("chr1:100 A>C\nchr1:1-20", "mixed"),
        ("chr1:1-20\n" * 4, "more than 3"),
    ],
)
def test_what_cannot_be_asked_is_told_and_stays_in_the_form(text, told, held):
    answered = held.client.post("", data={"text": text})
    assert answered.status_code == 422
    assert told in answered.text
    assert re.search(r'role="alert"', answered.text)
    assert escape(text.strip()) in answered.text.replace("\r", "")
    assert list(held.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "mine.vcf has no VCF header; it is empty"),
        (b"PK\3\4", "an Excel file"),
        (b"BCF\2\2", "bcftools view"),
        (HEADER.encode(), "mine.vcf holds no record"),
        (f"{HEADER}chr1\t1\n".encode(), "mine.vcf, line 3"),
        (f"{HEADER}chr1\t1\t.\tA\tC,C,C,C\t.\t.\t.\n".encode(), "mine.vcf holds more than 3 pl"),
        (gzip.compress(HEADER.encode())[:-9], "cut short"),
        (gzip.compress(HEADER.encode() + b"chr1" * 10_000), "unpacks to more"),
        (gzip.compress(b"##fileformat=VCFv4.2\n" + b"#\n" * 4000), "no VCF header"),
    ],
)
def test_a_hostile_file_is_refused_and_leaves_nothing(content, told, held):
    answered = held.client.post("", files={"vcf": ("mine.vcf", content)})
    assert answered.status_code == 422
    assert told in answered.text
    assert str(held.folder) not in answered.text
    assert list(held.folder.iterdir()) == []


def test_a_file_that_is_too_large_is_not_read(held):
    answered = held.client.post("", files={"vcf": ("mine.vcf", b"x" * 100_000)})
    assert answered.status_code == 413
    assert "Too large" in answered.text
    answered = held.client.post("", content=iter([b"x" * 100_000]))
    assert answered.status_code == 411


def test_only_the_token_the_host_and_known_names_lead_anywhere(held):
    job = held.ask("chr1:1-20")
    base = "http://127.0.0.1:8000"
    for path in ("/", "/secrets/", f"/secret%00/jobs/{job.id}/", "/docs", "/openapi.json"):
        assert held.client.get(base + path).status_code == 404, path
    for path in ("jobs/none/", f"jobs/{job.id}/asked.vcf", f"jobs/{job.id}/..%2f..%2fetc"):
        assert held.client.get(path).status_code == 404, path
    assert held.client.post(f"{base}/wrong/jobs/{job.id}/delete").status_code == 404
    assert held.client.put("").status_code == 405
    for host in ("evil.example", "127.0.0.1.evil.example", ""):
        assert held.client.get("", headers={"host": host}).status_code == 400, host
    assert held.client.get("", headers={"host": "localhost:8000"}).status_code == 200
    assert len(job.id) > 20


def test_nothing_of_a_body_is_read_without_the_token(held):
    site = held.client.app
    sent = []

    async def receive():
        raise AssertionError("the body was asked for")

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"127.0.0.1:8000"), (b"content-length", b"900"), FORM]
    scope = {
        "type": "http", "method": "POST", "path": "/wrong/", "raw_path": b"/wrong/",
        "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
        "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1), "root_path": "",
    }  # fmt: skip
    asyncio.run(site(scope, receive, send))
    assert sent[0]["status"] == 404


def test_pages_run_their_own_script_alone_and_load_nothing(desk):
    job = desk.ask("chr1:701-900")
    desk.wait(job)
    policies = []
    for path in ("", f"jobs/{job.id}/", "jobs/none/"):
        got = desk.client.get(path)
        policy = got.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        nonces = re.findall(r'<script nonce="([^"]+)">', got.text)
        assert all(f"'nonce-{nonce}'" in policy for nonce in nonces)
        assert got.text.count("<script") == len(nonces)
        assert not re.search(r'(src|href|action)="(https?:)?//', got.text)
        assert got.headers["referrer-policy"] == "no-referrer"
        assert got.headers["cache-control"] == "no-store"
        policies.append(policy)
    assert len(set(policies)) == len(policies)
    report = desk.client.get(f"jobs/{job.id}/report.html")
    assert "sandbox" in report.headers["content-security-policy"]
    assert "script-src" not in report.headers["content-security-policy"]


def test_jobs_wait_for_their_turn_and_can_be_cancelled(held):
    first, second, third = (held.ask(f"chr1:{place}-20") for place in (1, 2, 3))
    assert "Scoring." in held.page(first)
    assert "Waiting: 2 before it." in held.page(third)
    assert 'http-equiv="refresh"' in held.page(third)
    assert held.client.get(f"jobs/{second.id}/state").json() == {
        "view": "waiting False", "says": "Waiting: 1 before it.", "done": 0,
    }  # fmt: skip
    assert "Cancelled." in held.client.post(f"jobs/{second.id}/cancel").text
    assert "Waiting: 1 before it." in held.page(third)
    held.client.post(f"jobs/{first.id}/cancel")
    held.go.set()
    held.wait(first, second, third)
    states = [job.state for job in (first, second, third)]
    assert states == [State.CANCELLED, State.CANCELLED, State.DONE]


def test_cancelled_jobs_are_forgotten_while_another_is_worked_on(held, monkeypatch):
    monkeypatch.setattr(queue, "KEPT", 2)
    held.ask("chr1:1-20")
    for _ in range(4):
        held.client.post(f"jobs/{held.ask('chr1:2-20').id}/cancel")
    assert len(list(held.folder.iterdir())) == 1 + 2


def test_a_deleted_job_leaves_nothing_even_while_it_is_worked_on(held):
    job, other = held.ask("chr1:1-20"), held.ask("chr1:2-20")
    assert held.client.post(f"jobs/{job.id}/delete").status_code == 200
    assert held.client.get(f"jobs/{job.id}/").status_code == 404
    held.go.set()
    held.wait(job, other)
    assert list(held.folder.iterdir()) == [other.folder]


def test_a_queue_that_is_full_refuses(held, monkeypatch):
    monkeypatch.setattr(queue, "MOST_WAITING", 0)
    answered = held.client.post("", data={"text": "chr1:1-20"})
    assert answered.status_code == 422
    assert "wait already" in answered.text


def test_ten_users_are_all_answered_and_old_answers_give_way(held, monkeypatch):
    monkeypatch.setattr(queue, "KEPT", 4)
    with ThreadPoolExecutor(10) as users:
        jobs = list(users.map(lambda user: held.ask(f"chr1:{user + 1}-20"), range(10)))
    held.go.set()
    held.wait(*jobs)
    held.jobs.close()
    assert [job.state for job in jobs] == [State.DONE] * 10
    assert sum(held.jobs.find(job.id) is not None for job in jobs) == 4
    assert len(list(held.folder.iterdir())) == 4


def test_a_fault_ends_its_job_alone(tmp_path, tiny_genome_path):
    def work(job: Job) -> Counter[str]:
        if job.question.title == "chr1:1-20":
            raise ZeroDivisionError("never <b>")
        return Counter(OK=1)

    with Genome(tiny_genome_path) as genome:
        for desk in desk_of(tmp_path, work, genome):
            jobs = [desk.ask("chr1:1-20"), desk.ask("chr1:2-20")]
            desk.wait(*jobs)
            assert [job.state for job in jobs] == [State.FAILED, State.DONE]
            assert "this is a fault of genobird" in desk.page(jobs[0])
            assert "never &lt;b&gt;" in desk.page(jobs[0])


def test_an_example_fills_the_form_and_stays_text(held):
    page = held.client.get("", params={"text": '</textarea><script>"'}).text
    assert "&lt;/textarea&gt;&lt;script&gt;" in page
    assert "?text=chr1%3A5%20A%3EC" in held.client.get("").text


def test_the_token_is_in_no_page(held):
    assert TOKEN not in held.client.get("").text + held.page(held.ask("chr1:1-20"))
