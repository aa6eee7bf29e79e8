"""Corpora: the text and its split, the tokenizer, packing, and where data comes from."""

import gzip
import hashlib
import json
import lzma
import random
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest


def plays(prepare, split: str) -> list[str]:
    return list(prepare.read_documents(prepare.embedded_file(split)))


def test_embedded_text_is_what_its_provenance_states(prepare):
    stated = (prepare.HERE / "data" / "PROVENANCE.md").read_text()
    for split, digest in prepare.EMBEDDED_SHA256.items():
        assert (
            hashlib.sha256(lzma.decompress((prepare.HERE / f"data/{split}.txt.xz").read_bytes())).hexdigest()
            == digest
        )
        assert digest in stated


def test_no_play_is_in_two_splits(prepare):
    titles = {
        split: {play.partition("\n")[0] for play in plays(prepare, split)}
        for split in prepare.EMBEDDED_SHA256
    }
    assert {split: len(names) for split, names in titles.items()} == {"train": 30, "val": 4, "test": 4}
    assert len(set.union(*titles.values())) == 38


@pytest.mark.parametrize(
    "text",
    [
        "To be, or not to be", "naïve “quotes” — 漢字 🎭\n\n\t tab", "", "1234567 'tis 's", "\x00\r\n ",
        "x" * 1000 + "漢字" * 100 + "=" * 99 + "\n" * 70,
    ],
)  # fmt: skip
def test_tokenizer_loses_nothing(corpus, text):
    assert corpus.tokenizer.decode(corpus.tokenizer.encode(text)) == text


def test_tokens_account_for_every_byte(prepare, corpus):
    text = plays(prepare, "val")[0]
    sizes = corpus.tokenizer.token_bytes()
    assert sizes[corpus.tokenizer.encode(text)].sum() == len(text.encode("utf-8"))
    assert sizes[corpus.tokenizer.bos_token_id] == 0
    assert corpus.tokenizer.get_vocab_size() == prepare.PROFILES["laptop"].vocab_size


def test_merges_are_those_of_a_naive_implementation(prepare):
    text = plays(prepare, "val")[0][:6000]
    words = [list(word.encode()) for word in prepare.SPLIT_PATTERN.findall(text)]
    expected = []
    for rank in range(60):
        counts = {}
        for ids in words:
            for pair in pairwise(ids):
                counts[pair] = counts.get(pair, 0) + 1
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        expected.append(best)
        words = [prepare.merge_pair(ids, best, 256 + rank) for ids in words]
    tokenizer = prepare.train_tokenizer([text], 257 + 60)
    assert tokenizer.merges == expected
    assert tokenizer.encode(text) == [i for ids in words for i in ids]


def test_packing_fills_rows_and_uses_every_token_of_long_documents_once(prepare):
    bos, row_len = 999, 9
    long = list(range(50))
    rows = prepare.pack_rows([long], bos, row_len)
    targets = rows[:, 1:].reshape(-1)
    assert rows.shape[1] == row_len
    assert rows[0, 0] == bos
    assert targets.tolist() == long[: len(targets)]


def test_packing_is_best_fit(prepare):
    documents = [[1] * 2, [2] * 5, [3] * 3]  # with BOS 3, 6 and 4 tokens
    rows = prepare.pack_rows(documents, 0, 10)
    assert rows.tolist() == [[0, 2, 2, 2, 2, 2, 0, 3, 3, 3]]  # 6 and 4 fill a row; 3 is left over


def test_a_batch_may_be_larger_than_the_corpus_and_than_15_bits(prepare, corpus):
    rows = np.array([[65000, 3, 40000] + [7] * 126, [5] * 129], dtype=np.uint16)
    small = prepare.Corpus("s", "h", corpus.tokenizer, [rows], [], [])
    budget = prepare.Budget(prepare.torch.device("cpu"), "steps", 100)
    loader = prepare.Loader(small, 5, 128, budget)
    budget.step()
    x, y = next(loader)
    budget.close()
    assert x.shape == y.shape == (5, 128)
    assert {tuple(row[:3].tolist()) for row in x} == {(65000, 3, 40000), (5, 5, 5)}


def test_loader_order_follows_the_seed_and_y_is_x_moved_by_one(prepare, corpus, monkeypatch):
    def first(seed: str, seq_len: int = 128):
        monkeypatch.setenv("ARF_SEED", seed)
        budget = prepare.Budget(prepare.torch.device("cpu"), "steps", 10)
        loader = prepare.Loader(corpus, 4, seq_len, budget)
        budget.step()
        x, y = next(loader)
        budget.close()
        return x, y

    x, y = first("1")
    assert x.shape == y.shape == (4, 128)
    assert (x[:, 1:] == y[:, :-1]).all()
    assert (first("1")[0] == x).all()
    assert (first("2")[0] != x).any()
    assert first("1", 32)[0].shape == (4, 32)
    with pytest.raises(ValueError, match="does not divide"):
        first("1", 100)


def test_an_epoch_shows_each_row_once(prepare, corpus, monkeypatch):
    small = prepare.Corpus("s", "h", corpus.tokenizer, [corpus.train[0][:30], corpus.train[0][30:50]], [], [])
    budget = prepare.Budget(prepare.torch.device("cpu"), "steps", 100)
    loader = prepare.Loader(small, 5, 128, budget)
    budget.step()
    seen = np.concatenate([next(loader)[0].numpy() for _ in range(10)])
    budget.close()
    expected = corpus.train[0][:50, :-1]
    assert sorted(map(bytes, seen.astype(np.uint16))) == sorted(map(bytes, np.ascontiguousarray(expected)))


def test_a_changed_cache_is_refused(prepare, corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path))
    text = tmp_path / "mine.txt"
    text.write_text("\f".join(f"document {i} says {i * i}\n" * 40 for i in range(30)))
    directory = prepare.prepare_files("mine", [text], jobs=1)
    assert prepare.load_corpus("mine").name == "mine"
    rows = np.load(directory / "val-00000.npy")
    rows[0, 0] ^= 1
    np.save(directory / "val-00000.npy", rows)
    with pytest.raises(SystemExit, match="has changed"):
        prepare.load_corpus("mine")


def test_a_corpus_that_is_not_prepared_names_the_command(prepare):
    with pytest.raises(SystemExit, match="--data climbmix"):
        prepare.load_corpus("climbmix")
    with pytest.raises(SystemExit, match="--name other"):
        prepare.load_corpus("other")


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "txt.xz", "parquet", "one text"])
def test_a_users_own_files(prepare, tmp_path, monkeypatch, write_parquet, kind):
    monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path / "data"))
    documents = [f"The {i}th paper is about {word}. " * 12 for i in range(20) for word in ("bees", "rain")]
    path = tmp_path / f"mine.{kind}"
    if kind == "txt":
        path.write_text("\f".join(documents))
    elif kind == "txt.gz":
        path.write_bytes(gzip.compress("\f".join(documents).encode()))
    elif kind == "txt.xz":
        path.write_bytes(lzma.compress("\f".join(documents).encode()))
    elif kind == "parquet":
        write_parquet(path, documents)
    else:
        path = tmp_path / "book.txt"
        path.write_text("\n".join(document * 2 for document in documents))
    prepare.prepare_files("mine", [path], jobs=1)
    corpus = prepare.load_corpus("mine")
    assert sum(map(len, corpus.train)) > sum(map(len, corpus.val)) > 0
    held_out = list(prepare.read_documents(corpus.test_files[0]))
    assert held_out
    assert not set(held_out) & {corpus.tokenizer.decode(row.tolist()) for row in corpus.train[0]}


@pytest.mark.parametrize("mark", ["\n", " ", ""], ids=["lines", "words", "neither"])
def test_one_long_text_is_cut_into_like_pieces(prepare, mark):
    text = mark.join(f"{i}word{i}" for i in range(500))
    pieces = prepare.cut_text(text)
    assert "".join(pieces) == text
    assert len(pieces) == 20
    assert max(map(len, pieces)) < 1.5 * min(map(len, pieces))
    assert all(piece.endswith(mark) for piece in pieces[:-1])


def test_a_text_without_a_line_end_or_a_space_is_prepared(prepare, tmp_path, monkeypatch):
    monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path / "data"))
    text = tmp_path / "one.txt"
    text.write_text("".join(random.Random(0).choices([chr(0x4E00 + i) for i in range(500)], k=8_000)))
    prepare.prepare_files("one", [text], jobs=1)
    corpus = prepare.load_corpus("one")
    assert len(corpus.train[0]) > 10


def test_a_byte_order_mark_is_no_text_and_case_of_the_suffix_does_not_matter(prepare, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "B.TXT.GZ").write_bytes(gzip.compress(b"three"))
    assert list(prepare.read_documents(tmp_path / "a.txt")) == ["one\r\ntwo"]
    assert list(prepare.read_documents(tmp_path / "B.TXT.GZ")) == ["three"]


@pytest.mark.parametrize(("rows", "holds"), [([b"a", b"b"], "bytes"), ([0, 1], "int")])
def test_a_column_of_something_else_is_refused(prepare, tmp_path, write_parquet, rows, holds):
    write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(ValueError, match=f"a.parquet cannot be read: its column `text` holds {holds}"):
        list(prepare.read_documents(tmp_path / "a.parquet"))


def test_an_empty_data_folder_variable_is_none(prepare, monkeypatch, tmp_path):
    monkeypatch.setenv("ARF_DATA_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert prepare.data_root() == tmp_path / "arf" / "data"


def test_where_nothing_can_be_written_it_is_said_in_a_line(workspace, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for script in ("prepare.py", "train.py"):
        run = workspace.run(script=script, ARF_DATA_DIR=str(tmp_path / "file" / "data"))
        assert run.returncode == 1
        assert len(run.stderr.splitlines()) == 1
        assert "file" in run.stderr


# ------------------------------------------------------------------------------ downloads


@pytest.fixture(autouse=True)
def no_waiting(prepare, monkeypatch):
    monkeypatch.setattr(prepare.time, "sleep", lambda seconds: None)


def test_a_broken_download_goes_on_where_it_stopped(prepare, server, tmp_path):
    content = bytes(range(256)) * 5000
    shards = server({"a.bin": content})
    shards.cuts = 2
    prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == content
    assert [asked for _, asked in shards.asked] == [None, "bytes=640000-", "bytes=960000-"]
    prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin")
    assert len(shards.asked) == 3  # a complete file is not fetched again


def test_a_damaged_download_is_not_kept(prepare, server, tmp_path):
    shards = server({"a.parquet": b"PAR1 cut short", "b.bin": b"other"})
    with pytest.raises(OSError, match="could not be fetched"):
        prepare.download(f"{shards.url}/a.parquet", tmp_path / "a.parquet", attempts=2)
    shards.headers["ETag"] = '"' + hashlib.sha256(b"what it should be").hexdigest() + '"'
    with pytest.raises(OSError, match="could not be fetched"):
        prepare.download(f"{shards.url}/b.bin", tmp_path / "b.bin", attempts=2)
    assert not list(tmp_path.iterdir())


def test_a_host_that_asks_to_wait_is_waited_for(prepare, server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(prepare.time, "sleep", waits.append)
    shards = server({"a.bin": b"all of it"})
    shards.busy = 2
    prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"all of it"
    assert waits == [30, 30]


def test_a_missing_file_is_not_asked_for_twice(prepare, server, tmp_path):
    shards = server({})
    with pytest.raises(OSError, match="404"):
        prepare.download(f"{shards.url}/no.bin", tmp_path / "no.bin")
    assert len(shards.asked) == 1


def test_climbmix_from_a_server(prepare, corpus, server, tmp_path, monkeypatch, write_parquet):
    """Shards in, a corpus out; a second call downloads and tokenizes nothing."""
    monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path / "data"))
    gpu = replace(prepare.PROFILES["gpu"], vocab_size=600)
    names = [0, 1, prepare.CLIMBMIX_VAL_SHARD, prepare.CLIMBMIX_TEST_SHARD]
    text = plays(prepare, "val")
    files = {}
    for i, (index, play) in enumerate(zip(names, text, strict=True)):
        path = tmp_path / f"{i}.parquet"
        write_parquet(path, [play[j : j + 3000] for j in range(0, 60_000, 3000)])
        files[f"shard_{index:05d}.parquet"] = path.read_bytes()
    shards = server(files)
    directory = prepare.prepare_climbmix(2, shards.url, 2, gpu)
    meta = json.loads((directory / "meta.json").read_text())
    assert set(meta["files"]) == {"tokenizer.json", "train-00000.npy", "train-00001.npy", "val-00000.npy"}
    assert [Path(file).name for file in meta["test"]] == [f"shard_{prepare.CLIMBMIX_TEST_SHARD:05d}.parquet"]
    damaged = tmp_path / "data" / "climbmix-shards" / "shard_00002.parquet"
    damaged.write_bytes(b"PAR1 damaged where no check looks PAR1")
    with pytest.raises(ValueError, match=r"shard_00002.parquet cannot be read: .*; delete that file"):
        prepare.prepare_climbmix(3, shards.url, 1, gpu)
    rows = np.load(directory / "train-00000.npy")
    assert rows.shape[1] == gpu.seq_len + 1
    asked = len(shards.asked)
    before = (directory / "train-00000.npy").stat().st_mtime_ns
    prepare.prepare_climbmix(2, shards.url, 2, gpu)
    assert len(shards.asked) == asked == 4
    assert (directory / "train-00000.npy").stat().st_mtime_ns == before


def test_the_hash_that_a_redirecting_host_states_is_checked(prepare, server, tmp_path):
    """As Hugging Face does it: size and SHA-256 are said before the redirect, the bytes come after it."""
    shards = server({"a.bin": b"right", "b.bin": b"wrong"})
    stated = {"X-Linked-ETag": f'"{hashlib.sha256(b"right").hexdigest()}"', "X-Linked-Size": "5"}
    for name in ("a", "b"):
        shards.redirects[f"{name}-of-host"] = (f"{shards.url}/{name}.bin", stated)
    prepare.download(f"{shards.url}/a-of-host", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b"right"
    with pytest.raises(OSError, match="its SHA-256 is not"):
        prepare.download(f"{shards.url}/b-of-host", tmp_path / "b", attempts=2)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_wrong_range_and_a_refused_range_start_again(prepare, server, tmp_path):
    content = bytes(range(200)) * 50
    shards = server({"a.bin": content})
    (tmp_path / "a.bin.part").write_bytes(content[:100])
    shards.first_byte = 0  # whatever was asked for
    with pytest.raises(OSError, match="asked for bytes from 100 on, got them from 0"):
        prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin", attempts=2)
    shards.first_byte = None
    (tmp_path / "a.bin.part").write_bytes(content + b"too much")  # the server answers 416
    prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == content


def test_a_server_without_ranges_sends_all_again(prepare, server, tmp_path):
    shards = server({"a.bin": b"the whole"})
    shards.ranges = False
    (tmp_path / "a.bin.part").write_bytes(b"the")
    prepare.download(f"{shards.url}/a.bin", tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"the whole"


def test_an_answer_in_broken_chunks_is_asked_for_again(prepare, server, tmp_path):
    content = b"PAR1" + bytes(70_000) + b"PAR1"
    shards = server({"a.parquet": content})
    shards.chunked, shards.cuts = True, 1
    prepare.download(f"{shards.url}/a.parquet", tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == content


def test_a_file_that_stops_short_of_a_parquet_file_is_dropped(prepare, server, tmp_path):
    shards = server({"a.parquet": b"P"})
    with pytest.raises(OSError, match="no whole parquet file"):
        prepare.download(f"{shards.url}/a.parquet", tmp_path / "a.parquet", attempts=2)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ the command


@pytest.fixture
def refusal(prepare, tmp_path, monkeypatch, capsys):
    """Runs `prepare.py` with arguments that it refuses; what it says."""

    def refuse(*arguments: object) -> str:
        monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            prepare.main()
        assert end.value.code not in (0, None)
        return end.value.code if isinstance(end.value.code, str) else capsys.readouterr().err

    return refuse


def test_files_that_have_changed_are_prepared_anew(prepare, tmp_path, monkeypatch):
    monkeypatch.setenv("ARF_DATA_DIR", str(tmp_path / "data"))
    text = tmp_path / "mine.txt"
    corpora = []
    for word in ("bees", "rain", "rain"):
        text.write_text("\f".join(f"{word} number {i} of {i * i}\n" * 40 for i in range(40)))
        directory = prepare.prepare_files("mine", [text], jobs=1)
        corpora.append((directory / "train-00000.npy").stat().st_mtime_ns)
        corpus = prepare.load_corpus("mine")
        assert word in corpus.tokenizer.decode(corpus.train[0][0].tolist())
    assert corpora[1] == corpora[2]  # the same text is kept


@pytest.mark.parametrize(
    ("content", "file", "why"),
    [
        (b"caf\xe9\n" * 900, "a.txt", "a.txt cannot be read: 'utf-8' codec"),
        (b"a\nb\nc\nd\n", "a.txt", "too little text: "),
        (b"a\n", "a.txt", "too little text: fewer than three documents, lines or words"),
        (b"", "a.txt", "too little text"),
        (b"no xz", "a.txt.xz", "a.txt.xz cannot be read"),
        (gzip.compress(b"text " * 5000, mtime=0)[:-20], "a.gz", "a.gz cannot be read"),
        (b"PAR1 nonsense PAR1", "a.parquet", "a.parquet cannot be read"),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(refusal, tmp_path, content, file, why):
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / file).write_bytes(content)
    said = refusal("--data", tmp_path / file, "--name", "mine")
    assert why in said
    assert "\n" not in said


def test_wrong_arguments_are_named(refusal, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    assert "needs --name" in refusal("--data", tmp_path / "a.txt")
    assert "No such file" in refusal("--data", tmp_path / "b.txt", "--name", "b")
    assert "cannot name a corpus" in refusal("--data", tmp_path / "a.txt", "--name", "../a")
    assert "the name of another corpus" in refusal("--data", tmp_path / "a.txt", "--name", "climbmix")
    assert "--num-shards is from 1" in refusal("--data", "climbmix", "--num-shards", 0)
