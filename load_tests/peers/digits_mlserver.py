# /// script
# # A later uvloop has no event loop where MLServer expects one.
# dependencies = ["mlserver==1.7.1", "uvloop==0.21.0", "onnxruntime==1.31.1", "numpy==2.4.6"]
# [tool.bench]
# title = "MLServer"
# command = "mlserver start ."
# route = "/v2/models/digits/infer"
# ready = "/v2/models/digits/ready"
# [tool.bench.environment]
# MLSERVER_HOST = "127.0.0.1"
# MLSERVER_HTTP_PORT = "{port}"
# MLSERVER_GRPC_PORT = "{second}"
# MLSERVER_METRICS_PORT = "{third}"
# MLSERVER_MODEL_NAME = "digits"
# MLSERVER_MODEL_IMPLEMENTATION = "digits_mlserver.Digits"
# MLSERVER_MODEL_MAX_BATCH_SIZE = "64"
# MLSERVER_MODEL_MAX_BATCH_TIME = "0.002"
# ///
"""MLServer with a custom runtime and its adaptive batching on; one inference worker, as it comes."""

import os

import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import decode_args


class Digits(MLModel):
    """The model's runtime."""

    async def load(self) -> bool:
        """Loads the model in the worker."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(os.environ["GRAPH"], options)
        return True

    @decode_args
    async def predict(self, pictures: np.ndarray) -> np.ndarray:
        """Probabilities of each picture of the batch."""
        (probabilities,) = self.session.run(["probabilities"], {"pictures": pictures})
        return probabilities
