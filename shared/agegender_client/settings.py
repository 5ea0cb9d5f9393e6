"""Settings of the client: the URLs of the services, the API key and the time-out."""

from typing import ClassVar, Literal, Self
from urllib.parse import urlsplit

from agegender.environment import EnvironmentSettings, explain
from agegender.http_clients import UserUrl, bad_settings
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import SettingsConfigDict


class ClientSettings(EnvironmentSettings):
    """Each is given by name, or read from an environment variable such as `AGEGENDER_PREDICTOR_URL`.

    attempts : maximum number of times that a request is sent.
    patience : maximum seconds of all pauses between attempts together.
    """

    model_config = SettingsConfigDict(env_prefix="AGEGENDER_")
    formerly: ClassVar = {"AGEGENDER_TIMEOUT": "AGEGENDER_TIMEOUT_SECONDS"}
    constants: ClassVar = frozenset({"attempts", "patience"})

    predictor_url: UserUrl = Field("http://127.0.0.1:10003", description="URL of the predictor.")
    trainer_url: UserUrl = Field("http://127.0.0.1:10004", description="URL of the trainer.")
    proxy_url: UserUrl = Field("http://127.0.0.1:10002", description="URL of the embedder-proxy.")
    api_key: SecretStr | None = Field(None, description="API key sent with every request.")
    timeout: float = Field(
        60,
        gt=0,
        validation_alias=AliasChoices("AGEGENDER_TIMEOUT_SECONDS"),
        description="Seconds to wait for a response.",
    )
    attempts: int = Field(5, ge=1)
    patience: float = Field(30, ge=0)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        key = value.get_secret_value().strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("a key has printable ASCII characters and no blanks; `agegender key` makes one")
        return SecretStr(key)

    @classmethod
    def from_environment(cls) -> Self:
        """Return the settings of the environment.

        Raises `Problem` ``bad-settings``, which names each invalid variable.
        """
        try:
            settings = cls()
        except ValidationError as error:
            raise bad_settings(f"{explain(cls, error)}.") from None
        cls.log_deprecations()
        return settings

    @classmethod
    def checked(cls, settings: Self | None) -> Self:
        """Return the given settings or those of the environment; raise `TypeError` for other types."""
        if settings is None:
            return cls.from_environment()
        if isinstance(settings, cls):
            return settings
        raise TypeError(
            f"settings: got a {type(settings).__name__}; expected a ClientSettings,"
            " such as ClientSettings(predictor_url='http://127.0.0.1:10003')"
        )

    @property
    def urls(self) -> dict[Literal["predictor", "trainer", "proxy"], str]:
        return {"predictor": self.predictor_url, "trainer": self.trainer_url, "proxy": self.proxy_url}

    def headers(self, url: str) -> dict[str, str]:
        """Return the API key as headers for requests to `url`.

        With a user name in the URL, `Authorization` carries that, and the key goes into `X-API-Key`.
        """
        if self.api_key is None:
            return {}
        key = self.api_key.get_secret_value()
        return {"X-API-Key": key} if urlsplit(url).username else {"Authorization": f"Bearer {key}"}
