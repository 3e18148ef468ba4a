// node client.js HOST:PORT MODEL IMAGE BAD_IMAGE: asks everything once, answers one JSON line.
// Runs on @grpc/grpc-js, found through NODE_PATH; nothing of longtail_tf.
"use strict";
const fs = require("fs");
const path = require("path");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const protobuf = require("protobufjs");

const [address, model, imagePath, badPath] = process.argv.slice(2);
const proto = path.join(__dirname, "serving.proto");
const definition = loader.loadSync(proto, { keepCase: true, longs: Number, enums: String });
const { PredictionService, ModelService } = grpc.loadPackageDefinition(definition).tensorflow
  .serving;
const credentials = grpc.credentials.createInsecure();
const predictions = new PredictionService(address, credentials);
const models = new ModelService(address, credentials);

const call = (client, method, request, milliseconds = 30000) =>
  new Promise((resolve, reject) =>
    client[method](request, { deadline: Date.now() + milliseconds }, (error, answer) =>
      error ? reject(error) : resolve(answer)
    )
  );
const refusal = (...what) =>
  call(...what).then(
    () => ["OK", ""],
    (error) => [grpc.status[error.code], error.details]
  );

const strings = (files) => ({
  dtype: 7,
  tensor_shape: { dim: [{ size: files.length }] },
  string_val: files,
});
const predict = (files, name = model, spec = {}) => ({
  model_spec: { name, ...spec },
  inputs: { image_bytes: strings(files) },
});
const shape = (tensor) => tensor.tensor_shape.dim.map((dim) => dim.size);

async function main() {
  const image = fs.readFileSync(imagePath);
  const bad = fs.readFileSync(badPath);
  const answer = {};

  const one = await call(predictions, "Predict", predict([image]));
  answer.version = one.model_spec.version.value;
  answer.scores = one.outputs.scores.float_val;
  answer.scoresShape = shape(one.outputs.scores);
  answer.contentBytes = (one.outputs.scores.tensor_content || "").length;
  answer.labels = one.outputs.labels.string_val.map((label) => label.toString("utf8"));
  answer.classIds = one.outputs.class_ids.int64_val;

  const mixed = await call(predictions, "Predict", predict([image, bad]));
  answer.valid = mixed.outputs.valid.bool_val;

  const filtered = await call(predictions, "Predict", {
    ...predict([image]),
    output_filter: ["labels"],
  });
  answer.filtered = Object.keys(filtered.outputs);

  // Many at once over one connection: the server merges them, each must get its own answer
  const flood = await Promise.all(
    Array.from({ length: 64 }, (_, index) =>
      call(predictions, "Predict", predict(index % 2 ? [image] : [bad, image]))
    )
  );
  answer.floodRows = flood.map((reply) => shape(reply.outputs.scores)[0]);
  answer.floodLabels = [
    ...new Set(flood.map((reply) => reply.outputs.labels.string_val.slice(-1)[0].toString())),
  ];

  const example = { features: { feature: { "image/encoded": { bytes_list: { value: [image] } } } } };
  const classified = await call(predictions, "Classify", {
    model_spec: { name: model, signature_name: "classify" },
    input: { example_list: { examples: [example] } },
  });
  answer.classes = classified.result.classifications[0].classes;

  const metadata = await call(predictions, "GetModelMetadata", {
    model_spec: { name: model },
    metadata_field: ["signature_def"],
  });
  const packed = metadata.metadata.signature_def;
  const SignatureDefMap = protobuf.loadSync(proto).lookupType("tensorflow.serving.SignatureDefMap");
  const signatures = SignatureDefMap.decode(packed.value).signatureDef;
  answer.typeUrl = packed.type_url;
  answer.methods = Object.fromEntries(
    Object.entries(signatures).map(([name, signature]) => [name, signature.methodName])
  );

  const status = await call(models, "GetModelStatus", { model_spec: { name: model } });
  answer.status = status.model_version_status.map((one) => [one.version, one.state]);

  answer.refusals = {
    model: await refusal(predictions, "Predict", predict([image], "other")),
    version: await refusal(predictions, "Predict", predict([image], model, { version: { value: 9 } })),
    signature: await refusal(
      predictions, "Predict", predict([image], model, { signature_name: "nothing" })
    ),
    empty: await refusal(predictions, "Predict", predict([])),
    input: await refusal(predictions, "Predict", {
      model_spec: { name: model },
      inputs: { other: strings([image]) },
    }),
    regress: await refusal(predictions, "Regress", {
      model_spec: { name: model, signature_name: "classify" },
      input: { example_list: { examples: [example] } },
    }),
    deadline: await refusal(predictions, "Predict", predict([image]), 0),
  };
  process.stdout.write(JSON.stringify(answer) + "\n");
  predictions.close();
  models.close();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
