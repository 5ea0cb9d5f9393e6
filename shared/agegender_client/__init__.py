"""Typed clients of the predictor, the embedder-proxy and the trainer, with retries.

>>> from agegender_client import Client, AsyncClient
"""

from agegender_client.asynchronous import AsyncClient
from agegender_client.settings import ClientSettings
from agegender_client.synchronous import Client

__all__ = ["AsyncClient", "Client", "ClientSettings"]
