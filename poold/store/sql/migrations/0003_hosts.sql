-- What operators said of hosts. No row: nothing.
CREATE TABLE host_marks (
    host   TEXT PRIMARY KEY,
    mark   TEXT NOT NULL CHECK (mark IN ('cordoned', 'fenced')),
    at     REAL NOT NULL,
    actor  TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;
