import { chmodSync, lstatSync, mkdirSync, renameSync, writeFileSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeSpec } from "../../contracts/runtime.ts";
import { noStep, type OnStep } from "../../contracts/steps.ts";
import { StoredSpec } from "../../contracts/stored-spec.ts";
import { readSmall, statOrUndefined, writeAtomically } from "../../lib/files.ts";
import { jsonOrUndefined } from "../../lib/parse.ts";
import { capturedResolverFile } from "../common/network-capture.ts";
import { SLIRP_NAME_SERVER } from "../common/open-network.ts";
import { isSandboxId } from "../common/sandbox-id.ts";
import { type Layout, sandboxPaths } from "./layout.ts";

const Stored = z.object({
  version: z.literal(1),
  spec: StoredSpec,
  lower: z.string(),
  layers: z.array(z.string()).exactOptional(),
  base: z.string().exactOptional(),
});

/** A sandbox as its directory tells it. */
export interface StoredSandbox {
  spec: RuntimeSpec;
  /** Directory of the image's layer, fixed for the sandbox's life: its own layer was written on top of it. */
  lower: string;
  /** Directories of the layers of snapshots on top of it, topmost first. */
  layers?: readonly string[];
  /** Id of the image that the lowest layer is of, where that isn't `spec.image` but a snapshot of what was made of it. */
  base?: string;
}

export interface SandboxStore {
  /** `asUser`: what is root's inside is the user's who runs us. */
  create(sandbox: StoredSandbox, options: { asUser: boolean }): Promise<void>;
  /** Throws `sandbox_not_found`. */
  read(id: string): Promise<StoredSandbox>;
  /** Replaces the record, in one step. */
  rewrite(sandbox: StoredSandbox): Promise<void>;
  /** Ids of all directories, of half-made ones too. */
  list(): Promise<string[]>;
  /** Directories of a sandbox that exist: the whole one, and a half-made one. */
  dirs(id: string): Promise<string[]>;
  /** Lower layers that sandboxes were created with, those of snapshots included. */
  lowers(): Promise<Set<string>>;
  /** Ids of sandboxes that have this volume; of those with a broken record too, since it can't be told. */
  usersOfVolume(name: string): Promise<string[]>;
}

/** A directory gets its real name last, so one without this prefix is complete. */
const HALF_MADE = ".new-";

/** Gives what is at these paths, with all in it, to an id as it is numbered inside. */
export type Own = (paths: readonly string[], id: number) => Promise<void>;

export function createSandboxStore(layout: Layout, own: Own, onStep: OnStep = noStep): SandboxStore {
  const read = async (id: string): Promise<StoredSandbox> => {
    const text = readSmall(layout.sandbox(id).spec);
    if (text === undefined) throw new WarrenError("sandbox_not_found", `there is no sandbox ${id}`);
    const parsed = Stored.safeParse(jsonOrUndefined(text));
    if (!parsed.success) {
      throw new WarrenError("runtime_failed", `the record of sandbox ${id} is broken`, {
        cause: parsed.error,
      });
    }
    const { version: _, ...sandbox } = parsed.data;
    return sandbox;
  };
  const list = async () => {
    const names = await readdir(layout.sandboxes);
    const ids = names.map((name) => (name.startsWith(HALF_MADE) ? name.slice(HALF_MADE.length) : name));
    return [...new Set(ids)].filter(isSandboxId);
  };

  return {
    async create(sandbox, { asUser }) {
      const { id } = sandbox.spec;
      const final = layout.sandbox(id).dir;
      if (await statOrUndefined(final)) {
        throw new WarrenError("sandbox_wrong_state", `the sandbox ${id} exists already`);
      }
      const paths = sandboxPaths(join(layout.sandboxes, `${HALF_MADE}${id}`));
      // Synchronous: a dozen entries of a directory take less time than one trip through the thread pool.
      makeDir(paths.dir, 0o700);
      onStep("oci.made-directory");
      writeFileSync(paths.spec, serialize(sandbox), { mode: 0o600 });
      makeDir(paths.fs, 0o700);
      makeDir(paths.upper, 0o755);
      // The root directory inside is this one.
      const [layer] = sandbox.layers ?? [];
      if (layer !== undefined) chmodSync(paths.upper, lstatSync(layer).mode & 0o7777);
      makeDir(paths.work, 0o700);
      makeTop(paths.top, sandbox.spec);
      if (!asUser) await own([paths.upper, paths.top], 0);
      onStep("oci.filled-directory");
      renameSync(paths.dir, final);
    },
    read,
    async rewrite(sandbox) {
      await writeAtomically(layout.sandbox(sandbox.spec.id).spec, serialize(sandbox));
      onStep("oci.rewrote-spec");
    },
    list,
    async dirs(id) {
      const candidates = [layout.sandbox(id).dir, join(layout.sandboxes, `${HALF_MADE}${id}`)];
      const found = await Promise.all(candidates.map(statOrUndefined));
      return candidates.filter((_dir, i) => found[i] !== undefined);
    },
    async usersOfVolume(name) {
      const users: string[] = [];
      for (const id of await list()) {
        const stored = await read(id).catch((error: unknown) => {
          // Half made: it holds the volume until its record is there, or its maker has gone.
          if (error instanceof WarrenError && error.code === "sandbox_not_found") return undefined;
          return "broken" as const;
        });
        if (stored === "broken") users.push(id);
        else if (stored?.spec.mounts.some(({ type, source }) => type === "volume" && source === name))
          users.push(id);
      }
      return users;
    },
    async lowers() {
      const used = new Set<string>();
      for (const id of await list()) {
        const stored = await read(id).catch(() => undefined);
        if (!stored) continue;
        used.add(stored.lower);
        for (const layer of stored.layers ?? []) used.add(layer);
      }
      return used;
    },
  };
}

/**
 * The topmost lower layer. It makes /proc, /dev, /sys and /.warren real directories, whatever the image has there: a hostile
 * image can't redirect what the container runtime mounts (CVE-2023-27561 and its kin). While the sandbox runs they are mount
 * points of its first mount namespace, which can't be renamed or removed from inside.
 */
function makeTop(top: string, { hostname, network }: RuntimeSpec): void {
  makeDir(top, 0o755);
  for (const name of ["proc", "dev", "sys", ".warren", "etc"]) makeDir(join(top, name), 0o755);
  writeFileSync(join(top, "etc", "hosts"), hosts(hostname), { mode: 0o644 });
  writeFileSync(join(top, "etc", "hostname"), `${hostname}\n`, { mode: 0o644 });
  const resolver = resolverFile(network);
  if (resolver !== undefined) writeFileSync(join(top, "etc", "resolv.conf"), resolver, { mode: 0o644 });
}

/** What /etc/resolv.conf says; undefined: what the image has there, since nobody could be asked. */
function resolverFile(network: RuntimeSpec["network"]): string | undefined {
  switch (network) {
    case "open":
      // Some uplinks carry queries by UDP only, where answers are short unless more is asked for.
      return `nameserver ${SLIRP_NAME_SERVER}\noptions edns0\n`;
    case "host":
      return readSmall("/etc/resolv.conf") ?? "";
    case "filtered":
      return capturedResolverFile;
    default:
      return undefined;
  }
}

/** With exactly this mode, whatever our umask is. */
function makeDir(path: string, mode: number): void {
  mkdirSync(path, { mode });
  if ((mode & process.umask()) !== 0) chmodSync(path, mode);
}

function hosts(hostname: string): string {
  return `127.0.0.1\tlocalhost ${hostname}\n::1\tlocalhost ip6-localhost ip6-loopback\n`;
}

function serialize(sandbox: StoredSandbox): string {
  return JSON.stringify({ version: 1, ...sandbox });
}
