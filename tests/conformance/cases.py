"""Writes the ONNX project's backend node tests to a folder, each run on Python's onnxruntime.

    python cases.py FOLDER

The folder gets `models/NAME.onnx`, `tensors.bin` with the data of all inputs and expected outputs,
and `cases.json`, which says where each tensor lies in it and what came of each case here. What
counts as passed is what `onnx.backend.test.runner` takes for passed.
"""

import ctypes
import json
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases

# Datatypes of the Open Inference Protocol by those of ONNX; others go by ONNX's name, as in Berth.
PROTOCOL = {
    TensorProto.BOOL: "BOOL",
    TensorProto.UINT8: "UINT8",
    TensorProto.UINT16: "UINT16",
    TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64",
    TensorProto.INT8: "INT8",
    TensorProto.INT16: "INT16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.STRING: "BYTES",
}
# Elements in a byte, where it holds several.
PACKED = {
    TensorProto.UINT4: 2,
    TensorProto.INT4: 2,
    TensorProto.FLOAT4E2M1: 2,
    TensorProto.UINT2: 4,
    TensorProto.INT2: 4,
}
# Two units in the last place, as the runner has it.
BF16_RTOL = 2**-6


class Value:
    """A tensor of a case: its ONNX type, its array, and its bytes as ONNX Runtime has them."""

    def __init__(self, value):
        if isinstance(value, TensorProto):
            self.type, self.array = value.data_type, numpy_helper.to_array(value)
        else:
            self.array = np.asarray(value)
            strings = self.array.dtype.kind in "OUST"
            dtype = self.array.dtype
            self.type = TensorProto.STRING if strings else onnx.helper.np_dtype_to_tensor_dtype(dtype)
        self.shape = list(self.array.shape)

    def data(self):
        if self.type == TensorProto.STRING:
            texts = [str(text).encode() for text in self.array.ravel()]
            return b"".join(len(text).to_bytes(4, "little") + text for text in texts)
        if self.type in PACKED:
            return numpy_helper.from_array(self.array).raw_data
        return np.ascontiguousarray(self.array).tobytes()

    def native(self):
        """Whether numpy has this type by itself."""
        return self.type in PROTOCOL and self.type != TensorProto.BFLOAT16

    def lent(self):
        """The value for a session."""
        if self.native():
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(self.array))
        size = 2 if self.type == TensorProto.BFLOAT16 else 1
        if self.type in PACKED:
            name = TensorProto.DataType.Name(self.type)
            raise NotImplementedError(f"Python's package makes no value of {name}")
        raw = np.ascontiguousarray(self.array).view(np.uint16 if size == 2 else np.uint8)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, self.type)


def taken(value):
    """What a session has put out: its ONNX type and its array."""
    kind = value.element_type()
    if kind in PROTOCOL and kind != TensorProto.BFLOAT16:
        return kind, value.numpy()
    size = 2 if kind == TensorProto.BFLOAT16 else 1
    count = int(np.prod(value.shape()))
    length = -(-count * size // PACKED.get(kind, 1))
    raw = ctypes.string_at(value.data_ptr(), length)
    tensor = TensorProto(data_type=kind, dims=value.shape(), raw_data=raw)
    return kind, numpy_helper.to_array(tensor)


def problem(case, expected, outputs):
    """Says how outputs differ from what is expected, or nothing."""
    for index, (want, (kind, have)) in enumerate(zip(expected, outputs, strict=True)):
        if list(have.shape) != want.shape:
            return f"output {index} has shape {list(have.shape)}, expected {want.shape}"
        if kind != want.type:
            names = [TensorProto.DataType.Name(kind) for kind in (kind, want.type)]
            return f"output {index} is of type {names[0]}, expected {names[1]}"
        array, rtol = want.array, case.rtol
        if kind == TensorProto.STRING:
            if have.astype(str).tolist() != array.astype(str).tolist():
                return f"output {index} holds other strings"
            continue
        if kind == TensorProto.BFLOAT16:
            rtol = max(rtol, BF16_RTOL)
        if not want.native():
            have, array = have.astype(np.float32), array.astype(np.float32)
        if not np.allclose(have, array, rtol=rtol, atol=case.atol, equal_nan=True):
            return f"output {index} holds other values"
    return None


def line(error):
    """ONNX Runtime's words on one line, without where in its source they come from."""
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return re.sub(r"/onnxruntime_src/\S+ .*?\) ", "", text)


def attempt(case, inputs, expected):
    """What comes of a case on Python's onnxruntime: an outcome and the reason."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    providers = ["CPUExecutionProvider"]
    try:
        model = case.model.SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:
        return "unsupported", line(error)
    try:
        ports = zip([port.name for port in case.model.graph.input], inputs, strict=True)
        if all(value.native() for value in [*inputs, *expected]):
            outputs = session.run(None, {name: value.array for name, value in ports})
            outputs = [Value(output) for output in outputs]
            outputs = [(output.type, output.array) for output in outputs]
        else:
            feed = {name: value.lent() for name, value in ports}
            outputs = [taken(output) for output in session.run_with_ort_values(None, feed)]
        wrong = problem(case, expected, outputs)
    except NotImplementedError as error:
        return "unsupported", str(error)
    except Exception as error:
        return "failed", line(error)
    return ("failed", wrong) if wrong else ("passed", "")


def write(folder):
    models = folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Of numpy, on purpose: infinity and what is no number are among the values.
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    written = []
    with (folder / "tensors.bin").open("wb") as tensors:

        def place(names, values):
            for name, value in zip(names, values, strict=True):
                data = value.data()
                datatype = PROTOCOL.get(value.type) or TensorProto.DataType.Name(value.type)
                where = {"at": tensors.tell(), "length": len(data)}
                yield {"name": name, "datatype": datatype, "shape": value.shape, **where}
                tensors.write(data)

        for case in cases:
            if len(case.data_sets) != 1:
                raise SystemExit(f"{case.name} has {len(case.data_sets)} sets of data, not one")
            (models / f"{case.name}.onnx").write_bytes(case.model.SerializeToString())
            graph = case.model.graph
            ports = [*graph.input, *graph.output]
            kinds = {port.type.WhichOneof("value").removesuffix("_type") for port in ports}
            other = sorted(kinds - {"tensor"})
            entry = {"name": case.name, "rtol": case.rtol, "atol": case.atol, "other": other}
            if not other:
                inputs, expected = ([Value(value) for value in side] for side in case.data_sets[0])
                outcome, reason = attempt(case, inputs, expected)
                entry["python"] = {"outcome": outcome, "reason": reason}
                entry["inputs"] = list(place([port.name for port in graph.input], inputs))
                entry["outputs"] = list(place([port.name for port in graph.output], expected))
            written.append(entry)
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    index = {**versions, "cases": written}
    (folder / "cases.json").write_text(json.dumps(index))


write(Path(sys.argv[1]))
