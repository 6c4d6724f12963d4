// Recent jobs, newest first. #/jobs

import { get, pause, unlessLeft } from "./api.js";
import { thumbnail } from "./artifacts.js";
import { acting, el, icon, placeRow, rowWords, segments } from "./dom.js";
import { TITLES } from "./methods.js";
import { FINAL, STATES, nameOf, percent, place, when } from "./words.js";

const PAGE = 24;
const EVERY_MS = 3000;

const FILTERS = {
  all: [],
  going: ["fetching", "queued", "running", "canceling"],
  done: ["succeeded", "partial"],
  not: ["failed", "canceled", "expired"],
};

export async function show(main, _parts, signal) {
  let filter = "all";
  let older = null;
  const rows = new Map();
  const title = el("h1", { tabindex: "-1" }, "Jobs");
  const list = el("ul", { class: "rows", "aria-label": "Jobs, newest first" });
  const empty = el(
    "p",
    { class: "empty", hidden: true },
    "Nothing here yet. ",
    el("a", { href: "#/" }, "Ask about a picture."),
  );
  const more = el("button", { type: "button", hidden: true, onclick: acting(() => take(older)) }, "Older ones");
  main.append(
    el(
      "article",
      {},
      el(
        "header",
        { class: "page-head" },
        title,
        segments(
          "Show",
          [
            ["all", "All"],
            ["going", "Going on"],
            ["done", "Done"],
            ["not", "Not done"],
          ],
          filter,
          acting(async (value) => {
            filter = value ?? filter;
            restart();
            await take();
          }),
        ),
      ),
      list,
      empty,
      el("p", { class: "more" }, more),
    ),
  );

  async function take(cursor) {
    const asked = filter;
    const query = new URLSearchParams([
      ["limit", PAGE],
      ...FILTERS[asked].map((state) => ["status", state]),
      ...(cursor ? [["cursor", cursor]] : []),
    ]);
    const page = await get(`/v1/jobs?${query}`, signal);
    if (asked !== filter || (cursor && cursor !== older)) return; // it was changed meanwhile
    if (!cursor && isApart(page)) restart();
    if (cursor || !rows.size) older = page.next_cursor;
    more.hidden = !older;
    if (!cursor) for (const id of leaving(page)) (rows.get(id).remove(), rows.delete(id));
    for (const job of page.jobs) place(job);
    empty.hidden = rows.size > 0;
  }

  /** Whether so many are new that between this first page and the rows there may be others. */
  function isApart(page) {
    return Boolean(page.next_cursor) && [...rows.keys()].every((id) => id < page.jobs.at(-1).id);
  }

  function restart() {
    const hadFocus = list.contains(document.activeElement);
    rows.clear();
    list.replaceChildren();
    if (hadFocus) title.focus();
  }

  /** Of those as young as this first page, the ones that are not in it any more. */
  function leaving(page) {
    const here = new Set(page.jobs.map(({ id }) => id));
    const oldest = page.next_cursor ? page.jobs.at(-1).id : "";
    return [...rows.keys()].filter((id) => id > oldest && !here.has(id));
  }

  function place(job) {
    const known = rows.get(job.id);
    const state = `${job.event_seq} ${job.queue?.position}`;
    if (known?.dataset.seq === state) {
      known.querySelector("time").textContent = when(job.created_at);
      return;
    }
    placeRow(list, rows, row(job));
    rows.get(job.id).dataset.seq = state;
  }

  await take();
  for (;;) {
    await pause(EVERY_MS, signal);
    if (!document.hidden) await take().catch(unlessLeft);
  }
}

function row(job) {
  const { prediction } = job;
  const doing = job.queue
    ? place(job.queue.position)
    : FINAL.has(job.status)
      ? ""
      : `${job.progress.done} of ${job.progress.total} steps`;
  const methods = job.methods.map((method) => TITLES[method.name] ?? method.name).join(", ");
  return el(
    "li",
    { "data-id": job.id },
    el(
      "a",
      { class: "row", href: `#/job/${job.id}` },
      el("span", { class: "row-picture" }, job.image ? thumbnail(job.links.image) : icon("image")),
      rowWords(nameOf(job), [methods || "Only the answer", doing].filter(Boolean).join(" · ")),
      el(
        "span",
        { class: "row-answer" },
        prediction
          ? [
              prediction.label,
              " ",
              el("span", { class: "number" }, percent(prediction.scores[prediction.label])),
            ]
          : (job.error?.title ?? ""),
      ),
      el("span", { class: "pill", "data-state": job.status }, STATES[job.status]),
      el("time", { datetime: job.created_at }, when(job.created_at)),
    ),
  );
}
