// The page /docs: openapi.json, as people read it.

import { element, prose, table } from "./elements.js";
import { operationsOf, resolved } from "./operations.js";
import { describe, typeOf } from "./schemas.js";

function example(operation) {
  const path = operation.path.replace(/{(\w+)}/g, (_, name) =>
    operation.parameters.find((one) => one.name === name).example);
  const query = operation.parameters.filter((one) => one.in === "query")
    .map((one) => `${one.name}=${encodeURIComponent(one.example)}`).join("&");
  const url = `'${location.origin}${path}${query && "?"}${query}'`;
  const body = Object.values(operation.body?.content ?? {})[0]?.example;
  const lines = body ? [`curl ${url}`, `-d '${JSON.stringify(body)}'`] : [`curl ${url}`];
  return element("pre", { tabindex: "0" }, element("code", {}, lines.join(" \\\n  ")));
}

function bodies(content) {
  return Object.entries(content ?? {}).map(([type, { schema }]) =>
    element("p", {}, ...typeOf(schema), element("span", { class: "note" }, ` as ${type}`)));
}

function headersOf(headers) {
  const names = Object.keys(headers ?? {}).filter((name) => name !== "X-Content-Type-Options");
  return names.length ? element("p", { class: "note" }, `Headers: ${names.join(", ")}`) : "";
}

function answers(responses) {
  const rows = responses.map(([status, { description, content, headers }]) => [
    status,
    [element("p", {}, prose(description)), headersOf(headers)],
    bodies(content),
  ]);
  return table(["Status", "Meaning", "Body"], rows);
}

function parametersOf(operation) {
  const rows = operation.parameters.map((one) => [
    [element("code", {}, one.name), one.required ? "" : element("span", { class: "note" }, " optional")],
    one.in,
    [...typeOf(one.schema), element("p", { class: "note" }, prose(one.description))],
  ]);
  return rows.length ? [element("h3", {}, "Parameters"), table(["Name", "In", "Value"], rows)] : [];
}

function show(operation) {
  const { id, method, path, summary, description, body, responses } = operation;
  const title = element("summary", {},
    element("span", { class: `method ${method}` }, method.toUpperCase()),
    element("code", { class: "path" }, path), element("span", { class: "note" }, summary));
  return element("details", { id, class: "card operation" }, title,
    description ? element("p", {}, prose(description)) : "",
    parametersOf(operation),
    body ? [element("h3", {}, body.required ? "Body" : "Body, optional"), ...bodies(body.content)] : [],
    element("h3", {}, "Example"), example(operation),
    element("h3", {}, "Answers"), answers(responses),
    element("p", { class: "note" }, "Besides, the ", element("a", { href: "#any" }, "errors of any request"), "."));
}

function openLinked() {
  const linked = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (linked?.localName === "details") linked.open = true;
  linked?.scrollIntoView();
}

function render(api) {
  const { operations, common } = operationsOf(api);
  const main = document.getElementById("description");
  const contents = document.getElementById("contents");
  main.append(element("p", { class: "lead" }, prose(api.info.description)));
  for (const { name, description } of api.tags) {
    const tagged = operations.filter((operation) => operation.tag === name);
    main.append(element("section", {}, element("h2", {}, name), element("p", { class: "note" }, description),
      tagged.map(show)));
    contents.append(element("h2", {}, name), element("ul", {}, tagged.map(({ id, method, path }) =>
      element("li", {}, element("a", { href: `#${id}` },
        element("span", { class: "verb" }, method.toUpperCase()), path)))));
  }
  main.append(element("section", { id: "any" }, element("h2", {}, "Errors of any request"),
    answers(common.map(([status, response]) => [status, resolved(api, response)]))));
  main.append(element("section", {}, element("h2", {}, "Schemas"),
    Object.entries(api.components.schemas).map(([name, schema]) =>
      element("article", { id: `schema-${name}`, class: "card" }, element("h3", {}, name), describe(schema)))));
  contents.append(element("h2", {}, element("a", { href: "#any" }, "Errors of any request")));
  openLinked();
  addEventListener("hashchange", openLinked);
}

try {
  const response = await fetch("openapi.json");
  if (!response.ok) throw new Error(`it answers ${response.status}`);
  render(await response.json());
} catch (error) {
  document.getElementById("status").textContent = `openapi.json can't be read: ${error.message}`;
}
