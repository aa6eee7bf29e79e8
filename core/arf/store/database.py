"""A study's database: `arf.db`, SQLite in WAL mode with full synchronisation.

One process writes (it holds the study's lock); any number read. Rows carry the sequence number of the
change that made them, so that `load` can tell a new `Study` the same story in the same order.
Totals are kept up by triggers and the spread by the writer, so that `status` costs the same at any size.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from attrs import asdict, evolve, fields

from arf.errors import StoreError
from arf.study import Study
from arf.types import (
    Ask,
    AskKind,
    Claim,
    ClaimPlan,
    Direction,
    Experiment,
    ExperimentState,
    Factor,
    Idea,
    JobState,
    NoiseRule,
    Objective,
    Order,
    Pick,
    Plan,
    Role,
    SubmissionState,
    Tier,
    Usage,
    Verdict,
)

STUDIES = Path(".arf") / "studies"
"""Where studies lie, in the folder of their workspace."""
DATABASE = "arf.db"
LOCK = "lock"
SCHEMA_VERSION = 2
MOST = 2**63 - 1
"""The largest number that SQLite takes; people may ask for any."""

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE ideas (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, title TEXT NOT NULL, reason TEXT NOT NULL,
    base TEXT NOT NULL, "commit" TEXT NOT NULL, constants TEXT NOT NULL, agent TEXT NOT NULL,
    ask INTEGER, expected REAL
);
CREATE TABLE factors (
    seq INTEGER PRIMARY KEY, ask INTEGER NOT NULL, name TEXT NOT NULL, levels TEXT NOT NULL
);
CREATE TABLE asks (
    id INTEGER PRIMARY KEY, opened_seq INTEGER NOT NULL, closed_seq INTEGER, kind TEXT NOT NULL,
    n INTEGER NOT NULL, base TEXT NOT NULL, opened_at REAL NOT NULL, closed_at REAL,
    exhausted INTEGER NOT NULL DEFAULT 0, input_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0, output_tokens INTEGER NOT NULL DEFAULT 0,
    usd REAL NOT NULL DEFAULT 0, note TEXT NOT NULL DEFAULT ''
);
CREATE TABLE refusals (
    seq INTEGER PRIMARY KEY, parent TEXT NOT NULL, ideas TEXT NOT NULL, reason TEXT NOT NULL
);
CREATE TABLE experiments (
    id INTEGER PRIMARY KEY, accepted_seq INTEGER NOT NULL, changed_seq INTEGER NOT NULL,
    ended_seq INTEGER, judged_seq INTEGER,
    role TEXT NOT NULL, parent TEXT NOT NULL, ideas TEXT NOT NULL, "commit" TEXT NOT NULL,
    tree TEXT NOT NULL, tier TEXT NOT NULL, seed INTEGER NOT NULL, budget REAL, round TEXT NOT NULL,
    title TEXT NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, directory TEXT NOT NULL,
    handle TEXT NOT NULL,
    job_state TEXT, exit_code INTEGER, slot TEXT NOT NULL, accepted_at REAL NOT NULL,
    started_at REAL, ended_at REAL, value REAL, metrics TEXT NOT NULL, curve TEXT NOT NULL,
    verdict TEXT, reason TEXT NOT NULL, slot_s REAL NOT NULL
);
CREATE TABLE orders (
    id INTEGER PRIMARY KEY, seq INTEGER NOT NULL, key TEXT NOT NULL, plan TEXT NOT NULL,
    runs INTEGER NOT NULL, title TEXT NOT NULL, state TEXT NOT NULL, experiments TEXT NOT NULL,
    problem TEXT NOT NULL
);
CREATE INDEX orders_key ON orders (key);
CREATE INDEX experiments_open ON experiments (id) WHERE state <> 'ended';
CREATE INDEX experiments_judged ON experiments (judged_seq) WHERE judged_seq IS NOT NULL;
CREATE INDEX experiments_kept ON experiments (judged_seq) WHERE verdict = 'keep';
CREATE INDEX experiments_tree ON experiments (tree, tier);
CREATE INDEX experiments_commit ON experiments ("commit");
CREATE INDEX asks_open ON asks (id) WHERE closed_seq IS NULL;
CREATE TABLE spreads (
    tier TEXT NOT NULL, budget REAL NOT NULL, sum_squares REAL NOT NULL, df INTEGER NOT NULL,
    PRIMARY KEY (tier, budget)
) WITHOUT ROWID;
CREATE TABLE totals (name TEXT PRIMARY KEY, value REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE events (id INTEGER PRIMARY KEY, at REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TRIGGER experiment_accepted AFTER INSERT ON experiments BEGIN
    INSERT INTO totals VALUES ('experiments', 1) ON CONFLICT DO UPDATE SET value = value + 1;
END;
CREATE TRIGGER experiment_ended AFTER UPDATE ON experiments
WHEN new.ended_seq IS NOT NULL AND old.ended_seq IS NULL BEGIN
    INSERT INTO totals VALUES ('ended', 1) ON CONFLICT DO UPDATE SET value = value + 1;
    INSERT INTO totals VALUES ('slot_s/' || new.tier, new.slot_s)
        ON CONFLICT DO UPDATE SET value = value + new.slot_s;
END;
CREATE TRIGGER experiment_judged AFTER UPDATE ON experiments
WHEN new.verdict IS NOT NULL AND old.verdict IS NULL BEGIN
    INSERT INTO totals VALUES ('verdict/' || new.verdict, 1) ON CONFLICT DO UPDATE SET value = value + 1;
END;
CREATE TRIGGER ask_closed AFTER UPDATE ON asks
WHEN new.closed_seq IS NOT NULL AND old.closed_seq IS NULL BEGIN
    INSERT INTO totals VALUES ('usd', new.usd) ON CONFLICT DO UPDATE SET value = value + new.usd;
    INSERT INTO totals VALUES ('tokens', new.input_tokens + new.output_tokens)
        ON CONFLICT DO UPDATE SET value = value + new.input_tokens + new.output_tokens;
END;
"""

_EXPERIMENT_COLUMNS = (
    'id, role, parent, ideas, "commit", tree, tier, seed, budget, round, title, state, attempt, directory, '
    "handle, job_state, exit_code, slot, accepted_at, started_at, ended_at, value, metrics, curve, verdict, "
    "reason"
)


_LONGEST_PATH = 500
"""SQLite's limit is 512, and it makes files whose names are longer beside the database."""


INCUMBENTS = "incumbents"
CLAIMS = "claims"
RULE_FIELDS = frozenset(field.name for field in fields(NoiseRule))


class StudyLock:
    """Held by the one arf process that may write a study. Released by the kernel when the process ends."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            owner = lock_owner(directory)
            raise StoreError(
                f"another arf process (pid {owner}) is running study {directory.name!r}",
                hint=f"watch it with `arf status {directory.name}`, end it with `arf stop {directory.name}`",
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)


def lock_owner(directory: Path) -> int | None:
    """The pid of the arf process that runs the study in this folder; None if none does."""
    try:
        with (directory / LOCK).open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read(32).strip()
                return int(text) if text.isdigit() else None
    except FileNotFoundError:
        pass
    return None


class Store:
    """A connection to a study's database. Make it with `create` or `open`."""

    def __init__(self, directory: Path, connection: sqlite3.Connection) -> None:
        self.directory = directory
        self._db = connection
        self.is_file = bool(connection.execute("PRAGMA database_list").fetchone()[2])
        self._files: dict[str, int] = {}
        """The inodes of its files, as they were first seen."""
        self._folder: int | None = None
        """The study's folder, opened when it was first seen: it may be deleted, and made anew by others."""

    # ---- Opening ----------------------------------------------------------------------------

    @classmethod
    def create(cls, directory: Path, study: Study, meta: Mapping[str, Any]) -> Self:
        """Make the database of a new study. The folder exists and has none."""
        path = directory / DATABASE
        if path.exists():
            raise StoreError(
                f"study {directory.name!r} exists",
                hint=f"go on with it by `arf resume {directory.name}`, or choose another --name",
            )
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        try:
            cls._begin(directory, _connect(new), study, meta).close()
            new.replace(path)  # killed before this, arf has left no study behind
            db = _connect(path)
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            hint = "is the disk full, or a network file system that cannot lock files?"
            if len(os.fsencode(path)) > _LONGEST_PATH:
                hint = f"SQLite takes {_LONGEST_PATH} bytes at most; move the workspace to a shorter one"
            raise StoreError(f"cannot make the database {path}: {error}", hint=hint) from error
        return cls(directory, db)

    @classmethod
    def in_memory(cls, directory: Path, study: Study, meta: Mapping[str, Any]) -> Self:
        """The same for a study that leaves nothing behind, such as a simulated one; no file is made."""
        return cls._begin(directory, _connect(":memory:"), study, meta)

    @classmethod
    def _begin(cls, directory: Path, db: sqlite3.Connection, study: Study, meta: Mapping[str, Any]) -> Self:
        store = cls(directory, db)
        with store.transaction():
            for statement in _statements(_SCHEMA):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            store.set_meta("study", _study_to_json(study))
            store.set_meta("created_at", _now().isoformat())
            for key, value in meta.items():
                store.set_meta(key, value)
        return store

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Open the database of a study. Raises StoreError if there is none or it cannot be used."""
        path = directory / DATABASE
        if not path.is_file():
            raise StoreError(f"no study at {directory}", hint="`arf list` shows the studies")
        try:
            db, version = _connect_to_read(path)
            if version != SCHEMA_VERSION:
                if version > SCHEMA_VERSION:
                    raise StoreError(
                        f"{path} was written by a newer arf (schema {version}, not {SCHEMA_VERSION})",
                        hint="upgrade with `pip install -U arf-research`",
                    )
                if version:
                    raise StoreError(
                        f"{path} was written by an older arf (schema {version}, not {SCHEMA_VERSION})",
                        hint="go on with that arf, or start a new study; its commits are under refs/arf/",
                    )
                raise StoreError(
                    f"{path} is not a study's database (schema {version})",
                    hint="restore it from a copy, or start a new study",
                )
            db.execute("SELECT value FROM meta WHERE key = 'study'").fetchone()
            return cls(directory, db)
        except sqlite3.Error as error:
            raise unusable(path, error, "read") from error

    def check(self) -> None:
        """Read the whole database for damage. Raises StoreError. Done once, before a resume."""
        path = self.directory / DATABASE
        rows = list(self._read("PRAGMA quick_check(1)"))
        if rows != [("ok",)]:
            raise _damaged(path, rows[0][0])

    def close(self) -> None:
        self._db.close()
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None

    def restore(self) -> bool:
        """Write the database again if a file of it has been deleted under us; true if it had to be.

        Raises StoreError if its folder is gone too. Not within a transaction.
        """
        path = self.directory / DATABASE
        if not self.is_file or self._has_files():
            return False
        if self._folder is None or not os.fstat(self._folder).st_nlink or not self.directory.is_dir():
            raise StoreError(
                f"{self.directory} has been deleted or moved while the study ran",
                hint="what it kept is in git under refs/arf/",
            )
        try:
            new = path.with_suffix(".new")
            new.unlink(missing_ok=True)
            with closing(_connect(new)) as copy:
                self._db.backup(copy)
            for name in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm"):
                (self.directory / name).unlink(missing_ok=True)  # they belong to the file that is gone
            new.replace(path)
            self._db.close()
            self._db = _connect(path)
            self._db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.Error as error:
            raise unusable(path, error, "write") from error
        self._files = {}
        return True

    def _has_files(self) -> bool:
        """Whether the database and what was written to it lately are still the files that we have open."""
        if self._folder is None and self.directory.is_dir():
            self._folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        there = {}
        for name in (DATABASE, f"{DATABASE}-wal"):
            try:
                there[name] = (self.directory / name).stat().st_ino
            except FileNotFoundError:
                pass  # the second is only made when something is written
        if not self._files.keys() <= there.keys() or DATABASE not in there:
            return False
        self._files = {**there, **self._files}
        return self._files == there

    # ---- Writing ----------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing, on disk when it is left. Raises StoreError if the disk refuses.

        One that is not `durable` outlives the process too, but a power failure only after `flush`.
        """
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")
            if self.is_file and not self._files:
                self._has_files()
        except sqlite3.Error as error:
            raise unusable(self.directory / DATABASE, error, "write") from error

    def flush(self) -> None:
        """Make all that was written proof against a power failure. Raises StoreError if the disk refuses."""
        if not self.is_file:
            return
        try:
            log = os.open(self.directory / f"{DATABASE}-wal", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # all of it is in the database itself; or that was deleted, see `restore`
        try:
            os.fsync(log)
        except OSError as error:
            raise StoreError(f"cannot write {self.directory / DATABASE}: {error.strerror}") from error
        finally:
            os.close(log)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a JSON value under a name, in the transaction that is open."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, _dumps(value)))

    def add_event(self, kind: str, text: str, at: datetime) -> None:
        """A line of the study's own log: starts, stops, warnings, what an agent got wrong."""
        self._db.execute("INSERT INTO events (at, kind, text) VALUES (?, ?, ?)", (at.timestamp(), kind, text))

    def add_idea(self, idea: Idea, seq: int) -> None:
        self._db.execute(
            "INSERT INTO ideas VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                idea.id,
                seq,
                idea.title,
                idea.reason,
                idea.base,
                idea.commit,
                _dumps(dict(idea.constants)),
                idea.agent,
                idea.ask,
                idea.expected,
            ),
        )

    def add_factor(self, factor: Factor, seq: int) -> None:
        self._db.execute(
            "INSERT INTO factors VALUES (?, ?, ?, ?)", (seq, factor.ask, factor.name, _dumps(factor.levels))
        )

    def open_ask(self, ask_id: int, ask: Ask, seq: int, at: datetime) -> None:
        self._db.execute(
            "INSERT INTO asks (id, opened_seq, kind, n, base, opened_at) VALUES (?, ?, ?, ?, ?, ?)",
            (ask_id, seq, ask.kind, ask.n, ask.base, at.timestamp()),
        )

    def close_ask(
        self, ask_id: int, usage: Usage, exhausted: bool, seq: int, at: datetime, note: str = ""
    ) -> None:
        self._db.execute(
            "UPDATE asks SET closed_seq = ?, closed_at = ?, exhausted = ?, input_tokens = ?, "
            "cached_tokens = ?, output_tokens = ?, usd = ?, note = ? WHERE id = ?",
            (
                seq,
                at.timestamp(),
                exhausted,
                usage.input_tokens,
                usage.cached_tokens,
                usage.output_tokens,
                usage.usd,
                note,
                ask_id,
            ),
        )

    def refuse(self, parent: str, ideas: tuple[int, ...], reason: str, seq: int) -> None:
        self._db.execute("INSERT INTO refusals VALUES (?, ?, ?, ?)", (seq, parent, _dumps(ideas), reason))

    def put_order(self, order: Order, seq: int) -> None:
        """Write an order that is new or has changed."""
        plan = asdict(order.plan, filter=lambda _, value: value not in (None, "", ()))
        self._db.execute(
            "INSERT OR REPLACE INTO orders VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                order.id,
                seq,
                order.key,
                _dumps(plan),
                order.runs,
                order.title,
                order.state,
                _dumps(order.experiments),
                order.problem,
            ),
        )

    def insert_experiment(self, experiment: Experiment, seq: int) -> None:
        """A new one; its state is *accepted*."""
        e = experiment
        self._db.execute(
            f"INSERT INTO experiments (accepted_seq, changed_seq, slot_s, {_EXPERIMENT_COLUMNS}) "
            f"VALUES (?, ?, 0{', ?' * 26})",
            (
                seq,
                seq,
                e.id,
                e.role,
                e.parent,
                _dumps(e.ideas),
                e.commit,
                e.tree,
                e.tier,
                e.seed,
                e.budget,
                e.round,
                e.title,
                e.state,
                e.attempt,
                e.directory,
                e.handle,
                e.job_state,
                e.exit_code,
                e.slot,
                e.accepted_at.timestamp(),
                _timestamp(e.started_at),
                _timestamp(e.ended_at),
                e.value,
                _dumps(dict(e.metrics)),
                _dumps(e.curve),
                e.verdict,
                e.reason,
            ),
        )

    def update_experiment(self, experiment: Experiment, seq: int) -> None:
        """One that has moved on: started, ended or judged."""
        e = experiment
        self._db.execute(
            "UPDATE experiments SET changed_seq = ?, "
            "ended_seq = CASE WHEN ended_seq IS NULL AND ? THEN ?1 ELSE ended_seq END, "
            "judged_seq = CASE WHEN judged_seq IS NULL AND ? THEN ?1 ELSE judged_seq END, "
            "state = ?, attempt = ?, directory = ?, handle = ?, job_state = ?, exit_code = ?, slot = ?, "
            "started_at = ?, ended_at = ?, value = ?, metrics = ?, curve = ?, verdict = ?, reason = ?, "
            "slot_s = ? WHERE id = ?",
            (
                seq,
                e.state is ExperimentState.ENDED,
                e.verdict is not None,
                e.state,
                e.attempt,
                e.directory,
                e.handle,
                e.job_state,
                e.exit_code,
                e.slot,
                _timestamp(e.started_at),
                _timestamp(e.ended_at),
                e.value,
                _dumps(dict(e.metrics)),
                _dumps(e.curve),
                e.verdict,
                e.reason,
                e.slot_s,
                e.id,
            ),
        )

    def change_incumbent(self, number: int, seq: int) -> None:
        """Record that an experiment's commit is the incumbent from now on, though its verdict was another."""
        self.set_meta(INCUMBENTS, [*self._changes(), (seq, number)])

    def begin_claim(self, plan: ClaimPlan, seq: int) -> None:
        """Record a claim that is begun."""
        begun = {"begun_seq": seq, "plan": asdict(plan), "ended_seq": None, "claim": None}
        self.set_meta(CLAIMS, [*self.meta(CLAIMS, []), begun])

    def complete_claim(self, number: int, claim: Claim | None, seq: int) -> None:
        """Record what came of a claim."""
        claims = self.meta(CLAIMS, [])
        claims[number - 1] |= {"ended_seq": seq, "claim": None if claim is None else asdict(claim)}
        self.set_meta(CLAIMS, claims)

    def claims(self) -> list[tuple[ClaimPlan, Claim | None]]:
        """Every claim that was begun, and what came of it so far, in order."""
        return [(_claim_plan(c["plan"]), _claim(c["claim"])) for c in self.meta(CLAIMS, [])]

    def set_spread(self, tier: str, budget: float | None, sum_squares: float, df: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO spreads VALUES (?, ?, ?, ?)", (tier, budget or 1.0, sum_squares, df)
        )

    # ---- Reading ----------------------------------------------------------------------------

    @property
    def workspace(self) -> Path:
        """The folder of the workspace: where the study lies, also when that has been moved or copied."""
        home = self.directory.absolute()
        if home.parts[-3:-1] == STUDIES.parts:
            return home.parents[2]
        return Path(str(self.meta("workspace", "")))

    def meta(self, key: str, default: Any = None) -> Any:
        row = self._first("SELECT value FROM meta WHERE key = ?", (key,))
        return json.loads(row[0]) if row else default

    def _read(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query, as they are taken. Raises StoreError if they cannot be read."""
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise unusable(self.directory / DATABASE, error, "read") from error

    def _first(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first row; None if there is none."""
        return next(self._read(query, values), None)

    def _number(self, query: str, values: Sequence[Any] = ()) -> int:
        return int(self._first(query, values)[0])

    def load(self) -> Study:
        """The study as it was told, from its rows. Raises StoreError if they make no sense."""
        try:
            study = study_from_json(self.meta("study"))
            for _, tell in sorted(self._story(study), key=lambda item: item[0]):
                tell()
            study.happened = self.sequence()
        except (KeyError, ValueError, TypeError) as error:
            raise _damaged(self.directory / DATABASE, error) from error
        return study

    def _story(self, study: Study) -> Iterator[tuple[int, Any]]:
        for row in self._read(
            'SELECT seq, id, title, reason, base, "commit", constants, agent, ask, expected FROM ideas'
        ):
            yield row[0], _call(study.add_idea, _idea(row[1:]))
        for seq, ask, name, levels in self._read("SELECT seq, ask, name, levels FROM factors"):
            factor = Factor(ask=ask, name=name, levels=tuple(json.loads(levels)))
            yield seq, _call(study.add_factor, factor)
        for row in self._read(
            "SELECT id, opened_seq, closed_seq, kind, n, base, exhausted, input_tokens, cached_tokens, "
            "output_tokens, usd FROM asks"
        ):
            asked = Ask(kind=AskKind(row[3]), n=row[4], base=row[5])
            yield row[1], _call(study.open_ask, row[0], asked)
            if row[2] is not None:
                usage = Usage(input_tokens=row[7], cached_tokens=row[8], output_tokens=row[9], usd=row[10])
                yield row[2], _call(study.close_ask, row[0], usage, bool(row[6]))
        for row in self._read(
            "SELECT seq, id, key, plan, runs, title, state, experiments, problem FROM orders"
        ):
            yield row[0], _call(study.put_order, _order(row[1:]))
        for seq, parent, ideas, reason in self._read("SELECT * FROM refusals"):
            yield seq, _call(study.refuse, parent, tuple(json.loads(ideas)), reason)
        for row in self._read(
            f"SELECT accepted_seq, ended_seq, judged_seq, {_EXPERIMENT_COLUMNS} FROM experiments"
        ):
            yield from _experiment_story(study, row[:3], _experiment(row[3:]))
        for seq, number in self._changes():
            yield seq, _call(study.change_incumbent, number)
        for told in self.meta(CLAIMS, []):
            plan = _claim_plan(told["plan"])
            yield told["begun_seq"], _call(study.begin_claim, plan)
            if told["ended_seq"] is not None:
                yield told["ended_seq"], _call(study.complete_claim, plan.number, _claim(told["claim"]))

    def sequence(self) -> int:
        """The number of the last change."""
        told = self._number(
            "SELECT max(coalesce((SELECT max(seq) FROM ideas), 0),"
            " coalesce((SELECT max(seq) FROM factors), 0), coalesce((SELECT max(seq) FROM refusals), 0),"
            " coalesce((SELECT max(max(opened_seq, coalesce(closed_seq, 0))) FROM asks), 0),"
            " coalesce((SELECT max(seq) FROM orders), 0),"
            " coalesce((SELECT max(changed_seq) FROM experiments), 0))"
        )
        claims = (max(c["begun_seq"], c["ended_seq"] or 0) for c in self.meta(CLAIMS, []))
        last: int = max(told, *(seq for seq, _ in self._changes()), *claims, 0)
        return last

    def experiment(self, experiment_id: int) -> Experiment | None:
        if experiment_id > MOST:
            return None
        rows = self._experiments("WHERE id = ?", (experiment_id,))
        return rows[0] if rows else None

    def experiments(
        self, *, after: int = 0, limit: int | None = None, newest_first: bool = False
    ) -> list[Experiment]:
        """Experiments with an id over `after`, in order (or the newest first)."""
        order = "DESC" if newest_first else "ASC"
        return self._experiments(
            f"WHERE id > ? ORDER BY id {order} LIMIT ?", (after, -1 if limit is None else limit)
        )

    def find_commit(self, prefix: str) -> list[Experiment]:
        """Experiments whose commit begins with a prefix (four hexadecimal digits or more), oldest first."""
        return self._experiments(
            'WHERE "commit" >= ? AND "commit" < ? ORDER BY id', (prefix.lower(), prefix.lower() + "g")
        )

    def running(self) -> list[Experiment]:
        """Accepted and not ended."""
        return self._experiments("WHERE state <> 'ended' ORDER BY id", ())

    def kept(self) -> list[Experiment]:
        """The first runs of all incumbents, as `Study.kept` has them; the last one is the incumbent."""
        kept = self._experiments("WHERE verdict = 'keep' ORDER BY judged_seq", ())
        changes = self._changes()
        if not changes:
            return kept
        judged = dict(self._read("SELECT id, judged_seq FROM experiments WHERE verdict = 'keep'"))
        again = [(seq, self._experiments("WHERE id = ?", (number,))[0]) for seq, number in changes]
        found = [*((judged[e.id], e) for e in kept), *again]
        return [experiment for _, experiment in sorted(found, key=lambda item: item[0])]

    def _changes(self) -> list[tuple[int, int]]:
        """(sequence number, experiment) of each change of the incumbent that no verdict tells."""
        return [(seq, number) for seq, number in self.meta(INCUMBENTS, [])]

    def last_judged(self, limit: int) -> list[Experiment]:
        """The newest verdicts first."""
        return self._experiments("WHERE judged_seq IS NOT NULL ORDER BY judged_seq DESC LIMIT ?", (limit,))

    def replicates(self, tree: str, tier: str) -> list[Experiment]:
        """Every run of a tree on a tier with the full budget."""
        return self._experiments("WHERE tree = ? AND tier = ? AND budget IS NULL ORDER BY id", (tree, tier))

    def _experiments(self, where: str, values: tuple[Any, ...]) -> list[Experiment]:
        rows = self._read(f"SELECT {_EXPERIMENT_COLUMNS} FROM experiments {where}", values)
        return [_experiment(row) for row in rows]

    def idea(self, idea_id: int) -> Idea | None:
        row = self._first(
            'SELECT id, title, reason, base, "commit", constants, agent, ask, expected FROM ideas '
            "WHERE id = ?",
            (idea_id,),
        )
        return _idea(row) if row else None

    def orders(self, numbers: Sequence[int]) -> list[Order]:
        """Orders by their numbers, in that order; unknown ones are left out."""
        numbers = [number for number in numbers if abs(number) <= MOST]
        marks = ",".join("?" * len(numbers))
        found = {order.id: order for order in self._orders(f"WHERE id IN ({marks})", tuple(numbers))}
        return [found[number] for number in numbers if number in found]

    def is_done(self, order: Order) -> bool:
        """Whether nothing of an order waits, and each of its experiments has its verdict."""
        if order.runs_left:
            return False
        marks = ",".join("?" * len(order.experiments))
        return not self._number(
            f"SELECT count(*) FROM experiments WHERE id IN ({marks}) AND verdict IS NULL", order.experiments
        )

    def orders_of(self, key: str) -> list[Order]:
        """The orders that came with one request; empty if it was never taken in."""
        return self._orders("WHERE key = ? ORDER BY id", (key,))

    def last_idea(self) -> int:
        """How many ideas there are."""
        return self._number("SELECT coalesce(max(id), 0) FROM ideas")

    def ask_cost(self, ask: int) -> tuple[float, int, int]:
        """What an ask has cost in dollars and in tokens, and how many ideas it gave."""
        row = self._first(
            "SELECT usd, input_tokens + output_tokens, (SELECT count(*) FROM ideas WHERE ask = asks.id) "
            "FROM asks WHERE id = ?",
            (ask,),
        )
        return (float(row[0]), int(row[1]), int(row[2])) if row else (0.0, 0, 0)

    def last_order(self) -> int:
        """The number of the newest order; 0 if there is none."""
        return self._number("SELECT coalesce(max(id), 0) FROM orders")

    def _orders(self, where: str, values: tuple[Any, ...]) -> list[Order]:
        rows = self._read(
            f"SELECT id, key, plan, runs, title, state, experiments, problem FROM orders {where}", values
        )
        return [_order(row) for row in rows]

    def totals(self) -> dict[str, float]:
        """`experiments`, `ended`, `verdict/<verdict>`, `slot_s/<tier>`, `usd`, `tokens`."""
        return dict(self._read("SELECT name, value FROM totals"))

    def spreads(self) -> dict[tuple[str, float | None], tuple[float, int]]:
        """(sum of squares, degrees of freedom) within groups, by tier and budget."""
        return {
            (tier, None if budget == 1.0 else budget): (sum_squares, df)
            for tier, budget, sum_squares, df in self._read("SELECT * FROM spreads")
        }

    def open_asks(self) -> int:
        return self._number("SELECT count(*) FROM asks WHERE closed_seq IS NULL")

    def events(self, limit: int = 20) -> list[tuple[datetime, str, str]]:
        """(time, kind, text), the newest first."""
        rows = self._read("SELECT at, kind, text FROM events ORDER BY id DESC LIMIT ?", (limit,))
        return [(datetime.fromtimestamp(at, UTC), kind, text) for at, kind, text in rows]

    def count_events(self, kind: str) -> tuple[int, str]:
        """How many events of a kind there are, and the text of the last one."""
        query = (
            "SELECT count(*), max(id), text FROM events WHERE kind = ?"  # text is that of the row with max
        )
        row = self._first(query, (kind,))
        return (int(row[0]), row[2] or "") if row else (0, "")

    def refusals(self, limit: int = 20) -> list[tuple[str, tuple[int, ...], str]]:
        """(parent, ideas, reason), the newest first."""
        rows = self._read("SELECT parent, ideas, reason FROM refusals ORDER BY seq DESC LIMIT ?", (limit,))
        return [(parent, tuple(json.loads(ideas)), reason) for parent, ideas, reason in rows]


class _Connection(sqlite3.Connection):
    """Takes texts that are no UTF-8 too, with a `?` for each lone surrogate: JSON may have made them."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        try:
            return super().execute(sql, parameters)
        except UnicodeEncodeError:
            return super().execute(sql, [_utf8(value) for value in parameters])


def _utf8(value: object) -> object:
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _connect(path: Path | str) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=30, factory=_Connection)


def _connect_to_read(path: Path) -> tuple[sqlite3.Connection, int]:
    """A connection, and the version of the schema. Also where nothing can be written: somebody else's study.

    There SQLite cannot make the files with which it reads a database in WAL mode, and needs none of them, as
    nobody writes.
    """
    db = _connect(path)
    try:
        return db, db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.OperationalError as error:
        log = path.with_name(f"{path.name}-wal")
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN):
            raise
        if log.exists() and log.stat().st_size:
            raise  # it holds what the database does not have yet
        db.close()
        uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
        db = sqlite3.connect(uri, uri=True, isolation_level=None)
        return db, db.execute("PRAGMA user_version").fetchone()[0]


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def unusable(path: Path, error: sqlite3.Error, verb: str, *, damaged: str = "") -> StoreError:
    """What to tell of an error of SQLite; `verb` is what could not be done, `damaged` what to do then."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _damaged(path, error, damaged)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what = "end the program that keeps it locked"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        what = "make it and its folder writable"
    else:
        what = "free some disk space"
    again = "then `arf resume`; what was recorded before is safe" if verb == "write" else "then try again"
    return StoreError(f"cannot {verb} {path}: {error}", hint=f"{what}, {again}")


def _damaged(path: Path, error: object, hint: str = "") -> StoreError:
    usual = "restore it from a copy; the commits are safe under refs/arf/ and the logs beside the database"
    return StoreError(f"{path} is damaged ({error})", hint=hint or usual)


def _experiment_story(
    study: Study, sequence: tuple[int, int | None, int | None], experiment: Experiment
) -> Iterator[tuple[int, Any]]:
    """What was told of an experiment: that it was accepted, that it ended, and its verdict."""
    accepted_seq, ended_seq, judged_seq = sequence
    ended = evolve(experiment, verdict=None)
    accepted = ended if ended_seq is None else evolve(ended, state=ExperimentState.RUNNING, value=None)
    yield accepted_seq, _call(study.put, accepted)
    if ended_seq is not None:
        yield ended_seq, _call(study.put, ended)
    if judged_seq is not None:
        # A failure ends and is judged by one change: the judgement then comes after the end.
        yield judged_seq, _call(study.put, experiment)


def _call(function: Any, *arguments: Any) -> Any:
    return lambda: function(*arguments)


def _idea(row: tuple[Any, ...]) -> Idea:
    return Idea(
        id=row[0],
        title=row[1],
        reason=row[2],
        base=row[3],
        commit=row[4],
        constants=json.loads(row[5]),
        agent=row[6],
        ask=row[7],
        expected=row[8],
    )


def _order(row: tuple[Any, ...]) -> Order:
    plan = json.loads(row[2])
    plan["ideas"] = tuple(plan.get("ideas", ()))
    return Order(
        id=row[0],
        key=row[1],
        plan=Plan(**{**plan, "role": Role(plan["role"])}),
        runs=row[3],
        title=row[4],
        state=SubmissionState(row[5]),
        experiments=tuple(json.loads(row[6])),
        problem=row[7],
    )


def _experiment(row: tuple[Any, ...]) -> Experiment:
    return Experiment(
        id=row[0],
        role=Role(row[1]),
        parent=row[2],
        ideas=tuple(json.loads(row[3])),
        commit=row[4],
        tree=row[5],
        tier=row[6],
        seed=row[7],
        budget=row[8],
        round=row[9],
        title=row[10],
        state=ExperimentState(row[11]),
        attempt=row[12],
        directory=row[13],
        handle=row[14],
        job_state=JobState(row[15]) if row[15] else None,
        exit_code=row[16],
        slot=row[17],
        accepted_at=datetime.fromtimestamp(row[18], UTC),
        started_at=_datetime(row[19]),
        ended_at=_datetime(row[20]),
        value=row[21],
        metrics=json.loads(row[22]),
        curve=tuple((int(step), float(value)) for step, value in json.loads(row[23])),
        verdict=Verdict(row[24]) if row[24] else None,
        reason=row[25],
    )


def _claim_plan(data: Mapping[str, Any]) -> ClaimPlan:
    return ClaimPlan(**{**data, "ideas": tuple(data["ideas"]), "questioned": tuple(data["questioned"])})


def _claim(data: Mapping[str, Any] | None) -> Claim | None:
    if data is None:
        return None
    return Claim(**{**data, "ideas": tuple(data["ideas"]), "dropped": tuple(data["dropped"])})


def _study_to_json(study: Study) -> dict[str, Any]:
    return {
        "name": study.name,
        "base": study.base,
        "base_tree": study.base_tree,
        "objective": {
            "metric": study.objective.metric,
            "direction": study.objective.direction,
            "pick": study.objective.pick,
        },
        "seed": study.seed,
        "rule": {
            "replicates": study.rule.replicates,
            "alpha": study.rule.alpha,
            "max_replicates": study.rule.max_replicates,
        },
        "tiers": [
            {
                "name": tier.name,
                "slots": tier.slots,
                "usd_per_hour": tier.usd_per_hour,
                "speed": tier.speed,
                "memory_gb": tier.memory_gb,
                "description": tier.description,
            }
            for tier in study.tiers
        ],
        "max_experiments": study.max_experiments,
    }


def study_from_json(data: Mapping[str, Any]) -> Study:
    """A study in which nothing has happened yet, from what `meta("study")` gives."""
    return Study(
        name=data["name"],
        base=data["base"],
        base_tree=data["base_tree"],
        objective=Objective(
            metric=data["objective"]["metric"],
            direction=Direction(data["objective"]["direction"]),
            pick=Pick(data["objective"]["pick"]),
        ),
        seed=data["seed"],
        rule=NoiseRule(**{name: value for name, value in data["rule"].items() if name in RULE_FIELDS}),
        tiers=[Tier(**tier) for tier in data["tiers"]],
        max_experiments=data["max_experiments"],
    )


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _datetime(timestamp: float | None) -> datetime | None:
    return None if timestamp is None or math.isnan(timestamp) else datetime.fromtimestamp(timestamp, UTC)


def _now() -> datetime:
    return datetime.now(UTC)
