// Writes the answers as CSV, with the columns of `agegender predict --csv` (docs/serving.md).

const COLUMNS = ["file", "face", "mean", "interval_low", "interval_high", "coverage", "group", "p_female", "quality",
  "reasons", "x1", "y1", "x2", "y2", "det_score", "whole", "problem"];

function cells(face) {
  const [x1, y1, x2, y2] = face.bbox;
  const { score, reasons } = face.quality;
  const { mean, interval: [interval_low, interval_high], coverage, group } = face.age;
  return { mean, interval_low, interval_high, coverage, group, p_female: face.gender.probability.female, quality: score,
    reasons: reasons.join(" "), x1, y1, x2, y2, det_score: face.det_score, whole: face.whole };
}

// One row per face, and one for a picture without any.
function rows({ file, answer, error }) {
  const faces = answer?.images[0].faces ?? [];
  if (!faces.length) return [{ file: file.name, problem: answer ? "no face" : error }];
  return faces.map((face, index) => ({ file: file.name, face: index + 1, ...cells(face) }));
}

function quoted(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function facesTable(pictures) {
  const lines = pictures.flatMap(rows).map((row) => COLUMNS.map((name) => quoted(row[name])).join(","));
  return [COLUMNS.join(","), ...lines, ""].join("\r\n");
}
