// The page: accepts pictures and videos from files, drops, the clipboard or the webcam, and shows the results.

import { Camera } from "./camera.js";
import { faceCard } from "./cards.js";
import { element } from "/web/elements.js";
import { Persons } from "./persons.js";
import { annotatedPicture, curlLine, predict } from "./predict.js";
import { Stage } from "./stage.js";
import { facesTable } from "./table.js";
import { duration, whole } from "/web/display.js";

const MOST_FAILURES = 3; // attempts at one frame of a video

const byId = (id) => document.getElementById(id);
const camera = new Camera(byId("video"));
const stage = new Stage(byId("boxes"), select);
const pictures = []; // { file, url, answer, error }
let shown = null; // the picture or webcam frame whose result is shown; null until the first frame is answered
let last = null; // the picture that was shown before the webcam
let persons = new Persons(); // of the webcam or the video

function showStatus(text, isError = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("error", isError);
}

async function addFiles(files) {
  const video = [...files].find((file) => file.type.startsWith("video/"));
  if (video) return playVideo(video, files.length - 1);
  const isImage = (file) => file.type.startsWith("image/") || !file.type;
  const images = [...files].filter(isImage);
  const others = [...files].filter((file) => !isImage(file)).map((file) => file.name).join(", ");
  if (!images.length) return showStatus(`Not an image or a video: ${others}.`, true);
  stopCamera();
  const added = images.map((file) => ({ file, url: URL.createObjectURL(file) }));
  pictures.push(...added);
  for (const picture of added) {
    if (!camera.running) showStatus(added.length > 1 ? `Analysing ${picture.file.name} …` : "Analysing …");
    await requestPrediction(picture);
    if (camera.running) last ??= picture; // shown when the webcam stops
    else await show(picture);
  }
  if (others && !camera.running) showStatus(`${byId("status").textContent}. Skipped, not an image: ${others}.`, true);
}

// An answer counts only if no other coverage was asked for meanwhile.
async function requestPrediction(picture) {
  const mine = (picture.asked = Symbol());
  const result = await predict(picture.file, picture.file.name, byId("coverage").value).then(
    (answer) => ({ answer, error: null }),
    (error) => ({ answer: null, error: error.message }),
  );
  if (picture.asked === mine) Object.assign(picture, result);
}

async function show(picture) {
  if (picture !== shown) stage.forget();
  shown = last = picture;
  document.body.classList.add("answered");
  byId("video").hidden = byId("persons").hidden = true;
  byId("picture").hidden = false;
  byId("picture").src = picture.url;
  byId("picture").alt = picture.file.name;
  byId("result").hidden = false;
  drawGallery();
  try {
    await byId("picture").decode();
  } catch {
    if (shown === picture) await showAnnotated(picture); // a format that browsers cannot show, such as TIFF
  }
  if (shown === picture) drawAnswer(picture.answer, picture.error, byId("picture"));
}

async function showAnnotated(picture) {
  try {
    const drawn = await annotatedPicture(picture.file, picture.file.name, byId("coverage").value);
    picture.url = URL.createObjectURL(drawn);
    if (shown !== picture) return;
    byId("picture").src = picture.url;
    drawGallery();
    await byId("picture").decode();
  } catch {
    if (shown === picture) byId("picture").hidden = true;
  }
}

function drawAnswer(answer, error, source) {
  const image = answer?.images[0];
  byId("copy").disabled = false;
  for (const id of ["json", "csv", "annotated"]) byId(id).disabled = !image;
  if (!image) {
    stage.draw({ faces: [] });
    byId("faces").replaceChildren();
    byId("details").textContent = "";
    return showStatus(error, true);
  }
  stage.draw(image);
  const cards = image.faces.map((face, index) => faceCard(face, index, source));
  byId("faces").replaceChildren(...(cards.length ? cards : [element("p", { className: "none" }, "No face was found.")]));
  markSelected();
  const { age, gender } = answer.models;
  byId("details").textContent =
    `${whole(answer.timings.total)} ms · space ${answer.space.id} · heads ${age === gender ? age : `${age}, ${gender}`}`;
  const count = image.faces.length;
  showStatus(image.truncated ? `The ${count} largest of ${image.faces_found} faces` : `${count} ${count === 1 ? "face" : "faces"}`);
}

function select(index) {
  stage.selected = index;
  markSelected();
  byId("faces").children[index]?.scrollIntoView({ block: "nearest" });
}

function markSelected() {
  for (const id of ["boxes", "faces"]) {
    [...byId(id).children].forEach((child, at) => child.classList.toggle("selected", at === stage.selected));
  }
}

// Reuse the thumbnails, so that the focus stays.
function drawGallery() {
  byId("gallery").hidden = pictures.length < 2;
  pictures.forEach((picture, index) => {
    const button = byId("gallery").children[index] ?? byId("gallery").appendChild(thumbnail(picture));
    if (button.firstChild.src !== picture.url) button.firstChild.src = picture.url;
    button.ariaCurrent = picture === shown ? "true" : null;
  });
}

const thumbnail = (picture) => element(
  "button", { type: "button", ariaLabel: picture.file.name, onclick: () => show(picture) }, element("img", { alt: "" }));

async function startCamera() {
  stopCamera();
  byId("camera").ariaDisabled = "true"; // not disabled, which would take the focus from it
  try {
    if (!(await camera.start())) return;
  } catch (error) {
    return showFailure(error);
  } finally {
    byId("camera").ariaDisabled = null;
  }
  byId("camera").textContent = "Stop the webcam";
  showVideo();
  const { stream } = camera;
  while (stream && camera.stream === stream) {
    if (document.hidden) await new Promise((done) => setTimeout(done, 250));
    else await predictFrame("webcam.jpg");
  }
}

// Analyse a video frame by frame, as fast as the server answers, without sending it whole.
async function playVideo(file, skipped) {
  stopCamera();
  showStatus(`Opening ${file.name} …`);
  try {
    await camera.open(file);
  } catch (error) {
    if (camera.file !== file) return; // another source was opened meanwhile
    camera.stop();
    return showFailure(error);
  }
  if (camera.file !== file) return;
  showVideo();
  let failures = 0;
  while (camera.file === file) {
    failures = (await predictFrame(`${stem(file.name)}.jpg`)) ? 0 : failures + 1;
    if (camera.file !== file) return;
    if (failures === MOST_FAILURES) return camera.stop(); // the status states the error
    if (!failures && !(await camera.advance())) break;
  }
  if (camera.file !== file) return;
  const seconds = camera.seconds;
  camera.stop();
  showStatus(`${persons.count} ${persons.count === 1 ? "person" : "persons"} in ${duration(seconds)} of ${file.name}`
    + (skipped ? ". One video at a time: the other files were skipped." : ""));
}

// State why the webcam or a video cannot be shown, beside the picture that was shown before.
async function showFailure(error) {
  if (last) await show(last);
  if (!camera.running) showStatus(error.message, true);
}

function showVideo() {
  stage.forget();
  shown = null;
  for (const id of ["copy", "json", "csv", "annotated"]) byId(id).disabled = true; // until a frame is answered
  persons = new Persons();
  drawPersons();
  document.body.classList.add("answered");
  byId("gallery").hidden = byId("picture").hidden = true;
  byId("video").hidden = byId("result").hidden = false;
}

// Returns whether the frame was answered.
async function predictFrame(name) {
  const { stream, file, seconds } = camera;
  const { canvas, jpeg } = await camera.frame();
  const frame = { file: new File([jpeg], name, { type: "image/jpeg" }) };
  await requestPrediction(frame);
  if (camera.stream !== stream || camera.file !== file) return false;
  const image = frame.answer?.images[0];
  if (image) frame.answer = { ...frame.answer, images: [persons.update(seconds, image)] };
  shown = frame;
  drawAnswer(frame.answer, frame.error, canvas);
  drawPersons();
  if (frame.error) await new Promise((done) => setTimeout(done, 1000));
  return !frame.error;
}

function drawPersons() {
  byId("persons").hidden = !persons.count;
  const table = byId("persons").querySelector("table");
  table.replaceChildren(table.caption, ...persons.table());
}

function stopCamera() {
  const { running } = camera;
  camera.stop(); // also a webcam that is starting
  if (!running) return;
  byId("camera").textContent = "Use the webcam";
  byId("result").hidden = byId("persons").hidden = true;
  showStatus("");
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

byId("choose").onclick = () => byId("files").click();
byId("files").onchange = () => {
  addFiles(byId("files").files);
  byId("files").value = "";
};
byId("camera").onclick = ({ detail, currentTarget }) => {
  if (detail > 1 || currentTarget.ariaDisabled) return; // a double click, or the webcam is starting
  camera.stream ? leaveCamera() : startCamera();
};

byId("copy").onclick = async () => {
  const line = curlLine(shown.file.name, byId("coverage").value);
  try {
    await navigator.clipboard.writeText(line);
    showStatus("Copied.");
  } catch {
    showStatus(line); // browsers have no clipboard without https; show the line for copying by hand
  }
};
byId("json").onclick = () => download(
  new Blob([JSON.stringify(shown.answer, null, 2)], { type: "application/json" }), `${stem(shown.file.name)}.json`);
byId("csv").onclick = () => {
  const table = pictures.includes(shown) ? pictures.filter(({ answer, error }) => answer || error) : [shown];
  download(new Blob([facesTable(table)], { type: "text/csv" }), table.length > 1 ? "faces.csv" : `${stem(shown.file.name)}.csv`);
};
byId("persons-csv").onclick = () => download(new Blob([persons.csv()], { type: "text/csv" }), "persons.csv");
byId("annotated").onclick = async () => {
  try {
    const { file } = shown;
    download(await annotatedPicture(file, file.name, byId("coverage").value), `${stem(file.name)}-annotated.png`);
  } catch (error) {
    showStatus(error.message, true);
  }
};
byId("coverage").onchange = async () => {
  if (camera.running) persons = new Persons(); // intervals of two coverages do not mix
  const picture = shown;
  if (!pictures.includes(picture)) return;
  await requestPrediction(picture);
  if (shown === picture && !camera.running) show(picture);
};

document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) addFiles(event.clipboardData.files);
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
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
});
