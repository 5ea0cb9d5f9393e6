// Sends files or a folder as a new data set, with progress.
import { withKey } from "/web/key.js";
import { duration } from "/web/display.js";
import { ask, datasetPath, report } from "./ask.js";
import { onSubmit } from "./pending.js";

const form = document.querySelector("#upload");
const drop = form.querySelector("#drop");
const selected = form.querySelector("#selected");
const bar = form.querySelector("progress");
const stop = form.querySelector(".stop");
const message = form.querySelector(".message");
const HIDDEN = /(^|\/)\./;
let files = []; // { file, path }

const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);

// uploaded : called with the server's answer.
export function startUploads(uploaded) {
  form.querySelector("#choose").addEventListener("click", () => form.querySelector("#files").click());
  form.querySelector("#choose-folder").addEventListener("click", () => form.querySelector("#folder").click());
  for (const id of ["#files", "#folder"]) {
    const input = form.querySelector(id);
    input.addEventListener("change", () => {
      select([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
      input.value = "";
    });
  }
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const plain = [...event.dataTransfer.files].map((file) => ({ file, path: file.name }));
    select(entries.length ? (await Promise.all(entries.map(filesBelow))).flat() : plain);
  });
  onSubmit(form, message, async () => {
    const sent = files;
    try {
      const answer = await send(form.elements.name.value.trim(), sent);
      report(message, described(answer));
      if (files === sent) { // else others were selected meanwhile
        selected.hidden = true;
        files = [];
      }
      uploaded(answer);
    } finally {
      bar.hidden = stop.hidden = true;
    }
  });
}

async function filesBelow(entry) {
  if (entry.isFile) {
    const file = await new Promise((done, failed) => entry.file(done, failed));
    return [{ file, path: entry.fullPath.slice(1) }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(filesBelow))).flat());
  }
}

function select(given) {
  const shown = given.filter(({ path }) => !HIDDEN.test(path));
  if (!shown.length) return;
  // A folder that was selected is the data set itself, so its name is not part of the files' names.
  const top = shown[0].path.includes("/") ? shown[0].path.split("/")[0] : "";
  const common = top && shown.every(({ path }) => path.startsWith(`${top}/`));
  files = common ? shown.map(({ file, path }) => ({ file, path: path.slice(top.length + 1) })) : shown;
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  const zip = files.find(({ path }) => path.toLowerCase().endsWith(".zip"));
  selected.hidden = false;
  selected.querySelector(".facts").textContent =
    `${files.length === 1 ? files[0].path : `${files.length} files`}, ${megabytes(bytes)} MB`;
  form.elements.name.value = common ? top : zip ? zip.path.replace(/\.zip$/i, "") : "my faces";
  form.elements.name.focus();
  form.elements.name.select();
  report(message, "");
}

async function send(name, sent) {
  await ask("/info"); // asks for the key before the files are sent, if one is needed
  const body = new FormData();
  for (const { file, path } of sent) body.append("file", file, path);
  const request = new XMLHttpRequest(); // fetch reports no progress
  request.open("POST", datasetPath(name, "/files"));
  for (const [header, value] of Object.entries(withKey())) request.setRequestHeader(header, value);
  bar.hidden = stop.hidden = false;
  bar.value = 0;
  const started = performance.now();
  request.upload.onprogress = ({ loaded, total }) => {
    bar.value = loaded / total;
    const seconds = (performance.now() - started) / 1000;
    const left = loaded ? ((total - loaded) * seconds) / loaded : 0;
    report(message, loaded < total
      ? `${megabytes(loaded)} of ${megabytes(total)} MB, ${megabytes(loaded / seconds)} MB/s, ${duration(left)} left`
      : "Unpacking …");
  };
  stop.onclick = () => request.abort();
  return new Promise((done, failed) => {
    request.onload = () => {
      let answer = {};
      try {
        answer = JSON.parse(request.responseText);
      } catch {
        // not JSON: a proxy's error page
      }
      request.status === 201 ? done(answer) : failed(new Error(answer.detail ?? `The server returned status ${request.status}.`));
    };
    request.onerror = () => failed(new Error("The connection was lost. Nothing was stored; upload again."));
    request.onabort = () => failed(new Error("Stopped. Nothing was stored."));
    request.send(body);
  });
}

function described({ name, images, tables, skipped }) {
  const others = Object.entries(skipped).map(([ending, count]) => `${count} ${ending}`).join(", ");
  return `${name}: ${images} ${images === 1 ? "image" : "images"}` + (tables.length ? ` and ${tables.join(", ")}` : ", no table") +
    (others ? `; not stored: ${others}` : "") + ".";
}
