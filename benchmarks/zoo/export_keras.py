"""Export one Keras model to ONNX: ``python export_keras.py ID OUT FILE``.

Runs in the virtual environment that ``fetch.py`` makes. FILE is the model in Keras' HDF5 format;
the exported graph must agree with it.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # must be set before the import
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
import tf2onnx

OPSET = 15

# Of the largest output; float32 with another order of summation, over some fifty layers.
MAX_RELATIVE_ERROR = 1e-4


def check(net: keras.Model, path: str) -> None:
    """Compare the file with the network on four random images.

    Raises:
        RuntimeError: They differ by more than ``MAX_RELATIVE_ERROR`` of the largest output.
    """
    x = np.random.default_rng(0).uniform(-1, 1, (4, *net.input_shape[1:])).astype(np.float32)
    expected = net.predict(x, verbose=0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x})
    error = float(np.abs(got - expected).max() / np.abs(expected).max())
    if not error <= MAX_RELATIVE_ERROR:  # also true of a NaN
        raise RuntimeError(f"error must be at most {MAX_RELATIVE_ERROR} of the peak, got {error}")


def main(_model_id: str, out: str, file: str) -> None:
    """Export the model in ``file`` to ``out`` with a free batch size."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    net = keras.models.load_model(file, compile=False)
    signature = [tf.TensorSpec((None, *net.input_shape[1:]), tf.float32, name="x")]
    tf2onnx.convert.from_keras(net, signature, opset=OPSET, output_path=out)
    check(net, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
