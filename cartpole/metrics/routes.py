"""The routes and statuses that requests are counted by."""

INFER = "/v2/models/cartpole/infer"
BATCH_ROUTES = ("/inference", INFER)  # that answer many rows to one request, by POST
PAGE, OTHER = "page", "other"  # the files of the pages; unknown paths
OPENAPI = "/openapi.json"
ROUTES = (
    "/inference",
    "/health/live",
    "/health/ready",
    "/metrics",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/cartpole",
    "/v2/models/cartpole/config",
    INFER,
    "/v2/models/cartpole/ready",
    "/v2/models/cartpole/stats",
    "/v2/models/stats",
    "/v2/repository/index",
    OPENAPI,
    PAGE,
    OTHER,
)
# The route of each path. Some routes also have a path with the version of the model.
ROUTE_OF = {route: route for route in ROUTES} | {
    route.replace("/cartpole", "/cartpole/versions/1"): route
    for route in ROUTES
    if route.startswith("/v2/models/cartpole")
}
STATUSES = (200, 204, 400, 404, 405, 413, 415, 500, 503)
FILE_STATUSES = (200, 304, 405, 406, 412, 500)


def statuses_of(route: str) -> tuple[int, ...]:
    """The statuses that a route may answer with."""
    return FILE_STATUSES if route in (PAGE, OPENAPI) else STATUSES
