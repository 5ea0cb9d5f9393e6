"""The running system as an attacker sees it: what becomes of what is sent or dropped into its data."""

import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from agegender.heads.head import set_current
from agegender.spaces import Space

from tools.stack import Stack

JOB_SECONDS = 300


@dataclass
class System:
    stack: Stack
    space: Space
    mark: Path  # a file that must never appear

    def url(self, service: str, path: str) -> str:
        return f"{self.stack.url(service)}{path}"

    def post(self, service: str, path: str, content: bytes, kind: str = "image/png") -> str:
        headers = {"Content-Type": kind}
        return outcome(httpx.post(self.url(service, path), content=content, headers=headers, timeout=90))

    def json(self, service: str, path: str, content: bytes | str) -> str:
        body = content if isinstance(content, bytes) else content.encode()
        return self.post(service, path, body, "application/json")

    def image(self, content: bytes) -> str:
        return self.post("predictor", "/age-gender", content)

    def images(self, contents: Iterable[bytes]) -> set[str]:
        """Return the outcome of each, all in one request."""
        parts = [("image", ("x", content)) for content in contents]
        answer = httpx.post(self.url("predictor", "/age-gender"), files=parts, timeout=90)
        if not answer.is_success:
            return {outcome(answer)}
        entries = answer.json()["images"]
        return {slug(entry["problem"]) if "problem" in entry else "200" for entry in entries}

    def form(self, content: bytes, kind: str) -> str:
        return self.post("predictor", "/age-gender", content, kind)

    def raw(self, sent: Iterable[bytes], service: str = "predictor") -> str:
        """The status of what is answered to bytes sent as they are, or that the connection was closed."""
        with socket.create_connection(("127.0.0.1", self.stack.ports[service]), 40) as connection:
            try:
                for part in sent:
                    connection.sendall(part)
                received = connection.recv(4096)
            except OSError:
                return "closed"
        return received.split(b" ")[1].decode() if received.startswith(b"HTTP/1.1 ") else "closed"

    def folders(self, kind: str, files: Mapping[str, bytes], name: str) -> list[str]:
        """A data set for each file, with it under `name`; gives the data sets' names."""
        made = [f"{kind}-{number}" for number in range(len(files))]
        for dataset, content in zip(made, files.values(), strict=True):
            path = self.stack.data_dir / dataset / name
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        return made

    def jobs(self, route: str, datasets: Iterable[str]) -> set[str]:
        """Return the outcomes of extractions or imports, all started at once."""
        started = {
            dataset: outcome(
                httpx.post(self.url("trainer", f"/datasets/{dataset}/{route}"), json={}, timeout=60)
            )
            for dataset in datasets
        }
        running = [dataset for dataset, answered in started.items() if answered == "200"]
        return {answer for answer in started.values() if answer != "200"}.union(*map(self._ended, running))

    def _ended(self, dataset: str) -> set[str]:
        end = time.monotonic() + JOB_SECONDS
        while time.monotonic() < end:
            (extraction,) = httpx.get(self.url("trainer", f"/datasets/{dataset}"), timeout=60).json()[
                "extractions"
            ]
            if extraction["state"] in ("finished", "failed"):
                problem: dict[str, Any] = extraction["problem"] or {"type": "-"}
                return {f"{extraction['state']} {slug(problem)}", *problem.get("removed", {})}
            time.sleep(0.1)
        return {f"{dataset} did not end"}

    def served_age_head(self, version: str) -> str:
        """Return whether a version, made the current one, is served, or why not."""
        set_current(self.stack.data_dir / "models" / "age" / self.space.id, version)
        answer = httpx.post(self.url("predictor", "/models/refresh"), timeout=60)
        if not answer.is_success:
            return outcome(answer)
        (head,) = (
            head
            for head in answer.json()["models"]
            if (head["task"], head["space"]) == ("age", self.space.id)
        )
        return "served" if head["version"] == version else "refused" if head["problem"] else "forgotten"


def outcome(answer: httpx.Response) -> str:
    return "200" if answer.is_success else f"{answer.status_code} {slug(answer.json())}"


def slug(problem: Mapping[str, Any]) -> str:
    return str(problem["type"]).rsplit(":", 1)[-1]
