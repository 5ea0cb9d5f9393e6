import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

// The packages are in the working directory.
export const require = createRequire(path.join(process.cwd(), "index.js"));
export const packages = path.join(process.cwd(), "node_modules");
export const wasmPath = path.join(packages, "@tensorflow/tfjs-backend-wasm/dist/");

// Each argument is a file NAME.WIDTHxHEIGHT.rgb of RGB bytes, so decoding is not measured. Prints for each:
// seconds, number of faces, and age and gender of the first one.
export async function printAnswers(tf, find) {
  const answers = [];
  for (const file of process.argv.slice(2)) {
    const [width, height] = /(\d+)x(\d+)\.rgb$/.exec(file).slice(1).map(Number);
    const bytes = new Uint8Array(fs.readFileSync(file));
    const started = performance.now();
    const image = tf.tensor3d(bytes, [height, width, 3], "int32");
    const faces = await find(image);
    image.dispose();
    const { age = null, gender = null } = faces[0] ?? {};
    answers.push([(performance.now() - started) / 1000, faces.length, age, gender]);
  }
  console.log(JSON.stringify(answers));
}
