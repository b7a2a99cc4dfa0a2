"""The BentoML service: one typed method per task, the models behind them, and the front door before them.

`python -m service` starts it.
"""

import asyncio
import gc
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import bentoml
import uvicorn.config
from _bentoml_sdk import Service  # the class that `service_class=` extends; bentoml does not export it
from _bentoml_sdk.method import APIMethod
from bentoml import get_current_service  # bentoml itself looks it up anew at each access
from starlette.types import ASGIApp

from service import metrics
from service.call import current_call
from service.engine.batching import Batcher
from service.engine.card import Card
from service.engine.inference import Runtime
from service.engine.queue import Limits
from service.engine.repository import Repository, State, Version
from service.errors import Unavailable
from service.http.front_door import FrontDoor
from service.http.tasks import TaskEndpoint
from service.http.v2.body import TensorModel
from service.http.v2.routes import OpenInference, TensorEndpoint
from service.predictors import Answer, Payload, Predictor
from service.predictors.digits import DigitsPredictor
from service.predictors.fashion import FashionPredictor
from service.predictors.mammogram import MammogramPredictor
from service.predictors.sentiment import SentimentPredictor
from service.settings import settings

SETTINGS = settings()
RUNTIME = Runtime(
    device=SETTINGS.device,
    precision=SETTINGS.precision,
    threads=SETTINGS.threads,
    max_batch_rows=SETTINGS.max_batch_rows,
    gpu_memory=SETTINGS.gpu_memory,
    cuda_graphs=SETTINGS.cuda_graphs,
    tensorrt_cache=SETTINGS.tensorrt_cache,
)

DECODERS = 2
"""Threads for requests that are slow to decode: a few large pictures at once are all that memory should hold."""
MOST_DECODING = 64
"""Such requests at once, those that wait for a thread included."""

logger = logging.getLogger(__name__)

logging.getLogger("service").setLevel(SETTINGS.log_level)
for noisy in ("PIL", "python_multipart"):  # a broken request is the client's to know, in its answer
    logging.getLogger(noisy).setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module="PIL")

AnyPredictor = Predictor[Any, Any, Any]
T = TypeVar("T")


def endpoint(predictor: type[AnyPredictor]) -> APIMethod[..., Any]:
    """The typed BentoML method of a task: the line in `DeepServe` that registers it."""

    async def predict(self: "DeepServe", request: Payload, /) -> Answer:
        return await self.predict(predictor.name, request)

    predict.__name__ = predictor.name
    predict.__doc__ = predictor.__doc__
    predict.__annotations__ = {"request": predictor.Request, "return": predictor.Answer}
    method: APIMethod[..., Any] = bentoml.api(route=f"/v1/{predictor.name}")(predict)
    PREDICTORS[predictor.name] = predictor
    return method


PREDICTORS: dict[str, type[AnyPredictor]] = {}
"""By name, every task that `DeepServe` registers."""


class FrontedService(Service["DeepServe"]):  # type: ignore[misc]  # bentoml is not typed for users
    """A BentoML service whose task endpoints are served by the front door instead of BentoML's own HTTP stack."""

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """BentoML's app, which starts and stops `DeepServe`, behind the front door."""
        # BentoML starts uvicorn and leaves the choice of its protocol class to this table.
        uvicorn.config.HTTP_PROTOCOLS["auto"] = "service.http.connection:Connection"
        tasks = [
            TaskEndpoint(api.route, PREDICTORS[name], _bind(api), _admission(name), SETTINGS)
            for name, api in self.apis.items()
        ]
        tensors = OpenInference(_instance, SETTINGS)
        return FrontDoor(super().to_asgi(is_main), tasks, tensors, lambda: _instance().repository, SETTINGS)


def _instance() -> "DeepServe":
    """The service of this worker, once BentoML has started it."""
    instance: DeepServe = get_current_service()
    return instance


def _bind(api: APIMethod[..., Any]) -> Any:
    """The method itself: BentoML's wrapper inspects its signature again at every call."""
    return lambda payload: api.func(_instance(), payload)


def _admission(name: str) -> Callable[[str | None], None]:
    return lambda number: _instance().check_room(name, number)


@dataclass(frozen=True)
class ServedVersion:
    """A version of a model with all that answers a request."""

    predictor: AnyPredictor
    batcher: Batcher
    tensors: TensorEndpoint


@bentoml.service(
    name="deepserve",
    service_class=FrontedService,
    workers=SETTINGS.workers,
    # The front door has its own of each of these.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
)
class DeepServe:
    """Four classic neural networks: digits, sentiment, mammogram masses, and clothing that never was."""

    digits = endpoint(DigitsPredictor)
    sentiment = endpoint(SentimentPredictor)
    mammogram = endpoint(MammogramPredictor)
    fashion = endpoint(FashionPredictor)

    def __init__(self) -> None:
        """Loads, verifies and warms every model."""
        self.repository = Repository(SETTINGS.models_dir, RUNTIME)
        self.repository.load()
        self._decoders = ThreadPoolExecutor(DECODERS, thread_name_prefix="decode")
        self._free_decoders = asyncio.Semaphore(DECODERS)
        self._decoding = 0
        self._served: dict[tuple[str, str | None], ServedVersion] = {}
        """By model and version; the newest ready version also by None."""
        for name, versions in self.repository.models.items():
            for number, version in versions.items():
                if version.state is State.READY:
                    self._admit(PREDICTORS.get(name), version)
                metrics.READY.labels(name, number).set(version.state is State.READY)
                if version.session is not None:
                    metrics.PROVIDER.labels(name, number, RUNTIME.device, version.session.provider).set(1)
        # What is there now stays: looking through it for garbage stops all requests for a tenth of a second.
        gc.collect()
        gc.freeze()
        gc.set_threshold(10_000, 10, 10)

    def _admit(self, predictor: type[AnyPredictor] | None, version: Version) -> None:
        """Puts a predictor before a version; one that it cannot work with is not ready after all."""
        if predictor is None:
            version.state, version.reason = State.UNAVAILABLE, "there is no task of this name"
            return
        try:
            served = _serve(predictor, version)
            self._served[version.name, version.version] = self._served[version.name, None] = served
        except Exception:
            logger.exception("model %s version %s is unavailable", version.name, version.version)
            version.state = State.UNAVAILABLE
            version.reason = "its task cannot work with it; the log says why"

    async def predict(self, name: str, request: Payload) -> Answer:
        """Answers a request for the task `name`: decode, run with others, describe.

        Raises:
            ServiceError: the request or its version is not valid, or there is no time or room to answer it.
        """
        call = current_call.get()
        served = self._find(name, call.version)
        if served.predictor.is_slow_to_decode(request):
            inputs, facts = await self.apart(partial(served.predictor.decode, request))
        else:
            inputs, facts = served.predictor.decode(request)
        outputs = await served.batcher.submit(inputs)
        answer: Answer = served.predictor.describe(outputs, facts)
        return answer

    def check_room(self, name: str, number: str | None) -> None:
        """Lets a request pass that need not be turned away before it is read.

        Raises:
            NotFound: there is no such version.
            Unavailable: it is not ready, or its queue is full.
        """
        self._find(name, number).batcher.check_room()

    async def apart(self, work: Callable[[], T]) -> T:
        """What `work`, the reading of a large request say, returns, done in a thread.

        Raises:
            Unavailable: too much such work is under way.
        """
        if self._decoding >= MOST_DECODING:
            raise Unavailable("Too many large requests are being read.")
        self._decoding += 1
        try:
            async with self._free_decoders:  # one who leaves before a thread is free takes the request along
                return await asyncio.get_running_loop().run_in_executor(self._decoders, work)
        finally:
            self._decoding -= 1

    def tensors(self, name: str, number: str | None) -> TensorEndpoint:
        """A version of a model for those who ask in tensors; the newest ready one if `number` is None.

        Raises:
            NotFound: there is no such model or version.
            Unavailable: it is not ready.
        """
        return self._find(name, number).tensors

    def _find(self, name: str, number: str | None) -> ServedVersion:
        if (served := self._served.get((name, number))) is not None:
            return served
        version = self.repository.newest(name) if number is None else self.repository.version(name, number)
        raise Unavailable(f"Version {version.version} of model {name!r} is not ready.")

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    async def close(self) -> None:
        """Lets the requests under way finish."""
        await asyncio.gather(*(served.batcher.close() for (_, number), served in self._served.items() if number))
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _serve(predictor: type[AnyPredictor], version: Version) -> ServedVersion:
    assert version.session is not None
    assert version.card is not None
    _check_tensors(predictor, version.card)
    limits = Limits(run_rows=SETTINGS.max_batch_rows, queue_rows=SETTINGS.max_queue_rows, max_wait=SETTINGS.max_wait)
    batcher = Batcher(
        version.session.run, limits, predictor.sequence, metrics.ModelSeries(version.name, version.version)
    )
    tensors = TensorEndpoint(TensorModel(version.card, predictor.longest, predictor.bounds), batcher)
    return ServedVersion(predictor(version.directory), batcher, tensors)


def _check_tensors(predictor: type[AnyPredictor], card: Card) -> None:
    """The graph takes and gives what the predictor gives and takes."""
    inputs, outputs = ({spec.name for spec in specs} for specs in (card.inputs, card.outputs))
    if inputs != set(predictor.inputs) or not set(predictor.outputs) <= outputs:
        raise ValueError(f"the task {predictor.name} cannot work with inputs {inputs} and outputs {outputs}")
