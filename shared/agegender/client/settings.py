"""Where the services are, and how patient a client is."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class ClientSettings(BaseSettings):
    """Each from an environment variable, `AGEGENDER_PREDICTOR_URL` and so on, or given by name."""

    model_config = SettingsConfigDict(
        env_prefix="AGEGENDER_", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    predictor_url: str = Field("http://127.0.0.1:10003", pattern=r"^https?://")
    trainer_url: str = Field("http://127.0.0.1:10004", pattern=r"^https?://")
    proxy_url: str = Field("http://127.0.0.1:10002", pattern=r"^https?://")
    api_key: SecretStr | None = Field(None, description="sent with every request")
    timeout: float = Field(60, gt=0, description="seconds for one answer")
    attempts: int = Field(5, ge=1, description="of one request, where the service asks to come again")
    patience: float = Field(30, ge=0, description="seconds that all the waiting between attempts may take")

    @property
    def urls(self) -> dict[Literal["predictor", "trainer", "proxy"], str]:
        return {"predictor": self.predictor_url, "trainer": self.trainer_url, "proxy": self.proxy_url}

    @property
    def headers(self) -> dict[str, str]:
        if self.api_key is None:
            return {}
        return {"Authorization": f"Bearer {self.api_key.get_secret_value()}"}
