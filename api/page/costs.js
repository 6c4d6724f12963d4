// What a method takes on this service: measured on its recent jobs, else told by its cost.

import { get } from "./api.js";

/** The passes through the network that a method of /v1/methods is expected to take. */
export const passes = ({ cost }, quality) => cost.expected + (quality ? cost.quality : 0);

/** (method, quality) => seconds, null while nothing is known; the methods are those of /v1/methods.
 *
 * The median of what recent jobs took. What none of them had is told from the others: costs are in passes, and
 * what a pass takes depends on the machine, and a little on the method. A job is some 10 kB, so it is not all of
 * them. */
export async function seconds(methods, signal) {
  const { jobs } = await get("/v1/jobs?kind=explain&status=succeeded&status=partial&limit=20", signal);
  const done = jobs
    .flatMap((job) => job.methods)
    .filter(({ status, cached }) => status === "succeeded" && !cached);
  const known = new Map(
    methods.map((method) => [
      method.name,
      done
        .filter(({ name }) => name === method.name)
        .map(({ seconds, quality }) => ({ seconds, passes: passes(method, quality?.deletion_insertion) })),
    ]),
  );
  const perPass = (runs) =>
    median(runs.filter((run) => run.passes > 10).map((run) => run.seconds / run.passes));
  const usual = median([...known.values()].map(perPass).filter((one) => one !== null));
  return (method, quality) => {
    const runs = known.get(method.name);
    const wanted = passes(method, quality);
    const measured = median(runs.filter((run) => run.passes === wanted).map((run) => run.seconds));
    const each = perPass(runs) ?? usual;
    return measured ?? (each === null ? null : wanted * each);
  };
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? null;
}
