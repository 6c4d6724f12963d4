// How far a batch is: one bar with a part for each state.

import { el } from "./dom.js";
import { STATES } from "./words.js";

const ORDER = [
  "succeeded",
  "partial",
  "failed",
  "expired",
  "canceled",
  "canceling",
  "running",
  "queued",
  "fetching",
];

export function countsBar({ counts, total }) {
  const present = ORDER.filter((state) => counts[state]);
  const words = present.map((state) => `${counts[state]} ${STATES[state]}`).join(", ");
  return el(
    "span",
    { class: "counts", role: "img", "aria-label": words, title: words },
    present.map((state) => {
      const part = el("span", { "data-state": state });
      part.style.flexGrow = counts[state] / total;
      return part;
    }),
  );
}

export function countsWords({ counts }) {
  return ORDER.filter((state) => counts[state]).map((state) =>
    el("li", { "data-state": state }, el("b", {}, counts[state].toLocaleString("en")), ` ${STATES[state]}`),
  );
}
