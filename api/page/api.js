// The service as this page calls it: the public contract under /v1, and nothing else.
//
// Every call goes through fetch, pictures and streams too: <img> and EventSource cannot send a key.

import { duration } from "./words.js";

const KEPT_AS = "pawlens.key";

/** Whether this may be a key. What is none may hold what no header can: then nothing could be sent at all. */
export const isKey = (words) => /^pk_[\w-]+$/.test(words);

/** What the service refused, or could not do: its problem document (RFC 9457), as an error. */
export class Problem extends Error {
  constructor(status, fields) {
    super(fields.detail);
    Object.assign(this, {
      title: fields.title,
      detail: fields.detail,
      code: fields.code,
      errors: fields.errors,
    });
    this.status = status;
  }
}

export const key = {
  get: () => [sessionStorage, localStorage].map((kept) => kept.getItem(KEPT_AS)).find(isKey),
  /** `remember` keeps it on this device until it is forgotten; otherwise it goes with the tab. */
  set(secret, remember) {
    key.forget();
    (remember ? localStorage : sessionStorage).setItem(KEPT_AS, secret);
  },
  forget() {
    sessionStorage.removeItem(KEPT_AS);
    localStorage.removeItem(KEPT_AS);
  },
};

let askForKey = async () => false;

/** Who asks the user for a key; resolves to whether one was given.
 * It is told the problem, the key that was tried, and whether it stopped something that the user does. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** The answer to a request, or a Problem. A missing key is asked for, and the request sent again with it. */
export async function call(path, { headers = {}, ...request } = {}) {
  for (;;) {
    const secret = key.get();
    const sent = { ...headers, ...(secret && { Authorization: `Bearer ${secret}` }) };
    let answer;
    try {
      answer = await fetch(path, { ...request, headers: sent });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(0, {
        title: "No connection",
        code: "no_connection",
        detail: "The service does not answer. Jobs that it has accepted are safe; try again in a moment.",
      });
    }
    if (answer.ok || answer.status === 304) return answer;
    const problem = await read(answer);
    const isDoing = Boolean(request.method); // what is only read may be read by the clock
    if (answer.status !== 401 || !(await askForKey(problem, secret, isDoing))) throw problem;
  }
}

async function read(answer) {
  let fields;
  try {
    fields = await answer.json();
  } catch {
    fields = {};
  }
  const { title = answer.statusText || "Refused", detail = `The server answered ${answer.status}.` } = fields;
  const seconds = Number(answer.headers.get("Retry-After"));
  const pause = seconds ? ` Try again in ${duration(Math.max(1, seconds))}.` : "";
  return new Problem(answer.status, { ...fields, title, detail: detail + pause });
}

export async function get(path, signal) {
  return (await call(path, { signal })).json();
}

/** Posts a form, or an object as JSON, or nothing; the answer's JSON. */
export async function post(path, body, { headers = {}, signal } = {}) {
  const isForm = body instanceof FormData;
  const answer = await call(path, {
    method: "POST",
    body: isForm || body === undefined ? body : JSON.stringify(body),
    headers: isForm || body === undefined ? headers : { "Content-Type": "application/json", ...headers },
    signal,
  });
  return answer.status === 204 ? null : answer.json();
}

export const remove = (path) => call(path, { method: "DELETE" });
export const blob = async (path, signal) => (await call(path, { signal })).blob();
export const bytes = async (path, signal) => (await call(path, { signal })).arrayBuffer();

/** A key for Idempotency-Key: a request that is sent twice must not make two jobs. */
export function once() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Hands a file to the user. A plain link would do, if it could carry the key. */
export async function download(path, name) {
  save(await blob(path), name);
}

export function save(file, name) {
  const url = URL.createObjectURL(file);
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** Waits, or throws AbortError as soon as `signal` says so. */
export function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const gone = () => {
      clearTimeout(timer);
      reject(new DOMException("left", "AbortError"));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", gone);
      resolve();
    }, milliseconds);
    if (signal?.aborted) gone();
    signal?.addEventListener("abort", gone, { once: true });
  });
}

/** For lists that are read every few seconds: a refusal is a matter of time, leaving the view is not. */
export function unlessLeft(problem) {
  if (problem.name === "AbortError") throw problem;
}
