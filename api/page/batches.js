// Recent batches, newest first. #/batches

import { get, pause, unlessLeft } from "./api.js";
import { acting, el, rowWords } from "./dom.js";
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
  const more = el(
    "button",
    {
      type: "button",
      hidden: true,
      onclick: acting(async () => list.append(...(await page(older)).map(row))),
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
    if (list.children.length > 20) return; // older ones are on show: they stay
    const batches = await page();
    list.replaceChildren(...batches.map(row));
    empty.hidden = batches.length > 0;
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
    {},
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
