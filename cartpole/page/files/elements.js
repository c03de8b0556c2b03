// Elements made of attributes and children. Text is never read as HTML.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child !== null && child !== ""));
  return made;
}

// Text in which `backticks` mark code.
export function prose(text) {
  return text.split("`").map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

// A table in a box that scrolls, as a cell may be wider than a narrow window.
export function table(titles, rows) {
  const head = element("tr", {}, titles.map((title) => element("th", { scope: "col" }, title)));
  const lines = rows.map((cells) =>
    element("tr", {}, cells.map((cell) => element("td", {}, cell))));
  return element("div", { class: "table", tabindex: "0", role: "group", "aria-label": titles.join(", ") },
    element("table", {}, element("thead", {}, head), element("tbody", {}, lines)));
}
