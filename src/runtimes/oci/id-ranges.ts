import { mkdir, readdir, readFile, readlink, rmdir, symlink, unlink } from "node:fs/promises";
import { join } from "node:path";
import { WarrenError } from "../../contracts/errors.ts";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import { isGone, statOrUndefined } from "../../lib/files.ts";

/** Ids of one sandbox: 0-65535, as images expect. */
export const IDS_PER_SANDBOX = 65_536;
/**
 * First host id that sandboxes use: 0x70000000, the first above what systemd-nspawn hands out. Up to `END`, where systemd's
 * foreign range begins, nobody else allocates (https://systemd.io/UIDS-GIDS).
 */
const START = 0x7000_0000;
const END = 0x7ffe_0000;
/** Ranges that an engine claims at once, so that a start seldom touches the disk. */
const RANGES_PER_BLOCK = 64;
const BLOCKS = Math.floor((END - START) / IDS_PER_SANDBOX / RANGES_PER_BLOCK);
/** A second claim on a block whose owner is gone, a third and so on; more than ever happens between two boots. */
const MAX_GENERATIONS = 1000;

/**
 * Hands out ranges of 65536 host ids. No two running sandboxes of this host share one, whichever engine runs them: blocks
 * of ranges are claimed in a directory that all engines share, by an atomic symlink(2) that names the owner's state
 * directory. Files on disk carry ids from 0 (the mounts are idmapped), so a sandbox gets a new range at each start.
 */
export interface IdRanges {
  /** The first id of a range that nobody uses. Throws `too_many_sandboxes`. */
  take(sandbox: string): Promise<number>;
  /** Marks the range of a sandbox that was found running. */
  adopt(sandbox: string, base: number): Promise<void>;
  release(sandbox: string): void;
  /** Gives the blocks back when no range is in use. */
  close(): Promise<void>;
}

/** The one range of an ordinary user, which all sandboxes share: files on disk carry its ids, not ids from 0. */
export function sharedIdRange(base: number): IdRanges {
  return { take: async () => base, adopt: async () => {}, release: () => {}, close: async () => {} };
}

/** Ranges `[first, count]` that belong to users or to user namespaces of somebody else. */
type Reserved = [first: number, count: number][];

export async function openIdRanges(options: {
  owner: string;
  claimsDir?: string;
  onStep?: OnStep;
}): Promise<IdRanges> {
  const { owner, claimsDir = "/run/warren/ids", onStep = noStep } = options;
  const blocks = new Set<number>();
  const inUse = new Map<string, number>();
  let claiming: Promise<void> = Promise.resolve();
  let reserved: Promise<Reserved> | undefined;

  for (const claim of await readClaims(claimsDir)) {
    if (claim.owner === owner) blocks.add(claim.block);
  }

  const isReserved = (base: number, list: Reserved) =>
    list.some(([first, count]) => base < first + count && first < base + IDS_PER_SANDBOX);

  const takeFree = (sandbox: string, list: Reserved): number | undefined => {
    const used = new Set(inUse.values());
    for (const block of blocks) {
      for (let i = 0; i < RANGES_PER_BLOCK; i++) {
        const base = START + (block * RANGES_PER_BLOCK + i) * IDS_PER_SANDBOX;
        if (used.has(base) || isReserved(base, list)) continue;
        inUse.set(sandbox, base);
        return base;
      }
    }
    return undefined;
  };

  return {
    async take(sandbox) {
      const had = inUse.get(sandbox);
      if (had !== undefined) return had;
      reserved ??= readReserved();
      const list = await reserved;
      for (;;) {
        const base = takeFree(sandbox, list);
        if (base !== undefined) return base;
        // One claim at a time, so that a burst of starts doesn't claim a block each.
        const before = blocks.size;
        claiming = claiming.then(async () => {
          if (blocks.size !== before) return;
          blocks.add(await claimBlock(claimsDir, owner));
          onStep("oci.claimed-ids");
        });
        const mine = claiming;
        claiming = mine.catch(() => {});
        await mine;
      }
    },
    async adopt(sandbox, base) {
      inUse.set(sandbox, base);
      const block = Math.floor((base - START) / IDS_PER_SANDBOX / RANGES_PER_BLOCK);
      if (!blocks.has(block)) {
        // The claim is lost only when somebody emptied the directory; take it again for what still runs.
        await mkdir(claimsDir, { recursive: true, mode: 0o700 });
        await symlink(owner, join(claimsDir, `${block}.0`)).catch(() => {});
        blocks.add(block);
      }
    },
    release(sandbox) {
      inUse.delete(sandbox);
    },
    async close() {
      if (inUse.size > 0) return;
      for (const claim of await readClaims(claimsDir)) {
        if (claim.owner === owner) await unlink(join(claimsDir, claim.name)).catch(() => {});
      }
      blocks.clear();
      // Only when no other engine uses them.
      await rmdir(claimsDir).catch(() => {});
      await rmdir(join(claimsDir, "..")).catch(() => {});
    },
  };
}

interface Claim {
  name: string;
  block: number;
  generation: number;
  owner: string;
}

/** The newest claim of each block. A file is named `<block>.<generation>`. */
async function readClaims(dir: string): Promise<Claim[]> {
  const newest = new Map<number, Claim>();
  const names = await readdir(dir).catch((error: unknown) => {
    if (isGone(error)) return [];
    throw error;
  });
  for (const name of names) {
    const match = /^(\d{1,4})\.(\d{1,4})$/.exec(name);
    const owner = match && (await readlink(join(dir, name)).catch(() => undefined));
    if (!match || !owner) continue;
    const claim = { name, block: Number(match[1]), generation: Number(match[2]), owner };
    const other = newest.get(claim.block);
    if (!other || other.generation < claim.generation) newest.set(claim.block, claim);
  }
  return [...newest.values()];
}

/**
 * Claims a block that nobody has, or whose owner's state directory is gone. A stale claim is never deleted by others but
 * superseded by the next generation: creating that name succeeds for one engine only.
 */
async function claimBlock(dir: string, owner: string): Promise<number> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  for (let attempt = 0; attempt < BLOCKS * 2; attempt++) {
    const claims = new Map((await readClaims(dir)).map((c) => [c.block, c]));
    let next: { block: number; generation: number } | undefined;
    for (let block = 0; block < BLOCKS && !next; block++) {
      if (!claims.has(block)) next = { block, generation: 0 };
    }
    for (const claim of next ? [] : claims.values()) {
      if (claim.generation < MAX_GENERATIONS && !(await statOrUndefined(claim.owner))) {
        next = { block: claim.block, generation: claim.generation + 1 };
        break;
      }
    }
    if (!next) break;
    const made = await symlink(owner, join(dir, `${next.block}.${next.generation}`)).then(
      () => true,
      (error: NodeJS.ErrnoException) => {
        // ENOENT: another engine removed the empty directory in this moment.
        if (error.code === "EEXIST") return false;
        if (error.code === "ENOENT") return mkdir(dir, { recursive: true, mode: 0o700 }).then(() => false);
        throw error;
      },
    );
    if (made) return next.block;
  }
  throw new WarrenError(
    "too_many_sandboxes",
    "all ranges of user ids for sandboxes are in use on this host",
    {
      hint: `remove sandboxes; claims are kept in ${dir}`,
    },
  );
}

async function readReserved(): Promise<Reserved> {
  const list: Reserved = [];
  for (const file of ["/etc/subuid", "/etc/subgid"]) {
    for (const fields of await readColons(file)) list.push([Number(fields[1]), Number(fields[2])]);
  }
  for (const file of ["/etc/passwd", "/etc/group"]) {
    for (const fields of await readColons(file)) list.push([Number(fields[2]), 1]);
  }
  return list.filter(([first, count]) => Number.isSafeInteger(first) && Number.isSafeInteger(count));
}

async function readColons(file: string): Promise<string[][]> {
  const text = await readFile(file, "utf8").catch(() => "");
  return text.split("\n").map((line) => line.split(":"));
}
