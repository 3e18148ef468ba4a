"""Client examples that travel with an export: Python, curl for REST, grpcurl."""

from __future__ import annotations

from string import Template

_PYTHON = Template('''\
"""Names the class of image files: python predict.py localhost:8500 IMAGE...

Needs: pip install tensorflow-serving-api grpcio
"""

import sys

import grpc
from tensorflow import make_ndarray, make_tensor_proto
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


def main(address, paths):
    """Sends all files in one request and prints the candidates of each."""
    images = [open(path, "rb").read() for path in paths]
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "$name"
    request.model_spec.signature_name = "serving_default"
    request.inputs["image_bytes"].CopyFrom(make_tensor_proto(images))
    with grpc.insecure_channel(
        address, options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        outputs = stub.Predict(request, timeout=10.0).outputs
    labels, scores, valid = (make_ndarray(outputs[n]) for n in ("labels", "scores", "valid"))
    for row, path in enumerate(paths):
        found = [f"{label.decode()} {score:.3f}" for label, score in zip(labels[row], scores[row])]
        print(path, ", ".join(found) if valid[row] else "is not a readable image")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
''')

_REST = Template("""\
#!/bin/sh
# Names the class of an image over REST: ./predict_rest.sh IMAGE [HOST:PORT]
set -eu
image=$$(base64 < "$$1" | tr -d '\\n')
curl --fail-with-body --silent --show-error \\
  --header 'Content-Type: application/json' \\
  --data @- "http://$${2:-localhost:8501}/v1/models/$name:predict" <<EOF
{"signature_name": "serving_default", "instances": [{"image_bytes": {"b64": "$$image"}}]}
EOF
""")

_GRPCURL = Template("""\
#!/bin/sh
# Names the class of an image with grpcurl: ./predict_grpcurl.sh IMAGE [HOST:PORT]
# The real server has no reflection: give the .proto files of tensorflow/serving with
#   PROTOS=/path/to/serving:/path/to/tensorflow   (longtail_tf.serve has it; leave PROTOS unset)
set -eu
image=$$(base64 < "$$1" | tr -d '\\n')
protos=""
if [ -n "$${PROTOS:-}" ]; then
  for root in $$(echo "$$PROTOS" | tr ':' ' '); do protos="$$protos -import-path $$root"; done
  protos="$$protos -proto tensorflow_serving/apis/prediction_service.proto"
fi
grpcurl -plaintext -max-time 10 $$protos -d @ "$${2:-localhost:8500}" \\
  tensorflow.serving.PredictionService/Predict <<EOF
{"model_spec": {"name": "$name", "signature_name": "serving_default"},
 "inputs": {"image_bytes": {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "1"}]},
                            "string_val": ["$$image"]}}}
EOF
""")

_GUIDE = Template("""\
# Clients of $name

| signature | input | output |
|---|---|---|
| serving_default | `image_bytes` string [N]: JPEG, PNG, GIF or BMP files | `labels`, `class_ids`, `scores` [N, k]; `valid` [N] |
| predict_images | `images` uint8 [N, H, W, $channels], pixels 0..255, any H and W ($size x $size is used as is) | the same |
| embed | `image_bytes` string [N] | `embedding` [N, D], unit length; `valid` [N] |
| classify | `inputs` string [N]: tf.Example with `image/encoded` | `classes`, `scores` [N, k] |

A row that is not `valid` could not be read: its labels are empty, its class id is -1, its score 0.
Label "unknown" with class id -1 means that no class is near enough.
REST sends a file as `{"b64": "..."}`, as `predict_rest.sh` does.
""")  # noqa: E501


def client_files(model_name: str, *, image_size: int, channels: int) -> dict[str, str]:
    """Text by file name, for `EXPORT/serving`."""
    return {
        "clients/README.md": _GUIDE.substitute(name=model_name, size=image_size, channels=channels),
        "clients/predict.py": _PYTHON.substitute(name=model_name),
        "clients/predict_rest.sh": _REST.substitute(name=model_name),
        "clients/predict_grpcurl.sh": _GRPCURL.substitute(name=model_name),
    }
