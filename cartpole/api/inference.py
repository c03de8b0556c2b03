"""GET /inference: a query, or all queries of one batch, to answers. Used by ASGI and fast path."""

from starlette.types import Receive, Scope, Send

from cartpole.api.forward_failures import ForwardFailures
from cartpole.api.observation import BadObservation, parse
from cartpole.api.responses import INTERNAL_ERROR, Answer, render, render_error, respond
from cartpole.predictor import Observation, Predictor

Query = Observation | BadObservation  # a query string once it is parsed


class Inference:
    """GET /inference?position=&velocity=&angle=&angular_velocity=

    Attributes:
        predictor: what gives the logits.
        failures: the log of failing forwards.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.failures = ForwardFailures()

    def answer(self, query: bytes) -> Answer:
        """The status and JSON body for a raw query string. Never raises."""
        try:
            observation = parse(query)
        except BadObservation as error:
            return _bad_request(error)
        except Exception as error:
            return self._internal_error(error)
        return self._answer_one(observation)

    def answer_all(self, queries: list[Query]) -> list[Answer]:
        """The same for 1 to MAX_ROWS parsed queries: one forward, and an answer for each."""
        if len(queries) == 1 and type(queries[0]) is tuple:
            return [self._answer_one(queries[0])]
        observations = [query for query in queries if type(query) is tuple]
        good = self._answer_together(observations) if observations else []
        if len(good) == len(queries):
            return good
        answers = iter(good)
        return [
            _bad_request(query) if isinstance(query, BadObservation) else next(answers)
            for query in queries
        ]

    def _answer_one(self, observation: Observation) -> Answer:
        try:
            left, right = self.predictor.predict(observation)
            answer = 200, render(left, right)
            if self.failures.is_ongoing:
                self.failures.recover()
            return answer
        except Exception as error:
            return self._internal_error(error)

    def _answer_together(self, observations: list[Observation]) -> list[Answer]:
        try:
            logits = self.predictor.predict_all(observations)
            answers = [(200, render(left, right)) for left, right in logits]
            if self.failures.is_ongoing:
                self.failures.recover()
            return answers
        except Exception:  # one observation may be the cause: the others get their answers
            return [self._answer_one(observation) for observation in observations]

    def _internal_error(self, error: Exception) -> Answer:
        self.failures.record(error)
        return INTERNAL_ERROR

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, body = self.answer(scope["query_string"])
        await respond(scope, send, status, body)


def _bad_request(error: BadObservation) -> Answer:
    return 400, render_error(str(error))
