// Fields for the options of a job, from the JSON Schema in /v1/methods: what the service adds, this shows.

import { el } from "./dom.js";
import { TITLES } from "./methods.js";

/** {element, value(), show(methods)}: the fields, what differs from the defaults, which methods are asked for.
 * `labels` are the classes that can be explained. */
export function optionFields(schema, labels) {
  const readers = [];
  const groups = new Map();
  const resolve = (part) => (part.$ref ? { ...schema.$defs[part.$ref.split("/").at(-1)], ...part } : part);
  const common = el("fieldset", {}, el("legend", {}, "All methods"));
  for (const [name, part] of Object.entries(schema.properties)) {
    const property = resolve(part);
    if (property.type !== "object") {
      common.append(field(name, property, [], readers, name === "target" ? labels : null));
      continue;
    }
    const own = Object.entries(property.properties ?? {});
    if (!own.length) continue;
    const group = el(
      "fieldset",
      {},
      el("legend", {}, TITLES[name] ?? name),
      own.map(([key, one]) => field(key, resolve(one), [name], readers)),
    );
    groups.set(name, group);
  }
  return {
    element: el("div", { class: "options" }, common, [...groups.values()]),
    value() {
      const value = {};
      for (const { path, name, read } of readers) {
        const chosen = read();
        if (chosen === undefined || groups.get(path[0])?.hidden) continue;
        const place = path.reduce((inner, key) => (inner[key] ??= {}), value);
        place[name] = chosen;
      }
      return value;
    },
    show(methods) {
      for (const [name, group] of groups) group.hidden = !methods.includes(name);
    },
  };
}

function field(name, property, path, readers, choices = null) {
  const type = property.type ?? property.anyOf?.find((one) => one.type !== "null")?.type;
  const options = choices ?? property.enum;
  const id = `option-${[...path, name].join("-")}`;
  const words = name.replaceAll("_", " ");
  let input;
  let read;
  if (type === "boolean") {
    input = el("input", { type: "checkbox", id, checked: property.default });
    read = () => input.checked;
  } else if (options) {
    const none = property.default === null && el("option", { value: "" }, "the answer itself");
    input = el(
      "select",
      { id },
      none,
      options.map((one) => el("option", { value: one, selected: one === property.default }, one)),
    );
    read = () => input.value || null;
  } else if (type === "integer" || type === "number") {
    const least = property.minimum ?? property.exclusiveMinimum;
    input = el("input", {
      type: "number",
      id,
      min: least,
      max: property.maximum,
      step: type === "integer" ? 1 : "any",
      value: property.default,
    });
    read = () => (input.value === "" ? property.default : Number(input.value));
  } else {
    input = el("input", { type: "text", id, maxlength: property.maxLength, value: property.default ?? "" });
    read = () => input.value || null;
  }
  readers.push({ path, name, read: () => (read() === property.default ? undefined : read()) });
  input.setAttribute("aria-describedby", `${id}-hint`);
  return el(
    "div",
    { class: type === "boolean" ? "option tick" : "option" },
    el("label", { for: id }, words),
    input,
    el("p", { class: "hint", id: `${id}-hint` }, property.description ?? ""),
  );
}
