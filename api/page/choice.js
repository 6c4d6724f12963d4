// Which methods, with which options: one sentence on each, and what it will take here.

import { passes, seconds } from "./costs.js";
import { el } from "./dom.js";
import { optionFields } from "./options.js";
import { about, count } from "./words.js";

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
  let takes = () => null;
  const total = el("p", { class: "hint total", "aria-live": "polite" });

  const changed = () => {
    const methods = chosen();
    localStorage.setItem(KEPT_AS, JSON.stringify(methods));
    options.show(methods);
    const { quality = false } = options.value();
    let sum = 0;
    for (const method of info.methods) {
      const one = takes(method, quality);
      costs.get(method.name).textContent = one === null ? inPasses(passes(method, quality)) : about(one);
      if (methods.includes(method.name)) sum += one ?? NaN;
    }
    total.textContent = methods.length
      ? sum >= 0
        ? `The answer at once, all of this in ${about(sum)}.`
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
    const cost = el("span", { class: "cost" });
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
  options.element.addEventListener("change", changed); // quality costs several times as much
  seconds(info.methods, signal).then(
    (found) => {
      takes = found;
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

const inPasses = (n) => (n ? `about ${count(n, "pass", "passes")}` : "no pass: at once");
