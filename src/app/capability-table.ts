import type { Capabilities } from "../contracts/runtime.ts";

type Row = [title: string, cell: (capabilities: Capabilities) => string];

const mark = (able: boolean) => (able ? "yes" : "–");
const list = (words: readonly string[]) => (words.length > 0 ? words.join(", ") : "–");

/** A row for each capability; a new one does not compile without. */
const rows: Record<Exclude<keyof Capabilities, "limitsMissing" | "networkMissing">, Row> = {
  networkModes: ["network modes", ({ networkModes }) => list(networkModes)],
  networkCapture: ["without proxy settings", ({ networkCapture }) => mark(networkCapture)],
  limits: ["limits", ({ limits }) => list(limits)],
  readonlyRoot: ["read-only root", ({ readonlyRoot }) => mark(readonlyRoot)],
  tmpfs: ["tmpfs", ({ tmpfs }) => mark(tmpfs)],
  volumes: ["volumes", ({ volumes }) => mark(volumes)],
  binds: ["binds", ({ binds }) => mark(binds)],
  images: ["images", ({ images }) => list(images)],
  imageStore: ["pull and build", ({ imageStore }) => mark(imageStore)],
  pause: ["pause", ({ pause }) => mark(pause)],
  snapshots: ["snapshots", ({ snapshots }) => mark(snapshots)],
  isolation: ["isolation", ({ isolation }) => list(isolation)],
  userNamespace: ["user namespace", ({ userNamespace }) => mark(userNamespace)],
  rootless: ["without root", ({ rootless }) => mark(rootless)],
};

/** A line for each capability and a column for each runtime, titles first. */
export function capabilityTable(
  runtimes: Readonly<Record<string, Capabilities>>,
): [header: string[], ...lines: string[][]] {
  const lines = Object.values(rows).map(([title, cell]) => [title, ...Object.values(runtimes).map(cell)]);
  return [["", ...Object.keys(runtimes)], ...lines];
}
