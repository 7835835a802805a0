// Which view is shown, and the stream of its documents.

import { duration, element, matches, names, state, table } from "./table.js";
import { topology } from "./topology.js";
import { answer } from "./search.js";

const documents = new Map();
const failures = new Map();
const by = (id) => document.getElementById(id);

const isUp = (row) => row.state === "Established";
const counts = (all) => Object.values(all ?? {}).join(" / ");

function routes(items) {
  return [
    table("Prefixes", [
      ["Prefix", (row) => row.prefix],
      ["Originated by", (row) => names(row.originatedBy)],
      ["Used on", (row) => row.usedOn],
      ["Missing on", (row) => (row.missingOn.length ? element("span", { class: "down" }, `▲ ${names(row.missingOn)}`) : "-")],
    ], items),
    element("h3", {}, "Paths and decisions"),
    table("Paths", [
      ["Prefix", (row) => row.prefix],
      ["Node", (row) => row.node],
      ["Decision", (row) => (row.best ? state(true, "best") : row.eligible ? "not best" : state(false, "not used"))],
      ["Reason", (row) => row.reason],
      ["Next hop", (row) => row.nextHop],
      ["From", (row) => row.from],
      ["AS path", (row) => row.asPath],
      ["Pref", (row) => row.localPref],
      ["MED", (row) => row.med],
      ["Communities", (row) => [row.communities, row.largeCommunities, row.extCommunities].flat().filter(Boolean).join(" ")],
      ["Policy", (row) => row.policy],
    ], items.flatMap((row) => Object.entries(row.nodes).flatMap(([node, paths]) => paths.map((path) => ({ prefix: row.prefix, node, ...path }))))),
  ];
}

const VIEWS = {
  topology: { title: "Topology", reads: ["peers", "blocks"], show: () => topology(documents.get("peers"), documents.get("blocks")) },
  peers: {
    title: "Peers",
    show: (items) => [table("Sessions", [
      ["Node", (row) => row.node],
      ["Peer", (row) => row.name],
      ["Address", (row) => (row.interface ? `${row.address}%${row.interface}` : row.address)],
      ["AS", (row) => row.asn ?? row.allowedAsns],
      ["State", (row) => state(isUp(row), row.enabled === false ? `${row.state} (disabled)` : row.state)],
      ["Up", (row) => duration(row.uptimeSeconds)],
      ["Received", (row) => counts(row.received)],
      ["Advertised", (row) => counts(row.advertised)],
      ["Why it is down", (row) => (isUp(row) ? "" : [row.lastEnd ?? row.lastError, row.hint].filter(Boolean).join(". "))],
    ], items)],
  },
  routes: { title: "Routes", show: routes },
  pods: {
    title: "Pods",
    show: (items) => [table("Pods", [
      ["Pod", (row) => row.pod || row.container],
      ["Node", (row) => row.node],
      ["Addresses", (row) => (row.addresses ?? []).join(" ")],
      ["Interface", (row) => row.hostInterface],
      ["Network", (row) => row.network],
      ["Age", (row) => duration(row.ageSeconds)],
      ["State", (row) => state(row.state === "ready", row.state)],
    ], items)],
  },
  services: {
    title: "Services",
    show: (items) => [table("Addresses", [
      ["Service", (row) => row.service],
      ["Address", (row) => row.address ?? "pending"],
      ["Pool", (row) => row.pool],
      ["Announced by", (row) => names(row.announcedBy, 8)],
      ["Not announced, because", (row) => [...Object.entries(row.notAnnouncedBy).map(([node, why]) => `${node}: ${why}`), ...row.problems].join("; ")],
    ], items)],
  },
  policies: {
    title: "Policies",
    show: (items) => [table("Rules", [
      ["Policy", (row) => row.policy],
      ["Direction", (row) => row.direction],
      ["Rule", (row) => row.rule || "(no rule decides)"],
      ["Routes", (row) => row.routes],
      ["Nodes", (row) => Object.keys(row.nodes).length],
      ["Not on", (row) => names(row.missingOn)],
    ], items)],
  },
  events: {
    title: "Journal",
    show: (items) => [table("Events, the newest first", [
      ["Time (UTC)", (row) => new Date(row.atMs).toISOString().replace("T", " ").replace("Z", "")],
      ["Node", (row) => row.node],
      ["Kind", (row) => row.kind],
      ["Subject", (row) => row.subject],
      ["What", (row) => `${row.severity === "info" ? "" : `${row.severity}: `}${row.message}${row.cause ? `: ${row.cause}` : ""}${row.count > 1 ? ` (${row.count} times)` : ""}`],
    ], [...items].reverse())],
  },
  search: { title: "Search", reads: ["peers", "blocks", "routes", "pods", "services"] },
};

let current = { view: "topology", query: "" };
let source = null;

/** The view and the query of the address: #peers/node-1. */
function place() {
  const [view, query] = location.hash.slice(1).split("/", 2);
  return { view: Object.hasOwn(VIEWS, view) ? view : "topology", query: decodeURIComponent(query ?? "") };
}

const reads = (view) => VIEWS[view].reads ?? [view];

function show() {
  const { view, query } = current;
  const missing = reads(view).filter((name) => !documents.has(name));
  const failed = reads(view).filter((name) => failures.has(name));
  const content = by("view");
  if (failed.length) content.replaceChildren(...failed.map((name) => element("p", { class: "down", role: "alert" }, `▲ ${name}: ${failures.get(name)}`)));
  else if (missing.length) content.replaceChildren(element("p", {}, "Reading…"));
  else if (view === "topology") content.replaceChildren(...VIEWS.topology.show());
  else if (view === "search") content.replaceChildren(...answer(query, documents));
  else content.replaceChildren(...VIEWS[view].show(documents.get(view).items.filter((row) => matches(row, query))));
  by("title").replaceChildren(query ? `${VIEWS[view].title}: ${query}` : VIEWS[view].title);
  document.title = `${VIEWS[view].title} – podroute looking glass`;
  showPartial(reads(view));
}

function showPartial(names) {
  const silent = new Map(names.flatMap((name) => documents.get(name)?.unanswered ?? []).map((one) => [one.node, one.reason]));
  const note = by("partial");
  note.hidden = silent.size === 0;
  note.replaceChildren(`Partial: ${silent.size} nodes did not answer.\n${[...silent].slice(0, 5).map(([node, reason]) => `${node}: ${reason}`).join("\n")}`);
}

function said(words) {
  if (by("status").textContent !== words) by("status").replaceChildren(words);
}

function listen() {
  source?.close();
  const views = reads(current.view);
  source = new EventSource(`api/v1/stream?${views.map((view) => `view=${view}`).join("&")}`);
  for (const view of views) {
    source.addEventListener(view, (event) => {
      documents.set(view, JSON.parse(event.data));
      failures.delete(view);
      const { answered, asked } = documents.get(view).nodes;
      said(`Live: ${answered} of ${asked} nodes answer.`);
      show();
    });
  }
  source.addEventListener("failure", (event) => {
    const { view, error } = JSON.parse(event.data);
    failures.set(view, error);
    show();
  });
  source.onerror = () => said("The connection is lost; trying again. What is shown may be old.");
}

function go() {
  const before = current;
  current = place();
  for (const link of document.querySelectorAll("#views a")) {
    if (link.hash === `#${current.view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (before.view !== current.view || !source) listen();
  show();
}

by("search").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = by("query").value.trim();
  location.hash = query ? `search/${encodeURIComponent(query)}` : "topology";
  by("content").focus();
});
addEventListener("hashchange", go);
go();
