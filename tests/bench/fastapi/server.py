"""The benchmark's jobs in FastAPI, with onnxruntime, Pillow and numpy.

`MODEL` names the ONNX file; `CONFIG` is the configuration of the plugin `image-classifier` as JSON,
where pictures are the job. Written for speed: uvloop and httptools, orjson on the raw body in place
of validation models, the model run in the event loop's own thread, one process for each core.
"""

import io
import os

import numpy as np
import onnxruntime
import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(
    os.environ["MODEL"], options, providers=["CPUExecutionProvider"]
)
[model_input] = session.get_inputs()
[model_output] = session.get_outputs()
config = orjson.loads(os.environ.get("CONFIG", "{}"))
if config:
    width, height, short = config["width"], config["height"], config["resize_short"]
    mean = np.array(config["mean"], np.float32)
    std = np.array(config["std"], np.float32)
    # (byte / 255 - mean) / std as one multiplication and one addition.
    factor = (1 / 255 / std).reshape(3, 1, 1)
    offset = (-mean / std).reshape(3, 1, 1)
    top = config["top"]

app = FastAPI(openapi_url=None)


def answer(content) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json")


@app.get("/v2/health/ready")
async def ready() -> Response:
    return Response()


@app.post("/v2/models/{name}/infer")
async def infer(name: str, request: Request) -> Response:
    try:
        content = orjson.loads(await request.body())
        [tensor] = content["inputs"]
        values = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        if tensor["name"] != model_input.name or tensor["datatype"] != "FP32":
            raise ValueError("the model has no such input")
    except (KeyError, TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    [scores] = session.run(None, {model_input.name: values})
    output = {
        "name": model_output.name,
        "shape": scores.shape,
        "datatype": "FP32",
        "data": scores.ravel(),
    }
    return answer({"model_name": name, "outputs": [output]})


@app.post("/v2/models/{name}/invoke")
async def invoke(name: str, request: Request) -> Response:
    try:
        picture = Image.open(io.BytesIO(await request.body())).convert("RGB")
    except (OSError, ValueError) as error:
        raise HTTPException(400, str(error)) from error
    scale = short / min(picture.size)
    whole = [round(side * scale) for side in picture.size]
    left, upper = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    # The part that is cut out is all that is resized.
    box = (left / scale, upper / scale, (left + width) / scale, (upper + height) / scale)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR, box)
    values = np.empty((1, 3, height, width), np.float32)
    np.multiply(np.asarray(picture).transpose(2, 0, 1), factor, out=values[0])
    values += offset
    [scores] = session.run(None, {model_input.name: values})
    scores = scores[0]
    best = np.argsort(-scores)[:top]
    predictions = [
        {"label": str(kind), "score": float(scores[kind]), "class": kind} for kind in best.tolist()
    ]
    return answer({"predictions": predictions})
