// One batch: a grid that fills as results arrive. #/batch/ID

import * as api from "./api.js";
import { countsBar, countsWords } from "./counts.js";
import { acting, announce, el, icon, iconButton, notShown, refusal } from "./dom.js";
import { follow } from "./follow.js";
import { BatchGrid } from "./grid.js";
import { STATES, count } from "./words.js";

const GENTLY_MS = 1000;

export async function show(main, [id], signal) {
  const page = new BatchPage(signal);
  main.append(page.element);
  try {
    await follow(`/v1/batches/${encodeURIComponent(id)}`, {
      signal,
      isOver: (batch) => batch.status !== "running",
      onNews: (batch) => page.update(batch),
      onState: (state) => (page.lost.hidden = state !== "lost"),
      gentlyMs: GENTLY_MS,
    });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    page.element.replaceChildren(
      ...notShown("This batch cannot be shown", problem, el("a", { href: "#/batches" }, "All batches")),
    );
  }
}

class BatchPage {
  constructor(signal) {
    this.signal = signal;
    this.title = el("h1", { tabindex: "-1" }, "Batch");
    this.pill = el("span", { class: "pill" });
    this.origin = el("a", { hidden: true }, "The batch before");
    this.actions = el("div", { class: "actions" });
    this.lost = el(
      "p",
      { class: "lost", role: "status", hidden: true },
      "The connection is lost. The batch goes on; this page comes back to it by itself.",
    );
    this.bar = el("div", { class: "batch-bar" });
    this.counts = el("ul", { class: "counts-words" });
    this.rejected = el("div");
    this.grid = new BatchGrid(signal);
    // The last "More" goes with a click on it. Its focus goes to what it has brought.
    this.grid.more.addEventListener("click", () => {
      if (this.grid.more.hidden) [...this.grid.list.querySelectorAll("a")].at(-1)?.focus();
    });
    this.element = el(
      "article",
      { class: "batch" },
      el("header", { class: "page-head" }, el("div", {}, this.title, this.pill, this.origin), this.actions),
      this.lost,
      this.bar,
      this.counts,
      this.rejected,
      this.grid.element,
    );
  }

  update(batch) {
    const before = this.batch;
    this.batch = batch;
    this.title.textContent = count(batch.total, "picture");
    document.title = `${batch.progress.done} of ${batch.progress.total} · Pawlens`;
    this.pill.textContent = STATES[batch.status];
    this.pill.dataset.state = { running: "running", completed: "succeeded", canceled: "canceled" }[
      batch.status
    ];
    this.origin.hidden = !batch.retry_of; // of which this one repeats what failed
    this.origin.href = `#/batch/${batch.retry_of}`;
    this.bar.replaceChildren(countsBar(batch));
    this.counts.replaceChildren(...countsWords(batch));
    if (before?.rejected !== batch.rejected && batch.rejected) {
      this.rejected.replaceChildren(
        el(
          "details",
          { class: "rejected" },
          el("summary", {}, `${count(batch.rejected, "item")} could not be accepted`),
          el(
            "ul",
            {},
            batch.errors.map((error) =>
              el(
                "li",
                {},
                el("b", {}, error.name ?? error.custom_id ?? `number ${error.index + 1}`),
                ` ${error.detail}`,
              ),
            ),
          ),
          batch.rejected > batch.errors.length &&
            el("p", { class: "hint" }, `The first ${batch.errors.length}; all are in the results.`),
        ),
      );
    }
    if (before && before.status !== batch.status) announce(`Batch ${STATES[batch.status]}`);
    this.#act();
    this.grid
      .refresh(batch)
      .catch((problem) => problem.name !== "AbortError" && this.rejected.replaceChildren(refusal(problem)));
  }

  #act() {
    const { batch } = this;
    const isOver = batch.status !== "running";
    const state = [batch.status, batch.counts.failed + batch.counts.expired, batch.counts.canceling].join();
    if (state === this.acted) return;
    this.acted = state;
    const save = (format) =>
      acting(() => api.download(`${batch.links.results}?format=${format}`, `${batch.id}.${format}`));
    const failed = batch.counts.failed + batch.counts.expired - batch.rejected; // those that may do better
    this.actions.replaceChildren(
      ...[
        !isOver &&
          el(
            "button",
            {
              type: "button",
              class: "danger",
              onclick: acting(async () => this.update(await api.post(batch.links.cancel))),
            },
            icon("cross"),
            "Cancel",
          ),
        isOver &&
          failed > 0 &&
          el(
            "button",
            {
              type: "button",
              onclick: acting(
                async () => (location.hash = `#/batch/${(await api.post(batch.links.retry)).id}`),
              ),
            },
            icon("again"),
            `Try ${count(failed, "failed one", "failed ones")} again`,
          ),
        el("button", { type: "button", onclick: save("csv") }, icon("download"), "CSV"),
        el("button", { type: "button", onclick: save("zip") }, icon("download"), "Zip"),
        isOver &&
          iconButton(
            "bin",
            "Delete the batch with its jobs",
            acting(() => this.#delete()),
          ),
      ].filter(Boolean),
    );
  }

  async #delete() {
    if (!confirm("Delete this batch with all its jobs?")) return;
    await api.remove(this.batch.links.self);
    location.hash = "#/batches";
  }
}
