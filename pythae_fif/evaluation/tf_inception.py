"""The frozen Inception graph of 2015 run by TensorFlow, to cross-check `inception`."""

__all__ = ["TFInceptionExtractor", "find_graph"]

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pythae_fif.errors import ConfigError, first_line
from pythae_fif.evaluation.extractor import Extracted, Extractor
from pythae_fif.evaluation.names import importing_for
from pythae_fif.files import checksum, digest

PREPROCESSING = "tf-inception-2015/1: 255 x into ExpandDims"
GRAPH_VARIABLE = "PYTHAE_FIF_TF_INCEPTION"
GRAPH_FILE = "classify_image_graph_def.pb"
GRAPH_URL = "http://download.tensorflow.org/models/image/imagenet/inception-2015-12-05.tgz"
WANTED = (
    f"it should be {GRAPH_FILE} of {GRAPH_URL}, named by --extractor-weights or {GRAPH_VARIABLE}; "
    "without network, efficientnet-lite0 works offline"
)


class TFInceptionExtractor(Extractor):
    """Pooled features and logits without bias of the frozen graph, as the paper's authors ran it.

    Images of 0..255 go in where the graph decoded its JPEG file (`ExpandDims`), features come out
    of `pool_3`, and logits are features times the matrix of `softmax/logits/MatMul`; the graph
    resizes the images itself.

    Args:
        graph: The file `classify_image_graph_def.pb` of inception-2015-12-05.tgz; None takes the
            one that the environment variable `PYTHAE_FIF_TF_INCEPTION` names.

    Attributes:
        feature_dim: Number of features, 2048 in the published graph.
        hash: Identifies the graph.
        logit_bias: The bias that the logits leave out, or None where the graph has none.

    Raises:
        ConfigError: TensorFlow is not installed, or there is no such graph.
    """

    name = "tf-inception"
    distance_name = "FID"
    score_name = "IS"

    def __init__(self, graph: str | Path | None = None) -> None:
        file = find_graph(graph)
        with importing_for(self.name):
            import tensorflow

        tf = tensorflow.compat.v1
        definition = tf.GraphDef()
        try:
            definition.ParseFromString(file.read_bytes())
            with tf.Graph().as_default() as imported:
                # the graph was frozen for one image: with another input its shapes are found anew
                self._images = tf.placeholder(tf.float32, [None, None, None, None])
                tf.import_graph_def(definition, {"ExpandDims": self._images}, name="")
                self._pool = imported.get_tensor_by_name("pool_3:0")
                product = imported.get_operation_by_name("softmax/logits/MatMul")
        except Exception as error:
            raise ConfigError(
                f"extractor 'tf-inception': {file} is no such graph ({first_line(error)}); {WANTED}"
            ) from error
        # as many threads as torch has, on the CPU and on a GPU that is not taken whole
        config = tf.ConfigProto(intra_op_parallelism_threads=torch.get_num_threads())
        config.gpu_options.allow_growth = True
        self._session = tf.Session(graph=imported, config=config)
        self._weight = torch.from_numpy(np.array(self._session.run(product.inputs[1])))
        for reader in product.outputs[0].consumers():
            if reader.type in ("BiasAdd", "Add", "AddV2"):
                self.logit_bias = torch.from_numpy(np.array(self._session.run(reader.inputs[1])))
        self.feature_dim = len(self._weight)
        self.hash = digest(PREPROCESSING, checksum(file))

    def extract(self, images: Tensor) -> Extracted:
        """Features (B, F) and logits without bias (B, classes)."""
        pixels = (255 * images).expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        pooled = self._session.run(self._pool, {self._images: pixels})
        features = torch.from_numpy(np.array(pooled)).reshape(len(images), -1)
        return Extracted(features, features @ self._weight)


def find_graph(named: str | Path | None = None) -> Path:
    """The file of the graph, see :class:`TFInceptionExtractor`; it is not read.

    Raises:
        ConfigError: It is not there.
    """
    named = os.environ.get(GRAPH_VARIABLE) if named is None else named
    file = Path(named or "").expanduser()
    if file.is_file():
        return file
    missing = f"no file {file}" if named else "it has no graph"
    raise ConfigError(f"extractor 'tf-inception': {missing}; {WANTED}")
