// A job or batch, kept up to date while it is watched. An event says that there is news, a GET what it is.

import { get, pause } from "./api.js";
import { events } from "./events.js";

const POSITION_MS = 2000; // a place in the queue changes without any event

/** Calls onNews(thing) now and after every change until it has ended, then resolves.
 * isOver(thing) says whether it has; onState is told "live" and "lost". Throws when it is refused. */
export async function follow(path, { signal, isOver, onNews, onState = () => {}, gentlyMs = 0 }) {
  let thing = await get(path, signal);
  onNews(thing);
  let reading = null;
  let again = false;
  const refresh = () => {
    again = true;
    reading ??= (async () => {
      while (again) {
        again = false;
        thing = await get(path, signal);
        onNews(thing);
        if (gentlyMs) await pause(gentlyMs, signal);
      }
    })()
      .catch(() => {}) // the stream below knows whether it is lost, and comes back for the rest
      .finally(() => (reading = null));
    return reading;
  };
  const asking = setInterval(() => ["queued", "fetching"].includes(thing.status) && refresh(), POSITION_MS);
  try {
    while (!isOver(thing)) {
      for await (const _event of events(`${thing.links.events}?after=${thing.event_seq}`, {
        signal,
        onState,
      }))
        refresh();
      await refresh();
      if (!isOver(thing)) await pause(1000, signal);
    }
    onState("over");
  } finally {
    clearInterval(asking);
  }
}
