"""The names, types and shapes that the protocol knows the policy by."""

from dataclasses import dataclass
from typing import Literal

from cartpole.predictor import OBSERVATIONS

MODEL, VERSION = "cartpole", "1"
PLATFORM = "pytorch_torchscript"
INPUT = "observation"


@dataclass(frozen=True)
class Output:
    """A tensor of a reply.

    Attributes:
        datatype: as the protocol names it.
        code: the letter of its elements in the module struct.
        columns: elements of a row; 0 for a tensor of one dimension.
    """

    name: str
    datatype: str
    code: Literal["f", "q"]
    columns: int

    def shape(self, rows: int) -> list[int]:
        return [rows, self.columns] if self.columns else [rows]


OUTPUTS = {
    output.name: output
    for output in (
        Output("logits", "FP32", "f", 2),
        Output("value", "FP32", "f", 1),
        Output("action", "INT64", "q", 0),
    )
}
INPUT_SHAPE = [-1, OBSERVATIONS]
