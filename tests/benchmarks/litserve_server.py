"""The same network served by LitServe, written as its documentation advises: ``python -m`` this, ``--port``.

Weights, preprocessing, precision and threads are those of a Pawlens worker, by the very same engine; around
it are LitServe's own HTTP server, queue, process and dynamic batching.
"""

# Without "from __future__ import annotations": LitServe looks at the annotations of decode_request.
import argparse
from pathlib import Path
from typing import Any

import litserve as ls
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from core.vision.engine import Engine
from core.vision.prediction import Prediction

# In its examples it is between 0.01 and 0.1 s. The least of these is the kindest to a single client, who
# waits for it in vain, and long enough for what 64 clients send.
BATCH_TIMEOUT = 0.01


class CatOrDog(ls.LitAPI):  # type: ignore[misc]
    def __init__(self, manifest: Path, threads: int, **options: Any) -> None:
        super().__init__(**options)
        self._manifest, self._threads = manifest, threads

    def setup(self, device: str) -> None:
        self._engine = Engine(self._manifest, device=device, threads=self._threads)

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        form: Any = request  # of a form with files LitServe hands over what stands in it
        return self._engine.prepare(form["file"].file.read())

    def batch(self, inputs: list[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        return inputs  # the engine stacks them

    def predict(self, x: list[NDArray[np.uint8]]) -> list[Prediction]:
        return self._engine.predict(x)

    def unbatch(self, output: list[Prediction]) -> list[Prediction]:
        return output

    def encode_response(self, output: Prediction) -> dict[str, Any]:
        return output.shown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-batch", type=int, required=True)
    given = parser.parse_args()
    api = CatOrDog(given.weights, given.threads, max_batch_size=given.max_batch, batch_timeout=BATCH_TIMEOUT)
    server = ls.LitServer(api, accelerator="auto", devices=1, timeout=False)
    server.run(host="127.0.0.1", port=given.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
