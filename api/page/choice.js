// Which methods, with which options: one sentence on each, and what it will take here.

import { seconds } from "./costs.js";
import { el } from "./dom.js";
import { optionFields } from "./options.js";
import { count, duration } from "./words.js";

const KEPT_AS = "pawlens.methods";
const UNMEASURED =
  "A pass is one run of the network; how many seconds one takes here is known after the first explanation.";
const AT_FIRST = ["grad_cam", "integrated_gradients", "occlusion"];

/** {element, value()}: value() is {methods, options}. `info` is /v1/methods, `weights` /v1/model. */
export function methodChoice(info, weights, signal) {
  const wanted = JSON.parse(localStorage.getItem(KEPT_AS) ?? "null") ?? AT_FIRST;
  const options = optionFields(info.options, weights.labels);
  const chosen = () => boxes.filter((box) => box.checked).map((box) => box.value);
  const costs = new Map();
  let known = new Map();
  const total = el("p", { class: "hint total", "aria-live": "polite" });

  const changed = () => {
    const methods = chosen();
    localStorage.setItem(KEPT_AS, JSON.stringify(methods));
    options.show(methods);
    const sum = methods.reduce((all, name) => all + (known.get(name) ?? NaN), 0);
    total.textContent = methods.length
      ? sum >= 0
        ? `The answer at once, all of this in about ${duration(sum)}.`
        : `The answer comes first. ${UNMEASURED}`
      : "Only the answer.";
  };
  const boxes = info.methods.map(({ name }) =>
    el("input", {
      type: "checkbox",
      name: "methods",
      value: name,
      id: `method-${name}`,
      "aria-describedby": `about-${name}`,
      checked: wanted.includes(name),
      onchange: changed,
    }),
  );
  const cards = info.methods.map((method, i) => {
    const cost = el(
      "span",
      { class: "cost" },
      method.cost.expected ? `about ${count(method.cost.expected, "pass", "passes")}` : "no pass: at once",
    );
    costs.set(method.name, cost);
    return el(
      "li",
      { class: "card" },
      boxes[i],
      el("label", { for: `method-${method.name}` }, method.title),
      el("p", { id: `about-${method.name}` }, method.summary),
      cost,
    );
  });
  changed();
  seconds(info.methods, signal).then(
    (found) => {
      known = found;
      for (const [name, one] of found)
        if (one !== null) costs.get(name).textContent = `about ${duration(one)}`;
      changed();
    },
    () => {},
  ); // costs in passes will do

  return {
    element: el(
      "div",
      { class: "choice" },
      el("ul", { class: "cards" }, cards),
      total,
      el("details", { class: "advanced" }, el("summary", {}, "Advanced options"), options.element),
    ),
    value: () => {
      const value = options.value();
      return { methods: chosen(), options: value };
    },
  };
}
