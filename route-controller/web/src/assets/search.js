// Question 1: who has this address?

import { element, matches, names, table } from "./table.js";

/** An address as [bits of the family, number]; null where the text is none. */
export function address(text) {
  if (/^\d+(\.\d+){3}$/.test(text)) {
    const parts = text.split(".").map(Number);
    return parts.some((part) => part > 255) ? null : [32, parts.reduce((sum, part) => (sum << 8n) | BigInt(part), 0n)];
  }
  if (!/^[0-9a-f:]+$/i.test(text) || !text.includes(":")) return null;
  const halves = text.split("::");
  if (halves.length > 2) return null;
  const words = (half) => (half ? half.split(":") : []);
  const [head, tail] = [words(halves[0]), words(halves[1] ?? "")];
  const missing = 8 - head.length - tail.length;
  if (halves.length === 1 ? missing !== 0 : missing < 1) return null;
  const all = [...head, ...Array(halves.length === 2 ? missing : 0).fill("0"), ...tail];
  if (all.some((word) => !/^[0-9a-f]{1,4}$/i.test(word))) return null;
  return [128, all.reduce((sum, word) => (sum << 16n) | BigInt(`0x${word}`), 0n)];
}

/** The length of a prefix that contains an address, or -1. */
export function contains(prefix, wanted) {
  const [network, length] = prefix.split("/");
  const base = address(network);
  if (!base || !wanted || base[0] !== wanted[0]) return -1;
  const bits = length === undefined ? base[0] : Number(length);
  const shift = BigInt(base[0] - bits);
  return base[1] >> shift === wanted[1] >> shift ? bits : -1;
}

/** What is known of a query, from all views. */
export function answer(query, documents) {
  const wanted = address(query);
  const items = (view) => documents.get(view)?.items ?? [];
  const inside = (prefix) => contains(prefix, wanted);
  const routes = wanted
    ? items("routes").filter((row) => inside(row.prefix) >= 0).sort((one, other) => inside(other.prefix) - inside(one.prefix))
    : items("routes").filter((row) => matches(row, query));
  const has = (row, addresses) => (wanted ? addresses.some((one) => inside(one) >= 0) : matches(row, query));
  const pods = items("pods").filter((row) => has(row, row.addresses ?? []));
  const services = items("services").filter((row) => has(row, row.address ? [row.address] : []));
  const blocks = items("blocks").filter((row) => has(row, [row.prefix]));
  const peers = items("peers").filter((row) => has(row, row.address ? [row.address] : []));
  const first = sentence(query, wanted, { routes, pods, services, blocks, peers });
  return [
    element("p", { id: "answer" }, first),
    table("Pods", [["Pod", (row) => row.pod || row.container], ["Node", (row) => row.node], ["Addresses", (row) => (row.addresses ?? []).join(" ")], ["State", (row) => row.state]], pods),
    table("Services", [["Service", (row) => row.service], ["Address", (row) => row.address], ["Announced by", (row) => names(row.announcedBy)]], services),
    table("Blocks", [["Block", (row) => row.prefix], ["Node", (row) => row.node], ["State", (row) => row.state]], blocks),
    table("Routes, longest match first", [["Prefix", (row) => row.prefix], ["Originated by", (row) => names(row.originatedBy)], ["Used on", (row) => row.usedOn], ["Missing on", (row) => names(row.missingOn)]], routes),
    table("Peers", [["Peer", (row) => row.name], ["Node", (row) => row.node], ["Address", (row) => row.address], ["State", (row) => row.state]], peers),
  ];
}

function sentence(query, wanted, { routes, pods, services, blocks, peers }) {
  if (!wanted) return `What contains “${query}”:`;
  if (pods.length) return `${query} is the pod ${pods[0].pod || pods[0].container} on ${pods[0].node}.`;
  if (services.length) return `${query} is the Service ${services[0].service}, announced by ${names(services[0].announcedBy)}.`;
  if (peers.length) return `${query} is the peer ${peers[0].name} of ${names(peers.map((row) => row.node))}.`;
  if (blocks.length) return `${query} is in the block ${blocks[0].prefix} of ${blocks[0].node}; no pod has it.`;
  if (routes.length) return `The longest match for ${query} is ${routes[0].prefix}.`;
  return `No pod, Service, block or route has ${query}.`;
}
