"""Trains the two versions of the example model and writes everything in this folder that is data.

    digits-1.onnx  a perceptron that has only ever seen the digits 0 to 7
    digits-2.onnx  the same perceptron, trained on all ten digits
    held-out/      pictures that neither has seen, NUMBER-LABEL.png

The same pinned requirements on the same machine give the same bytes.
"""

import os

# The order of a parallel sum is not fixed, and with it the last bits of the weights.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).resolve().parent
SEED = 20
EPOCHS = 200
LABELS = np.arange(10)
HIGHEST = 16  # the value of a black pixel in the data set; 255 in a picture


def train(pixels, labels):
    """A perceptron 64-64-10 on pixels of 0 to 16: its layers as (weights, bias)."""
    network = MLPClassifier(hidden_layer_sizes=(64,), alpha=1e-3, batch_size=64, random_state=SEED)
    for _ in range(EPOCHS):
        # All ten labels are announced, so that both versions have ten outputs.
        network.partial_fit(pixels / HIGHEST, labels, classes=LABELS)
    layers = [(w.astype(np.float32), b.astype(np.float32)) for w, b in zip(network.coefs_, network.intercepts_)]
    layers[0] = (layers[0][0] / np.float32(HIGHEST), layers[0][1])
    return layers


def export(layers, known, path):
    """Writes the network as ONNX: `input` [batch, 64] to probabilities `scores` [batch, 10]."""
    (w1, b1), (w2, b2) = layers
    named = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "w1", "b1"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["active"]),
            helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        ],
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", w1.shape[0]])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", w2.shape[1]])],
        [numpy_helper.from_array(value, name) for name, value in named.items()],
    )
    model = helper.make_model(
        graph, producer_name="berth-example", ir_version=10, opset_imports=[helper.make_opsetid("", 21)]
    )
    helper.set_model_props(model, {"description": f"handwritten digits, trained on {known}"})
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_pictures(folder, pixels, labels):
    """Writes 8x8 grey PNGs whose bytes are round(value / 16 * 255)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, (values, label) in enumerate(zip(pixels, labels)):
        grey = np.rint(values.reshape(8, 8) / HIGHEST * 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{number:03}-{label}.png", optimize=True)


def read_pictures(folder):
    """The pictures as a processor sees them: pixels [count, 64] of 0 to 16, and the labels."""
    files = sorted(folder.glob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file), np.float32).reshape(64) for file in files])
    return pixels * np.float32(HIGHEST / 255), np.array([int(file.stem[-1]) for file in files])


def accuracy(path, pixels, labels):
    """The share of pictures whose most probable digit is the label."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (scores,) = session.run(["scores"], {"input": pixels})
    return float(np.mean(scores.argmax(axis=1) == labels))


def main():
    digits = load_digits()
    x, held_x, y, held_y = train_test_split(
        digits.data, digits.target, test_size=360, stratify=digits.target, random_state=SEED
    )
    write_pictures(HERE / "held-out", held_x, held_y)
    early = y < 8
    export(train(x[early], y[early]), "0 to 7", HERE / "digits-1.onnx")
    export(train(x, y), "0 to 9", HERE / "digits-2.onnx")

    held_x, held_y = read_pictures(HERE / "held-out")
    early = held_y < 8
    measured = {
        "digits-1.onnx on held-out 0 to 7": accuracy(HERE / "digits-1.onnx", held_x[early], held_y[early]),
        "digits-1.onnx on all held-out": accuracy(HERE / "digits-1.onnx", held_x, held_y),
        "digits-2.onnx on all held-out": accuracy(HERE / "digits-2.onnx", held_x, held_y),
    }
    for what, share in measured.items():
        print(f"{what}: {share:.1%}")
    if measured["digits-2.onnx on all held-out"] < 0.95 or measured["digits-1.onnx on held-out 0 to 7"] < 0.95:
        sys.exit("a version answers fewer than 95 % correctly: do not commit it")


if __name__ == "__main__":
    main()
