"""A gRPC server and client that speak TensorFlow Serving's PredictionService and ModelService.

For development, tests and small use; in production the real `tensorflow_model_server` takes the
same export folder and the same clients. Needs the extra: `pip install 'longtail_tf[serving]'`.

| module | holds |
|---|---|
| `status` | gRPC codes, the one error type of the server, message clean-up |
| `tensor_protos` | numpy arrays from and to TensorProto |
| `wire` | the few messages a client needs, without importing TensorFlow |
| `servable` | one loaded SavedModel: signatures, input checks, running |
| `batching` | the queue that merges requests |
| `model_config`, `versions`, `model_store` | which models and versions, on disk and in memory |
| `prediction_service`, `model_service`, `rpc`, `server` | the two services and the process |
| `client` | `Client(address, model)` |
"""
