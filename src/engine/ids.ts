import { randomBytes } from "node:crypto";
import { WarrenError } from "../contracts/errors.ts";

/** Base 32 without the digits that look like letters: fits DNS labels, cgroup names and file names. */
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";
const ID_LENGTH = 16;

/** Shortest prefix of an id that is taken for it. */
const SHORTEST_PREFIX = 4;

/** How many candidates an ambiguous prefix names. */
const MOST_CANDIDATES = 5;

/** A new id: 79 bits from the system's random source, the first character a letter. */
export function newSandboxId(): string {
  // 26 does not divide 256, but a first letter that is a little likelier costs nothing: ids aren't secrets.
  return Array.from(randomBytes(ID_LENGTH), (byte, i) => ALPHABET.charAt(byte % (i === 0 ? 26 : 32))).join(
    "",
  );
}

const SNAPSHOT = "snap-";

/** As of a sandbox, behind what tells that it isn't one. */
export function newSnapshotId(): string {
  return SNAPSHOT + newSandboxId();
}

/**
 * Finds a snapshot by its full id, a unique prefix of it, or a name that only one has, in that order.
 * @throws WarrenError `snapshot_not_found`; `invalid_request` when it fits several.
 */
export function resolveSnapshot<T extends { id: string; name: string }>(
  wanted: string,
  byId: ReadonlyMap<string, T>,
): T {
  const exact = byId.get(wanted);
  if (exact) return exact;
  const all = [...byId.values()];
  const isLong = wanted.startsWith(SNAPSHOT) && wanted.length >= SNAPSHOT.length + SHORTEST_PREFIX;
  const begin = isLong ? all.filter(({ id }) => id.startsWith(wanted)) : [];
  const found = begin.length > 0 ? begin : all.filter(({ name }) => name !== "" && name === wanted);
  const [first, second] = found;
  if (!first) {
    throw new WarrenError("snapshot_not_found", `there is no snapshot ${shown(wanted)}`, {
      hint: "warren snapshot ls shows the snapshots that exist",
    });
  }
  if (!second) return first;
  const named = found.slice(0, MOST_CANDIDATES).map(({ id }) => id);
  throw new WarrenError("invalid_request", `${shown(wanted)} fits several snapshots: ${named.join(", ")}`, {
    hint: "give the id of one",
  });
}

/**
 * Finds a sandbox by its full id, its name, or a unique prefix of its id, in that order.
 * @throws WarrenError `sandbox_not_found`; `invalid_request` when a prefix fits several.
 */
export function resolveSandbox<T extends { id: string; name?: string | undefined }>(
  wanted: string,
  byId: ReadonlyMap<string, T>,
): T {
  const exact = byId.get(wanted);
  if (exact) return exact;
  const candidates: T[] = [];
  for (const record of byId.values()) {
    if (record.name === wanted) return record;
    if (wanted.length >= SHORTEST_PREFIX && record.id.startsWith(wanted)) candidates.push(record);
  }
  const [first] = candidates;
  if (!first) throw sandboxNotFound(wanted);
  if (candidates.length === 1) return first;
  const named = candidates.slice(0, MOST_CANDIDATES).map((record) => record.id);
  throw new WarrenError("invalid_request", `${wanted} fits several sandboxes: ${named.join(", ")}`, {
    hint: "give more characters of the id",
  });
}

export function sandboxNotFound(wanted: string): WarrenError {
  return new WarrenError("sandbox_not_found", `there is no sandbox ${shown(wanted)}`, {
    hint: "warren ls shows the sandboxes that exist",
  });
}

/** What was asked for may be anything: shortened and escaped, it can't forge a line of a log. */
function shown(wanted: string): string {
  return JSON.stringify(wanted.length > 64 ? `${wanted.slice(0, 64)}…` : wanted);
}
