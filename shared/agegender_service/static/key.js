// The API key of this tab, where the service asks for one. It is kept until the tab is closed, nowhere else.

const NAME = "agegender-key";

export const key = () => sessionStorage.getItem(NAME);

export function withKey(headers = {}) {
  return key() ? { ...headers, Authorization: `Bearer ${key()}` } : headers;
}

// As fetch, with the key; asks for one where the answer is 401, and tries once more.
export async function fetchWithKey(path, options = {}) {
  const ask = () => fetch(path, { ...options, headers: withKey(options.headers) });
  const response = await ask();
  if (response.status !== 401) return response;
  await askForKey();
  return ask();
}

// Events as EventSource has them, which cannot send a key. Calls `told` with the data of each.
export async function eachEvent(path, told) {
  const response = await fetchWithKey(path, { headers: { Accept: "text/event-stream" } });
  if (!response.ok) throw new Error(`The server answered ${response.status}.`);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (text + value).split(/\r?\n\r?\n/);
    text = events.pop();
    for (const event of events) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart());
      if (data.length) told(JSON.parse(data.join("\n")));
    }
  }
}

let asking = null;

function askForKey() {
  asking ??= new Promise((done) => {
    const field = Object.assign(document.createElement("input"), { type: "password", required: true, autocomplete: "off" });
    const label = document.createElement("label");
    label.append("API key ", field);
    const form = Object.assign(document.createElement("form"), { method: "dialog" });
    form.append(label, " ", Object.assign(document.createElement("button"), { textContent: "Use it" }));
    const dialog = document.createElement("dialog");
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
