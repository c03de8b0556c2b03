// JSON Schemas as people read them: a type with its bounds, and a table of properties.

import { element, prose, table } from "./elements.js";

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function shown(value) {
  return Math.abs(value) < 1e6 ? number.format(value).replace("-", "−") : String(value).replace("-", "−");
}

function bounds(schema) {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const low = exclusiveMinimum ?? minimum;
  const high = exclusiveMaximum ?? maximum;
  if (low === undefined && high === undefined) return "";
  const above = exclusiveMinimum === undefined ? "≥" : ">";
  const below = exclusiveMaximum === undefined ? "≤" : "<";
  if (low !== undefined && low === -high) return ` within ±${shown(high)}${below === "<" ? ", exclusive" : ""}`;
  if (low !== undefined && high !== undefined && above + below === "≥≤") return ` from ${shown(low)} to ${shown(high)}`;
  return " " + [low === undefined ? "" : `${above} ${shown(low)}`, high === undefined ? "" : `${below} ${shown(high)}`]
    .filter(Boolean).join(", ");
}

function count({ minItems, maxItems }) {
  if (minItems !== undefined && minItems === maxItems) return `${shown(minItems)} × `;
  if (minItems === undefined) return maxItems === undefined ? "" : `up to ${shown(maxItems)} × `;
  return maxItems === undefined ? `at least ${shown(minItems)} × ` : `${shown(minItems)} to ${shown(maxItems)} × `;
}

function joined(parts, word) {
  return parts.flatMap((part, index) => (index ? [word, ...part] : part));
}

// The nodes that name a schema: a link to a named one, else its type and bounds.
export function typeOf(schema) {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [element("a", { href: `#schema-${name}` }, name)];
  }
  if (schema.const !== undefined) return [element("code", {}, JSON.stringify(schema.const))];
  if (schema.enum) return joined(schema.enum.map((value) => [element("code", {}, JSON.stringify(value))]), " or ");
  const types = [schema.type ?? []].flat();
  if (types.includes("array")) return arrayOf(schema);
  if (schema.anyOf) return joined(schema.anyOf.map(typeOf), ", or ");
  if (schema.format === "binary") return ["bytes"];
  if (types.includes("object") && schema.properties) {
    const properties = Object.entries(schema.properties).map(([name, property]) =>
      [element("code", {}, name), ": ", ...typeOf(property)]);
    return ["object of ", ...joined(properties, ", ")];
  }
  return [types.join(" or ") + bounds(schema)];
}

function arrayOf(schema) {
  const orNull = [schema.type].flat().includes("null") ? [" or null"] : [];
  if (schema.prefixItems) return ["array of ", ...joined(schema.prefixItems.map(typeOf), ", "), ...orNull];
  return [`array of ${count(schema)}`, ...typeOf(schema.items ?? {}), ...orNull];
}

// All that a page says of a schema: its description, and its properties or its type.
export function describe(schema) {
  const text = schema.description ? [element("p", {}, prose(schema.description))] : [];
  if (!schema.properties) return [element("p", {}, typeOf(schema)), ...text];
  const required = new Set(schema.required);
  const rows = Object.entries(schema.properties).map(([name, property]) => [
    [element("code", {}, name), required.has(name) ? "" : element("span", { class: "note" }, " optional")],
    [...typeOf(property), property.description ? element("p", { class: "note" }, prose(property.description)) : ""],
  ]);
  return [...text, table(["Property", "Value"], rows)];
}
