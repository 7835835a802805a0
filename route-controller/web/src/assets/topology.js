// The drawing: routers above, nodes below by the routers that they have sessions with, a line for each session.

import { element, state, table } from "./table.js";

const SVG = "http://www.w3.org/2000/svg";
const [BOX, HEIGHT, GAP, PAD, TOP] = [132, 44, 14, 16, 150];
/** More nodes than this in a rack have one line for each router, and smaller boxes. */
const MANY = 12;
const MANY_SIZE = { box: 92, height: 26, across: 8 };
/** With more racks than this a rack of many nodes is higher than it is wide. */
const WIDE_RACKS = 2;
const FEW_SIZE = { box: BOX, height: HEIGHT, across: 6 };

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function label(x, y, words, kind = "") {
  const made = shape("text", { x, y, class: kind, "text-anchor": "middle" });
  made.append(document.createTextNode(words.length > 22 ? `${words.slice(0, 21)}…` : words));
  return made;
}

/** Nodes, routers and sessions out of the documents; pure. */
export function graph(peers, blocks) {
  const nodes = new Map();
  const node = (name) => {
    if (!nodes.has(name)) nodes.set(name, { name, blocks: [], sessions: [], silent: false });
    return nodes.get(name);
  };
  for (const row of peers.items) node(row.node).sessions.push(row);
  for (const row of blocks?.items ?? []) node(row.node).blocks.push(row);
  for (const one of peers.unanswered ?? []) node(one.node).silent = true;
  const routers = new Map();
  for (const row of peers.items) {
    if (nodes.has(row.name)) continue; // a session of the mesh
    if (!routers.has(row.name)) routers.set(row.name, { name: row.name, asn: row.asn ?? row.allowedAsns, address: row.address });
  }
  const racks = new Map();
  for (const one of nodes.values()) {
    one.routers = [...new Set(one.sessions.filter((row) => routers.has(row.name)).map((row) => row.name))].sort();
    one.down = one.sessions.filter((row) => row.enabled !== false && row.state !== "Established");
    const key = one.routers.join(" ");
    if (!racks.has(key)) racks.set(key, { routers: one.routers, nodes: [] });
    racks.get(key).nodes.push(one);
  }
  const byName = (one, other) => one.name.localeCompare(other.name, "en", { numeric: true });
  for (const rack of racks.values()) rack.nodes.sort(byName);
  return { nodes: [...nodes.values()].sort(byName), routers: [...routers.values()].sort(byName), racks: [...racks.values()] };
}

function place(racks) {
  let x = PAD;
  let bottom = TOP;
  for (const rack of racks) {
    const size = rack.nodes.length > MANY ? MANY_SIZE : FEW_SIZE;
    const most = size === MANY_SIZE && racks.length > WIDE_RACKS ? size.across / 2 : size.across;
    const across = Math.min(rack.nodes.length, most);
    rack.x = x;
    rack.many = rack.nodes.length > MANY;
    rack.width = across * (size.box + GAP) + GAP;
    rack.nodes.forEach((node, index) => {
      node.x = x + GAP + (index % across) * (size.box + GAP);
      node.y = TOP + GAP + Math.floor(index / across) * (size.height + GAP);
      node.size = size;
    });
    rack.height = Math.ceil(rack.nodes.length / across) * (size.height + GAP) + GAP;
    bottom = Math.max(bottom, TOP + rack.height);
    x += rack.width + PAD * 2;
  }
  return { width: Math.max(x, 640), height: bottom + PAD };
}

function lines(rack, router) {
  const to = { x2: router.x + BOX / 2, y2: router.y + HEIGHT };
  const sessions = (node) => node.sessions.filter((row) => row.name === router.name);
  const isDown = (row) => row.enabled === false || row.state !== "Established";
  if (!rack.many) {
    return rack.nodes.map((node) => {
      const kind = sessions(node).some(isDown) ? "down" : "";
      return shape("line", { x1: node.x + node.size.box / 2, y1: node.y, ...to, class: kind });
    });
  }
  const all = rack.nodes.flatMap(sessions);
  const down = all.filter(isDown).length;
  const x1 = rack.x + rack.width / 2;
  const made = [shape("line", { x1, y1: TOP, ...to, class: down ? "down" : "" })];
  const words = down ? `${down} of ${all.length} down` : `${all.length} sessions`;
  made.push(label((x1 + to.x2) / 2, (TOP + to.y2) / 2, words, down ? "down" : "small"));
  return made;
}

function box(node) {
  const { box: width, height } = node.size;
  const kind = `box${node.down.length ? " down" : ""}${node.silent ? " silent" : ""}`;
  const words = describe(node);
  const title = shape("title", {});
  title.append(document.createTextNode(`${node.name}: ${words}`));
  const made = shape("a", { href: `#peers/${encodeURIComponent(node.name)}`, "aria-label": `${node.name}: ${words}` }, title);
  made.append(shape("rect", { class: kind, x: node.x, y: node.y, width, height, rx: 4 }));
  const mark = node.silent ? "? " : node.down.length ? "▲ " : "";
  made.append(label(node.x + width / 2, node.y + 17, mark + node.name, node.down.length ? "down" : ""));
  if (node.size === FEW_SIZE) made.append(label(node.x + width / 2, node.y + 34, node.blocks.map((row) => row.prefix)[0] ?? "no block", "small"));
  return made;
}

function describe(node) {
  if (node.silent) return "no answer";
  const wanted = node.sessions.filter((row) => row.enabled !== false).length;
  const up = wanted - node.down.length;
  return `${up} of ${wanted} sessions established`;
}

/** The drawing and its table. */
export function topology(peers, blocks) {
  const { nodes, routers, racks } = graph(peers, blocks);
  const { width, height } = place(racks);
  const step = width / (routers.length + 1);
  routers.forEach((router, index) => {
    router.x = step * (index + 1) - BOX / 2;
    router.y = PAD;
  });
  const drawing = shape("svg", { class: "drawing", viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${routers.length} routers and ${nodes.length} nodes; the table below has the same content` });
  for (const rack of racks) {
    drawing.append(shape("rect", { class: "rack", x: rack.x, y: TOP, width: rack.width, height: rack.height, rx: 6 }));
    for (const router of routers.filter((one) => rack.routers.includes(one.name))) drawing.append(...lines(rack, router));
  }
  for (const router of routers) {
    drawing.append(shape("rect", { class: "box", x: router.x, y: router.y, width: BOX, height: HEIGHT, rx: 20 }));
    drawing.append(label(router.x + BOX / 2, router.y + 18, router.name), label(router.x + BOX / 2, router.y + 34, `AS ${router.asn}`, "small"));
  }
  for (const node of nodes) drawing.append(box(node));
  const legend = element("p", { class: "legend" }, "Solid line: session established. Dashed red line and ▲: a session is down. Dashed box and ?: the node did not answer. Sessions among nodes are counted, not drawn.");
  return [drawing, legend, nodeTable(nodes)];
}

function nodeTable(nodes) {
  return table("Nodes", [
    ["Node", (node) => node.name],
    ["Sessions", (node) => (node.silent ? state(false, "no answer") : state(!node.down.length, describe(node)))],
    ["Routers", (node) => node.routers.join(", ")],
    ["Blocks", (node) => node.blocks.map((row) => `${row.prefix} (${row.state})`).join(", ")],
    ["Down", (node) => node.down.map((row) => `${row.name}: ${row.lastEnd ?? row.lastError ?? row.state}`).join("; ")],
  ], nodes);
}
