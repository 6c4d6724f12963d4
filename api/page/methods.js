// The methods of a job as tabs: each with its state, its progress, and its picture once there is one.

import { thumbnail } from "./artifacts.js";
import { el, icon } from "./dom.js";
import { STATES, duration } from "./words.js";

export const TITLES = {
  grad_cam: "Grad-CAM",
  integrated_gradients: "Integrated Gradients",
  occlusion: "Occlusion",
  feature_maps: "Feature maps",
  kernels: "Kernels",
};

/** Whether it can be laid beside another one. */
export const hasMap = ({ status, name }) => status === "succeeded" && name !== "kernels";

export class MethodTabs {
  /** onchoose(name) is called when the user picks one. */
  constructor(onchoose) {
    this.onchoose = onchoose;
    this.tabs = new Map();
    this.element = el("div", {
      class: "methods",
      role: "tablist",
      "aria-label": "Explanations",
      onkeydown: (event) => this.#key(event),
    });
  }

  update(methods, current) {
    const moved = current !== this.current;
    this.current = current;
    for (const method of methods) {
      if (!this.tabs.has(method.name)) this.#add(method.name);
      const { tab, picture, says, bar } = this.tabs.get(method.name);
      const isCurrent = method.name === current;
      tab.setAttribute("aria-selected", String(isCurrent));
      tab.tabIndex = isCurrent ? 0 : -1;
      tab.dataset.state = method.status;
      says.textContent = inWords(method);
      const isRunning = method.status === "running";
      bar.hidden = !isRunning;
      bar.removeAttribute("value");
      if (isRunning && method.progress.total)
        Object.assign(bar, { max: method.progress.total, value: method.progress.done });
      const overlay = method.artifacts.find(({ name }) => name === "overlay.png");
      if (overlay && picture.firstChild?.tagName !== "IMG") picture.replaceChildren(thumbnail(overlay.url));
    }
    if (moved) this.#center(this.tabs.get(current)?.tab);
  }

  /** On a phone the tabs are a strip that is wider than the screen. The page itself stays where it is. */
  #center(tab) {
    if (!tab) return;
    const [strip, one] = [this.element, tab].map((element) => element.getBoundingClientRect());
    this.element.scrollLeft += one.left + one.width / 2 - strip.left - strip.width / 2;
  }

  #add(name) {
    const picture = el(
      "span",
      { class: "tab-picture" },
      icon({ feature_maps: "layers", kernels: "grid" }[name] ?? "eye"),
    );
    const says = el("span", { class: "tab-state" });
    const bar = el("progress", { hidden: true, "aria-label": `${TITLES[name] ?? name}, progress` });
    const tab = el(
      "button",
      {
        type: "button",
        role: "tab",
        id: `tab-${name}`,
        "aria-controls": "method-panel",
        onclick: () => this.onchoose(name),
      },
      picture,
      el("span", { class: "tab-words" }, el("span", { class: "tab-title" }, TITLES[name] ?? name), says, bar),
    );
    this.tabs.set(name, { tab, picture, says, bar });
    this.element.append(tab);
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const all = [...this.tabs.values()].map(({ tab }) => tab);
    const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
    next.focus();
    next.click();
  }
}

function inWords({ status, progress, seconds, cached }) {
  if (status === "succeeded") return cached ? "known already" : duration(seconds);
  if (status === "running" && progress.total) return `${progress.done} of ${progress.total}`;
  return STATES[status];
}
