// The results of a batch as pictures: to filter, and to see those first of which the network is unsure.

import { call, pause } from "./api.js";
import { thumbnail } from "./artifacts.js";
import { el, icon, segments } from "./dom.js";
import { STATES, percent } from "./words.js";

const AT_ONCE = 120; // tiles; the rest on demand, since ten thousand pictures are more than anyone looks at

export class BatchGrid {
  constructor(signal) {
    this.signal = signal;
    this.rows = [];
    this.tiles = new Map();
    this.filter = { label: "all", most: 1, order: "uncertain" };
    this.limit = AT_ONCE;
    this.filters = el("div", { class: "controls", role: "group", "aria-label": "Which results" });
    this.says = el("p", { class: "hint", role: "status" });
    this.list = el("ul", { class: "grid", "aria-label": "Pictures" });
    this.none = el("p", { class: "empty", hidden: true }, "No result is like that.");
    this.more = el(
      "button",
      { type: "button", hidden: true, onclick: () => ((this.limit += AT_ONCE), this.#draw()) },
      "More",
    );
    this.element = el(
      "section",
      { "aria-label": "Results" },
      this.filters,
      this.says,
      this.list,
      this.none,
      el("p", { class: "more" }, this.more),
    );
  }

  /** Reads the results again if the batch has moved on; larger batches less often. */
  async refresh(batch) {
    this.due = batch;
    if (this.reading) return;
    this.reading = true;
    try {
      while (this.due) {
        const asked = this.due;
        this.due = null;
        const answer = await call(`${asked.links.results}?format=jsonl`, { signal: this.signal });
        const lines = (await answer.text()).split("\n").filter(Boolean);
        this.rows = lines.map((line) => JSON.parse(line));
        this.#offer();
        this.#draw();
        await pause(Math.min(10_000, 2 * asked.total), this.signal);
      }
    } finally {
      this.reading = false;
    }
  }

  #offer() {
    const labels = [
      ...new Set(this.rows.flatMap(({ prediction }) => (prediction ? Object.keys(prediction.scores) : []))),
    ];
    if (labels.join() === this.offered) return;
    this.offered = labels.join();
    const set = (name) => (value) => {
      this.filter[name] = value;
      this.limit = AT_ONCE;
      this.#draw();
    };
    const says = el("span", { class: "value" }, "any");
    const most = el("input", {
      type: "range",
      min: 50,
      max: 100,
      value: 100 * this.filter.most,
      oninput: () => {
        says.textContent = most.value === "100" ? "any" : `at most ${most.value} %`;
        set("most")(most.value / 100);
      },
    });
    this.filters.replaceChildren(
      segments(
        "Answer",
        [["all", "All"], ...labels.map((label) => [label, label]), ["none", "No answer"]],
        this.filter.label,
        set("label"),
      ),
      segments(
        "Order",
        [
          ["uncertain", "Uncertain first"],
          ["index", "As sent"],
        ],
        this.filter.order,
        set("order"),
      ),
      el("label", { class: "field" }, el("span", {}, "Confidence ", says), most),
    );
  }

  #draw() {
    const { label, most, order } = this.filter;
    const sure = ({ prediction }) => (prediction ? prediction.scores[prediction.label] : null);
    const found = this.rows.filter((row) => {
      const confidence = sure(row);
      if (label === "none" ? confidence !== null : label !== "all" && row.prediction?.label !== label)
        return false;
      return most === 1 || (confidence !== null && confidence <= most);
    });
    // Those without an answer go last: there is nothing to be uncertain of.
    if (order === "uncertain") found.sort((a, b) => (sure(a) ?? 2) - (sure(b) ?? 2) || a.index - b.index);
    this.says.textContent = `${found.length.toLocaleString("en")} of ${this.rows.length.toLocaleString("en")}`;
    this.none.hidden = found.length > 0 || !this.rows.length;
    this.more.hidden = found.length <= this.limit;
    const shown = found.slice(0, this.limit).map((row) => this.#tile(row));
    const now = this.list.children;
    if (shown.length !== now.length || shown.some((tile, i) => tile !== now[i]))
      this.list.replaceChildren(...shown);
  }

  #tile(row) {
    const state = `${row.status} ${row.prediction?.label}`;
    const known = this.tiles.get(row.index);
    if (known?.state === state) return known.tile;
    const { prediction } = row;
    const name = row.name ?? row.custom_id ?? `number ${row.index + 1}`;
    const hasPicture = row.job_id && row.status !== "fetching" && !(row.error && !prediction);
    const words = prediction
      ? [
          el("b", {}, prediction.label),
          " ",
          el("span", { class: "number" }, percent(prediction.scores[prediction.label])),
        ]
      : [el("b", {}, row.error?.title ?? row.error?.code ?? STATES[row.status])];
    const inside = [
      hasPicture
        ? (known?.picture ?? thumbnail(`/v1/jobs/${row.job_id}/image`))
        : icon(row.error ? "warning" : "image"),
      el(
        "span",
        { class: hasPicture ? "grid-words" : "grid-words plain" },
        words,
        el("span", { class: "grid-name" }, name),
      ),
    ];
    const attributes = { class: "grid-tile", "data-state": row.status, title: row.error?.detail ?? name };
    const tile = el(
      "li",
      {},
      row.job_id
        ? el("a", { ...attributes, href: `#/job/${row.job_id}` }, inside)
        : el("div", attributes, inside),
    );
    this.tiles.set(row.index, { state, tile, picture: hasPicture ? inside[0] : null });
    return tile;
  }
}
