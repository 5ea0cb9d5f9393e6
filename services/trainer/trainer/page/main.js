// Starts the tabs of the page: Data, Runs and Report.
import { element } from "/web/elements.js";
import { ask, report } from "./ask.js";
import { openUploaded, startDatasets } from "./datasets.js";
import { listEvaluations, startEvaluation } from "./evaluations.js";
import { openReport, startReports } from "./report.js";
import { chooseDataset, showDatasets, showRun, startRuns } from "./runs.js";
import { listSearches } from "./searches.js";
import { onOpen, openTab, startTabs } from "./tabs.js";
import { startUploads } from "./upload.js";
import { listVideos } from "./videos.js";

// Records that the lists skipped because they cannot be read, and what else keeps the trainer from working.
async function showWarnings() {
  const warnings = await ask("/health/ready").then(
    (ready) => ready.warnings ?? [],
    (error) => [error.message],
  );
  document.querySelector("#warnings ul").replaceChildren(...warnings.map((text) => element("li", {}, text)));
  document.querySelector("#warnings").hidden = !warnings.length;
}

startReports();
onOpen("report", openReport);
startTabs();
startUploads((answer) => openUploaded(answer).catch(() => {}));
await startDatasets({
  changed: showDatasets,
  train: (name) => {
    openTab("runs");
    chooseDataset(name);
  },
  judge: async (request, headers) => {
    await startEvaluation(request, headers);
    openTab("runs");
  },
}).catch((error) => report(document.querySelector("#upload .message"), error.message, true));
await startRuns({ openReport: (id) => openTab("report", id) });
await listSearches((status) => showRun(status, true));
await listEvaluations();
await listVideos();
await showWarnings();
