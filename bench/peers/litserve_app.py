"""The same service with LitServe, which accepts only JSON by POST."""

import sys
from typing import Any

import litserve


class CartPole(litserve.LitAPI):
    def setup(self, device: str) -> None:
        from naive import infer

        self.infer = infer

    def predict(self, x: dict[str, float]) -> Any:
        return self.infer(**x)


if __name__ == "__main__":
    api = CartPole(api_path="/inference")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    options = {"log_level": "error", "generate_client_file": False}
    server.run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, **options)
