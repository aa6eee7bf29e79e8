"""Data, tokenizer, budget and evaluation of the bundled workspace. Read-only for agents.

    python prepare.py                          # the embedded corpus: no network, a few seconds, once
    python prepare.py --profile gpu            # set this workspace up for a GPU; then `prepare.py` is this:
    python prepare.py --data climbmix          # ten shards of web text, for a GPU (download, then tokenize)
    python prepare.py --data PATH... --name N  # your own .txt, .gz, .xz or .parquet; then ARF_CORPUS=N
    python prepare.py --verify CHECKPOINT      # evaluate a saved model in this process, on val and test

train.py imports from here what an experiment must not change: the text and its split, the budget that stops
training, the metric, and the closing block. What is enforced and what is not is said in docs/trainer.md.

Environment, all optional:

    ARF_SEED            seed of weights and data order (42)
    ARF_BUDGET_MODE     compute, wall or steps, instead of the profile's
    ARF_BUDGET          amount of the budget: FLOPs, seconds or steps
    ARF_BUDGET_SHARE    use this share of it, for a cheaper look (1)
    ARF_CHECKPOINT      where to save the trained model (nowhere)
    ARF_CORPUS          name of a prepared corpus, instead of the profile's
    ARF_DATA_DIR        where prepared corpora live (the user's cache directory)
    OMP_NUM_THREADS     CPU threads (1)
"""

from __future__ import annotations

import argparse
import atexit
import bisect
import contextlib
import copy
import ctypes
import functools
import gzip
import hashlib
import http.client
import importlib.util
import io
import itertools
import json
import lzma
import math
import os
import random
import re
import shutil
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch.nn.functional import cross_entropy  # by name: an edit that replaces torch's changes nothing here
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

HERE = Path(__file__).resolve().parent

# ---------------------------------------------------------------------------------------------------------
# Profiles: what is fixed for every experiment of a workspace
# ---------------------------------------------------------------------------------------------------------

PROFILE = "laptop"  # laptop | gpu; `--profile` changes it together with train.py and arf.yaml


@dataclass(frozen=True)
class Profile:
    corpus: str  # name of the corpus, see `corpus_dir`
    vocab_size: int  # tokens, including 256 bytes and one beginning-of-document token
    seq_len: int  # context of the evaluation and longest context of training, tokens
    eval_rows: int  # rows of `seq_len` tokens in the metric, spaced evenly over the split
    budget_mode: str  # compute | wall | steps
    budget: float  # FLOPs | seconds | steps


PROFILES = {
    "laptop": Profile("shakespeare", 1024, 128, 192, "compute", 300e9),
    "gpu": Profile("climbmix", 8192, 2048, 10240, "wall", 300.0),
}
# What `--profile` writes into the constants of train.py. Sizes follow autoresearch's single-GPU default.
CONSTANTS = {
    "laptop": {
        "DEPTH": 4, "WIDTH": 64, "HEAD_DIM": 32, "WINDOW_PATTERN": "L", "VALUE_EMBEDS": "none",
        "SOFTCAP": 0.0,
        "BATCH": 6, "GRAD_ACCUM": 1, "LR_MULT": 1.0, "WARMUP_RATIO": 0.1, "WARMDOWN_RATIO": 0.2,
    },
    "gpu": {
        "DEPTH": 8, "WIDTH": 512, "HEAD_DIM": 128, "WINDOW_PATTERN": "SSSL", "VALUE_EMBEDS": "alternate",
        "SOFTCAP": 15.0, "BATCH": 128, "GRAD_ACCUM": 2, "LR_MULT": 1.0, "WARMUP_RATIO": 0.0,
        "WARMDOWN_RATIO": 0.5,
    },
}  # fmt: skip
LIMITS = {  # and into arf.yaml
    "laptop": {"setup_time_limit_s": "10m", "budget_s": "9s", "time_limit_s": "3m", "max_time": "5m"},
    "gpu": {"setup_time_limit_s": "3h", "budget_s": "6m", "time_limit_s": "15m", "max_time": "8h"},
}
SETTINGS = PROFILES[PROFILE]
MAX_SEQ_LEN = SETTINGS.seq_len

EMBEDDED_SHA256 = {  # of the text in data/*.txt.xz, as data/PROVENANCE.md states it
    "train": "89a1b151e188ff48aea5fe2f0b090cd1ddd5070486747af3c042ac60232afce0",
    "val": "c861dd77e9552dbb4a0d5ee57b8204341e3eee4cc09e32c1ee9bf7df63fa0bdc",
    "test": "aeaaac8873ac759317430b7c3acf60a9389bb78c03d5159e8cfb3ca94ba3f401",
}
CLIMBMIX_URL = "https://huggingface.co/datasets/karpathy/climbmix-400b-shuffle/resolve/main"
CLIMBMIX_VAL_SHARD, CLIMBMIX_TEST_SHARD = 6542, 6541  # pinned; training uses shards from 0 up
TOKENIZER_SAMPLE_CHARS = 100_000_000  # the tokenizer is trained on at most this much training text
FORMAT = 2  # version of the prepared files and of the tokenizer's algorithm


def seed_from_env() -> int:
    """The seed of this run: ARF_SEED, or 42."""
    seed = os.environ.get("ARF_SEED") or "42"
    if not seed.isdecimal() or int(seed) >= 2**63:
        sys.exit(f"ARF_SEED is {seed!r}: a whole number from 0 up, below 2**63, is needed")
    return int(seed)


# ---------------------------------------------------------------------------------------------------------
# Tokenizer: byte-level BPE (Sennrich et al. 2016), in plain Python
# ---------------------------------------------------------------------------------------------------------

# Letters are ASCII letters and everything from U+0080 but general punctuation. Explicit ranges, so that the
# split does not depend on a Unicode version. Every character belongs to exactly one match. Matches are short,
# since encoding one takes time that grows with its square, and not all scripts put spaces between words.
_LETTER = r"A-Za-z\u0080-\u1fff\u2070-\U0010ffff"
SPLIT_PATTERN = re.compile(
    rf"'[a-z]{{1,2}}\b| ?[{_LETTER}]{{1,32}}| ?[0-9]{{1,2}}| ?[^\s{_LETTER}0-9]{{1,32}}|\n{{1,32}}|\s"
)


class Tokenizer:
    """Text to token ids and back, without loss. Ids: 256 bytes, then merges in rank order, then BOS."""

    def __init__(self, merges: list[tuple[int, int]]) -> None:
        self.merges = merges
        self.ranks = {pair: 256 + rank for rank, pair in enumerate(merges)}
        self.bos_token_id = 256 + len(merges)
        self.bytes_of = [bytes([i]) for i in range(256)]
        for left, right in merges:
            self.bytes_of.append(self.bytes_of[left] + self.bytes_of[right])
        self.bytes_of.append(b"")  # BOS stands for no text
        self._cache: dict[str, list[int]] = {}

    def get_vocab_size(self) -> int:
        return len(self.bytes_of)

    def _encode_word(self, word: str) -> list[int]:
        """Apply the merge of lowest rank until none applies."""
        ids = list(word.encode("utf-8"))
        while len(ids) > 1:
            best = min(itertools.pairwise(ids), key=lambda pair: self.ranks.get(pair, math.inf))
            if best not in self.ranks:
                break
            ids = merge_pair(ids, best, self.ranks[best])
        return ids

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS."""
        out: list[int] = []
        for word in SPLIT_PATTERN.findall(text):
            ids = self._cache.get(word)
            if ids is None:
                ids = self._encode_word(word)
                if len(self._cache) < 1_000_000:
                    self._cache[word] = ids
            out.extend(ids)
        return out

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self.bytes_of[i] for i in ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """(vocab,) int64: bytes of text that each token stands for; 0 for BOS."""
        return np.array([len(b) for b in self.bytes_of], dtype=np.int64)


def merge_pair(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with each occurrence of `pair`, from the left, replaced by `new`."""
    out, i = [], 0
    while i < len(ids):
        if i + 1 < len(ids) and ids[i] == pair[0] and ids[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn `vocab_size - 257` merges, the most frequent pair first (ties: the smaller pair of ids).

    Counts are kept up to date: a merge touches only the words that hold its pair.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(SPLIT_PATTERN.findall(text))
    words = [(list(word.encode("utf-8")), n) for word, n in sorted(counts.items())]
    pair_counts: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, (ids, n) in enumerate(words):
        for pair in itertools.pairwise(ids):
            pair_counts[pair] += n
            holders[pair].add(index)

    merges: list[tuple[int, int]] = []
    while len(merges) < vocab_size - 257 and pair_counts:
        best = max(pair_counts, key=lambda pair: (pair_counts[pair], -pair[0], -pair[1]))
        if pair_counts[best] < 2:
            break
        for index in holders.pop(best):
            ids, n = words[index]
            merged = merge_pair(ids, best, 256 + len(merges))
            for pair in itertools.pairwise(ids):
                pair_counts[pair] -= n
            for pair in itertools.pairwise(merged):
                pair_counts[pair] += n
                holders[pair].add(index)
            words[index] = (merged, n)
        del pair_counts[best]
        merges.append(best)
    return Tokenizer(merges)


# ---------------------------------------------------------------------------------------------------------
# Corpora: documents in, rows of tokens out
# ---------------------------------------------------------------------------------------------------------


def pack_rows(documents: Iterable[list[int]], bos: int, row_len: int, buffer: int = 1000) -> np.ndarray:
    """Pack documents into rows: (rows, row_len) uint16, no padding.

    A document is BOS and its tokens. Long ones are cut into whole rows that overlap by one token, so each
    of their tokens is a target once. What remains is packed best-fit: the longest remainder in the buffer
    that still fits goes first, and where none fits the shortest is cropped to fill the row.
    """
    rows: list[list[int]] = []
    remainders: list[tuple[int, int, list[int]]] = []  # (length, arrival, tokens), sorted
    arrivals = itertools.count()

    def fill_row() -> None:
        row: list[int] = []
        while len(row) < row_len:
            fitting = bisect.bisect_right(remainders, (row_len - len(row), math.inf))
            if not remainders:
                return  # the end of the documents: an incomplete row is dropped
            _, _, tokens = remainders.pop(fitting - 1 if fitting else 0)
            row.extend(tokens[: row_len - len(row)])
        rows.append(row)

    for document in documents:
        tokens = [bos, *document]
        start = 0
        while len(tokens) - start >= row_len:
            rows.append(tokens[start : start + row_len])
            start += row_len - 1
        if len(tokens) - start > 1:
            bisect.insort(remainders, (len(tokens) - start, next(arrivals), tokens[start:]))
        while len(remainders) > buffer:
            fill_row()
    while remainders:
        fill_row()
    return np.array(rows, dtype=np.uint16).reshape(-1, row_len)


def read_documents(path: Path) -> Iterator[str]:
    """Documents of one file: parquet rows (column `text`), or text (.txt, .gz, .xz) cut at form feeds.

    Text is UTF-8, with a byte order mark or without; line ends stay as they are.
    Raises OSError or ValueError, naming the file, when it cannot be read as what its name says.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            yield from _parquet_rows(path)
        else:
            openers = {".xz": lzma.open, ".gz": gzip.open}
            with openers.get(suffix, open)(path, "rt", encoding="utf-8-sig", newline="") as file:
                yield from file.read().split("\f")
    except (UnicodeDecodeError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _parquet_rows(path: Path) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(f"{path} needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as parquet:
            if "text" not in parquet.schema_arrow.names:
                raise ValueError(f"it has no column `text`, but {', '.join(parquet.schema_arrow.names)}")
            for batch in parquet.iter_batches(columns=["text"]):
                rows = batch.column("text").to_pylist()
                if odd := [type(row).__name__ for row in rows if not isinstance(row, str | None)]:
                    raise ValueError(f"its column `text` holds {odd[0]}, not text")
                yield from filter(None, rows)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def embedded_file(split: str) -> Path:
    """The embedded text of `split`, checked against its content hash."""
    path = HERE / "data" / f"{split}.txt.xz"
    digest = hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest()
    if digest != EMBEDDED_SHA256[split]:
        sys.exit(f"{path} is not the embedded corpus: SHA-256 {digest}")
    return path


def data_root() -> Path:
    """Where prepared corpora live: ARF_DATA_DIR, or the user's cache directory."""
    if named := os.environ.get("ARF_DATA_DIR"):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache) / "arf" / "data"


def corpus_dir(name: str, settings: Profile = SETTINGS) -> Path:
    """The directory of a prepared corpus. Its name holds all that its files depend on but the text."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        sys.exit(f"{name!r} cannot name a corpus: use letters, digits, dots, dashes and underscores")
    key = f"{FORMAT}-{settings.vocab_size}-{settings.seq_len}"
    if name == "shakespeare":
        key += "-" + hashlib.sha256("".join(EMBEDDED_SHA256.values()).encode()).hexdigest()[:8]
    return data_root() / f"{name}-{key}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_atomically(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    os.replace(partial, path)


def _tokenize_file(source: Path, target: Path, merges: list[tuple[int, int]], row_len: int) -> None:
    """Tokenize and pack one source file into one .npy file; a no-op when that is there (so to resume)."""
    if target.exists():
        return
    tokenizer = Tokenizer(merges)
    rows = pack_rows(map(tokenizer.encode, read_documents(source)), tokenizer.bos_token_id, row_len)
    buffer = io.BytesIO()
    np.save(buffer, rows)
    _write_atomically(target, buffer.getbuffer())


def build_corpus(
    name: str, sources: dict[str, list[Path]], settings: Profile = SETTINGS, jobs: int = 1
) -> Path:
    """Train the tokenizer on train, tokenize train and val, and write meta.json last (it marks completion).

    `sources` maps each split to its files. The test files are recorded, not read: verification reads them.
    What an earlier call finished is kept. Raises ValueError when a split is shorter than one row.
    """
    directory = corpus_dir(name, settings)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer_path = directory / "tokenizer.json"
    if not tokenizer_path.exists():

        def sample() -> Iterator[str]:
            chars = 0
            for document in itertools.chain.from_iterable(map(read_documents, sources["train"])):
                yield document
                chars += len(document)
                if chars > TOKENIZER_SAMPLE_CHARS:
                    return

        merges = train_tokenizer(sample(), settings.vocab_size).merges
        _write_atomically(tokenizer_path, json.dumps({"merges": merges}).encode())
    merges = load_tokenizer(directory).merges

    row_len = settings.seq_len + 1
    work = [
        (source, directory / f"{split}-{index:05d}.npy", merges, row_len)
        for split in ("train", "val")
        for index, source in enumerate(sources[split])
    ]
    if jobs > 1 and len(work) > 1:
        from multiprocessing import Pool

        with Pool(min(jobs, len(work))) as pool:
            pool.starmap(_tokenize_file, work, chunksize=1)
    else:
        for item in work:
            _tokenize_file(*item)

    for split in ("train", "val"):
        if not any(
            len(np.load(target, mmap_mode="r")) for _, target, _, _ in work if target.name.startswith(split)
        ):
            raise ValueError(f"too little text: {split} has less than one row of {row_len} tokens")
    files = {target.name: _sha256(target) for _, target, _, _ in work} | {
        "tokenizer.json": _sha256(tokenizer_path)
    }
    meta = {
        "name": name,
        "corpus_hash": hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12],
        "files": files,
        "test": [] if name == "shakespeare" else [str(path.resolve()) for path in sources["test"]],
    }
    _write_atomically(directory / "meta.json", json.dumps(meta, indent=2).encode())
    return directory


def load_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of a prepared corpus."""
    merges = json.loads((directory / "tokenizer.json").read_text())["merges"]
    return Tokenizer([(left, right) for left, right in merges])


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: rows of `seq_len + 1` tokens, memory-mapped."""

    name: str
    hash: str  # of everything that training and evaluation read
    tokenizer: Tokenizer
    train: list[np.ndarray]  # each (rows, seq_len + 1) uint16
    val: list[np.ndarray]
    test_files: list[Path]


CHECKED_BYTES = (
    64 * 2**20
)  # files up to this size are hashed at each start (a few milliseconds), larger are not


def load_corpus(name: str | None = None) -> Corpus:
    """Open a prepared corpus (ARF_CORPUS or the profile's); the embedded one is built when missing."""
    name = name or os.environ.get("ARF_CORPUS") or SETTINGS.corpus
    directory = corpus_dir(name)
    if not (directory / "meta.json").exists():
        if name != "shakespeare":
            hint = "--data climbmix" if name == "climbmix" else f"--data YOUR_FILES --name {name}"
            sys.exit(f"corpus {name!r} is not prepared in {directory}: run `python prepare.py {hint}`")
        try:
            build_corpus(name, {split: [embedded_file(split)] for split in ("train", "val")})
        except OSError as error:
            sys.exit(f"the embedded corpus cannot be prepared: {error}; ARF_DATA_DIR says where")
    meta = json.loads((directory / "meta.json").read_text())
    for file, digest in meta["files"].items():
        path = directory / file
        if not path.exists() or (path.stat().st_size <= CHECKED_BYTES and _sha256(path) != digest):
            sys.exit(f"{path} has changed since it was prepared: delete {directory} and prepare it again")

    def rows(split: str) -> list[np.ndarray]:
        return [
            np.load(directory / file, mmap_mode="r")
            for file in sorted(meta["files"])
            if file.startswith(split)
        ]

    tests = [HERE / "data" / "test.txt.xz"] if name == "shakespeare" else [Path(p) for p in meta["test"]]
    return Corpus(name, meta["corpus_hash"], load_tokenizer(directory), rows("train"), rows("val"), tests)


# ---------------------------------------------------------------------------------------------------------
# Device and batches
# ---------------------------------------------------------------------------------------------------------


def process_age_s() -> float:
    """Seconds since this process started, as Linux knows it; elsewhere since this file was imported."""
    try:
        with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
            started = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            return max(0.0, float(uptime.read().split()[0]) - started)
    except (OSError, ValueError, IndexError):
        return time.perf_counter() - _IMPORTED_AT


_IMPORTED_AT = time.perf_counter()


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def setup_device() -> torch.device:
    """Choose the device and make it reproducible: seed, threads, precision of matrix products, caches."""
    threads = (os.environ.get("OMP_NUM_THREADS") or "1").partition(",")[0]
    if not threads.isdecimal() or not 0 < int(threads) < 2**16:
        sys.exit(f"OMP_NUM_THREADS is {threads!r}: a number of threads is needed")
    torch.set_num_threads(int(threads))
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        # glibc: keep freed memory. Else each large activation is mapped and zeroed anew: 5 % of a step.
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)  # the most that it accepts
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    torch.manual_seed(seed_from_env())
    torch.set_float32_matmul_precision("high")
    # One for all experiments: what is compiled once is not compiled again, whichever run needed it first.
    compiled = str(data_root().absolute() / "compiled")
    # Torch's own choice stands where its compiler cannot quote the folder, and where nobody may write.
    if not re.search(r"\s", compiled) and os.access(data_root(), os.W_OK):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", compiled)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Loader:
    """Endless shuffled batches of one corpus: `x, y = next(loader)`, each (batch, seq_len) int64.

    `y` is `x` moved by one. The order depends on the seed alone. With `seq_len` below the profile's each row
    is cut into equal pieces. Rows of small batches are gathered for many at once; on a GPU the copy of the
    next batch, in 16 bits, overlaps with the use of this one. Every batch is reported to the budget.
    """

    GATHER = 65536  # tokens gathered at once, or one batch if that is larger

    def __init__(self, corpus: Corpus, batch: int, seq_len: int, budget: Budget) -> None:
        if MAX_SEQ_LEN % seq_len:
            raise ValueError(f"the sequence length {seq_len} does not divide {MAX_SEQ_LEN}")
        self.budget, self.batch, self.seq_len = budget, batch, seq_len
        self.epoch = 0
        self._shards = corpus.train
        self._starts = np.cumsum([0] + [len(shard) for shard in corpus.train])
        self._batches = self._gather(np.random.default_rng(seed_from_env()))
        self._next = self._move(next(self._batches))

    def _rows(self, indices: np.ndarray) -> np.ndarray:
        """(n, seq_len + 1) uint16 rows by their global index, read in file order."""
        out = np.empty((len(indices), MAX_SEQ_LEN + 1), dtype=np.uint16)
        shard_of = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shard_of):
            at = np.flatnonzero(shard_of == shard)
            at = at[np.argsort(indices[at])]
            out[at] = self._shards[shard][indices[at] - self._starts[shard]]
        return out

    def _gather(self, rng: np.random.Generator) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        total = int(self._starts[-1])
        per_gather = -(-max(self.GATHER, self.batch * self.seq_len) // MAX_SEQ_LEN)
        x = y = torch.empty(0, self.seq_len, dtype=torch.int16)
        while True:
            self.epoch += 1
            order = rng.permutation(total)
            for start in range(0, total, per_gather):
                # As int16: torch can do everything with it on every device; `_move` undoes the sign.
                rows = torch.from_numpy(self._rows(order[start : start + per_gather]).view(np.int16))
                x = torch.cat([x, rows[:, :-1].reshape(-1, self.seq_len)])
                y = torch.cat([y, rows[:, 1:].reshape(-1, self.seq_len)])
                for _ in range(len(x) // self.batch):
                    yield x[: self.batch], y[: self.batch]
                    x, y = x[self.batch :], y[self.batch :]

    def _move(self, pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if (device := self.budget.device).type != "cpu":
            pair = tuple(t.pin_memory().to(device, non_blocking=True) for t in pair)
        return tuple(t.long().bitwise_and_(0xFFFF) for t in pair)

    def __iter__(self) -> Loader:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = self._next
        self._next = self._move(next(self._batches))
        self.budget.on_batch(x)
        return x, y


# ---------------------------------------------------------------------------------------------------------
# Budget
# ---------------------------------------------------------------------------------------------------------


def flop_formulas() -> dict[object, Callable[..., float]]:
    """FLOPs by operation: torch's own formulas, and those of what torch leaves out or has wrong.

    Attention and LSTMs on a CPU, products with a vector and of groups; grouped convolutions, whose way back
    torch counts as if they were dense; and decompositions, at the leading term of what the textbook (Golub &
    Van Loan, Matrix Computations) has for square ones.
    """

    def lstm(x, w_input, w_hidden, *_, out_val=None, **__):
        return 2 * x.numel() // x.size(-1) * (w_input.numel() + w_hidden.numel())

    def convolution_backward(grad, x, w, *rest, out_val=None, **__):
        moved = x if rest[4] else grad  # transposed or not: every element of it meets one filter
        return 2 * moved.numel() * w[0].numel() * sum(rest[-1][:2])

    formulas = {
        "_scaled_dot_product_flash_attention_for_cpu": (
            lambda q, k, v, *_, out_val=None, **__: sdpa_flop_count(q.shape, k.shape, v.shape)
        ),
        "_scaled_dot_product_flash_attention_for_cpu_backward": (
            lambda do, q, k, v, *_, out_val=None, **__: sdpa_backward_flop_count(
                do.shape, q.shape, k.shape, v.shape
            )
        ),
        "mkldnn_rnn_layer": lstm,
        "mkldnn_rnn_layer_backward": lambda *args, **kwargs: 2 * lstm(*args, **kwargs),
        "convolution_backward": convolution_backward,
        "mv": lambda a, *_, out_val=None, **__: 2 * a.numel(),
        "addmv": lambda _, a, *__, out_val=None, **___: 2 * a.numel(),
        "_grouped_mm": (
            lambda a, b, *_, out_val=None, **__: (
                2 * a.numel() * b.size(-1) // (a.size(0) if a.dim() > b.dim() else 1)
            )
        ),
        "linalg_solve_triangular": lambda a, b, *_, out_val=None, **__: a.size(-1) * b.numel(),
    }
    cubes = {
        "linalg_cholesky_ex": 1 / 3, "linalg_lu_factor_ex": 2 / 3, "linalg_lu": 2 / 3, "_linalg_det": 2 / 3,
        "linalg_inv_ex": 2, "_linalg_solve_ex": 8 / 3, "linalg_qr": 8 / 3, "linalg_lstsq": 8 / 3,
        "_linalg_eigh": 9, "linalg_matrix_exp": 19, "_linalg_svd": 21, "linalg_pinv": 21, "linalg_eig": 25,
    }  # fmt: skip

    def cubic(factor: float) -> Callable[..., float]:
        return lambda a, *_, out_val=None, **__: factor * a.numel() * min(a.shape[-2:])

    formulas |= {name: cubic(factor) for name, factor in cubes.items()}
    aten = torch.ops.aten  # of this version of torch, which may lack some
    own = {getattr(aten, name): formula for name, formula in formulas.items() if hasattr(aten, name)}
    return dict(flop_registry) | own


class FlopMeter(TorchDispatchMode):
    """Counts the FLOPs of what runs while it is active; see `flop_formulas`.

    Not torch's FlopCounterMode: that one costs a second of imports. A multiply-add is two FLOPs; causal
    attention is counted as full. `watch`, if there is one, is told of each new sum.
    """

    def __init__(self, watch: Callable[[float], None] | None = None) -> None:
        super().__init__()
        self.flops = 0.0
        self._watch = watch
        self._formulas = flop_formulas()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's documented way not to import its compiler here: a second of start-up

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
            if self._watch is not None:
                self._watch(self.flops)
        return out


DEFAULT_AMOUNTS = {"compute": 300e9, "wall": 300.0, "steps": 200.0}  # in a mode that is not the profile's
# As the run began, so that an edit that sets them later sets nothing.
BUDGET_VARIABLES = MappingProxyType(
    {name: os.environ.get(name) or "" for name in ("ARF_BUDGET_MODE", "ARF_BUDGET", "ARF_BUDGET_SHARE")}
)


def allotted() -> tuple[str, float]:
    """Mode and amount of a run's budget: what the environment says, or the profile."""
    mode = BUDGET_VARIABLES["ARF_BUDGET_MODE"] or SETTINGS.budget_mode
    if mode not in DEFAULT_AMOUNTS:
        sys.exit(f"ARF_BUDGET_MODE is {mode!r}: choose {', '.join(DEFAULT_AMOUNTS)}")
    default = SETTINGS.budget if mode == SETTINGS.budget_mode else DEFAULT_AMOUNTS[mode]
    try:
        amount = float(BUDGET_VARIABLES["ARF_BUDGET"] or default)
        amount *= float(BUDGET_VARIABLES["ARF_BUDGET_SHARE"] or 1)
    except ValueError as error:
        sys.exit(f"ARF_BUDGET and ARF_BUDGET_SHARE are numbers: {error}")
    if not 0 < amount < math.inf:
        sys.exit(f"ARF_BUDGET is {amount:g}: a positive number is needed")
    return mode, amount


class Budget:
    """The account of one training run: it counts what is used, says how far it is, and ends the run.

        budget = Budget(device)
        while budget.step():                    # pays for the step that ended; False when all is spent
            x, y = next(loader)                 # refused unless a step is open
            ...                                 # schedules follow budget.progress, from 0 to 1
            budget.log(loss)

    compute   FLOPs of everything between two calls of `step`: forward, backward, optimizer, whatever an edit
              adds. The first two steps are counted as they run; so is the first step of each new batch
              shape, and then one in 32 at random (`AUDIT_EVERY`). The others cost what the last counted
              step of the same batch shapes did. The same for the same seed, whatever the machine's load.
    wall      Seconds between calls of `step`, device synchronised. The first ten steps (fewer, if they are
              long for the budget), in which kernels are compiled and caches filled, cost as much per token
              as the step after them.
    steps     Calls of `step`.

    Training ends with the step that brings the account nearest to the budget; a run whose steps are so large
    that this is far from it has failed. A watchdog ends the process when an edit ignores all this.
    """

    MOST_SPENT = 1.5  # times the budget; beyond it the largest models would win, by one step of any size
    AUDIT_EVERY = 32
    WARMUP_STEPS = 10
    WARMUP_SHARE = 0.1  # of the budget: no more warm-up than that, but three steps
    LOG_EVERY = 10
    SLOW_CORE_FLOPS = 3e9  # FLOP/s, a twentieth of a laptop's core
    LATE_SHARE, LATE_S = 0.01, 10.0  # what may be done after the end: to average weights, for example
    CPU_SLACK_S = 60.0
    WALL_SLACK_S = 900.0
    EXIT_CODE = 4  # of a run that the budget stopped from outside the loop

    def __init__(self, device: torch.device, mode: str = "", amount: float = 0.0) -> None:
        """`mode` and `amount` are for tests and benchmarks: `finish` takes none but the `allotted` budget."""
        self.device = device
        self.mode, self._amount = (mode, amount) if mode else allotted()
        self._spent = 0.0
        self.steps = 0
        self.tokens = 0
        self.flops = 0.0  # total so far; counted in every mode on a CPU
        self.batch_shape: tuple[int, ...] = ()  # of the last batch
        self.seconds = 0.0  # wall-clock time inside steps
        self.train_loss = math.nan
        self._most_loss = math.nan  # more than that is divergence; known after the first look
        self.startup_seconds = 0.0
        self._open = False
        self._is_run = False  # and not a test or a benchmark, which have many budgets in a process
        self._closed_at = 0.0
        self._meter: FlopMeter | None = None
        self._costs: dict[tuple, float] = {}  # batch shapes of a step -> FLOPs when last counted
        self._shapes: list[tuple] = []
        self._known: set[tuple] = set()
        self._rng = random.Random(0)
        self._next_audit = 0
        self._warming_up = self.mode == "wall"
        self._warmup: list[tuple[float, int]] = []  # seconds and tokens of the warm-up steps
        self._losses: list[torch.Tensor] = []
        self._closed = threading.Event()
        self.finished = False  # the closing block is printed, or what failed is said

    @property
    def amount(self) -> float:
        """FLOPs, seconds or steps, as the mode says. Not for an edit to set."""
        return self._amount

    @property
    def spent(self) -> float:
        """What training has cost up to the last call of `step`, in the same unit."""
        return self._spent

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1. Constant during a step."""
        return min(1.0, self.spent / self.amount)

    def step(self) -> bool:
        """End the open step, if any, and pay for it; open the next one unless the budget is spent."""
        if self._closed.is_set():
            return False
        if self._open:
            self._pay()
        else:
            self._start()
        self._open = self.spent + self._last_cost / 2 < self.amount
        if not self._open:
            self.close()
            self._refuse_overdraft(self.spent)
            return False
        self._shapes = []
        self._step_tokens = 0
        if self._counts_flops and (self.steps < 2 or self.steps >= self._next_audit):
            self._start_meter()
        return True

    def close(self) -> None:
        """End training: no more steps, no more batches. Idempotent."""
        if self._closed.is_set():
            return
        self._stop_meter()
        self._open = False
        self._closed.set()
        self._closed_at = time.perf_counter()
        if self._is_run and self._counts_flops:
            self._meter = FlopMeter()  # until `finish`: what runs now is outside the budget
            self._meter.__enter__()

    def trained_on(self) -> bool:
        """Whether more than a step's work was done between the end of the budget and `finish`."""
        self.close()
        seconds, flops = time.perf_counter() - self._closed_at, self._stop_meter()
        late = self.mode == "wall" and seconds > self.LATE_S + self.LATE_SHARE * self._amount
        return late or flops > max(self.LATE_SHARE * self.flops, *self._costs.values(), 0.0)

    def on_batch(self, x: torch.Tensor) -> None:
        """Called by the loader for each batch that it hands out."""
        if not self._open:
            self.finished = True
            sys.exit(
                "budget: a batch was asked for outside a step; training ends when Budget.step() is False"
            )
        self.batch_shape = tuple(x.shape)
        self._shapes.append(self.batch_shape)
        self._step_tokens += x.numel()
        if self._counts_flops and tuple(self._shapes) not in self._known:
            self._start_meter()

    def log(self, loss: torch.Tensor | float, note: str = "") -> None:
        """Take note of a step's training loss (nats per token); print a line now and then.

        Losses are read from the device only when printed. Ends the run, exit code 1, on NaN or divergence:
        a loss above three times that of a uniform guess, and above twice the first.
        """
        self._losses.append(loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(float(loss)))
        if self.steps % self.LOG_EVERY:
            return
        self.check_losses()
        elapsed = time.perf_counter() - self._t0 + self.seconds
        line = (
            f"step {self.steps:05d} ({100 * self.progress:.1f}%) | loss: {self.train_loss:.4f} | {note}"
            f"tok/sec: {self.tokens / max(elapsed, 1e-9):,.0f} | elapsed: {elapsed:.1f}s"
        )
        print(
            f"\r{line}  " if sys.stdout.isatty() else line,
            end="" if sys.stdout.isatty() else "\n",
            flush=True,
        )

    def check_losses(self) -> None:
        """Read the losses since the last look; `train_loss` is their mean."""
        if not self._losses:
            return
        self.train_loss = torch.stack([loss.mean() for loss in self._losses]).mean().item()
        self._losses.clear()
        if math.isnan(self._most_loss):
            self._most_loss = max(3 * math.log(SETTINGS.vocab_size), 2 * self.train_loss)
        if not math.isfinite(self.train_loss) or self.train_loss > self._most_loss:
            self.finished = True
            sys.exit(f"\nFAIL: training diverged at step {self.steps} (loss {self.train_loss:.4f})")

    # -- inside ------------------------------------------------------------------------------------------

    def _refuse_overdraft(self, spent: float) -> None:
        if spent > self.MOST_SPENT * self._amount:
            self.finished = True
            sys.exit(
                f"FAIL: {spent / self._amount:.3g} times the budget is spent after {self.steps} whole steps: "
                "too few to be held to it; make them smaller"
            )

    @property
    def _counts_flops(self) -> bool:
        return self.mode == "compute" or self.device.type == "cpu"

    def _start(self) -> None:
        self.startup_seconds = process_age_s()
        self._last_cost = 0.0
        threading.Thread(target=self._watch, daemon=True, name="budget").start()
        if Path(getattr(sys.modules["__main__"], "__file__", HERE)).resolve().parent == HERE:
            self._is_run = True
            atexit.register(self._at_exit)
            sys.excepthook = functools.partial(self._on_exception, sys.excepthook)
        self._t0 = time.perf_counter()

    def _pay(self) -> None:
        if self.device.type == "cuda" and self.mode == "wall":
            torch.cuda.synchronize()
        now = time.perf_counter()
        dt, self._t0 = now - self._t0, now
        shapes = tuple(self._shapes)
        if self._meter is not None:
            self._costs[shapes] = self._stop_meter()
            self._known.update(shapes[: i + 1] for i in range(len(shapes)))
            self._next_audit = self.steps + self._rng.randint(1, 2 * self.AUDIT_EVERY - 1)
        flops = self._costs.get(shapes) or max(self._costs.values(), default=0.0)
        self.steps += 1
        self.tokens += self._step_tokens
        self.seconds += dt
        self.flops += flops
        if self.mode == "compute":
            self._last_cost = flops
        elif self.mode == "steps":
            self._last_cost = 1.0
        else:
            self._last_cost = self._pay_warmup(dt) if self._warming_up else dt
        self._spent += self._last_cost

    def _pay_warmup(self, dt: float) -> float:
        """What a step of `dt` seconds costs: nothing in the warm-up, and the step after it pays for all."""
        if self.steps > self.WARMUP_STEPS or self._long_warmup():
            self._warming_up = False
            if self._step_tokens:  # a token's price is known now
                self._spent += dt / self._step_tokens * sum(tokens for _, tokens in self._warmup)
            return dt
        self._warmup.append((dt, self._step_tokens))
        return 0.0

    def _long_warmup(self) -> bool:
        """Whether the steps so far, at the price of the fastest, are a large share of the budget."""
        price = min((seconds / tokens for seconds, tokens in self._warmup if tokens), default=0.0)
        tokens = sum(tokens for _, tokens in self._warmup)
        return len(self._warmup) >= 3 and price * tokens > self.WARMUP_SHARE * self.amount

    def _on_exception(self, before: Callable[..., None], *error: object) -> None:
        self.finished = True
        before(*error)

    def _at_exit(self) -> None:
        """A run that was not evaluated has failed, whatever it printed and however it ended."""
        if not self.finished:
            sys.stdout.flush()
            print("FAIL: training ended without prepare.finish", file=sys.stderr, flush=True)
            os._exit(1)

    def _start_meter(self) -> None:
        if self._meter is None:
            self._meter = FlopMeter(self._on_flops)
            self._meter.__enter__()

    def _on_flops(self, flops: float) -> None:
        """Called within a step: one that has cost too much by now could go on for minutes."""
        if self.mode == "compute":
            self._refuse_overdraft(self._spent + flops)

    def _stop_meter(self) -> float:
        if self._meter is None:
            return 0.0
        self._meter.__exit__(None, None, None)
        flops, self._meter = float(self._meter.flops), None
        return flops

    def _watch(self) -> None:
        """End the process when training goes on far beyond the budget: an edit does not call `step`.

        compute   CPU seconds, so that load does not count: what a very slow core would need, and a minute.
        wall      Twice the budget, and 15 minutes for compilation.
        steps     No limit.
        """
        cpu_limit = time.process_time() + self.CPU_SLACK_S + self.amount / self.SLOW_CORE_FLOPS
        deadline = time.monotonic() + 2 * self.amount + self.WALL_SLACK_S
        while not self._closed.wait(1.0):
            late = {"compute": time.process_time() > cpu_limit, "wall": time.monotonic() > deadline}
            if late.get(self.mode):
                print(
                    f"\nFAIL: training went on far beyond its budget ({self.mode})",
                    file=sys.stderr,
                    flush=True,
                )
                os._exit(self.EXIT_CODE)


# ---------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------

EVAL_BATCH_TOKENS = 4096  # tokens in one forward pass of the evaluation on a CPU; 32 times as many on a GPU


def has_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are fast: on GPUs from Ampere on. On a CPU they are slower here."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def autocast(device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 for matrix products where it is fast, else float32 throughout."""
    return torch.autocast(device.type, torch.bfloat16) if has_bfloat16(device) else contextlib.nullcontext()


def evaluation_rows(split: list[np.ndarray], rows: int) -> np.ndarray:
    """`rows` rows (all, if there are fewer) spaced evenly over a split: (rows, seq_len + 1) int64."""
    starts = np.cumsum([0] + [len(shard) for shard in split])
    chosen = np.unique(np.linspace(0, starts[-1] - 1, min(rows, starts[-1])).astype(np.int64))
    shard_of = np.searchsorted(starts, chosen, side="right") - 1
    return np.stack([split[s][i - starts[s]] for s, i in zip(shard_of, chosen, strict=True)]).astype(np.int64)


@torch.no_grad()
def evaluate_bpb(
    model: torch.nn.Module, rows: np.ndarray, tokenizer: Tokenizer, device: torch.device
) -> float:
    """Bits per byte of text: cross-entropy of every token over the bytes that the tokens stand for.

    Independent of the vocabulary. `model(x)` gives logits (batch, seq_len, vocab); the softmax is taken here,
    in float32, so they need not be normalised. BOS counts in neither sum. Raises ValueError when the model
    looks ahead (see `assert_causal`) or its logits are not finite.
    """
    model.eval()
    assert_causal(model, rows, tokenizer.get_vocab_size(), device)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(device)
    batch = max(1, EVAL_BATCH_TOKENS * (32 if device.type == "cuda" else 1) // MAX_SEQ_LEN)
    nats = torch.zeros((), dtype=torch.float64, device=device)
    total_bytes = torch.zeros((), dtype=torch.int64, device=device)
    for start in range(0, len(rows), batch):
        tokens = torch.from_numpy(rows[start : start + batch]).to(device)
        targets = tokens[:, 1:].reshape(-1)
        with autocast(device):
            logits = model(tokens[:, :-1])
        loss = cross_entropy(logits.float().view(len(targets), -1), targets, reduction="none")
        sizes = token_bytes[targets]
        nats += (loss * (sizes > 0)).sum(dtype=torch.float64)
        total_bytes += sizes.sum()
    return nats.item() / (math.log(2) * total_bytes.item())


def assert_causal(model: torch.nn.Module, rows: np.ndarray, vocab_size: int, device: torch.device) -> None:
    """Raise ValueError when a prediction changes with the tokens that come after it.

    Four rows, each with all tokens from some position on replaced: logits before it must stay as they were.
    """
    x = torch.from_numpy(rows[:4, :-1].copy()).to(device)
    cuts = [1, MAX_SEQ_LEN // 3, MAX_SEQ_LEN // 2, MAX_SEQ_LEN - 1][: len(x)]
    changed = x.clone()
    for row, cut in enumerate(cuts):
        changed[row, cut:] = (changed[row, cut:] + 1) % vocab_size
    with autocast(device):
        before, after = model(x).float(), model(changed).float()
    if not before.isfinite().all():
        raise ValueError("the model's logits are not finite")
    tolerance = 1e-3 if device.type == "cpu" else 0.1
    for row, cut in enumerate(cuts):
        if not torch.allclose(before[row, :cut], after[row, :cut], rtol=tolerance, atol=tolerance):
            with autocast(device):
                again = model(x).float()
            if not torch.allclose(before, again, rtol=tolerance, atol=tolerance):
                raise ValueError("the model answers differently each time: is there dropout in evaluation?")
            raise ValueError(
                f"the model is not causal: logits before position {cut} depend on tokens after it"
            )


# ---------------------------------------------------------------------------------------------------------
# The end of a run: metric, checkpoint, closing block
# ---------------------------------------------------------------------------------------------------------

PEAK_FLOPS = {  # dense bfloat16 peak by part of the device's name, from vendors' data sheets; first match
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989.5e12, "H200": 989.5e12, "B200": 2250e12,
    "A100": 312e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


def peak_flops(device: torch.device) -> float:
    """FLOP/s of large matrix products: from a table for GPUs, else measured (20 ms on a CPU)."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PEAK_FLOPS.items():
            if part in name:
                return peak
    size = 4096 if device.type == "cuda" else 512
    a = torch.randn(size, size, device=device)
    a = a.bfloat16() if has_bfloat16(device) else a
    best = math.inf
    for _ in range(6):
        start = time.perf_counter()
        (a @ a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def estimate_flops(model: torch.nn.Module, shape: tuple[int, ...]) -> float:
    """FLOPs of one forward and backward pass on a batch (batch, seq_len), without the optimizer.

    On the meta device, which computes shapes alone: no time, no memory.
    """
    twin = copy.deepcopy(getattr(model, "_orig_mod", model)).to("meta")
    with FlopMeter() as meter:
        twin(torch.zeros(shape, dtype=torch.int64, device="meta")).sum().backward()
    return float(meter.flops)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory: allocated on the GPU; on a CPU the peak resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return rss / 2**20 if sys.platform == "darwin" else rss / 2**10


def finish(model: torch.nn.Module, config: dict, corpus: Corpus, budget: Budget) -> float:
    """Evaluate, save the checkpoint if ARF_CHECKPOINT asks for it, print the closing block; returns val_bpb.

    `config` is what train.py's `build_model` rebuilds the model from; plain values, with "depth" among them.
    """
    trained_on = budget.trained_on()
    budget.finished = True
    print()
    if changed := [name for name, value in held().items() if value is not HELD.get(name, value)]:
        sys.exit(f"FAIL: train.py has changed {', '.join(changed)} of prepare.py")
    if (budget.mode, budget.amount) != allotted():
        sys.exit(f"FAIL: train.py has set the budget: {budget.mode}, {budget.amount:g}")
    if trained_on:
        sys.exit("FAIL: training went on after the budget was spent")
    budget.check_losses()
    corpus = load_corpus()  # as it is on disk, whatever train.py has made of its own
    start = time.perf_counter()
    try:
        rows = evaluation_rows(corpus.val, SETTINGS.eval_rows)
        val_bpb = evaluate_bpb(model, rows, corpus.tokenizer, budget.device)
    except ValueError as error:
        sys.exit(f"FAIL: {error}")
    eval_seconds = time.perf_counter() - start
    if not math.isfinite(val_bpb):
        sys.exit(f"FAIL: val_bpb is {val_bpb}")
    if path := os.environ.get("ARF_CHECKPOINT"):
        try:
            save_checkpoint(Path(path), model, config, corpus, val_bpb)
        except (OSError, RuntimeError) as error:
            sys.exit(f"FAIL: the checkpoint cannot be saved: {error}")
    peak = peak_flops(budget.device)
    memory = peak_memory_mb(budget.device)
    seconds = budget.spent if budget.mode == "wall" else budget.seconds
    if not budget.flops and budget.batch_shape:  # not counted as it ran: a compiled model on a GPU
        budget.flops = (
            estimate_flops(model, budget.batch_shape) * budget.tokens / math.prod(budget.batch_shape)
        )
    values = {
        "val_bpb": f"{val_bpb:.6f}",
        "training_seconds": f"{seconds:.1f}",
        "total_seconds": f"{process_age_s():.1f}",
        "peak_vram_mb": f"{memory:.1f}",
        "mfu_percent": f"{100 * budget.flops / max(budget.seconds, 1e-9) / peak:.2f}",
        "total_tokens_M": f"{budget.tokens / 1e6:.3f}",
        "num_steps": budget.steps,
        "num_params_M": f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}",
        "depth": config["depth"],
        "seed": seed_from_env(),
        "device": torch.cuda.get_device_name() if budget.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "budget_mode": budget.mode,
        "budget": f"{budget.amount:.6g}",
        "budget_spent": f"{budget.spent:.6g}",
        "training_flops": f"{budget.flops:.6g}",
        "tokens_per_second": f"{budget.tokens / max(budget.seconds, 1e-9):.0f}",
        "train_loss": f"{budget.train_loss:.6f}",
        "eval_seconds": f"{eval_seconds:.2f}",
        "startup_seconds": f"{budget.startup_seconds:.2f}",
        "peak_memory_mb": f"{memory:.1f}",
        "corpus": corpus.name,
        "corpus_hash": corpus.hash,
    }
    print_block(values)
    return val_bpb


def held() -> dict[str, object]:
    """Everything that this module defines, and what its classes do: an experiment leaves it as it is."""
    names = {name: value for name, value in globals().items() if name != "HELD" and name[:2] != "__"}
    own = {name: value for name, value in names.items() if getattr(value, "__module__", "") == __name__}
    for name, value in own.items():
        if isinstance(value, type):
            names |= {f"{name}.{key}": member for key, member in vars(value).items() if key[:2] != "__"}
    return names


def print_block(values: dict) -> None:
    print("---")
    for key, value in values.items():
        print(f"{key + ':':<17} {value}")
    sys.stdout.flush()


def save_checkpoint(path: Path, model: torch.nn.Module, config: dict, corpus: Corpus, val_bpb: float) -> None:
    """Write weights and what rebuilds them, atomically. Only plain values and tensors."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    state = {key: value.cpu() for key, value in model.state_dict().items()}
    meta = {"val_bpb": val_bpb, "seed": seed_from_env(), "profile": PROFILE, "corpus_hash": corpus.hash}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save({"config": config, "state": state, "meta": meta}, partial)
    os.replace(partial, path)


# ---------------------------------------------------------------------------------------------------------
# Verification: the same metric in another process, and the test split
# ---------------------------------------------------------------------------------------------------------

VERIFY_TOLERANCE = 1e-4  # bits per byte between training's own evaluation and this one


def verify(checkpoint: Path, script: Path) -> None:
    """Rebuild the model of `script` (the train.py that was run), evaluate it on val and test, print both.

    Exit code 1 when val_bpb is not what the run recorded, or the model is not causal.
    """
    device = setup_device()
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises whatever it stumbles on
        why = str(error).partition(". ")[0] or type(error).__name__
        sys.exit(f"FAIL: {checkpoint} cannot be read: {why}")
    spec = importlib.util.spec_from_file_location("train", script)
    if spec is None or not script.is_file():
        sys.exit(f"FAIL: {script} is no Python script")
    sys.modules["prepare"] = sys.modules[__name__]
    module = importlib.util.module_from_spec(spec)
    sys.modules["train"] = module
    spec.loader.exec_module(module)
    try:
        model = module.build_model(saved["config"]).to(device)
        model.load_state_dict(saved["state"])
    except (KeyError, RuntimeError) as error:
        sys.exit(f"FAIL: {checkpoint} holds no model of {script}: {error}")
    corpus = load_corpus()
    if corpus.hash != saved["meta"]["corpus_hash"]:
        sys.exit(f"FAIL: trained on corpus {saved['meta']['corpus_hash']}, this one is {corpus.hash}")
    if corpus.name == "shakespeare":
        embedded_file("test")
    encode, bos = corpus.tokenizer.encode, corpus.tokenizer.bos_token_id
    documents = itertools.chain.from_iterable(map(read_documents, corpus.test_files))
    try:
        test = pack_rows(map(encode, documents), bos, MAX_SEQ_LEN + 1)
        if not len(test):
            raise ValueError(f"test has less than one row of {MAX_SEQ_LEN + 1} tokens")
        bpb = {
            name: evaluate_bpb(model, evaluation_rows(split, SETTINGS.eval_rows), corpus.tokenizer, device)
            for name, split in (("val_bpb", corpus.val), ("test_bpb", [test]))
        }
    except (OSError, ValueError) as error:
        sys.exit(f"FAIL: {error}")
    recorded = saved["meta"]["val_bpb"]
    print_block({key: f"{value:.6f}" for key, value in bpb.items()} | {"recorded_val_bpb": f"{recorded:.6f}"})
    if not abs(bpb["val_bpb"] - recorded) <= VERIFY_TOLERANCE:
        sys.exit(f"FAIL: the run recorded val_bpb {recorded:.6f}, its checkpoint has {bpb['val_bpb']:.6f}")


# ---------------------------------------------------------------------------------------------------------
# Command line
# ---------------------------------------------------------------------------------------------------------


class Host:
    """One file on a web server: what the server says of it, and its bytes from some place on."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.size: int | None = None  # bytes
        self.sha256 = ""  # empty unless the server states it

    def append_to(self, partial: Path) -> None:
        """Fetch what `partial` lacks. Raises OSError (or HTTPException) with what has come so far in it."""
        have = partial.stat().st_size if partial.exists() else 0
        request = urllib.request.Request(self.url, headers={"Range": f"bytes={have}-"} if have else {})
        opener = urllib.request.build_opener(_Redirects(self._note))
        with opener.open(request, timeout=60) as response:
            self._note(response.headers)
            resumed = response.status == 206
            stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
            if resumed and stated and int(stated[1]) != have:
                raise OSError(f"asked for bytes from {have} on, got them from {stated[1]}")
            if self.size is None and (length := response.headers.get("Content-Length")):
                self.size = int(length) + (have if resumed else 0)
            with partial.open("ab" if resumed else "wb") as file:
                while chunk := response.read(1 << 20):
                    file.write(chunk)

    def _note(self, headers: http.client.HTTPMessage) -> None:
        """Hugging Face states size and SHA-256 in the answer that redirects to where the bytes are."""
        if size := headers.get("X-Linked-Size"):
            self.size = int(size)
        for name in ("X-Linked-ETag", "ETag"):
            digest = (headers.get(name) or "").strip('"')
            if not self.sha256 and re.fullmatch("[0-9a-f]{64}", digest):
                self.sha256 = digest

    def damage(self, path: Path) -> str:
        """What is wrong with a file that has come to its end; empty if nothing is."""
        if self.size is not None and path.stat().st_size != self.size:
            return f"it has {path.stat().st_size} bytes instead of {self.size}"
        if self.sha256 and _sha256(path) != self.sha256:
            return f"its SHA-256 is not {self.sha256}"
        if self.url.endswith(".parquet") and not _is_whole_parquet(path):
            return "it is no whole parquet file"
        return ""


def _is_whole_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        return head == file.read(4) == b"PAR1"


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Shows the headers of each redirecting answer to `note`."""

    def __init__(self, note: Callable[[http.client.HTTPMessage], None]) -> None:
        self._note = note

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        self._note(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, path: Path, attempts: int = 5) -> None:
    """Fetch `url` to `path`. A partial file is gone on with, also by a later call; a damaged one is dropped.

    Checked are the size, the SHA-256 if the server states it, and that a parquet file is whole. Raises
    OSError after `attempts` failures, or at once when the server refuses.
    """
    if path.exists():
        return
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, attempts + 1):
        host, wait = Host(url), min(30, 2**attempt)
        try:
            host.append_to(partial)
            if host.size is not None and partial.stat().st_size < host.size:
                raise OSError(f"got {partial.stat().st_size} of {host.size} bytes")
            if damage := host.damage(partial):
                partial.unlink()
                raise OSError(damage)
            os.replace(partial, path)
            print(f"  {path.name}: {path.stat().st_size / 1e6:,.0f} MB", flush=True)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # there is nothing after the partial file: start again
                partial.unlink(missing_ok=True)
            elif error.code < 500 and error.code != 429:
                raise OSError(f"{url}: {error}") from error
            if (asked := error.headers.get("Retry-After") or "").isdecimal():
                wait = max(wait, min(300, int(asked)))  # 429 and 503: a host that limits its visitors
            failure: Exception = error
        except (OSError, http.client.HTTPException) as error:
            failure = error
        print(f"  {path.name}: attempt {attempt} of {attempts} failed: {failure}", file=sys.stderr)
        if attempt < attempts:
            time.sleep(wait)
    raise OSError(f"{url} could not be fetched: {failure}; what has come of it is kept, so try again")


def prepare_climbmix(shards: int, base_url: str, jobs: int, settings: Profile = SETTINGS) -> Path:
    """Download `shards` training shards and the pinned val and test shards, 8 at a time; then tokenize."""
    from multiprocessing.pool import ThreadPool

    folder = data_root() / "climbmix-shards"

    def fetch(index: int) -> Path:
        path = folder / f"shard_{index:05d}.parquet"
        download(f"{base_url}/{path.name}", path)
        return path

    with ThreadPool(8) as pool:
        *train, val, test = pool.map(
            fetch, [*range(shards), CLIMBMIX_VAL_SHARD, CLIMBMIX_TEST_SHARD], chunksize=1
        )
    try:
        return build_corpus("climbmix", {"train": train, "val": [val], "test": [test]}, settings, jobs)
    except ValueError as error:  # no host stated a hash, or it is of a damaged file
        raise ValueError(f"{error}; delete that file to fetch it again") from error


def cut_text(text: str, pieces: int = 20) -> list[str]:
    """One long text in about equal pieces, cut after a line, else (there are none) a word, else anywhere."""
    size = len(text) // pieces
    cuts = [0]
    for i in range(1, pieces):
        near = text[size * i : size * (i + 1)]
        cuts.append(size * i + next(near.find(mark) + len(mark) for mark in ("\n", " ", "") if mark in near))
    return [piece for a, b in itertools.pairwise([*cuts, len(text)]) if (piece := text[a:b]).strip()]


def split_documents(documents: list[str]) -> dict[str, list[str]]:
    """1 in 20 documents each to val and test (at least one), in an order that depends on nothing else."""
    if len(documents) < 3:
        documents = cut_text("\n".join(documents))
    if len(documents) < 3:
        raise ValueError("too little text: fewer than three documents, lines or words")
    random.Random(0).shuffle(documents)
    held_out = max(1, len(documents) // 20)
    return {
        "test": documents[:held_out],
        "val": documents[held_out : 2 * held_out],
        "train": documents[2 * held_out :],
    }


def prepare_files(name: str, files: list[Path], jobs: int) -> Path:
    """Split the user's files by document and build the corpus; anew if it was made of another text."""
    directory = corpus_dir(name)
    if name in ("shakespeare", "climbmix"):
        raise ValueError(f"{name} is the name of another corpus")
    documents = [doc for file in files for doc in read_documents(file) if doc.strip()]
    splits = {
        split: lzma.compress("\f".join(texts).encode("utf-8"), preset=1)
        for split, texts in split_documents(documents).items()
    }
    sources = {split: directory / "text" / f"{split}.txt.xz" for split in splits}
    if any(not path.exists() or path.read_bytes() != splits[split] for split, path in sources.items()):
        shutil.rmtree(directory, ignore_errors=True)
        for split, path in sources.items():
            _write_atomically(path, splits[split])
    return build_corpus(name, {split: [path] for split, path in sources.items()}, jobs=jobs)


def set_profile(profile: str) -> None:
    """Rewrite PROFILE in this file, the sizes in train.py and the limits in arf.yaml, if it is there.

    A plain edit, which `git diff` shows. Raises OSError or ValueError before anything is written.
    """

    def rewritten(name: str, before: str, between: str, values: dict[str, str], *, all_there: bool) -> str:
        source = (HERE / name).read_text(encoding="utf-8")
        for key, value in values.items():
            source, found = re.subn(
                rf"(?m)^({before}{key}{between})[^#\n]*?(?=\s*(#|$))",
                lambda match, value=value: match[1] + value,
                source,
                count=1,
            )
            if all_there and not found:
                raise ValueError(f"{name} has no constant {key}")
        return source

    constants = {key: json.dumps(value) for key, value in CONSTANTS[profile].items()}
    sources = {
        "train.py": rewritten("train.py", "", " = ", constants, all_there=True),
        "prepare.py": rewritten("prepare.py", "", " = ", {"PROFILE": json.dumps(profile)}, all_there=True),
    }
    if (HERE / "arf.yaml").exists():
        sources["arf.yaml"] = rewritten("arf.yaml", " *", ": *", LIMITS[profile], all_there=False)
    for name, source in sources.items():
        (HERE / name).write_text(source, encoding="utf-8")
    print(f"PROFILE is {profile}: {asdict(PROFILES[profile])}; train.py: {CONSTANTS[profile]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", nargs="+", metavar="DATA", help="embedded, climbmix, or files (the profile's corpus)"
    )
    parser.add_argument("--name", help="name of a corpus made of your own files")
    parser.add_argument("--num-shards", type=int, default=10, help="climbmix: training shards")
    parser.add_argument("--base-url", default=CLIMBMIX_URL, help="climbmix: where the shards are")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that tokenize")
    parser.add_argument("--profile", choices=PROFILES, help="set this workspace up for a profile, then exit")
    parser.add_argument(
        "--verify", type=Path, metavar="CHECKPOINT", help="evaluate a saved model on val and test"
    )
    parser.add_argument(
        "--script", type=Path, default=HERE / "train.py", help="verify: the train.py that was run"
    )
    args = parser.parse_args()
    if args.verify:
        verify(args.verify, args.script)
        return
    start = time.perf_counter()
    try:
        if args.profile:
            set_profile(args.profile)
            return
        with one_at_a_time(data_root() / "prepare.lock"):
            directory = prepare_data(args, parser)
    except (OSError, ValueError) as error:
        sys.exit(f"prepare.py: {error}")
    meta = json.loads((directory / "meta.json").read_text())
    rows = {
        split: sum(
            len(np.load(directory / file, mmap_mode="r")) for file in meta["files"] if file.startswith(split)
        )
        for split in ("train", "val")
    }
    print(
        f"{directory}: {rows['train']} rows to train on, {rows['val']} to validate on "
        f"({time.perf_counter() - start:.1f} s)"
    )
    if meta["name"] != SETTINGS.corpus:
        print(f"to train on it, set ARF_CORPUS={meta['name']}")


def prepare_data(args: argparse.Namespace, parser: argparse.ArgumentParser) -> Path:
    """What `--data` asks for; the corpus's directory. Raises OSError or ValueError with the reason."""
    if not args.data:
        directory = corpus_dir(SETTINGS.corpus)
        if (directory / "meta.json").exists():  # of however many shards
            return directory
        args.data = ["climbmix" if SETTINGS.corpus == "climbmix" else "embedded"]
    if args.data == ["embedded"]:
        directory = corpus_dir("shakespeare")
        if not (directory / "meta.json").exists():
            build_corpus("shakespeare", {split: [embedded_file(split)] for split in ("train", "val")})
        return directory
    if args.data == ["climbmix"]:
        if not 1 <= args.num_shards <= CLIMBMIX_TEST_SHARD:
            parser.error(f"--num-shards is from 1 to {CLIMBMIX_TEST_SHARD}")
        return prepare_climbmix(args.num_shards, args.base_url.rstrip("/"), args.jobs)
    if not args.name:
        parser.error("--data FILES needs --name")
    return prepare_files(args.name, [Path(file) for file in args.data], args.jobs)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock that no other `prepare.py` has; the system frees it, however the process ends."""
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:  # where nothing can be written there is nothing to guard: what is prepared can be used
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another prepare.py is at work: waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


HELD = held()

if __name__ == "__main__":
    main()
