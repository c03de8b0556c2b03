"""The same service with FastAPI."""

from typing import Annotated

from fastapi import FastAPI, Query
from naive import infer

app = FastAPI()


@app.get("/inference")
async def inference(
    position: Annotated[float, Query()],
    velocity: Annotated[float, Query()],
    angle: Annotated[float, Query()],
    angular_velocity: Annotated[float, Query()],
) -> dict[str, float]:
    return infer(position, velocity, angle, angular_velocity)
