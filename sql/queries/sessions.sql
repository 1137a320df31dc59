-- What our sessions rest on, whatever the database, the role or somebody else's tool has set.
--
-- The search path comes first, by a statement that calls nothing: before it, a schema that is named like the user, or
-- one that everybody may create in, can put its own functions and operators in the place of PostgreSQL's. None of this
-- is a parameter of the connection's start: PgBouncer refuses those.

-- name: safe_search_path
-- For the session. No function and no operator is ever looked up in pg_temp.
SET search_path = pg_catalog, pg_temp;

-- name: safe_search_path_of_transaction
-- For one transaction: behind a pooler the next one may be in another session, and this one be somebody else's next.
SET LOCAL search_path = pg_catalog, pg_temp;

-- name: dependable_settings
-- Set what the meaning of our statements and their results rests on: for the transaction ($1), or for the session. Not
-- every server has every setting.
SELECT set_config(s.name, s.value, $1::boolean)
FROM (VALUES
          -- PostgreSQL then raises an error instead of hiding events from us, which would count as settled.
          ('row_security', 'off'),
          ('restrict_nonsystem_relation_kind', ''),
          ('default_transaction_isolation', 'read committed'),
          ('default_transaction_read_only', 'off'),
          ('default_transaction_deferrable', 'off'),
          -- A receipt that a crash takes back would be a duplicate.
          ('synchronous_commit', 'on'),
          -- What text means, and how values come out as text.
          ('standard_conforming_strings', 'on'),
          ('quote_all_identifiers', 'off'),
          ('array_nulls', 'on'),
          ('transform_null_equals', 'off'),
          ('check_function_bodies', 'on'),
          ('bytea_output', 'hex'),
          ('DateStyle', 'ISO, MDY'),
          ('IntervalStyle', 'postgres'),
          ('TimeZone', 'UTC'),
          ('extra_float_digits', '1'),
          -- For what is read at once to fit: with temp_file_limit = 0 what does not is refused. Taken only when needed.
          ('work_mem', '64MB'),
          -- A reaper of forgotten sessions or a limit for applications; each of our statements has its own.
          ('statement_timeout', '0'),
          ('lock_timeout', '0'),
          ('transaction_timeout', '0'),
          ('idle_session_timeout', '0'),
          ('idle_in_transaction_session_timeout', '0')) AS s (name, value)
WHERE current_setting(s.name, true) IS NOT NULL;

-- name: writing_transaction
-- For a transaction that has just begun, where transactions are read only by default. A standby refuses it.
SET TRANSACTION READ WRITE;

-- name: patient_session
-- Let a session wait for a person for as long as it takes, where the server has a limit (PostgreSQL 14).
SELECT pg_catalog.set_config('idle_session_timeout', '0', false)
WHERE pg_catalog.current_setting('idle_session_timeout', true) IS NOT NULL;

-- name: relay_settings
-- What the relay's own sessions set besides.
SELECT set_config(s.name, s.value, false)
FROM (VALUES
          -- A queue's statistics lie, and one bad ANALYZE must not flip a plan: index scans and nested loops only.
          ('enable_seqscan', 'off'),
          ('enable_hashjoin', 'off'),
          ('enable_mergejoin', 'off'),
          ('enable_bitmapscan', 'off'),
          ('enable_nestloop', 'on'),
          ('enable_indexscan', 'on'),
          ('enable_indexonlyscan', 'on'),
          ('enable_sort', 'on'),
          ('enable_partition_pruning', 'on'),
          -- While failure and held look empty, the planner would read them once and filter; the plan stays when they fill.
          ('enable_material', 'off'),
          ('max_parallel_workers_per_gather', '0'),
          ('plan_cache_mode', 'force_generic_plan'),
          ('jit', 'off'),
          -- A statement of ours that hangs must not hold the lease's renewal for ever.
          ('statement_timeout', '60s'),
          ('idle_in_transaction_session_timeout', '60s')) AS s (name, value);

-- name: forget_settings
-- Take back what a session of ours set: behind a pooler it is to be somebody else's.
RESET ALL;

-- name: server_process
-- The server that runs this connection's statements, whether it takes writes, and its process for that.
-- By the time of its start: one server may have several addresses.
SELECT pg_postmaster_start_time() AS server, pg_is_in_recovery() AS in_recovery, pg_backend_pid() AS process;
