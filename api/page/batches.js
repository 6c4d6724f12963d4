// Recent batches, newest first. #/batches

import { get, pause, unlessLeft } from "./api.js";
import { acting, el, placeRow, rowWords } from "./dom.js";
import { countsBar } from "./counts.js";
import { STATES, count, when } from "./words.js";

const EVERY_MS = 3000;

export async function show(main, _parts, signal) {
  const list = el("ul", { class: "rows", "aria-label": "Batches, newest first" });
  const empty = el(
    "p",
    { class: "empty", hidden: true },
    "No batches yet. Drop a folder, a zip or several pictures on ",
    el("a", { href: "#/" }, "the first page"),
    ".",
  );
  let older = null;
  const rows = new Map();
  const more = el(
    "button",
    {
      type: "button",
      hidden: true,
      onclick: acting(async () => (await page(older)).forEach(place)),
    },
    "Older ones",
  );
  main.append(
    el(
      "article",
      {},
      el(
        "header",
        { class: "page-head" },
        el("h1", { tabindex: "-1" }, "Batches"),
        el("a", { class: "button primary", href: "#/" }, "New batch"),
      ),
      list,
      empty,
      el("p", { class: "more" }, more),
    ),
  );

  async function page(cursor) {
    const found = await get(`/v1/batches?limit=20${cursor ? `&cursor=${cursor}` : ""}`, signal);
    older = found.next_cursor;
    more.hidden = !older;
    return found.batches;
  }

  async function refresh() {
    if (rows.size > 20) return; // older ones are on show: they stay
    const batches = await page();
    const here = new Set(batches.map(({ id }) => id));
    for (const [id, gone] of rows) if (!here.has(id)) (gone.remove(), rows.delete(id));
    batches.forEach(place);
    empty.hidden = batches.length > 0;
  }

  function place(batch) {
    placeRow(list, rows, row(batch));
  }

  await refresh();
  for (;;) {
    await pause(EVERY_MS, signal);
    if (!document.hidden) await refresh().catch(unlessLeft);
  }
}

function row(batch) {
  return el(
    "li",
    { "data-id": batch.id },
    el(
      "a",
      { class: "row", href: `#/batch/${batch.id}` },
      rowWords(
        count(batch.total, "picture"),
        batch.methods.length ? `with ${count(batch.methods.length, "explanation")} each` : "Only the answers",
      ),
      countsBar(batch),
      el(
        "span",
        {
          class: "pill",
          "data-state":
            batch.status === "running" ? "running" : batch.status === "completed" ? "succeeded" : "canceled",
        },
        STATES[batch.status],
      ),
      el("time", { datetime: batch.created_at }, when(batch.created_at)),
    ),
  );
}
