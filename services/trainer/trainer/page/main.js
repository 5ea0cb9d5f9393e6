// Starts the tabs of the page: Data, Runs and Report.
import { element } from "/web/elements.js";
import { ask, drawLast } from "./ask.js";
import { listDatasets, openUploaded, startDatasets } from "./datasets.js";
import { listEvaluations, startEvaluation } from "./evaluations.js";
import { openReport, startReports } from "./report.js";
import { chooseDataset, listRuns, showDatasets, showRun, startRuns } from "./runs.js";
import { listSearches } from "./searches.js";
import { onOpen, openTab, startTabs } from "./tabs.js";
import { startUploads } from "./upload.js";
import { listVideos } from "./videos.js";

// Show the records that the lists skipped because they cannot be read, and what else keeps the trainer from working.
const showWarnings = drawLast(
  () =>
    ask("/health/ready").then(
      (ready) => ready.warnings ?? [],
      (error) => [error.message],
    ),
  (warnings) => {
    document.querySelector("#warnings ul").replaceChildren(...warnings.map((text) => element("li", {}, text)));
    document.querySelector("#warnings").hidden = !warnings.length;
  },
);

// Read a list into its place. If that fails, the place states why and offers to try again; the other lists are shown.
async function fill(id, read) {
  const place = document.getElementById(id);
  place.querySelector(":scope > .unread")?.remove();
  try {
    await read();
  } catch (error) {
    const again = element("button", { type: "button", onclick: () => fill(id, read) }, "Try again");
    const notice = element("p", { className: "message error unread" }, `This list could not be read. ${error.message} `, again);
    notice.setAttribute("role", "status");
    place.prepend(notice);
  }
}

startReports();
onOpen("report", openReport);
startTabs();
startUploads((answer) => fill("datasets", () => openUploaded(answer)));
startDatasets({
  changed: showDatasets,
  train: (name) => {
    openTab("runs");
    chooseDataset(name);
  },
  judge: async (request, headers) => {
    await startEvaluation(request, headers);
    openTab("runs");
  },
});
startRuns({ openReport: (id) => openTab("report", id) });
showWarnings();
const lists = [
  fill("datasets", listDatasets),
  fill("experiments", listRuns),
  fill("searches", () => listSearches((status) => showRun(status, true))),
  fill("evaluations", listEvaluations),
  fill("videos", listVideos),
];
Promise.all(lists).then(showWarnings); // which the trainer knows once the lists have been read
