// Server-sent events by fetch, with the key and Last-Event-ID in headers.
// The format: https://html.spec.whatwg.org/multipage/server-sent-events.html

import { call, pause } from "./api.js";

const LONGEST_PAUSE_MS = 10_000;
const SILENCE_MS = 45_000; // the server sends a heartbeat every 15 s: three missed are a dead connection

/** Every event of the stream at `path` as its data, from the first one to the last.
 *
 * A connection that breaks is made again, after the last event that arrived, with pauses that double up to
 * ten seconds. `onState` is told "live" and "lost". A refusal (a 404, say) is thrown. */
export async function* events(path, { signal, onState = () => {} }) {
  let last = "";
  let wait = 1000;
  for (;;) {
    const connection = new AbortController();
    let arrived = false;
    let broke = true;
    const leave = () => connection.abort();
    signal.addEventListener("abort", leave, { once: true });
    try {
      const headers = { Accept: "text/event-stream", ...(last && { "Last-Event-ID": last }) };
      const answer = await call(path, { headers, signal: connection.signal });
      if (answer.status === 204) return; // over: there is no later event
      onState("live");
      for await (const event of parsed(answer.body, leave)) {
        wait = 1000;
        arrived = true;
        last = event.id;
        yield event.data;
      }
      broke = false;
    } catch (problem) {
      if (signal.aborted) throw problem;
      // Only a refusal of the request itself is final; everything else is a matter of time.
      if (problem.status >= 400 && problem.status < 500 && problem.status !== 429) throw problem;
    } finally {
      signal.removeEventListener("abort", leave);
      connection.abort();
    }
    if (!broke && arrived) continue; // ended by the server: the next answer says whether it is over
    if (broke) onState("lost");
    await pause(wait * (0.8 + 0.4 * Math.random()), signal);
    wait = Math.min(2 * wait, LONGEST_PAUSE_MS);
  }
}

async function* parsed(stream, leave) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const silence = setTimeout(leave, SILENCE_MS);
    const { value, done } = await reader.read();
    clearTimeout(silence);
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop(); // not whole yet
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      if (fields.data !== undefined) yield { id: fields.id, data: JSON.parse(fields.data) };
    }
  }
}
