"""The settings of PostgreSQL and of Kafka: where they are, and how the relay logs in."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, FilePath, SecretStr, model_validator

from relay.settings import checks
from relay.settings.group import Group, Seconds, lower, upper

Dsn = Annotated[SecretStr, AfterValidator(checks.dsn)]
SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
TokenProvider = Literal["oidc", "aws-msk-iam", "token"]
Compression = Literal["none", "zstd", "lz4", "snappy", "gzip"]


class PostgresSettings(Group):
    """Where the outbox is. The admin commands need no other group."""

    dsn: Dsn = Field(
        description="URI of PostgreSQL, reached directly or through a pooler in session mode.",
        examples=["postgresql://user:password@host:5432/database"],
    )
    password: SecretStr | None = Field(
        default=None, description="Password to connect with, for a DSN without one. Read again for each connection."
    )
    schema_name: Annotated[str, AfterValidator(checks.schema_name)] = Field(
        default="outbox",
        alias="schema",
        description="Schema of the outbox. One database can hold several outboxes.",
    )
    connect_timeout: Seconds = Field(
        default=10.0,
        description="Maximum time of one attempt to connect. The relay tries until an attempt succeeds.",
    )

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and checks.has_password(self.dsn):
            raise ValueError(
                "RELAY_POSTGRES_DSN has a password and RELAY_POSTGRES_PASSWORD is set too; leave one of them out"
            )
        return self


class KafkaSettings(Group):
    """How to reach Kafka and what to send. `acks=all` and idempotence are always on and not settings."""

    bootstrap_servers: Annotated[str, AfterValidator(checks.bootstrap_servers)] = Field(
        description="Brokers to connect to first, as `host:port`, separated by commas.",
        examples=["broker-1:9092,broker-2:9092"],
    )
    client_id: Annotated[str, AfterValidator(checks.visible_name)] = Field(
        default="outbox-relay",
        min_length=1,
        max_length=200,
        description="Name of this relay in the brokers' logs.",
    )
    security_protocol: Annotated[SecurityProtocol, BeforeValidator(upper)] = Field(
        default="PLAINTEXT", description="Protocol of the connections to the brokers."
    )
    sasl_mechanism: Annotated[SaslMechanism | None, BeforeValidator(upper)] = Field(
        default=None, description="Mechanism to log in with; required by the `SASL_` protocols."
    )
    sasl_username: str | None = Field(default=None, description="User name to log in with.")
    sasl_password: SecretStr | None = Field(default=None, description="Password to log in with.")
    oauth_provider: Annotated[TokenProvider | None, BeforeValidator(lower)] = Field(
        default=None,
        description="Where tokens for `OAUTHBEARER` come from: `oidc` asks a token endpoint (client credentials), "
        "`aws-msk-iam` signs them with the AWS credentials of the environment (extra `aws`), `token` takes those of "
        "`RELAY_KAFKA_OAUTH_TOKEN`.",
    )
    oauth_token_endpoint: Annotated[str | None, AfterValidator(checks.token_endpoint)] = Field(
        default=None, description="URL of the token endpoint, for `oidc`."
    )
    oauth_client_id: str | None = Field(default=None, description="Client id at the token endpoint.")
    oauth_client_secret: SecretStr | None = Field(default=None, description="Client secret at the token endpoint.")
    oauth_scope: str | None = Field(default=None, description="Scope to ask the token endpoint for.")
    oauth_parameters: Annotated[str | None, AfterValidator(checks.pairs)] = Field(
        default=None,
        description="Further fields of the request to the token endpoint: `audience=kafka,resource=...`, with a comma "
        "inside a value as `%2C`.",
    )
    oauth_cafile: FilePath | None = Field(
        default=None,
        description="PEM file with the authorities to trust for the token endpoint. Not set: those of the system.",
    )
    oauth_token: SecretStr | None = Field(
        default=None, description="Token to log in with, for `token`. Read again for each login that needs a new one."
    )
    oauth_aws_region: Annotated[str | None, AfterValidator(checks.aws_region)] = Field(
        default=None, description="AWS region of the cluster, for `aws-msk-iam`. Not set: `AWS_REGION`."
    )
    oauth_extensions: Annotated[str | None, AfterValidator(checks.sasl_extensions)] = Field(
        default=None,
        description="SASL extensions to send with a token: `logicalCluster=lkc-1,identityPoolId=pool-1`.",
    )
    ssl_cafile: FilePath | None = Field(
        default=None, description="PEM file with the certificate authorities to trust. Not set: those of the system."
    )
    ssl_certfile: FilePath | None = Field(
        default=None, description="PEM file with the client certificate, for brokers that require one."
    )
    ssl_keyfile: FilePath | None = Field(
        default=None, description="PEM file with the key of the client certificate, if it is not in the same file."
    )
    ssl_key_password: SecretStr | None = Field(default=None, description="Password of the key, if it has one.")
    request_timeout: Seconds = Field(
        default=8.0, description="Maximum time a broker may take to answer a request before the relay asks again."
    )
    compression: Annotated[Compression, BeforeValidator(lower)] = Field(
        default="none",
        description="Compression of record batches. All but `none` and `gzip` need the extra `compression`.",
    )
    record_batch_bytes: int = Field(
        default=65_536,
        ge=1_024,
        le=1_048_576,
        description="Maximum size of a record batch of several events. A larger event is sent alone.",
    )
    timestamp: Annotated[Literal["created", "published"], BeforeValidator(lower)] = Field(
        default="created",
        description="Time in Kafka's records: that of writing the event, or that of publishing it.",
    )
    transactional_id_prefix: Annotated[str, AfterValidator(checks.visible_name)] = Field(
        default="",
        max_length=200,
        description="Beginning of the transactional ids of this relay's producers, for the rights to them. Events are "
        "not sent in transactions: the ids serve to fence the producers of a replica that ended.",
        json_schema_extra={"shown_default": "the name of the schema and a hyphen"},
    )
