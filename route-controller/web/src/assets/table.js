// Tables. Every value comes from the network and is put in as text.

const SHOWN = 500;

/** An element with attributes and children; strings are text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.map((child) => (child instanceof Node ? child : text(child))));
  return made;
}

/** Text without characters that change the direction or the line. */
export function text(value) {
  const visible = String(value ?? "").replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
  return document.createTextNode(visible);
}

/** Seconds for people. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  const [days, hours, minutes] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  if (days) return `${days}d ${hours}h`;
  if (hours) return `${hours}h ${minutes}m`;
  if (minutes) return `${minutes}m ${seconds % 60}s`;
  return `${seconds}s`;
}

/** A state by symbol, word and colour. */
export function state(isUp, word) {
  return element("span", { class: isUp ? "up" : "down" }, `${isUp ? "●" : "▲"} ${word}`);
}

/** The first names, and how many more. */
export function names(all, most = 3) {
  const list = all ?? [];
  if (!list.length) return "-";
  const more = list.length > most ? ` and ${list.length - most} more` : "";
  return list.slice(0, most).join(", ") + more;
}

/** Whether a row has the words of a query anywhere. */
export function matches(row, query) {
  if (!query) return true;
  const all = JSON.stringify(row).toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

/**
 * A table. Columns are [title, row => text or element]; the first one heads its row.
 */
export function table(caption, columns, rows) {
  if (!rows.length) return element("p", { class: "weak" }, `${caption}: none`);
  const count = rows.length > SHOWN ? `${SHOWN} of ${rows.length} shown; search for others` : `${rows.length}`;
  const head = element("tr", {}, ...columns.map(([title]) => element("th", { scope: "col" }, title)));
  const body = rows.slice(0, SHOWN).map((row) => {
    const cells = columns.map(([, cell], index) => {
      const value = cell(row);
      const shown = value === null || value === undefined || value === "" ? "-" : value;
      return index === 0 ? element("th", { scope: "row" }, shown) : element("td", {}, shown);
    });
    return element("tr", {}, ...cells);
  });
  const made = element("table", {}, element("caption", {}, `${caption}: ${count}`), element("thead", {}, head), element("tbody", {}, ...body));
  return element("div", { class: "scroll" }, made);
}
