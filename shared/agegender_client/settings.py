"""Where the services are, and how patient a client is."""

from typing import Literal, Self
from urllib.parse import urlsplit

from agegender.http_clients import UserUrl, bad_settings
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_PREFIX = "AGEGENDER_"


class ClientSettings(BaseSettings):
    """Each from an environment variable, `AGEGENDER_PREDICTOR_URL` and so on, or given by name.

    An empty variable means the default.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    predictor_url: UserUrl = Field("http://127.0.0.1:10003")
    trainer_url: UserUrl = Field("http://127.0.0.1:10004")
    proxy_url: UserUrl = Field("http://127.0.0.1:10002")
    api_key: SecretStr | None = Field(None, description="sent with every request")
    timeout: float = Field(60, gt=0, description="seconds for one answer")
    attempts: int = Field(5, ge=1, description="of one request, where the service asks to come again")
    patience: float = Field(30, ge=0, description="seconds that all the waiting between attempts may take")

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
        """The settings of the environment. Raises `Problem` ``bad-settings`` that names the variables."""
        try:
            return cls()
        except ValidationError as error:
            wrong = [
                f"{_PREFIX}{str(item['loc'][0]).upper()}: {item['msg'].removeprefix('Value error, ')}"
                for item in error.errors(include_input=False, include_url=False)
            ]
            raise bad_settings(f"{'; '.join(wrong)}.") from None

    @property
    def urls(self) -> dict[Literal["predictor", "trainer", "proxy"], str]:
        return {"predictor": self.predictor_url, "trainer": self.trainer_url, "proxy": self.proxy_url}

    def headers(self, url: str) -> dict[str, str]:
        """The key, for requests to `url`. With a user name in it, `Authorization` carries that."""
        if self.api_key is None:
            return {}
        key = self.api_key.get_secret_value()
        return {"X-API-Key": key} if urlsplit(url).username else {"Authorization": f"Bearer {key}"}
