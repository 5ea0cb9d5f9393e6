import path from "node:path";

import { packages, printAnswers, require, wasmPath } from "./answers.mjs";

require("@tensorflow/tfjs");
require("@tensorflow/tfjs-backend-wasm").setWasmPaths(wasmPath);
const faceapi = require("@vladmandic/face-api/dist/face-api.node-wasm.js");

await faceapi.tf.setBackend("wasm");
await faceapi.tf.ready();
for (const net of ["ssdMobilenetv1", "faceLandmark68Net", "ageGenderNet"]) {
  await faceapi.nets[net].loadFromDisk(path.join(packages, "@vladmandic/face-api/model"));
}
const options = new faceapi.SsdMobilenetv1Options({ minConfidence: 0.5, maxResults: 20 });
await printAnswers(faceapi.tf, (image) =>
  faceapi.detectAllFaces(image, options).withFaceLandmarks().withAgeAndGender(),
);
