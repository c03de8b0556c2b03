"""KServe's own client against a service, for tests/v2/test_clients.py, in its own environment.

The only argument is the service's URL.
"""

import asyncio
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig

STATES = np.array([[0, 0, -1, 0], [0, 0, 1, 0]], np.float32)


def request(states: np.ndarray[Any, Any], binary: bool) -> InferRequest:
    observation = InferInput("observation", list(states.shape), "FP32")
    observation.set_data_from_numpy(states, binary_data=binary)
    return InferRequest("cartpole", [observation], request_id="seven")


async def main(url: str) -> None:
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=1, timeout=10))
    assert await client.is_server_live(url)
    assert await client.is_server_ready(url)
    assert await client.is_model_ready(url, "cartpole")
    assert not await client.is_model_ready(url, "other")
    for binary in (False, True):
        answer = await client.infer(url, request(STATES, binary), model_name="cartpole")
        assert answer.id == "seven"
        found = {output.name: output.as_numpy() for output in answer.outputs}
        assert found["action"].tolist() == [0, 1]
        assert found["logits"].shape == (2, 2)
        assert found["value"].shape == (2, 1)
    try:
        await client.infer(url, request(STATES[:, :3], False), model_name="cartpole")
    except Exception as error:
        assert "the shape of observation is not [rows, 4]" in str(error)
    else:
        raise AssertionError("a wrong shape was accepted")
    print("passed")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
