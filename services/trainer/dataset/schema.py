"""The dataset file's tables, and bringing a file of an older Pairwright up to them."""

import secrets
import sqlite3

from shared.errors import Fatal

SCHEMA = 6
WRITTEN_FOR_A_PASSAGE = "provenance ->> 'task' = 'retrieval'"
"""Which pairs have a passage as sentence2."""

TABLES = """
CREATE TABLE pair (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, sentence1 TEXT NOT NULL, sentence2 TEXT NOT NULL,
    score REAL NOT NULL, provenance TEXT NOT NULL, collected REAL NOT NULL
);
CREATE TABLE round (
    id INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('planned', 'training', 'published', 'rejected', 'failed')),
    pairs INTEGER NOT NULL, dataset_hash TEXT, seed INTEGER NOT NULL, base TEXT NOT NULL, start TEXT,
    faults INTEGER NOT NULL DEFAULT 0, version TEXT, reason TEXT, started REAL, finished REAL
);
CREATE TABLE fact (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""

# The traces that pairs came in: the latest span of each that brought some, as W3C traceparent, and between which pairs
# they lie. A round is linked to those that it is the first to train on.
TRACES = """
CREATE TABLE trace (id TEXT PRIMARY KEY, traceparent TEXT NOT NULL, first_pair INTEGER NOT NULL,
    last_pair INTEGER NOT NULL);
"""

# Ids count upwards and none is used twice, so "all pairs up to here" is one number in a round; a pair that gets another
# score gets a new id. `total` counts what there is: with ten million pairs, neither counting nor planning a round
# touches the rows. A pair that is taken out stays in `removed_pair` for as long as a round is under way that has it,
# with the newest round there was then: a round can be run again on the same pairs, whatever happens beside it.
CHANGES = """
CREATE TABLE removed_pair (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL, sentence1 TEXT NOT NULL, sentence2 TEXT NOT NULL,
    score REAL NOT NULL, provenance TEXT NOT NULL, collected REAL NOT NULL, round INTEGER NOT NULL
);
ALTER TABLE round ADD COLUMN last_pair INTEGER NOT NULL DEFAULT 0;
UPDATE round SET last_pair = pairs;
CREATE TABLE total (pairs INTEGER NOT NULL, new_pairs INTEGER NOT NULL, last_pair INTEGER NOT NULL);
INSERT INTO total SELECT pairs, pairs - (SELECT coalesce(max(pairs), 0) FROM round), pairs
    FROM (SELECT coalesce(max(id), 0) AS pairs FROM pair);
"""

# A passage is kept once, however many places in documents have it, and its id outlives a change of its document.
# `corpus` counts what there is, as `total` does. The index finds the queries of a passage that goes.
DOCUMENTS = f"""
CREATE TABLE document (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, title TEXT NOT NULL, url TEXT NOT NULL, source TEXT NOT NULL,
    hash BLOB NOT NULL, digest BLOB NOT NULL, collected REAL NOT NULL
);
CREATE TABLE passage (
    id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, title TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE place (
    passage INTEGER NOT NULL, document INTEGER NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL,
    PRIMARY KEY (passage, document, start)
) WITHOUT ROWID;
CREATE INDEX place_document ON place (document);
CREATE TABLE corpus (documents INTEGER NOT NULL, passages INTEGER NOT NULL, places INTEGER NOT NULL);
INSERT INTO corpus VALUES (0, 0, 0);
CREATE INDEX pair_passage ON pair (sentence2) WHERE {WRITTEN_FOR_A_PASSAGE};
"""

# What a person says of pairs, and what pages of them are read by. An index ends with the id, so that the pairs of a
# job, a task or a label come in the order of their ids. `origin` counts as `total` does. `cosine` has the newest pairs
# as the version in the fact `cosines` sees them, with the distance between cosine and score. `curve` has a round's loss
# and dev scores over its steps, as JSON.
BROWSING = """
ALTER TABLE pair ADD COLUMN checked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE pair ADD COLUMN corrected INTEGER NOT NULL DEFAULT 0;
CREATE INDEX pair_job ON pair (provenance ->> 'job');
CREATE INDEX pair_task ON pair (provenance ->> 'task');
CREATE INDEX pair_label ON pair (provenance ->> 'label');
CREATE INDEX pair_checked ON pair (checked) WHERE checked = 1;
CREATE TABLE cosine (pair INTEGER PRIMARY KEY, cosine REAL NOT NULL, surprise REAL NOT NULL);
CREATE INDEX cosine_surprise ON cosine (surprise);
CREATE TABLE origin (
    job TEXT NOT NULL, task TEXT NOT NULL, label TEXT NOT NULL, pairs INTEGER NOT NULL, last_pair INTEGER NOT NULL,
    PRIMARY KEY (job, task, label)
) WITHOUT ROWID;
INSERT INTO origin SELECT coalesce(provenance ->> 'job', ''), coalesce(provenance ->> 'task', ''),
    coalesce(provenance ->> 'label', ''), count(*), max(id) FROM pair GROUP BY 1, 2, 3;
CREATE TABLE curve (round INTEGER PRIMARY KEY, points TEXT NOT NULL);
CREATE TRIGGER pair_put AFTER INSERT ON pair BEGIN
    INSERT INTO origin VALUES (
        coalesce(new.provenance ->> 'job', ''), coalesce(new.provenance ->> 'task', ''),
        coalesce(new.provenance ->> 'label', ''), 1, new.id
    ) ON CONFLICT DO UPDATE SET pairs = pairs + 1, last_pair = new.id;
END;
CREATE TRIGGER pair_taken_out AFTER DELETE ON pair BEGIN
    UPDATE origin SET pairs = pairs - 1 WHERE job = coalesce(old.provenance ->> 'job', '')
        AND task = coalesce(old.provenance ->> 'task', '') AND label = coalesce(old.provenance ->> 'label', '');
    DELETE FROM origin WHERE pairs = 0 AND job = coalesce(old.provenance ->> 'job', '')
        AND task = coalesce(old.provenance ->> 'task', '') AND label = coalesce(old.provenance ->> 'label', '');
    DELETE FROM cosine WHERE pair = old.id;
END;
"""

# Schema 1 kept hashes as text and marked each pair with the round that took it.
FROM_1 = f"""
ALTER TABLE pair RENAME TO pair1;
ALTER TABLE round RENAME TO round1;
{TABLES}
INSERT INTO pair (hash, sentence1, sentence2, score, provenance, collected)
    SELECT from_hex(hash), sentence1, sentence2, score, provenance, collected
    FROM pair1 ORDER BY round IS NULL, round, rowid;
INSERT INTO round (id, state, pairs, dataset_hash, seed, base, faults, version, reason, started, finished)
    SELECT id, state, pairs, dataset_hash, seed, base, faults, version, reason, started, finished FROM round1;
DROP TABLE pair1;
DROP TABLE round1;
"""


def prepare(connection: sqlite3.Connection, read_only: bool) -> None:
    """Durability, and the tables. Raises `Fatal` for a file of a newer Pairwright, or sqlite3.Error."""
    connection.row_factory = sqlite3.Row
    # FULL: a commit is on disk before the pair is acknowledged, or a power cut could lose what Redis has forgotten.
    for pragma in ["query_only = ON"] if read_only else ["journal_mode = WAL", "synchronous = FULL"]:
        connection.execute(f"PRAGMA {pragma}")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA:
        raise Fatal(f"the dataset was written by a newer Pairwright (schema {version}, this one knows {SCHEMA})")
    if version < SCHEMA and read_only:
        raise Fatal("the dataset was written by an older Pairwright: start the trainer once, which renews it")
    if version < SCHEMA:
        _renew(connection, version)


def _renew(connection: sqlite3.Connection, version: int) -> None:
    connection.create_function("from_hex", 1, bytes.fromhex, deterministic=True)
    named = f"INSERT INTO fact VALUES ('id', '{secrets.token_hex(8)}');"
    steps = {0: TABLES + named, 1: FROM_1 + named}.get(version, "") + (TRACES if version < 3 else "")
    steps += (CHANGES if version < 4 else "") + (DOCUMENTS if version < 5 else "") + BROWSING
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA}; COMMIT;")
    except sqlite3.Error:
        connection.rollback()
        # Another process may have been faster.
        if connection.execute("PRAGMA user_version").fetchone()[0] != SCHEMA:
            raise
