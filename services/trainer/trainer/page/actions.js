// What the cards of runs can do: act on a click, ask before something is replaced or deleted, undo that.
import { element } from "/web/elements.js";
import { ask, isProblem, report, runs } from "./ask.js";
import { follow } from "./follow.js";
import { onSingleClick } from "./pending.js";

// Draw each status of a run until it is over.
// entry : { card, followed } of the run. path : of the run's routes.
export function followRun(entry, path, draw) {
  entry.followed = true;
  return follow(`${path}/events`, entry.card.querySelector(".message"), {
    handle(status) {
      entry.followed = runs(status);
      draw(status);
    },
    goesOn: () => entry.followed && entry.card.isConnected,
  });
}

// Return a new card from the template of a kind of run, with the buttons that all runs have.
export function newCard(kind) {
  const [card, buttons] = [kind, "run-buttons"].map((id) => document.getElementById(id).content.cloneNode(true));
  card.querySelector("footer").append(buttons);
  return card.firstElementChild;
}

// Show the state of a run, and the buttons that all runs have if they do something in it.
export function drawState(card, status) {
  card.dataset.state = status.state;
  card.querySelector(".state").textContent = status.state;
  card.querySelector(".resume").hidden = !["failed", "cancelled"].includes(status.state);
  card.querySelector(".cancel").hidden = !runs(status);
  card.querySelector(".remove").hidden = runs(status);
}

// Post an action to a run on a click on its button.
// show : called with the status that the run then has.
export function onActions(card, path, show, actions = ["resume", "cancel"]) {
  for (const action of actions)
    onClick(card, `.${action}`, async () => show(await ask(`${path}/${action}`, { method: "POST" })));
}

// Call `call` on a click, one at a time; the card shows why it failed.
export function onClick(card, selector, call) {
  const message = card.querySelector(".message");
  onSingleClick(card.querySelector(selector), async () => {
    report(message, "");
    try {
      await call();
    } catch (error) {
      report(message, error.message, true);
    }
  });
}

// Serve heads. A promotion that would replace better ones is rejected with the metrics of both; it is sent again if the
// user accepts them. Returns task -> version.
export async function promote(path) {
  const options = { method: "POST" };
  try {
    return await ask(`${path}/promote`, options);
  } catch (error) {
    if (!isProblem(error, "promotion-needs-confirmation")) throw error;
    const metrics = error.problem.comparisons?.map((one) => one.summary).join("\n\n") ?? error.message;
    if (!confirm(`${metrics}\n\nServe the new heads all the same?`)) throw new Error("Nothing was changed.");
    return ask(`${path}/promote?force=true`, options);
  }
}

// Delete a run for good after a question, and its card.
export function onDeleteForGood(card, path, title) {
  onClick(card, ".remove", async () => {
    if (!confirm(`Delete ${title}? It cannot be restored.`)) return;
    await ask(path, { method: "DELETE" });
    card.remove();
  });
}

// Delete a run after a question. Its card becomes a line that restores it.
// restored : called with the run's status.
export function onDelete(card, path, title, restored) {
  onClick(card, ".remove", async () => {
    if (!confirm(`Delete ${title}? It can be restored for seven days.`)) return;
    await ask(path, { method: "DELETE" });
    const undo = element("button", { type: "button" }, "Undo");
    const message = element("span", { className: "message" });
    message.setAttribute("role", "status");
    card.replaceChildren(element("div", { className: "row" }, element("p", {}, `Deleted: ${title}.`), undo, message));
    undo.focus();
    onSingleClick(undo, async () => {
      try {
        const status = await ask(`${path}/restore`, { method: "POST" });
        card.remove();
        restored(status);
      } catch (error) {
        report(message, error.message, true);
      }
    });
  });
}
