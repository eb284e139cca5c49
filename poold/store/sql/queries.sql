-- name: pool_get
SELECT * FROM pools WHERE name = :name;

-- name: pool_names
SELECT name FROM pools ORDER BY name;

-- name: pool_see
INSERT INTO pools (name, seen_at) VALUES (:name, :seen_at) ON CONFLICT (name) DO NOTHING;

-- name: pool_first_wish
UPDATE pools SET first_wish_at = :at WHERE name = :name;

-- name: introductions_list
SELECT host FROM introductions WHERE pool = :pool;

-- name: introduction_put
INSERT INTO introductions (pool, host, at) VALUES (:pool, :host, :at)
ON CONFLICT (pool, host) DO NOTHING;

-- name: wishes_list
SELECT * FROM wishes WHERE :pool IS NULL OR pool = :pool ORDER BY name;

-- name: wish_put
INSERT INTO wishes (name, pool, host) SELECT :name, :pool, :host
WHERE NOT EXISTS (SELECT 1 FROM assignments WHERE name = :name AND pool != :pool)
ON CONFLICT (name) DO UPDATE SET host = excluded.host WHERE pool = excluded.pool;

-- name: wish_drop
DELETE FROM wishes WHERE name = :name;

-- name: assignments_list
SELECT * FROM assignments WHERE :pool IS NULL OR pool = :pool ORDER BY name;

-- name: assignments_of_others
SELECT host, sum(count) AS count FROM (
    SELECT host, count(*) AS count FROM assignments WHERE pool != :pool GROUP BY host
    UNION ALL SELECT target, count(*) FROM moves WHERE pool != :pool AND NOT EXISTS (
        SELECT 1 FROM assignments WHERE name = moves.name AND host = moves.target
    ) GROUP BY target
) GROUP BY host;

-- name: replica_names
SELECT name FROM wishes UNION SELECT name FROM assignments ORDER BY name;

-- name: name_holder
SELECT pool FROM assignments WHERE name = :name AND pool != :besides
UNION ALL SELECT pool FROM wishes WHERE name = :name AND pool != :besides;

-- name: assignment_get
SELECT * FROM assignments WHERE name = :name;

-- name: assignment_put
INSERT INTO assignments (name, pool, host, since, rung, failed_rungs, reason, generation, started)
VALUES (:name, :pool, :host, :since, :rung, :failed_rungs, :reason, :generation, :started)
ON CONFLICT (name) DO UPDATE SET
    host = excluded.host, since = excluded.since, rung = excluded.rung,
    failed_rungs = excluded.failed_rungs, reason = excluded.reason,
    generation = excluded.generation, started = excluded.started
WHERE pool = excluded.pool;

-- name: assignment_drop
DELETE FROM assignments WHERE name = :name AND host = :host;

-- name: intents_list
SELECT * FROM intents WHERE :pool IS NULL OR pool = :pool ORDER BY created_at, action;

-- name: intent_put
INSERT INTO intents (action, pool, host, subject, verb, request, boot_id, created_at)
VALUES (:action, :pool, :host, :subject, :verb, :request, :boot_id, :created_at);

-- name: intent_drop
DELETE FROM intents WHERE action = :action;

-- name: change_add
INSERT INTO changes (pool, kind, wish, actor, reason, created_at, state, progress, settled_at)
VALUES (:pool, :kind, :wish, :actor, :reason, :created_at, :state, :progress, :settled_at);

-- name: change_get
SELECT * FROM changes WHERE id = :id;

-- name: changes_list
SELECT * FROM changes WHERE :pool IS NULL OR pool = :pool ORDER BY id DESC LIMIT :limit;

-- name: changes_pending
SELECT * FROM changes WHERE state = 'pending' AND (:pool IS NULL OR pool = :pool) ORDER BY id;

-- name: change_end
UPDATE changes
SET state = :state, progress = :progress, seq = :seq, problem = :problem, phases = :phases,
    settled_at = :settled_at
WHERE id = :id AND state = 'pending';

-- name: changes_prune
DELETE FROM changes
WHERE id <= (SELECT max(id) FROM changes) - :keep AND state != 'pending'
  AND id NOT IN (SELECT change_id FROM moves);

-- name: changes_renumber
UPDATE changes SET seq = seq + 1000000 WHERE state = 'pending';

-- name: latest_time
SELECT max(
    (SELECT coalesce(max(created_at), 0) FROM changes),
    (SELECT coalesce(max(settled_at), 0) FROM changes),
    (SELECT coalesce(max(proven_at), 0) FROM generations)
) AS at;

-- name: generations_list
SELECT * FROM generations WHERE pool = :pool AND retired_at IS NULL ORDER BY number DESC;

-- name: generation_number
SELECT number FROM generations WHERE pool = :pool AND digest = :digest;

-- name: generation_numbered
SELECT digest FROM generations WHERE pool = :pool AND number = :number;

-- name: generation_last
SELECT coalesce(max(number), 0) AS number FROM generations WHERE pool = :pool;

-- name: generation_add
INSERT INTO generations (pool, number, digest, manifest, builder, proven_at, application)
VALUES (:pool, :number, :digest, :manifest, :builder, :proven_at, :application);

-- name: generation_retire
UPDATE generations SET retired_at = :at WHERE pool = :pool AND number = :number;

-- name: generation_application
SELECT application FROM generations WHERE pool = :pool AND digest = :digest;

-- name: generation_learn
UPDATE generations SET application = :application
WHERE pool = :pool AND number = :number AND application IS NULL;

-- name: generations_bare
SELECT number FROM generations
WHERE pool = :pool AND retired_at IS NULL AND application IS NULL;

-- name: pool_serve
UPDATE pools SET served = :served WHERE name = :name;

-- name: roll_get
SELECT * FROM rolls WHERE pool = :pool;

-- name: roll_put
INSERT INTO rolls (pool, change_id, surge, unavailable, state, reason, generation, digest,
                   replacing, extras, leaving)
VALUES (:pool, :change_id, :surge, :unavailable, :state, :reason, :generation, :digest,
        :replacing, :extras, :leaving)
ON CONFLICT (pool) DO UPDATE SET
    change_id = excluded.change_id, surge = excluded.surge, unavailable = excluded.unavailable,
    state = excluded.state, reason = excluded.reason, generation = excluded.generation,
    digest = excluded.digest, replacing = excluded.replacing, extras = excluded.extras,
    leaving = excluded.leaving;

-- name: roll_drop
DELETE FROM rolls WHERE pool = :pool;

-- name: hold_get
SELECT holds.*, generations.application FROM holds
LEFT JOIN generations ON generations.pool = holds.pool AND generations.number = holds.number
WHERE holds.pool = :pool;

-- name: hold_put
INSERT INTO holds (pool, number, digest, configured, at, actor)
VALUES (:pool, :number, :digest, :configured, :at, :actor)
ON CONFLICT (pool) DO UPDATE SET
    number = excluded.number, digest = excluded.digest, configured = excluded.configured,
    at = excluded.at, actor = excluded.actor;

-- name: hold_drop
DELETE FROM holds WHERE pool = :pool;

-- name: moves_list
SELECT * FROM moves WHERE :pool IS NULL OR pool = :pool ORDER BY name;

-- name: move_put
INSERT INTO moves (name, pool, change_id, source, target, step, action, attempt, container_id,
                   sealed, frozen_at, problem, phases)
VALUES (:name, :pool, :change_id, :source, :target, :step, :action, :attempt, :container_id,
        :sealed, :frozen_at, :problem, :phases)
ON CONFLICT (name) DO UPDATE SET
    step = excluded.step, action = excluded.action, attempt = excluded.attempt,
    container_id = excluded.container_id, sealed = excluded.sealed,
    frozen_at = excluded.frozen_at, problem = excluded.problem, phases = excluded.phases
WHERE change_id = excluded.change_id;

-- name: move_drop
DELETE FROM moves WHERE name = :name;

-- name: garbage_list
SELECT * FROM garbage WHERE pool = :pool ORDER BY digest, host;

-- name: garbage_put
INSERT INTO garbage (digest, host, pool) VALUES (:digest, :host, :pool)
ON CONFLICT (digest, host) DO NOTHING;

-- name: garbage_drop
DELETE FROM garbage WHERE digest = :digest AND host = :host;

-- name: host_marks_list
SELECT * FROM host_marks ORDER BY host;

-- name: host_mark_put
INSERT INTO host_marks (host, mark, at, actor, reason) VALUES (:host, :mark, :at, :actor, :reason)
ON CONFLICT (host) DO UPDATE SET
    mark = excluded.mark, at = excluded.at, actor = excluded.actor, reason = excluded.reason;

-- name: host_mark_drop
DELETE FROM host_marks WHERE host = :host;

-- name: host_names
SELECT name FROM assignments WHERE host = :host ORDER BY name;

-- name: host_pins
SELECT name FROM wishes WHERE host = :host ORDER BY name;

-- name: host_pins_drop
UPDATE wishes SET host = NULL WHERE host = :host;

-- name: host_assignments_drop
DELETE FROM assignments WHERE host = :host;

-- name: host_intents_drop
DELETE FROM intents WHERE host = :host;

-- name: host_garbage_drop
DELETE FROM garbage WHERE host = :host;

-- name: host_introductions_drop
DELETE FROM introductions WHERE host = :host;

-- name: quarantine_list
SELECT * FROM quarantine WHERE :pool IS NULL OR pool = :pool ORDER BY host, pool, generation DESC;

-- name: quarantine_put
INSERT INTO quarantine (pool, generation, digest, host, since, until, failures, problem, found_with)
VALUES (:pool, :generation, :digest, :host, :since, :until, :failures, :problem, :found_with)
ON CONFLICT (pool, digest, host) DO UPDATE SET
    since = excluded.since, until = excluded.until, failures = excluded.failures,
    problem = excluded.problem, found_with = excluded.found_with;

-- name: quarantine_drop
DELETE FROM quarantine
WHERE (:pool IS NULL OR pool = :pool) AND (:digest IS NULL OR digest = :digest)
  AND (:host IS NULL OR host = :host);

-- name: host_traces
SELECT host FROM assignments UNION SELECT host FROM intents UNION SELECT host FROM garbage
UNION SELECT host FROM introductions UNION SELECT host FROM host_marks
UNION SELECT host FROM quarantine
UNION SELECT source FROM moves UNION SELECT target FROM moves
UNION SELECT host FROM wishes WHERE host IS NOT NULL;

-- name: event_add
INSERT INTO events (at, kind, text, pool, replica, host, change_id, data)
VALUES (:at, :kind, :text, :pool, :replica, :host, :change_id, :data);

-- name: events_after
SELECT * FROM events WHERE id > :after AND (:pool IS NULL OR pool = :pool)
ORDER BY id LIMIT :limit;

-- name: events_newest
SELECT * FROM events WHERE :pool IS NULL OR pool = :pool ORDER BY id DESC LIMIT :limit;

-- name: events_bounds
SELECT coalesce((SELECT min(id) FROM events), 0) AS first,
       coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0) AS last;

-- name: events_prune
DELETE FROM events WHERE at < :oldest OR id <= (SELECT max(id) FROM events) - :keep;

-- name: call_add
INSERT INTO calls (at, actor, origin, operation, path, request, pool, reason, change_id,
                   key, fingerprint, status, body)
VALUES (:at, :actor, :origin, :operation, :path, :request, :pool, :reason, :change_id,
        :key, :fingerprint, :status, :body);

-- name: call_by_key
SELECT fingerprint, change_id, status, body FROM calls
WHERE actor = :actor AND key = :key AND at > :oldest;

-- name: calls_newest
SELECT id, at, actor, origin, operation, path, request, pool, reason, change_id FROM calls
WHERE :pool IS NULL OR pool = :pool ORDER BY id DESC LIMIT :limit;

-- name: calls_forget_keys
UPDATE calls SET key = NULL, fingerprint = NULL, status = NULL, body = NULL
WHERE key IS NOT NULL AND at <= :oldest;

-- name: calls_prune
DELETE FROM calls WHERE id <= (SELECT max(id) FROM calls) - :keep;

-- name: host_revision_get
SELECT id FROM changes WHERE pool = '' AND json_extract(wish, '$.host') = :host
ORDER BY id DESC LIMIT 1;

-- name: revision_get
SELECT number FROM revisions WHERE pool = :pool;

-- name: wish_get
SELECT * FROM wishes WHERE name = :name;

-- name: alert_get
SELECT key FROM alerts WHERE key = :key;

-- name: alert_put
INSERT INTO alerts (key, told_at) VALUES (:key, :told_at)
ON CONFLICT (key) DO UPDATE SET told_at = excluded.told_at;

-- name: alerts_prune
DELETE FROM alerts WHERE told_at <= :oldest;
