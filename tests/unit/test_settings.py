"""Settings: read, checked and shown; every problem named by its variable, no secret ever told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from relay.decide.failing import Rule
from relay.decide.topic_rates import Rate
from relay.errors import SettingsError
from relay.settings import (
    KafkaSettings,
    PostgresSettings,
    Settings,
    Warned,
    load_postgres,
    load_with_sources,
    mask_dsn,
)
from relay.settings.describe import effective, reference
from relay.settings.load import RENAMED, OldName, variables

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "geheim-7f3a"
DSN = f"postgresql://relay:{SECRET}@db:5432/shop"
ENOUGH = {"RELAY_POSTGRES_DSN": DSN, "RELAY_KAFKA_BOOTSTRAP_SERVERS": "broker-1:9092"}


def problem(env: dict[str, str]) -> str:
    """The message of the refusal; fails if the settings are accepted or the secret is told."""
    with pytest.raises(SettingsError) as refusal:
        Settings.load(env)
    assert SECRET not in str(refusal.value)
    assert refusal.value.exit_code == 2
    return str(refusal.value)


def test_two_variables_are_enough_and_the_rest_has_the_documented_defaults() -> None:
    settings = Settings.load(ENOUGH)

    assert settings.postgres.dsn.get_secret_value() == DSN
    assert settings.postgres.schema_name == "outbox"
    assert settings.kafka.bootstrap_servers == "broker-1:9092"
    assert (settings.kafka.request_timeout, settings.replica.lease) == (8.0, 15.0)
    assert (settings.scan.batch_events, settings.buffer.max_events) == (1_000, 8_000)
    assert (settings.http.port, settings.stop.grace) == (8080, 25.0)


def test_a_variable_sets_its_field_also_where_the_field_has_underscores() -> None:
    settings = Settings.load(
        ENOUGH
        | {
            "RELAY_POSTGRES_SCHEMA": "shop_outbox",
            "RELAY_KAFKA_REQUEST_TIMEOUT": "4.5",
            "RELAY_SCAN_WAKE_UP": "false",
            "RELAY_HTTP_PORT": "0",
            "RELAY_LOG_LEVEL": "DEBUG",
        }
    )

    assert settings.postgres.schema_name == "shop_outbox"
    assert settings.kafka.request_timeout == 4.5
    assert settings.scan.wake_up is False
    assert settings.http.port == 0
    assert settings.log.level == "debug"


def test_the_environment_of_the_process_is_not_read_when_another_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RELAY_HTTP_PORT", "1")
    monkeypatch.setenv("RELAY_HTTP", '{"port": 2}')

    assert Settings.load(ENOUGH).http.port == 8080
    assert Settings.model_validate({"postgres": {"dsn": DSN}, "kafka": {"bootstrap_servers": "b:1"}}).http.port == 8080


def test_the_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENOUGH.items():
        monkeypatch.setenv(name, value)

    assert Settings.load().postgres.dsn.get_secret_value() == DSN


def test_settings_are_frozen() -> None:
    settings = Settings.load(ENOUGH)
    with pytest.raises(ValidationError):
        settings.http.port = 1
    with pytest.raises(ValidationError):
        settings.http = settings.http


def test_nothing_set_names_both_required_variables_and_what_to_set() -> None:
    message = problem({})

    assert "RELAY_POSTGRES_DSN is not set; set it to postgresql://" in message
    assert "RELAY_POSTGRES_DSN_FILE" in message
    assert "RELAY_KAFKA_BOOTSTRAP_SERVERS is not set; set it to broker-1:9092" in message


def test_an_empty_variable_counts_as_not_set() -> None:
    assert "RELAY_POSTGRES_DSN is not set" in problem(ENOUGH | {"RELAY_POSTGRES_DSN": ""})
    assert Settings.load(ENOUGH | {"RELAY_KAFKA_SASL_USERNAME": ""}).kafka.sasl_username is None


def test_all_problems_are_told_at_once() -> None:
    message = problem(ENOUGH | {"RELAY_HTTP_PORT": "-1", "RELAY_SCAN_BATCH_EVENTS": "many", "RELAY_FOO": "1"})

    assert message.startswith("3 problems")
    assert "RELAY_HTTP_PORT is '-1' but should be greater than or equal to 0" in message
    assert "RELAY_SCAN_BATCH_EVENTS is 'many' but should be a valid integer" in message
    assert "RELAY_FOO is not a setting" in message


def test_an_unknown_variable_is_refused_with_the_one_that_was_meant() -> None:
    assert "did you mean RELAY_KAFKA_COMPRESSION?" in problem(ENOUGH | {"RELAY_KAFKA_COMPRESION": "zstd"})
    assert "did you mean RELAY_POSTGRES_DSN_FILE?" in problem(ENOUGH | {"RELAY_POSTGRES_DSNFILE": "/run/dsn"})
    assert "did you mean RELAY_HTTP_PORT?" in problem(ENOUGH | {"relay_http_port": "0"})


def test_a_file_variant_exists_for_secrets_only() -> None:
    assert "RELAY_HTTP_PORT_FILE is not a setting" in problem(ENOUGH | {"RELAY_HTTP_PORT_FILE": "/run/port"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RELAY_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_SERVICE_PORT", "8080"),
        ("RELAY_SERVICE_PORT_HTTP", "8080"),
        ("RELAY_PORT", "tcp://10.0.0.1:8080"),
        ("RELAY_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("RELAY_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("RELAY_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("RELAY_METRICS_PORT_8080_TCP_PROTO", "tcp"),
        ("RELAY_METRICS_PORT", "tcp://10.0.0.1:8080"),
        ("RELAY_TEST_POSTGRES_DSN", "postgresql:///x"),
        ("RELAYED", "1"),
        ("OTHER_RELAY_X", "1"),
    ],
)
def test_what_kubernetes_and_the_tests_set_is_ignored(name: str, value: str) -> None:
    assert Settings.load(ENOUGH | {name: value}) == Settings.load(ENOUGH).model_copy()


def test_a_service_named_relay_http_does_not_set_the_port() -> None:
    assert Settings.load(ENOUGH | {"RELAY_HTTP_PORT": "tcp://10.0.0.1:80"}).http.port == 8080


@pytest.mark.parametrize(
    ("dsn", "complaint"),
    [
        (f"host=db password={SECRET}", "key=value form"),
        (f"mysql://relay:{SECRET}@db/shop", "must begin with postgresql://"),
        (f"db:5432/{SECRET}", "must begin with postgresql://"),
        (f"postgresql://relay:{SECRET}@db:port/shop", "host or port that cannot be read"),
        (f"postgresql://relay:{SECRET}@db:99999/shop", "host or port that cannot be read"),
        (f"postgresql://relay:{SECRET}/@db:5432/shop", "percent-encoded"),
        (f"postgresql://relay:12/{SECRET}@db:5432/shop", "percent-encoded"),
        (f"postgresql://relay:12?{SECRET}@db:5432/shop", "percent-encoded"),
        (f"postgresql://db/shop#{SECRET}", "write it as %23"),
        (f"postgresql://relay:{SECRET} @db/shop", "contains white space"),
        (f"{DSN}\n", "line end"),
        (f"postgresql://[relay:{SECRET}@db/shop", "percent-encoded"),
    ],
)
def test_a_dsn_that_is_no_uri_is_refused_without_being_told(dsn: str, complaint: str) -> None:
    message = problem(ENOUGH | {"RELAY_POSTGRES_DSN": dsn})

    assert "RELAY_POSTGRES_DSN" in message
    assert complaint in message


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://db/shop",
        "postgres://relay@db:5432/shop?sslmode=require",
        "postgresql:///shop?host=/run/postgresql",
        "postgresql://relay@[::1]:5432/shop",
        "postgresql://relay@a:5432,b:5433/shop?target_session_attrs=primary",
        "postgresql://relay:p%40ss%2F@db/shop",
    ],
)
def test_a_dsn_that_asyncpg_takes_is_taken(dsn: str) -> None:
    assert Settings.load(ENOUGH | {"RELAY_POSTGRES_DSN": dsn}).postgres.dsn.get_secret_value() == dsn


@pytest.mark.parametrize(
    ("dsn", "masked"),
    [
        (DSN, "postgresql://relay:********@db:5432/shop"),
        (f"postgres://db/shop?user=x&password={SECRET}", "postgres://db/shop?user=x&password=********"),
        (
            f"postgres://a:{SECRET}@h1:1,h2:2/d?sslmode=require",
            "postgres://a:********@h1:1,h2:2/d?sslmode=require",
        ),
        ("postgres://relay@db/shop", "postgres://relay@db/shop"),
        (
            f"postgres://u:{SECRET}@h/d?sslp%61ssword={SECRET}",
            "postgres://u:********@h/d?sslpassword=********",
        ),
    ],
)
def test_a_masked_dsn_shows_where_it_points_and_no_password(dsn: str, masked: str) -> None:
    assert mask_dsn(dsn) == masked


@pytest.mark.parametrize("schema", ["Outbox", "out box", "1outbox", "pg_outbox", 'o"x', "a" * 64])
def test_a_schema_name_that_needs_quoting_is_refused(schema: str) -> None:
    assert "RELAY_POSTGRES_SCHEMA must be a plain schema name" in problem(ENOUGH | {"RELAY_POSTGRES_SCHEMA": schema})


@pytest.mark.parametrize("servers", ["broker", "broker:0", "broker:99999", "kafka://broker:9092", "a:1,,b", ", ,"])
def test_bootstrap_servers_that_are_not_host_and_port_are_refused(servers: str) -> None:
    message = problem(ENOUGH | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": servers})
    assert "RELAY_KAFKA_BOOTSTRAP_SERVERS" in message
    assert "host:port" in message


def test_bootstrap_servers_lose_their_spaces() -> None:
    settings = Settings.load(ENOUGH | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": " a:1 , [::1]:2,"})
    assert settings.kafka.bootstrap_servers == "a:1,[::1]:2"


@pytest.mark.parametrize(
    ("env", "names"),
    [
        ({"RELAY_REPLICA_LEASE": "10"}, ["RELAY_REPLICA_LEASE", "RELAY_KAFKA_REQUEST_TIMEOUT"]),
        ({"RELAY_KAFKA_REQUEST_TIMEOUT": "13"}, ["RELAY_REPLICA_LEASE", "RELAY_KAFKA_REQUEST_TIMEOUT"]),
        ({"RELAY_BUFFER_MAX_EVENTS": "999"}, ["RELAY_BUFFER_MAX_EVENTS", "RELAY_SCAN_BATCH_EVENTS"]),
        ({"RELAY_SCAN_BUSY_INTERVAL": "0.3"}, ["RELAY_SCAN_BUSY_INTERVAL", "RELAY_SCAN_IDLE_INTERVAL"]),
        ({"RELAY_KAFKA_SASL_USERNAME": "u"}, ["RELAY_KAFKA_SASL_USERNAME", "RELAY_KAFKA_SECURITY_PROTOCOL"]),
        (
            {"RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_SSL", "RELAY_KAFKA_SASL_MECHANISM": "PLAIN"},
            ["RELAY_KAFKA_SASL_USERNAME", "RELAY_KAFKA_SASL_PASSWORD"],
        ),
        (
            {"RELAY_KAFKA_SECURITY_PROTOCOL": "SSL", "RELAY_KAFKA_SSL_KEYFILE": __file__},
            ["RELAY_KAFKA_SSL_KEYFILE", "RELAY_KAFKA_SSL_CERTFILE"],
        ),
        ({"RELAY_KAFKA_SSL_CAFILE": __file__}, ["RELAY_KAFKA_SSL_CAFILE", "RELAY_KAFKA_SECURITY_PROTOCOL"]),
    ],
)
def test_settings_that_contradict_each_other_are_refused(env: dict[str, str], names: list[str]) -> None:
    message = problem(ENOUGH | env)
    for name in names:
        assert name in message


def test_relations_hold_also_for_settings_made_without_variables() -> None:
    with pytest.raises(ValidationError, match="RELAY_REPLICA_LEASE"):
        Settings.model_validate(
            {"postgres": {"dsn": DSN}, "kafka": {"bootstrap_servers": "b:1"}, "replica": {"lease": 5}}
        )


def test_complete_security_settings_are_taken() -> None:
    settings = Settings.load(
        ENOUGH
        | {
            "RELAY_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "RELAY_KAFKA_SASL_MECHANISM": "scram-sha-512",
            "RELAY_KAFKA_SASL_USERNAME": "relay",
            "RELAY_KAFKA_SASL_PASSWORD": SECRET,
            "RELAY_KAFKA_SSL_CAFILE": __file__,
            "RELAY_KAFKA_SSL_CERTFILE": __file__,
        }
    )
    assert (settings.kafka.security_protocol, settings.kafka.sasl_mechanism) == ("SASL_SSL", "SCRAM-SHA-512")


def test_a_certificate_file_that_does_not_exist_is_refused() -> None:
    message = problem(ENOUGH | {"RELAY_KAFKA_SECURITY_PROTOCOL": "SSL", "RELAY_KAFKA_SSL_CAFILE": "/no/such/ca.pem"})
    assert "RELAY_KAFKA_SSL_CAFILE is '/no/such/ca.pem'" in message


def test_policies_of_topics_and_errors_are_read_in_their_order() -> None:
    policies = "audit.*=skip, orders:EventTooLarge=dead-letter,orders=block,*:*TooLarge*=skip"
    assert Settings.load({**ENOUGH, "RELAY_FAILURE_POLICIES": policies}).failure.rules() == [
        Rule("audit.*", None, "skip"),
        Rule("orders", "EventTooLarge", "dead-letter"),
        Rule("orders", None, "block"),
        Rule("*", "*TooLarge*", "skip"),
    ]


@pytest.mark.parametrize(
    ("policies", "complaint"),
    [
        (
            "orders",
            "contains 'orders'; write pairs like audit.*=skip,orders=dead-letter (or =block), and orders:EventToo",
        ),
        ("orders=stop", "contains 'orders=stop'; write pairs like"),
        ("=skip", "contains '=skip'; write pairs like"),
        ("orders:=skip", "contains 'orders:=skip'; write pairs like"),
        (":EventTooLarge=skip", "contains ':EventTooLarge=skip'; write pairs like"),
        ("or ders=skip", "contains 'or ders', which no topic can match"),
        ("orders:TooBig=skip", "and no event fails for 'TooBig'; errors are EventTooLarge, RequestTooLarge, "),
        ("orders:eventtoolarge=skip", "no event fails for 'eventtoolarge'; errors are EventTooLarge"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_what_to_write(policies: str, complaint: str) -> None:
    told = problem({**ENOUGH, "RELAY_FAILURE_POLICIES": policies})
    assert "RELAY_FAILURE_POLICIES" in told
    assert complaint in told


def test_limits_of_topics_are_read_in_their_order_and_units() -> None:
    limits = "orders=500/s, audit.*=2MB/s,a=15.5kB/s,b=2MiB/s,c=20000 B/s,d=0.2GB/s,e=10kB/s"
    rates = Settings.load({**ENOUGH, "RELAY_PUBLISH_LIMITS": limits})
    found = dict(rates.publish.rates(rates.buffer).limits)
    assert found == {
        "orders": Rate(events=500),
        "audit.*": Rate(bytes=2e6),
        "a": Rate(bytes=15_500),
        "b": Rate(bytes=2 * 1_024**2),
        "c": Rate(bytes=20_000),
        "d": Rate(bytes=2e8),
        "e": Rate(bytes=10_000),
    }
    assert not Settings.load(ENOUGH).publish.rates(rates.buffer)


@pytest.mark.parametrize(
    ("limits", "complaint"),
    [
        ("orders", "contains 'orders'; write pairs like orders=500/s,audit.*=2MB/s"),
        ("orders=500", "contains 'orders=500'; write pairs like orders=500/s"),
        ("orders=500/m", "contains 'orders=500/m'; write pairs like"),
        ("orders=2mb/s", "contains 'orders=2mb/s'; write pairs like"),
        ("orders=-1/s", "contains 'orders=-1/s'; write pairs like"),
        ("orders=inf/s", "contains 'orders=inf/s'; write pairs like"),
        ("=500/s", "contains '=500/s'; write pairs like"),
        ("or ders=5/s", "contains 'or ders', which no topic can match"),
        ("orders=0/s", "the lowest rate is 1/s, `relay topics pause` stops a topic"),
        ("a=5/s,orders=9kB/s", "contains 'orders=9kB/s'; the lowest rate is 10kB/s"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_what_to_write(limits: str, complaint: str) -> None:
    told = problem({**ENOUGH, "RELAY_PUBLISH_LIMITS": limits})
    assert "RELAY_PUBLISH_LIMITS" in told
    assert complaint in told


@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf", "soon"])
def test_times_are_positive_finite_numbers(value: str) -> None:
    assert "RELAY_REPLICA_LEASE" in problem(ENOUGH | {"RELAY_REPLICA_LEASE": value})


NUMBERS = [
    name
    for name, variable in variables(Settings).items()
    if str(variable.field.annotation) in ("<class 'int'>", "<class 'float'>") and not name.endswith("_PER_SECOND")
]


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_that_servers_could_not_take_is_refused_by_its_name(name: str) -> None:
    """PostgreSQL and Kafka would refuse it again and again, when the relay runs."""
    assert len(NUMBERS) > 20
    with pytest.raises(SettingsError) as raised:
        Settings.load(ENOUGH | {name: "1" + "0" * 19})
    assert f"{name} is '10000000000000000000' but should be less than or equal to" in str(raised.value)


@pytest.mark.parametrize("name", [name for name in variables(Settings) if not name.startswith("RELAY_LOOP")])
@pytest.mark.parametrize("text", ["a\udce4b", "a\x00b"])
def test_what_can_be_sent_to_no_server_is_refused_by_its_name_and_not_told(name: str, text: str) -> None:
    """Python has bytes of a variable that are not UTF-8 as halves of surrogate pairs, and fails when it sends them."""
    with pytest.raises(SettingsError) as raised:
        Settings.load(ENOUGH | {name: text})
    problem = "has a null byte" if "\x00" in text else "is not UTF-8 text"
    assert f"{name} {problem}; correct it" in str(raised.value)
    assert text not in str(raised.value)


def test_a_password_among_the_brokers_is_refused_and_not_told() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load(ENOUGH | {"RELAY_KAFKA_BOOTSTRAP_SERVERS": "broker-1:9092,relay:geheim@broker-2:9092"})
    assert "RELAY_KAFKA_BOOTSTRAP_SERVERS contains a broker with a user or a password" in str(raised.value)
    assert "geheim" not in str(raised.value)


def test_a_secret_is_read_from_a_file_and_loses_the_line_end(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(DSN + "\n")

    settings, sources = load_with_sources(
        {"RELAY_POSTGRES_DSN_FILE": str(file), "RELAY_KAFKA_BOOTSTRAP_SERVERS": "b:1"}
    )

    assert settings.postgres.dsn.get_secret_value() == DSN
    assert sources["RELAY_POSTGRES_DSN"] == f"file {file}"


def test_a_secret_in_a_file_is_read_anew_whenever_it_is_needed(tmp_path: Path) -> None:
    file, other = tmp_path / "dsn", DSN.replace("//", "//somebody:new@", 1).replace("somebody:new@relay", "relay", 1)
    file.write_text(DSN)
    given = {"RELAY_POSTGRES_DSN_FILE": str(file), "RELAY_KAFKA_BOOTSTRAP_SERVERS": "b:1"}
    for settings in (Settings.load(given).postgres, load_postgres(given)):
        file.write_text(other + "\n")
        assert settings.dsn.get_secret_value() == other
        file.write_text("")
        with pytest.raises(SettingsError, match=f"RELAY_POSTGRES_DSN .from file {file}. is empty"):
            settings.dsn.get_secret_value()
        file.write_text(SECRET)
        with pytest.raises(SettingsError, match="must begin with postgresql://") as raised:
            settings.dsn.get_secret_value()
        assert SECRET not in str(raised.value) + repr(settings)
        file.unlink()
        with pytest.raises(SettingsError, match=f"RELAY_POSTGRES_DSN_FILE names {file}, which cannot be read"):
            settings.dsn.get_secret_value()
        file.write_text(DSN)


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("\n")
    message = problem({"RELAY_POSTGRES_DSN_FILE": str(file), "RELAY_KAFKA_BOOTSTRAP_SERVERS": "b:1"})
    assert message == f"RELAY_POSTGRES_DSN_FILE names {file}, which is empty; write the secret to it"


def test_a_secret_file_that_cannot_be_read_is_one_problem_and_not_two(tmp_path: Path) -> None:
    message = problem({"RELAY_POSTGRES_DSN_FILE": str(tmp_path / "no"), "RELAY_KAFKA_BOOTSTRAP_SERVERS": "b:1"})

    assert message.startswith("RELAY_POSTGRES_DSN_FILE names ")
    assert "No such file" in message
    assert "not set" not in message


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text(DSN)
    assert "are both set; keep one" in problem(ENOUGH | {"RELAY_POSTGRES_DSN_FILE": str(file)})


def test_a_settings_file_is_read_and_variables_win_over_it(tmp_path: Path) -> None:
    secret_file = tmp_path / "password"
    secret_file.write_text(SECRET)
    file = tmp_path / "relay.toml"
    file.write_text(
        f"""
        [postgres]
        dsn = "{DSN}"
        [kafka]
        bootstrap_servers = ["a:1", "b:2"]
        security_protocol = "SASL_PLAINTEXT"
        sasl_mechanism = "PLAIN"
        sasl_username = "relay"
        sasl_password_file = "{secret_file}"
        [http]
        port = 9000
        [scan]
        wake_up = false
        idle_interval = 0.5
        """
    )

    settings, sources = load_with_sources({"RELAY_CONFIG_FILE": str(file), "RELAY_HTTP_PORT": "9001"})

    assert settings.kafka.bootstrap_servers == "a:1,b:2"
    assert settings.kafka.sasl_password is not None
    assert settings.kafka.sasl_password.get_secret_value() == SECRET
    assert (settings.scan.wake_up, settings.scan.idle_interval) == (False, 0.5)
    assert settings.http.port == 9001
    assert sources["RELAY_HTTP_PORT"] == "environment"
    assert sources["RELAY_SCAN_WAKE_UP"] == f"file {file}"
    assert sources["RELAY_HTTP_HOST"] == "default"


def test_problems_of_a_settings_file_name_it(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("top = 1\n[http]\nprot = 1\nport = 70000\n")

    message = problem(ENOUGH | {"RELAY_CONFIG_FILE": str(file)})

    assert f"RELAY_HTTP_PROT in {file} is not a setting; did you mean RELAY_HTTP_PORT?" in message
    assert f"RELAY_TOP in {file} is not a setting" in message
    assert f"RELAY_HTTP_PORT is '70000' (from file {file}) but should be less than" in message


def test_a_settings_file_that_is_no_toml_or_does_not_exist_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "relay.toml"
    broken.write_text(f"[postgres]\ndsn = {SECRET}\n")

    assert "which is not TOML" in problem(ENOUGH | {"RELAY_CONFIG_FILE": str(broken)})
    assert "cannot be read" in problem(ENOUGH | {"RELAY_CONFIG_FILE": str(tmp_path / "none")})


def test_secrets_are_in_no_representation() -> None:
    settings = Settings.load(
        ENOUGH
        | {
            "RELAY_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "RELAY_KAFKA_SASL_MECHANISM": "PLAIN",
            "RELAY_KAFKA_SASL_USERNAME": "relay",
            "RELAY_KAFKA_SASL_PASSWORD": SECRET,
        }
    )

    for text in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in text


def test_refused_values_are_in_no_message_of_pydantic() -> None:
    with pytest.raises(ValidationError) as refusal:
        PostgresSettings.model_validate({"dsn": f"host=db password={SECRET}"})
    assert SECRET not in str(refusal.value)
    with pytest.raises(ValidationError) as refusal:
        KafkaSettings.model_validate({"bootstrap_servers": "b:1", "sasl_pasword": SECRET})
    assert SECRET not in str(refusal.value)


def test_what_was_found_is_in_no_representation_either() -> None:
    from relay.settings import load

    assert SECRET not in repr(load.find(variables(Settings), ENOUGH))


def test_admin_commands_need_only_the_postgres_group() -> None:
    assert load_postgres({"RELAY_POSTGRES_DSN": DSN}).schema_name == "outbox"


def test_admin_commands_are_unaffected_by_the_other_groups() -> None:
    broken = {name: "-x" for name in variables(Settings) if "POSTGRES" not in name}
    broken |= {
        "RELAY_KAFKA_CONNECT_TIMEOUT": "1",
        "RELAY_KAFKA_COMPRESION": "zstd",
        "RELAY_X": "1",
    }
    assert load_postgres({"RELAY_POSTGRES_DSN": DSN} | broken).dsn.get_secret_value() == DSN
    unreadable = {"RELAY_KAFKA_SASL_PASSWORD_FILE": "/no/such/file"}
    assert load_postgres({"RELAY_POSTGRES_DSN": DSN} | unreadable).dsn.get_secret_value() == DSN


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({}, "RELAY_POSTGRES_DSN is not set"),
        ({"RELAY_POSTGRE_DSN": DSN}, "did you mean RELAY_POSTGRES_DSN?"),
        ({"RELAY_POSTGRE_DSN_FILE": "/run/dsn"}, "did you mean RELAY_POSTGRES_DSN_FILE?"),
        ({"RELAY_POSTGRES_DSN_FILE": "/no/such/file"}, "RELAY_POSTGRES_DSN_FILE names /no/such/file"),
        ({"RELAY_CONFIG_FLE": "relay.toml", "RELAY_POSTGRES_DSN": DSN}, "did you mean RELAY_CONFIG_FILE?"),
        ({"RELAY_POSTGRES_DSN": DSN, "RELAY_POSTGRES_FOO": "1"}, "RELAY_POSTGRES_FOO is not a setting"),
        ({"RELAY_POSTGRES_DSN": DSN, "RELAY_POSTGRES_SCHEMA": "X"}, "RELAY_POSTGRES_SCHEMA must be"),
    ],
)
def test_admin_commands_refuse_problems_of_the_postgres_group(env: dict[str, str], complaint: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        load_postgres(env)
    assert complaint in str(refusal.value)
    assert SECRET not in str(refusal.value)


def test_every_setting_is_documented_and_in_the_reference() -> None:
    text = reference()
    for name, variable in variables(Settings).items():
        assert variable.field.description, name
        assert f"| `{name}` |" in text
        if variable.secret:
            assert f"`{name}_FILE`" in text


def test_a_default_of_nothing_is_an_empty_cell_in_the_reference() -> None:
    assert "``" not in reference()


def test_every_variable_of_the_reference_sets_the_field_it_names() -> None:
    known = variables(Settings)
    assert len(known) == sum(
        len(
            getattr(Settings.load(ENOUGH), group).model_fields_set
            | type(getattr(Settings.load(ENOUGH), group)).model_fields.keys()
        )
        for group in Settings.model_fields
    )
    for name in (
        "RELAY_KAFKA_RECORD_BATCH_BYTES",
        "RELAY_SCAN_SWEEP_STEP_IDS",
        "RELAY_SEGMENT_CHECK_INTERVAL",
    ):
        variable = known[name]
        settings = Settings.load(ENOUGH | {name: "2048"})
        assert getattr(getattr(settings, variable.group), variable.attribute) == 2048


def test_what_applies_is_shown_with_masked_secrets_as_json_takes_it() -> None:
    rows = {row.name: row for row in effective(*load_with_sources(ENOUGH))}

    assert rows["RELAY_POSTGRES_DSN"].value == "postgresql://relay:********@db:5432/shop"
    assert rows["RELAY_POSTGRES_DSN"].source == "environment"
    assert rows["RELAY_HTTP_PORT"].value == 8080
    assert SECRET not in json.dumps([row.value for row in rows.values()])


OLD, NEW = "RELAY_HEALTH_MAX_LAG", "RELAY_HEALTH_MAX_STALL"


def given_by_old_names(env: dict[str, str]) -> tuple[Settings, dict[str, str], list[str]]:
    """The settings, their sources, and what is told about names of an earlier release."""
    told: list[Warned] = []
    settings, sources = load_with_sources(ENOUGH | env, told.append)
    return settings, sources, [str(each) for each in told if isinstance(each, OldName)]


def test_the_old_name_of_a_setting_is_taken_and_a_warning_names_the_new_one() -> None:
    settings, sources, told = given_by_old_names({OLD: "30"})
    assert settings.health.max_stall == 30.0
    assert sources[NEW] == "environment"
    assert OLD not in sources
    (warning,) = told
    assert warning == (
        "RELAY_HEALTH_MAX_LAG is the old name of RELAY_HEALTH_MAX_STALL and will be refused by the next release; "
        "use the new name"
    )
    assert Settings.load(ENOUGH | {OLD: "30"}).health.max_stall == 30.0


def test_the_old_name_is_also_taken_from_a_settings_file_that_the_warning_names(tmp_path: Path) -> None:
    file = tmp_path / "relay.toml"
    file.write_text("[health]\nmax_lag = 30\n")
    settings, sources, told = given_by_old_names({"RELAY_CONFIG_FILE": str(file)})
    assert settings.health.max_stall == 30.0
    assert sources[NEW] == f"file {file}"
    assert [text[: len(f"{OLD} in {file} is")] for text in told] == [f"{OLD} in {file} is"]

    settings, sources, told = given_by_old_names({"RELAY_CONFIG_FILE": str(file), NEW: "40"})
    assert (settings.health.max_stall, sources[NEW], len(told)) == (40.0, "environment", 1)


@pytest.mark.parametrize("value", ["30", "30.0"])
def test_both_names_with_the_same_value_are_taken_with_the_warning(value: str) -> None:
    settings, _, told = given_by_old_names({OLD: value, NEW: "30"})
    assert (settings.health.max_stall, len(told)) == (30.0, 1)


def test_both_names_with_different_values_are_refused(tmp_path: Path) -> None:
    assert problem(ENOUGH | {OLD: "30", NEW: "40"}) == (
        "RELAY_HEALTH_MAX_STALL is '40' and its old name RELAY_HEALTH_MAX_LAG is '30'; remove RELAY_HEALTH_MAX_LAG"
    )
    file = tmp_path / "relay.toml"
    file.write_text("[health]\nmax_lag = 30\nmax_stall = 40\n")
    assert f"its old name RELAY_HEALTH_MAX_LAG in {file} is '30'" in problem(ENOUGH | {"RELAY_CONFIG_FILE": str(file)})


def test_an_old_name_that_is_empty_counts_as_not_set() -> None:
    settings, sources, told = given_by_old_names({OLD: ""})
    assert (settings.health.max_stall, sources[NEW], told) == (60.0, "default", [])
    assert given_by_old_names({OLD: "", NEW: "30"})[0].health.max_stall == 30.0


def test_a_bad_value_under_the_old_name_is_told_by_the_new_one() -> None:
    assert f"{NEW} is 'long' but should be a valid number" in problem(ENOUGH | {OLD: "long"})


def test_the_admin_commands_do_not_look_at_the_old_name() -> None:
    assert load_postgres({"RELAY_POSTGRES_DSN": DSN, OLD: "30", NEW: "40"}).dsn.get_secret_value() == DSN


def test_every_old_name_stands_for_a_setting_that_is_not_a_secret() -> None:
    known = variables(Settings)
    for old, new in RENAMED.items():
        assert old not in known
        assert not known[new].secret, "its _FILE variant would need an old name, too"
