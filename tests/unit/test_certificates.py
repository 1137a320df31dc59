"""When certificates in files end: as OpenSSL says, and told again when they were renewed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from relay.admin.doctor.certificates import of_certificates
from relay.run.certificates import watch_certificates
from relay.settings import KafkaSettings, PostgresSettings, Settings
from relay.settings.certificates import end_of, files
from relay.telemetry import Telemetry
from tests.support.servers.certificates import ALWAYS, EXPIRED, Authority
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path


def when(text: str) -> float:
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "right")


@pytest.mark.parametrize("end", ["20210101000000Z", "20491231235959Z", "20500101000000Z", "99991231235959Z"])
def test_the_end_is_read_in_both_forms_that_it_may_have(authority: Authority, end: str) -> None:
    certificate, _ = authority.issue(f"until-{end}", valid=("20200101000000Z", end))
    assert end_of("kafka client", certificate) == when(end)


def test_a_chain_ends_with_its_first_and_authorities_with_the_last_of_them(
    authority: Authority, tmp_path: Path
) -> None:
    old, _ = authority.issue("old", valid=EXPIRED)
    new, _ = authority.issue("new", valid=ALWAYS)
    both = tmp_path / "both.pem"
    both.write_text(f"a comment: \xfc\n{new.read_text()}{old.read_text()}", encoding="utf-8")
    assert end_of("kafka client", both) == when(EXPIRED[1])
    assert end_of("postgres authority", both) == when(ALWAYS[1])


@pytest.mark.parametrize("content", ["", "nothing", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"])
def test_a_file_without_a_certificate_is_a_value_error(tmp_path: Path, content: str) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text(content)
    with pytest.raises(ValueError, match="certificate"):
        end_of("kafka client", wrong)


def settings(certificate: Path, authority: Path) -> tuple[PostgresSettings, KafkaSettings]:
    return (
        PostgresSettings(
            dsn=SecretStr(f"postgresql://a/b?sslmode=verify-full&sslrootcert={authority}&sslcert={certificate}")
        ),
        KafkaSettings(bootstrap_servers="a:1", security_protocol="SSL", ssl_cafile=authority, ssl_certfile=certificate),
    )


def test_the_files_are_those_that_the_settings_name_and_that_are_used(authority: Authority) -> None:
    certificate, _ = authority.issue("named")
    postgres, kafka = settings(certificate, authority.certificate)
    assert files(postgres, kafka) == {
        "kafka client": certificate,
        "kafka authority": authority.certificate,
        "postgres client": certificate,
        "postgres authority": authority.certificate,
    }
    assert files(None, kafka.model_copy(update={"security_protocol": "PLAINTEXT"})) == {}
    plain = PostgresSettings(dsn=SecretStr("postgresql://a/b?sslrootcert=system"))
    assert files(plain, None) == {}


async def test_a_renewed_certificate_is_told_and_a_file_that_is_away_keeps_its_date(
    authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "client.pem"
    file.write_text(authority.issue("first", valid=EXPIRED)[0].read_text())
    given = Settings.load(
        {
            "RELAY_POSTGRES_DSN": "postgresql://a/b",
            "RELAY_KAFKA_BOOTSTRAP_SERVERS": "a:1",
            "RELAY_KAFKA_SECURITY_PROTOCOL": "SSL",
            "RELAY_KAFKA_SSL_CERTFILE": str(file),
        }
    )
    telemetry = Telemetry()

    def told(end: str) -> bool:
        value = telemetry.value("certificate_expiry_timestamp_seconds", certificate="kafka client")
        return value == when(end)

    async def tells(end: str) -> None:
        async def look() -> bool:
            return told(end)

        await until(f"it tells {end}", look)

    watching = asyncio.create_task(watch_certificates(given, telemetry, interval=0.001))
    await tells(EXPIRED[1])
    renewed = authority.issue("second", valid=ALWAYS)[0].read_text()
    file.unlink()
    await asyncio.sleep(0.01)
    assert told(EXPIRED[1])
    file.write_text(renewed)
    await tells(ALWAYS[1])
    watching.cancel()


def test_the_doctor_warns_before_a_certificate_ends_and_says_so_afterwards(authority: Authority) -> None:
    certificate, _ = authority.issue("ending", valid=("20200101000000Z", "20300601000000Z"))
    postgres, kafka = settings(certificate, certificate)
    end = when("20300601000000Z")
    assert list(of_certificates(postgres, kafka, end - 15 * 86_400)) == []
    early = list(of_certificates(postgres, kafka, end - 13 * 86_400))
    assert [check.what for check in early][:2] == [
        "the certificate of the kafka client ends in 13 d 0 h, on 2030-06-01",
        "the certificate of the kafka authority ends in 13 d 0 h, on 2030-06-01",
    ]
    assert {check.state for check in early} == {"warning"}
    late = list(of_certificates(postgres, kafka, end))
    assert {check.state for check in late} == {"problem"}
    assert late[2][2:] == (
        "the certificate of the postgres client ended on 2030-06-01",
        "connections that need it are refused",
        f"replace {certificate}; it is read again",
    )
