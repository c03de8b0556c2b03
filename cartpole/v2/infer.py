"""POST /v2/models/cartpole/infer."""

from cartpole.api.batches import BatchEndpoint, Reply
from cartpole.api.request_bodies import header
from cartpole.api.responses import Headers
from cartpole.metrics.counters import INFER
from cartpole.v2.contract import HEADER_LENGTH
from cartpole.v2.infer_reply import encode_reply, render_infer
from cartpole.v2.infer_request import InferBatch, parse_header_length, parse_infer


class Infer(BatchEndpoint[InferBatch]):
    """Tensors in, tensors out: as JSON, as bytes behind it, or both."""

    route = INFER

    def check_head(self, head: Headers) -> None:
        parse_header_length(header(head, HEADER_LENGTH))

    def parse(self, head: Headers, body: bytes) -> InferBatch:
        return parse_infer(body, parse_header_length(header(head, HEADER_LENGTH)))

    def render(self, head: Headers, batch: InferBatch) -> Reply:
        accepted = b",".join(value for name, value in head if name == b"accept-encoding")
        return encode_reply(*render_infer(batch), accepted)
