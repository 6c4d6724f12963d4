// Two methods of one picture, or two pictures, side by side; they zoom and move together.
// #/compare/JOB or #/compare/JOB/METHOD/JOB/METHOD

import { get } from "./api.js";
import { el, refusal } from "./dom.js";
import { Look, explained } from "./look.js";
import { TITLES, hasMap } from "./methods.js";
import { nameOf, percent } from "./words.js";

export async function show(main, [id, method, otherId = id, otherMethod], signal) {
  const sides = [];
  const other = (side) => sides[1 - sides.indexOf(side)];
  const remember = () =>
    sides.every(({ job }) => job) &&
    history.replaceState(
      null,
      "",
      `#/compare/${sides.map((side) => `${side.job.id}/${side.method}`).join("/")}`,
    );
  for (const words of ["On the left", "On the right"]) {
    const side = new Side(words, {
      onView: (view) => other(side)?.look.viewer.look(view, { quietly: true }),
      onStyle: () => other(side)?.look.restyle(),
      onChange: remember,
    });
    sides.push(side);
  }
  main.append(
    el(
      "article",
      { class: "compare" },
      el(
        "header",
        { class: "page-head" },
        el("h1", { tabindex: "-1" }, "Side by side"),
        el("a", { class: "button", href: `#/job/${id}` }, "Back to the job"),
      ),
      el(
        "div",
        { class: "pair" },
        sides.map((side) => side.element),
      ),
    ),
  );
  const [recent, first, second] = await Promise.all([
    get("/v1/jobs?kind=explain&status=succeeded&status=partial&limit=50", signal),
    get(`/v1/jobs/${encodeURIComponent(id)}`, signal),
    get(`/v1/jobs/${encodeURIComponent(otherId)}`, signal),
  ]);
  const jobs = new Map([first, second, ...recent.jobs].map((job) => [job.id, job]));
  const names = first.methods.filter(hasMap).map(({ name }) => name);
  const left = names.includes(method) ? method : names[0];
  const fallback =
    id === otherId && !otherMethod ? (names.find((name) => name !== left) ?? left) : undefined;
  sides[0].offer(jobs, first, left);
  sides[1].offer(jobs, second, otherMethod ?? fallback);
}

class Side {
  constructor(words, { onView, onStyle, onChange }) {
    this.look = new Look({ label: words, onView, onStyle });
    this.onChange = onChange;
    this.jobs = el("select", { "aria-label": `${words}: picture` });
    this.methods = el("select", { "aria-label": `${words}: method` });
    this.answer = el("p", { class: "hint" });
    this.problem = el("div");
    this.element = el(
      "section",
      { class: "side-by-side", "aria-label": words },
      el("div", { class: "pickers" }, this.jobs, this.methods),
      this.answer,
      this.problem,
      this.look.element,
    );
  }

  offer(jobs, job, method) {
    this.jobs.replaceChildren(
      ...[...jobs.values()].map((one) =>
        el("option", { value: one.id, selected: one.id === job.id }, titleOf(one)),
      ),
    );
    this.jobs.onchange = () => this.#take(jobs.get(this.jobs.value), this.method);
    this.methods.onchange = () => this.#take(this.job, this.methods.value);
    this.#take(job, method);
  }

  #take(job, wanted) {
    const methods = job.methods.filter(hasMap);
    const method = methods.find(({ name }) => name === wanted) ?? methods[0];
    this.job = job;
    this.method = method?.name ?? "";
    this.methods.replaceChildren(
      ...methods.map(({ name }) =>
        el("option", { value: name, selected: name === this.method }, TITLES[name] ?? name),
      ),
    );
    this.answer.textContent = job.prediction
      ? `${job.prediction.label} ${percent(job.prediction.scores[job.prediction.label])} · explained: ${explained(job, method)}`
      : "";
    this.look.show(job, method).then(
      () => this.problem.replaceChildren(),
      (problem) => this.problem.replaceChildren(refusal(problem)),
    );
    if (this.method) this.onChange();
  }
}

function titleOf(job) {
  return `${nameOf(job)}${job.prediction ? ` (${job.prediction.label})` : ""}`;
}
