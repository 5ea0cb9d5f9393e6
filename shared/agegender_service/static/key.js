// The API key, if the service requires one. It is stored for this tab only, until the tab is closed.

const NAME = "agegender-key";

export const key = () => sessionStorage.getItem(NAME);

export function withKey(headers = {}) {
  return key() ? { ...headers, Authorization: `Bearer ${key()}` } : headers;
}

// Like fetch, with the key. If the response is 401, ask for a key and try once more.
export async function fetchWithKey(path, options = {}) {
  const ask = () => fetch(path, { ...options, headers: withKey(options.headers) });
  const sent = key();
  const response = await ask();
  if (response.status !== 401) return response;
  const unknown = await isUnknown(response);
  if (key() === sent) await askForKey(unknown); // else another request has asked for it meanwhile
  return ask();
}

// Call `handle` with the data of each server-sent event. Unlike EventSource, this sends the key.
// An error has the `status` of the response, if there was one. signal : of an AbortController; ends the stream.
export async function eachEvent(path, handle, signal) {
  const response = await fetchWithKey(path, { headers: { Accept: "text/event-stream" }, signal });
  if (!response.ok) {
    const { status } = response;
    throw Object.assign(new Error(`The server returned status ${status}.`), { status });
  }
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) handle(JSON.parse(data.join("\n")));
    }
  }
}

// Return whether a 401 response is about a key that the service does not know, rather than about a missing one.
async function isUnknown(response) {
  try {
    return (await response.clone().json()).type.endsWith(":key-unknown");
  } catch {
    return false;
  }
}

let asking = null;

function askForKey(unknown) {
  asking ??= new Promise((done) => {
    const field = Object.assign(document.createElement("input"), { type: "password", required: true, autocomplete: "off" });
    const label = document.createElement("label");
    label.append("API key ", field);
    const element = (name, textContent) => Object.assign(document.createElement(name), { textContent });
    const form = Object.assign(document.createElement("form"), { method: "dialog" });
    if (unknown) form.append(Object.assign(element("p", "This service does not know that key."), { className: "wrong" }));
    form.append(label, element("button", "Use key"));
    form.append(element("p", "Whoever runs this service creates keys with the command “agegender key NAME”. This tab keeps yours until it is closed."));
    const dialog = Object.assign(document.createElement("dialog"), { className: "key" });
    dialog.setAttribute("aria-label", "API key");
    dialog.append(form);
    document.body.append(dialog);
    dialog.addEventListener("close", () => {
      if (field.value) sessionStorage.setItem(NAME, field.value.trim());
      dialog.remove();
      asking = null;
      done();
    });
    dialog.showModal();
  });
  return asking;
}
