// What a method takes on this service: measured on its recent jobs, else told by its cost.

import { get } from "./api.js";

/** Seconds of each of /v1/methods by name; null for those of which nothing is known yet.
 *
 * The median of what recent jobs took. A method that none of them had is told from the others: costs are in
 * passes through the network, and what a pass takes depends on the machine alone. */
export async function seconds(methods, signal) {
  const { jobs } = await get("/v1/jobs?kind=explain&status=succeeded&status=partial&limit=5", signal);
  const taken = new Map(methods.map(({ name }) => [name, []]));
  for (const method of jobs.flatMap((job) => job.methods)) {
    if (method.status === "succeeded" && !method.cached) taken.get(method.name)?.push(method.seconds);
  }
  const measured = new Map(
    [...taken].filter(([, all]) => all.length).map(([name, all]) => [name, median(all)]),
  );
  const passes = methods.filter(({ name, cost }) => measured.has(name) && cost.expected > 10);
  const perPass = passes.length
    ? median(passes.map(({ name, cost }) => measured.get(name) / cost.expected))
    : null;
  const told = (cost) => (perPass === null ? null : cost.expected * perPass);
  return new Map(methods.map(({ name, cost }) => [name, measured.get(name) ?? told(cost)]));
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}
