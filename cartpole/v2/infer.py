"""POST /v2/models/cartpole/infer."""

from cartpole.api.batches import BatchEndpoint, Reply
from cartpole.api.request_bodies import BodyHead
from cartpole.metrics.routes import INFER
from cartpole.v2.infer_reply import encode_reply, render_infer
from cartpole.v2.infer_request import InferBatch, parse_header_length, parse_infer


class Infer(BatchEndpoint[InferBatch]):
    """Tensors in, tensors out: as JSON, as bytes behind it, or both."""

    route = INFER

    def check_head(self, head: BodyHead) -> None:
        parse_header_length(head.json_size)

    def parse(self, head: BodyHead, body: bytes) -> InferBatch:
        return parse_infer(body, parse_header_length(head.json_size))

    def render(self, head: BodyHead, batch: InferBatch) -> Reply:
        return encode_reply(*render_infer(batch), head.accepted)
