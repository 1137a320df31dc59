-- name: session_settings
-- The settings of the relay's connections. Not as parameters of the connection's start: PgBouncer refuses those.
SELECT set_config(s.name, s.value, false)
FROM (VALUES
          ('default_transaction_isolation', 'read committed'),
          -- A receipt that a crash takes back would be a duplicate.
          ('synchronous_commit', 'on'),
          -- A queue's statistics lie, and one bad ANALYZE must not flip a plan: index scans and nested loops only.
          ('enable_seqscan', 'off'),
          ('enable_hashjoin', 'off'),
          ('enable_mergejoin', 'off'),
          ('enable_bitmapscan', 'off'),
          -- While failure and held look empty, the planner would read them once and filter; the plan stays when they fill.
          ('enable_material', 'off'),
          ('max_parallel_workers_per_gather', '0'),
          ('plan_cache_mode', 'force_generic_plan'),
          ('jit', 'off'),
          -- A statement of ours that hangs must not hold the lease's renewal for ever.
          ('statement_timeout', '60s'),
          -- A role's own would end statements that only have to wait.
          ('lock_timeout', '0'),
          ('idle_in_transaction_session_timeout', '60s')) AS s (name, value);

-- name: server_process
-- The server that runs this connection's statements, whether it takes writes, and its process for that.
-- By the time of its start: one server may have several addresses.
SELECT pg_postmaster_start_time() AS server, pg_is_in_recovery() AS in_recovery, pg_backend_pid() AS process;
