// One job: watched while it runs, looked at when it is done. #/job/ID or #/job/ID/METHOD

import * as api from "./api.js";
import { model } from "./artifacts.js";
import { actions } from "./actions.js";
import { announce, el, icon, notShown, toast, refusal } from "./dom.js";
import { follow } from "./follow.js";
import { Look } from "./look.js";
import { MethodTabs } from "./methods.js";
import { notes } from "./notes.js";
import { askAgain } from "./ask.js";
import { timings, verdict } from "./verdict.js";
import { FINAL, STATES, nameOf, percent } from "./words.js";

export async function show(main, [id, wanted], signal) {
  const page = new JobPage(id, wanted, signal);
  main.append(page.element);
  const weights = await model().catch(() => null);
  try {
    await follow(`/v1/jobs/${encodeURIComponent(id)}`, {
      signal,
      isOver: (job) => FINAL.has(job.status),
      onNews: (job) => page.update(job, weights),
      onState: (state) => page.connection(state),
    });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    page.gone(problem);
  }
}

const isMap = ({ status, name }) => status === "succeeded" && !["feature_maps", "kernels"].includes(name);

const NARROW = matchMedia("(max-width: 56rem)"); // as in job.css

class JobPage {
  constructor(id, wanted, signal) {
    this.id = id;
    this.signal = signal;
    this.chosen = wanted ?? null; // by hand; until then the page follows what is being worked on
    this.title = el("h1", { tabindex: "-1" }, "Job");
    this.pill = el("span", { class: "pill" });
    this.batch = el("a", { hidden: true }, "Its batch");
    this.source = el("p", { class: "hint source", hidden: true });
    this.actions = el("div", { class: "actions" });
    this.compare = el("a", { class: "button" }, icon("compare"), "Compare");
    this.lost = el(
      "p",
      { class: "lost", role: "status", hidden: true },
      el("span", { class: "spinner", "aria-hidden": "true" }),
      "The connection is lost. The job goes on; this page comes back to it by itself.",
    );
    this.verdict = el("div");
    this.tabs = new MethodTabs((name) => this.#choose(name));
    this.look = new Look({ label: "The picture", onDepth: () => this.#note(this.#current()) });
    this.notes = el("section", { class: "notes", "aria-label": "What it says and how far to trust it" });
    this.foot = el("p", { class: "hint" });
    this.panel = el(
      "section",
      { class: "panel", id: "method-panel", role: "tabpanel", "aria-label": "The picture" },
      this.look.element,
      this.notes,
    );
    this.side = el("div", { class: "side" }, this.verdict, this.tabs.element, this.foot);
    this.columns = el("div", { class: "columns" });
    this.#arrange();
    NARROW.addEventListener("change", () => this.#arrange(), { signal });
    this.element = el(
      "article",
      { class: "job" },
      el("header", { class: "page-head" }, el("div", {}, this.title, this.pill, this.batch, this.source), this.actions),
      this.lost,
      this.columns,
    );
  }

  /** In the order in which they are read, so that the keyboard goes the same way. */
  #arrange() {
    this.columns.append(...(NARROW.matches ? [this.side, this.panel] : [this.panel, this.side]));
  }

  connection(state) {
    this.lost.hidden = state !== "lost";
  }

  gone(problem) {
    this.element.replaceChildren(
      ...notShown("This job cannot be shown", problem, el("a", { href: "#/jobs" }, "All jobs")),
    );
  }

  update(job, weights) {
    const before = this.job;
    this.job = job;
    this.weights = weights ?? this.weights;
    this.title.textContent = this.title.title = nameOf(job);
    this.source.hidden = !job.source_url;
    this.source.textContent = job.source_url;
    this.panel.hidden = FINAL.has(job.status) && !job.image; // nothing has come that could be looked at
    const { label, scores } = job.prediction ?? {};
    const answer = label && `${label} ${percent(scores[label])}`;
    document.title = [answer, this.title.textContent, "Pawlens"].filter(Boolean).join(" · ");
    this.pill.textContent = STATES[job.status];
    this.pill.dataset.state = job.status;
    this.batch.hidden = !job.batch_id;
    this.batch.href = `#/batch/${job.batch_id}`;
    // What the verdict shows, no more: rebuilding it would close what its reader has opened.
    const state = job.prediction ? [1] : [job.status, job.queue?.position, job.queue?.estimated_start_at];
    const facts = [...state, job.error?.code, this.weights && 1].join();
    if (facts !== this.facts) this.verdict.replaceChildren(verdict(job, this.weights));
    this.facts = facts;
    if (before?.status !== job.status) this.#act();
    if (before && before.status !== job.status) announce(`${this.title.textContent}: ${STATES[job.status]}`);
    if (before && !before.prediction && answer) announce(`The answer: ${answer}`);
    this.foot.textContent = timings(job);
    this.tabs.element.hidden = !job.methods.length;
    this.#refresh();
  }

  #choose(name) {
    this.chosen = name;
    history.replaceState(null, "", `#/job/${this.id}/${name}`);
    this.#refresh();
  }

  /** The method on show: the chosen one, else the one at work, else the first that came of it. */
  #current() {
    const { methods } = this.job;
    const by = (test) => methods.find(test);
    if (FINAL.has(this.job.status) && !this.chosen) this.chosen = this.shownName ?? null;
    return (
      by(({ name }) => name === this.chosen) ??
      by(({ status, artifacts }) => status === "running" && artifacts.length) ??
      methods[FINAL.has(this.job.status) ? "find" : "findLast"](isMap) ??
      by(({ status }) => status === "succeeded") ??
      by(({ status }) => status === "running") ??
      methods[0]
    );
  }

  #refresh() {
    const method = this.#current();
    if (method?.name !== this.current) {
      this.notes.replaceChildren();
      this.noted = null;
    }
    this.current = method?.name;
    this.compare.href = `#/compare/${this.id}${method ? `/${method.name}` : ""}`;
    this.shownName = method?.status === "succeeded" ? method.name : this.shownName;
    this.tabs.update(this.job.methods, method?.name);
    if (method) this.panel.setAttribute("aria-labelledby", `tab-${method.name}`);
    this.look.show(this.job, method, this.signal).then(
      () => this.#note(method),
      (problem) => problem.name !== "AbortError" && this.notes.replaceChildren(refusal(problem)),
    );
  }

  #note(method) {
    if (method?.name !== this.current) return; // another one was chosen meanwhile
    const state = `${method?.name} ${method?.status} ${this.look.has?.layer}`;
    if (state === this.noted) return;
    this.noted = state;
    const wasOpen = this.notes.querySelector("details")?.open;
    this.notes.replaceChildren(...notes(this.job, method, this.look.map, () => this.#again()));
    if (wasOpen) this.notes.querySelector("details")?.setAttribute("open", "");
  }

  #act() {
    const cancel = async () => this.update(await api.post(this.job.links.cancel));
    this.actions.replaceChildren(
      ...actions(this.job, {
        cancel,
        compare: this.compare,
        again: () => this.#again(),
        remove: () => this.#delete(),
      }),
    );
  }

  async #again() {
    const { image, links, source_url } = this.job;
    const picture = image && (await api.blob(links.image));
    askAgain(picture ? new File([picture], nameOf(this.job), { type: picture.type }) : source_url);
    location.hash = "#/";
  }

  async #delete() {
    if (!confirm("Delete this job with all that came of it?")) return;
    await api.remove(this.job.links.self);
    toast("Deleted.");
    location.hash = "#/jobs";
  }
}
