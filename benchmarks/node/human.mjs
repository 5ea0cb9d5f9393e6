import fs from "node:fs";
import path from "node:path";

import { packages, printAnswers, require, wasmPath } from "./answers.mjs";

globalThis.fetch = async (url) => new Response(fs.readFileSync(new URL(url))); // Node's has no file:
const { Human } = require(path.join(packages, "@vladmandic/human/dist/human.node-wasm.js"));

const off = { enabled: false };
const human = new Human({
  backend: "wasm",
  wasmPath,
  modelBasePath: `file://${packages}/@vladmandic/human/models/`,
  cacheSensitivity: 0, // otherwise the answer for the previous image is returned for a similar one
  filter: off,
  body: off,
  hand: off,
  object: off,
  gesture: off,
  segmentation: off,
  face: { detector: { maxDetected: 20 }, iris: off, emotion: off, antispoof: off, liveness: off },
});
await human.load();
await printAnswers(human.tf, async (image) => (await human.detect(image)).face);
