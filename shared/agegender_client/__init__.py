"""The typed client of the predictor, the proxy and the trainer; sync and async, with retries."""

from agegender_client.asynchronous import AsyncClient
from agegender_client.settings import ClientSettings
from agegender_client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ClientSettings"]
