// Lists searches for better options, follows the running ones, and trains with the best.
import { drawState, followRun, newCard, onActions, onClick, onDelete } from "./actions.js";
import { ask, post, report, runs, save } from "./ask.js";
import { newKey } from "./pending.js";

const TRIALS = 20;
const list = document.querySelector("#searches");
const cards = new Map(); // search id -> { card, followed }

export async function startSearch(request, headers) {
  show(await post("/searches", { ...request, trials: TRIALS }, headers), true);
}

// trained : called with the status of an experiment that was started with a search's best options.
export async function listSearches(trained) {
  list.trained = trained;
  for (const status of await ask("/searches")) show(status);
}

function show(status, first = false) {
  let entry = cards.get(status.id);
  if (!entry?.card.isConnected) {
    const card = newCard("search");
    entry = { card };
    cards.set(status.id, entry);
    first ? list.prepend(card) : list.append(card);
    wire(entry, status.id);
  }
  draw(entry, status);
  if (runs(status) && !entry.followed) followRun(entry, `/searches/${status.id}`, (latest) => draw(entry, latest));
}

function wire({ card }, id) {
  const path = `/searches/${id}`;
  onActions(card, path, show);
  onClick(card, ".report", () => save(`${path}/report?format=html`, `report-${id}.html`));
  onClick(card, ".train", async () => {
    list.trained(await post("/experiments", (await ask(path)).best.experiment, { "Idempotency-Key": newKey() }));
    report(card.querySelector(".message"), "Started.");
  });
  onDelete(card, path, `search ${id}`, (status) => show(status, true));
}

function draw({ card }, status) {
  const over = status.trials.filter((trial) => ["finished", "pruned", "failed"].includes(trial.state)).length;
  const finished = status.state === "finished";
  drawState(card, status);
  card.querySelector("h2").textContent = status.id;
  card.querySelector(".facts").textContent =
    `${status.task} on ${status.datasets.join(" and ")}: ${over} of ${status.trials.length} settings tried` +
    (status.held_out.length ? `, fold ${status.held_out.join(", ")} held out` : "");
  Object.assign(card.querySelector("progress"), { max: status.trials.length, value: over });
  card.querySelector(".best").textContent = status.best
    ? `Best so far, ${status.goal} ${status.best.value.toPrecision(4)}: ` +
      Object.entries(status.best.values).map(([name, value]) => `${name} ${shown(value)}`).join(", ")
    : (status.problem ?? "");
  card.querySelector(".train").hidden = !finished;
  card.querySelector(".report").hidden = !finished;
}

const shown = (value) => (typeof value === "number" ? Number(value.toPrecision(3)) : JSON.stringify(value));
