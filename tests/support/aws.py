"""boto3 and what it needs to call a predictor instead of Amazon Rekognition."""

from typing import Any

import boto3
from botocore.config import Config

ACCESS_KEY_ID = "AGEGENDERTEST1"
SECRET_ACCESS_KEY = "only/for+tests/0123456789abcdef"


def rekognition(url: str, access_key_id: str = ACCESS_KEY_ID, secret: str = SECRET_ACCESS_KEY) -> Any:
    """Return boto3's client, as a program makes it, with the one argument that changes: `endpoint_url`."""
    return boto3.client(
        "rekognition",
        endpoint_url=f"{url}/rekognition",
        region_name="eu-central-1",
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}, proxies={}),
    )
