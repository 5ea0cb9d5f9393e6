// Follows faces from frame to frame, and answers once per person, so that labels do not flicker.
//
// Faces are matched by the overlap of their boxes. Each person's answer is the weighted mean of its faces. The
// interval narrows as `agegender.video.persons` has it, with the likeness of the faces set to a cautious value,
// because the page has no embeddings.

import { certainty, decimals, duration, interval, whole, years } from "/web/display.js";
import { element } from "/web/elements.js";
import { overlap } from "./stage.js";

const SAME = 0.2; // faces of two frames that overlap by less are different faces
const GONE = 2; // seconds after which a face that vanished is another person
const CORRELATION = 0.75; // of the errors of two faces of one person
const LEAST_LIKENESS = 0.3; // faces of one person never count as all different
const STEADY = 1; // years; a label changes only if the mean moves by more
const MAX_LOG_ODDS = 7;
// A person has a face of this quality, or several faces, in one of which the detector is this certain.
const [GOOD, CERTAIN] = [0.5, 0.8];
const COLUMNS = ["person", "first", "last", "seconds_visible", "mean", "interval_low", "interval_high", "coverage", "group",
  "p_female", "quality", "best_seconds", "faces", "effective_faces"];

export class Persons {
  #persons = [];

  get count() {
    return this.#certain.length;
  }

  get #certain() {
    return this.#persons.filter((person) => person.isCertain);
  }

  // Add the faces of a frame. Returns the image with each face's answer replaced by that of its person.
  update(seconds, image) {
    const free = new Set(this.#persons.filter((person) => seconds - person.last <= GONE));
    const pairs = image.faces.flatMap((face, index) => [...free].map((person) => (
      { index, person, share: overlap(face.bbox, person.bbox) })));
    const matched = new Map();
    for (const { index, person, share } of pairs.sort((one, other) => other.share - one.share)) {
      if (share < SAME || matched.has(index) || !free.delete(person)) continue;
      matched.set(index, person);
    }
    const faces = image.faces.map((face, index) => {
      const person = matched.get(index) ?? this.#begin(seconds);
      person.add(face, seconds);
      return person.answer(face);
    });
    return { ...image, faces };
  }

  #begin(seconds) {
    const person = new Person(this.#persons.length + 1, seconds);
    this.#persons.push(person);
    return person;
  }

  table() {
    const head = ["Person", "First seen", "Visible", "Age", "Interval", "Gender"];
    const rows = this.#certain.map((person) => {
      const { p_female: female, interval_low: low, interval_high: high } = person.row();
      const gender = female >= 0.5 ? "female" : "male";
      return [`${person.number}`, clock(person.first), duration(person.visible), years(person.shown),
        interval([low, high]).join(" to "), `${gender} ${certainty(Math.max(female, 1 - female))}`];
    });
    const line = (tag, cells) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
    return [element("thead", {}, line("th", head)), element("tbody", {}, ...rows.map((row) => line("td", row)))];
  }

  // With the columns of `agegender video --csv` (docs/video.md).
  csv() {
    const lines = this.#certain.map((person) => COLUMNS.map((name) => person.row()[name]).join(","));
    return [COLUMNS.join(","), ...lines, ""].join("\n");
  }
}

class Person {
  faces = 0;
  visible = 0; // seconds
  shown = null; // mean of the label, years
  #weight = 0;
  #mean = 0;
  #below = 0;
  #above = 0;
  #odds = 0;
  #groups = {};
  #best = { quality: -1, seconds: 0 };
  #score = 0; // the detector's highest

  constructor(number, seconds) {
    this.number = number;
    this.first = this.last = seconds;
  }

  get isCertain() {
    return this.#best.quality >= GOOD || (this.faces > 1 && this.#score >= CERTAIN);
  }

  add({ bbox, age, gender, quality, det_score: score }, seconds) {
    const weight = Math.max(1e-3, quality.score / (quality.interval_scale ?? 1) ** 2);
    const share = weight / (this.#weight + weight);
    const toward = (from, to) => from + share * (to - from);
    const female = Math.min(1 - 1e-6, Math.max(1e-6, gender.probability.female));
    const odds = Math.max(-MAX_LOG_ODDS, Math.min(MAX_LOG_ODDS, Math.log(female / (1 - female))));
    this.#weight += weight;
    this.#mean = toward(this.#mean, age.mean);
    this.#below = toward(this.#below, age.mean - age.interval[0]);
    this.#above = toward(this.#above, age.interval[1] - age.mean);
    this.#odds = toward(this.#odds, odds);
    for (const [name, value] of Object.entries(age.groups)) this.#groups[name] = toward(this.#groups[name] ?? 0, value);
    this.visible += seconds - this.last;
    this.last = seconds;
    this.bbox = bbox;
    this.faces += 1;
    this.#score = Math.max(this.#score, score);
    this.coverage = age.coverage;
    if (quality.score > this.#best.quality) this.#best = { quality: quality.score, seconds };
    const moved = this.shown === null || Math.abs(whole(this.#mean) - whole(this.shown)) > STEADY;
    if (moved) this.shown = this.#mean;
  }

  // Variance of the mean as a share of that of one face.
  get #share() {
    return CORRELATION + (1 - CORRELATION) * Math.max(1 / this.faces, LEAST_LIKENESS);
  }

  get #interval() {
    const scale = Math.sqrt(this.#share);
    return [Math.max(0, this.#mean - scale * this.#below), Math.min(100, this.#mean + scale * this.#above)];
  }

  get #female() {
    return 1 / (1 + Math.exp(-this.#odds));
  }

  get #group() {
    return Object.entries(this.#groups).reduce((most, one) => (one[1] > most[1] ? one : most))[0];
  }

  answer(face) {
    const female = this.#female;
    return {
      ...face,
      person: this.number,
      age: { ...face.age, mean: this.shown, interval: this.#interval, group: this.#group, groups: { ...this.#groups } },
      gender: { ...face.gender, label: female >= 0.5 ? "female" : "male", probability: { female, male: 1 - female } },
    };
  }

  row() {
    const [low, high] = this.#interval;
    return {
      person: this.number, first: decimals(this.first, 3), last: decimals(this.last, 3),
      seconds_visible: decimals(this.visible, 3), mean: decimals(this.#mean, 2), interval_low: decimals(low, 1),
      interval_high: decimals(high, 1), coverage: this.coverage, group: this.#group,
      p_female: decimals(this.#female, 5), quality: this.#best.quality, best_seconds: decimals(this.#best.seconds, 3),
      faces: this.faces, effective_faces: decimals(1 / this.#share, 2),
    };
  }
}

// A time of a video: 1:02.
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
