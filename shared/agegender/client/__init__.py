"""The typed client of the predictor, the proxy and the trainer; sync and async, with retries."""

from agegender.client.asynchronous import AsyncClient
from agegender.client.settings import ClientSettings
from agegender.client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ClientSettings"]
