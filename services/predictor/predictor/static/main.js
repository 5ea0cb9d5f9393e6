// The page: takes pictures from files, drops, the clipboard or the webcam, and shows what the server answers.

import { Camera } from "./camera.js";
import { faceCard } from "./cards.js";
import { element } from "./elements.js";
import { annotatedPicture, answerOf, curlLine } from "./predict.js";
import { Stage } from "./stage.js";

const part = (id) => document.getElementById(id);
const camera = new Camera(part("video"));
const stage = new Stage(part("boxes"), choose);
const pictures = []; // { file, url, answer, error }
let shown = null; // the picture, or the webcam frame, whose answer is on the page
let last = null; // the picture that the webcam took the place of

function tell(text, isError = false) {
  part("status").textContent = text;
  part("status").classList.toggle("error", isError);
}

async function take(files) {
  const images = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
  if (!images.length) return tell("That is not a picture.", true);
  stopCamera();
  const added = images.map((file) => ({ file, url: URL.createObjectURL(file) }));
  pictures.push(...added);
  for (const picture of added) {
    tell(added.length > 1 ? `Looking at ${picture.file.name} …` : "Looking …");
    await ask(picture);
    show(picture);
  }
}

async function ask(picture) {
  picture.error = null;
  try {
    picture.answer = await answerOf(picture.file, picture.file.name, part("coverage").value);
  } catch (error) {
    picture.answer = null;
    picture.error = error.message;
  }
}

async function show(picture) {
  if (picture !== shown) stage.forget();
  shown = last = picture;
  document.body.classList.add("answered");
  part("video").hidden = true;
  part("picture").hidden = false;
  part("picture").src = picture.url;
  part("picture").alt = picture.file.name;
  part("result").hidden = false;
  drawGallery();
  try {
    await part("picture").decode();
  } catch {
    await showAsServerSeesIt(picture); // a format that browsers do not draw, such as TIFF
  }
  if (shown === picture) drawAnswer(picture.answer, picture.error, part("picture"));
}

async function showAsServerSeesIt(picture) {
  try {
    const drawn = await annotatedPicture(picture.file, picture.file.name, part("coverage").value);
    picture.url = URL.createObjectURL(drawn);
    part("picture").src = picture.url;
    drawGallery();
    await part("picture").decode();
  } catch {
    part("picture").hidden = true;
  }
}

function drawAnswer(answer, error, source) {
  const image = answer?.images[0];
  for (const id of ["json", "annotated"]) part(id).disabled = !image;
  if (!image) {
    stage.draw({ faces: [] });
    part("faces").replaceChildren();
    part("told").textContent = "";
    return tell(error, true);
  }
  stage.draw(image);
  const cards = image.faces.map((face, index) => faceCard(face, index, source));
  part("faces").replaceChildren(...(cards.length ? cards : [element("p", { className: "none" }, "No face was found.")]));
  markChosen();
  const { age, gender } = answer.models;
  part("told").textContent =
    `${Math.round(answer.timings.total)} ms · space ${answer.space.id} · heads ${age === gender ? age : `${age}, ${gender}`}`;
  const count = image.faces.length;
  tell(image.truncated ? `The ${count} largest of ${image.faces_found} faces` : `${count} ${count === 1 ? "face" : "faces"}`);
}

function choose(index) {
  stage.chosen = index;
  markChosen();
  part("faces").children[index]?.scrollIntoView({ block: "nearest" });
}

function markChosen() {
  for (const id of ["boxes", "faces"]) {
    [...part(id).children].forEach((child, at) => child.classList.toggle("chosen", at === stage.chosen));
  }
}

// Thumbnails stay as they are, and so the focus on one.
function drawGallery() {
  part("gallery").hidden = pictures.length < 2;
  pictures.forEach((picture, index) => {
    const button = part("gallery").children[index] ?? part("gallery").appendChild(thumbnail(picture));
    if (button.firstChild.src !== picture.url) button.firstChild.src = picture.url;
    button.ariaCurrent = picture === shown ? "true" : null;
  });
}

const thumbnail = (picture) => element(
  "button", { type: "button", ariaLabel: picture.file.name, onclick: () => show(picture) }, element("img", { alt: "" }));

async function startCamera() {
  try {
    await camera.start();
  } catch (error) {
    camera.stop();
    return tell(error.message, true);
  }
  stage.forget();
  document.body.classList.add("answered");
  part("camera").textContent = "Stop the webcam";
  part("gallery").hidden = part("picture").hidden = true;
  part("video").hidden = part("result").hidden = false;
  while (camera.running) {
    if (document.hidden) await new Promise((done) => setTimeout(done, 250));
    else await askFrame();
  }
}

async function askFrame() {
  const { canvas, jpeg } = await camera.frame();
  const frame = { file: new File([jpeg], "webcam.jpg", { type: "image/jpeg" }) };
  await ask(frame);
  if (!camera.running) return;
  shown = frame;
  drawAnswer(frame.answer, frame.error, canvas);
  if (frame.error) await new Promise((done) => setTimeout(done, 1000));
}

function stopCamera() {
  if (!camera.running) return;
  camera.stop();
  part("camera").textContent = "Use the webcam";
  part("result").hidden = true;
  tell("");
}

function leaveCamera() {
  stopCamera();
  if (last) show(last);
  else document.body.classList.remove("answered");
}

function download(blob, name) {
  const url = URL.createObjectURL(blob);
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const stem = (name) => name.replace(/\.[^.]*$/, "") || "picture";

part("choose").onclick = () => part("files").click();
part("files").onchange = () => {
  take(part("files").files);
  part("files").value = "";
};
part("camera").onclick = () => (camera.running ? leaveCamera() : startCamera());

part("copy").onclick = async () => {
  const line = curlLine(shown.file.name, part("coverage").value);
  try {
    await navigator.clipboard.writeText(line);
    tell("Copied.");
  } catch {
    tell(line); // no clipboard without https: then it can be copied by hand
  }
};
part("json").onclick = () => download(
  new Blob([JSON.stringify(shown.answer, null, 2)], { type: "application/json" }), `${stem(shown.file.name)}.json`);
part("annotated").onclick = async () => {
  try {
    const { file } = shown;
    download(await annotatedPicture(file, file.name, part("coverage").value), `${stem(file.name)}-annotated.png`);
  } catch (error) {
    tell(error.message, true);
  }
};
part("coverage").onchange = async () => {
  if (camera.running || !shown) return;
  await ask(shown);
  show(shown);
};

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
for (const name of ["dragleave", "drop"]) {
  document.addEventListener(name, () => document.body.classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer.files.length) take(event.dataTransfer.files);
});
