-- Who stands in the way of a change to the tables.

-- name: lock_holders
-- Who holds a lock on the tables $1, or one on the tables $2 that keeps the tables from being changed, the longest first.
-- Sessions and prepared transactions, which have no session: seconds since the transaction began or was prepared, null for sessions
-- of others that we may not look into. `holder` is the same as long as it is the same transaction.
SELECT DISTINCT
       l.pid, p.gid, coalesce(a.usename, p.owner)::text AS role, coalesce(a.application_name, '') AS application,
       extract(epoch FROM statement_timestamp() - coalesce(a.xact_start, p.prepared))::float8 AS seconds,
       coalesce(p.gid, l.pid || ' ' || l.virtualtransaction) AS holder
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
LEFT JOIN (pg_locks AS t JOIN pg_prepared_xacts AS p ON p.transaction = t.transactionid)
    ON l.pid IS NULL AND t.pid IS NULL AND t.virtualtransaction = l.virtualtransaction
WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (l.relation IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
       OR (l.relation IN (SELECT to_regclass(name) FROM unnest($2::text[]) AS name)
           AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock')))
ORDER BY seconds DESC NULLS LAST;
