// Boxes over the picture: buttons, so that they can be reached by keyboard and read aloud.

import { element, percent } from "./elements.js";

export function drawBoxes(stage, image, choose) {
  stage.replaceChildren(...image.faces.map((face, index) => {
    const [x1, y1, x2, y2] = face.bbox;
    const age = Math.round(face.age.mean);
    const box = element("button", {
      type: "button",
      className: `box ${face.gender.label}`,
      ariaLabel: `Face ${index + 1}: about ${age} years, ${face.gender.label}`,
      onclick: () => choose(index),
    }, element("span", {}, `${age} · ${face.gender.label}`));
    box.classList.toggle("below", y1 < image.height * 0.06);
    Object.assign(box.style, {
      left: percent(x1 / image.width),
      top: percent(y1 / image.height),
      width: percent((x2 - x1) / image.width),
      height: percent((y2 - y1) / image.height),
    });
    return box;
  }));
}
