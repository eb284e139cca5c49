-- Holding a pool at a generation and letting it go are wishes like any other: they raise its revision
-- though no change is pending for them.
CREATE TRIGGER pool_held AFTER INSERT ON holds BEGIN
    INSERT INTO revisions (pool, number) VALUES (new.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER pool_held_elsewhere AFTER UPDATE ON holds WHEN old.digest <> new.digest BEGIN
    INSERT INTO revisions (pool, number) VALUES (new.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
CREATE TRIGGER pool_let_go AFTER DELETE ON holds BEGIN
    INSERT INTO revisions (pool, number) VALUES (old.pool, 1)
    ON CONFLICT (pool) DO UPDATE SET number = number + 1;
END;
