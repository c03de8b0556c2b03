"""Metadata of the service and its model. They don't change while it runs."""

from typing import Any

from orjson import dumps
from starlette.types import Receive, Scope, Send

from cartpole.api.responses import respond
from cartpole.api.rows import MAX_BATCH
from cartpole.predictor import OBSERVATIONS
from cartpole.v2.contract import INPUT, INPUT_SHAPE, MODEL, OUTPUTS, PLATFORM, VERSION, Output
from cartpole.version import __version__

SERVER = {
    "name": "cartpole",
    "version": __version__,
    "extensions": ["binary_tensor_data", "model_configuration", "statistics"],
}
METADATA = {
    "name": MODEL,
    "versions": [VERSION],
    "platform": PLATFORM,
    "inputs": [{"name": INPUT, "datatype": "FP32", "shape": INPUT_SHAPE}],
    "outputs": [
        {"name": output.name, "datatype": output.datatype, "shape": output.shape(-1)}
        for output in OUTPUTS.values()
    ],
}


def _configured(output: Output) -> dict[str, Any]:
    """An output of the configuration, where shapes leave out the batch and must not be empty."""
    found = {"name": output.name, "data_type": f"TYPE_{output.datatype}"}
    if output.columns:
        return found | {"dims": [output.columns]}
    return found | {"dims": [1], "reshape": {"shape": []}}


CONFIGURATION = {
    "name": MODEL,
    "platform": PLATFORM,
    "max_batch_size": MAX_BATCH,
    "version_policy": {"specific": {"versions": [int(VERSION)]}},
    "input": [{"name": INPUT, "data_type": "TYPE_FP32", "dims": [OBSERVATIONS]}],
    "output": [_configured(output) for output in OUTPUTS.values()],
}


class Document:
    """An ASGI endpoint whose answer is always the same."""

    def __init__(self, value: Any) -> None:
        self._body = dumps(value)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await respond(scope, send, 200, self._body)
