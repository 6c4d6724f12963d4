// The frame around the views: which one is on show, light or dark, and the key.

import * as ask from "./ask.js";
import * as batch from "./batch.js";
import * as batches from "./batches.js";
import * as compare from "./compare.js";
import * as job from "./job.js";
import * as jobs from "./jobs.js";
import * as operation from "./operation.js";
import { el, refusal, tryAgain } from "./dom.js";
import { installKeyDialog } from "./keydialog.js";

// Names from the address are looked up here, so that these objects have no names but their own.
const VIEWS = {
  __proto__: null,
  "": [ask, "Cat or dog?"],
  job: [job, "Job"],
  jobs: [jobs, "Jobs"],
  batch: [batch, "Batch"],
  batches: [batches, "Batches"],
  compare: [compare, "Side by side"],
  operation: [operation, "Operation"],
};
const BELONGS_TO = { __proto__: null, job: "jobs", compare: "jobs", batch: "batches" };

let leave = null;

/** Shows the view that the address names: "#/job/ID" is job.js. Whatever the last one still does, ends. */
async function route() {
  leave?.abort();
  leave = new AbortController();
  const { signal } = leave;
  const isFirst = !document.body.dataset.view;
  const [name, ...parts] = location.hash.replace(/^#\/?/, "").split("/").map(plain);
  const main = document.getElementById("main");
  const [view, title] = VIEWS[name] ?? [null, "Not here"];
  document.title = `${title} · Pawlens`;
  document.body.dataset.view = name || "ask";
  for (const link of document.querySelectorAll("nav a")) {
    const isHere = link.hash === `#/${BELONGS_TO[name] ?? name}`;
    if (isHere) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.replaceChildren();
  window.scrollTo(0, 0);
  const shown = view
    ? view.show(main, parts, signal)
    : main.append(
        el("h1", { tabindex: "-1" }, "There is no such page"),
        el("p", {}, el("a", { href: "#/" }, "To the first one")),
      );
  if (!isFirst) main.querySelector("h1")?.focus({ preventScroll: true });
  try {
    await shown;
  } catch (problem) {
    if (problem.name !== "AbortError" && !signal.aborted) main.prepend(refusal(problem, tryAgain()));
  }
}

/** A part of the address as it was meant; one that nobody could have meant stays as it is. */
function plain(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function installTheme() {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const say = () => button.setAttribute("aria-pressed", String(isDark()));
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("pawlens.theme", root.dataset.theme);
    say();
  });
  say();
}

/** Moves the focus alone: as an address, the link's "#main" would be taken for a view. */
function installSkipLink() {
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("main").focus();
  });
}

installTheme();
installSkipLink();
installKeyDialog();
addEventListener("hashchange", route);
route();
