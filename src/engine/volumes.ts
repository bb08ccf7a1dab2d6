import type { VolumesApi } from "../contracts/api.ts";
import { WarrenError } from "../contracts/errors.ts";
import type { Runtime, RuntimeSpec, VolumeStore } from "../contracts/runtime.ts";
import { RuntimeChoice } from "../contracts/sandbox.ts";
import { CreateVolume, VolumeFilter, VolumeName } from "../contracts/volumes.ts";
import { parseInput } from "../lib/parse.ts";
import { asWarrenError, type Core, refuseWhenClosing } from "./core.ts";
import { createFacet } from "./facets.ts";

/** Sandboxes that an error names. */
const MOST_NAMED = 5;

/**
 * How often sandboxes that have a volume are removed before the volume: others may be created meanwhile. Whoever goes on
 * creating wins.
 */
const FORCED_ROUNDS = 5;

/** Volumes of all runtimes. `removeSandbox` is one lifecycle step among others. */
export function createVolumes(core: Core, removeSandbox: (id: string) => Promise<void>): VolumesApi {
  const volumes = createFacet(core, "volumes", (runtime) => runtime.volumes);

  return {
    async create(request) {
      refuseWhenClosing(core);
      const { name, labels = {}, runtime: wanted } = parseInput(CreateVolume, request);
      const { runtime, store } = await volumes.of(wanted);
      return await inTurn(core, runtime, name, () => store.create(name, labels));
    },
    async get(wanted, options = {}) {
      refuseWhenClosing(core);
      const name = volumeName(wanted);
      const { store } = await volumes.of(parseInput(RuntimeChoice, options).runtime);
      const found = await store.inspect(name);
      if (!found) throw notFound(name);
      return found;
    },
    list: (filter = {}) => gather(filter, (store, prefix) => store.list(prefix)),
    usage: (filter = {}) => gather(filter, (store, prefix) => store.diskUsage(prefix)),
    async remove(wanted, { force = false, ...options } = {}) {
      refuseWhenClosing(core);
      const name = volumeName(wanted);
      const { runtime, store } = await volumes.of(parseInput(RuntimeChoice, options).runtime);
      for (let round = 0; ; round++) {
        const users = await inTurn(core, runtime, name, async () => {
          const users = usersOf(core, runtime, name);
          if (users.length > 0 && force && round < FORCED_ROUNDS) return users;
          if (users.length > 0) throw inUse(name, users);
          if (!(await store.inspect(name))) throw notFound(name);
          // Never forced: what the runtime finds beside our records is not ours to end.
          await store.remove(name);
          return [];
        });
        if (users.length === 0) return;
        // Without the volume's turn: one of them may be waiting for it, to be created.
        await removeAll(users.map(({ id }) => id));
      }
    },
  };

  async function gather<T extends { name: string; runtime: string }>(
    filter: VolumeFilter,
    ask: (store: VolumeStore, prefix: string) => Promise<T[]>,
  ): Promise<T[]> {
    refuseWhenClosing(core);
    const { runtime, prefix = "" } = parseInput(VolumeFilter, filter);
    const found = await Promise.all((await volumes.all(runtime)).map((store) => ask(store, prefix)));
    return found.flat().sort((a, b) => compare(a.name, b.name) || compare(a.runtime, b.runtime));
  }

  async function removeAll(ids: string[]): Promise<void> {
    const results = await Promise.allSettled(ids.map(async (id) => removeSandbox(id)));
    for (const result of results) {
      if (result.status === "fulfilled") continue;
      const { code } = result.reason as { code?: unknown };
      if (code !== "sandbox_not_found") throw result.reason;
    }
  }
}

/**
 * Makes the volumes that a sandbox names, before the sandbox: one that isn't there is created, as Docker does. The record of
 * the sandbox is in the table already, so that nobody removes them from here on.
 */
export async function ensureVolumes(
  core: Core,
  runtime: Runtime,
  mounts: RuntimeSpec["mounts"],
): Promise<void> {
  const names = new Set(mounts.filter(({ type }) => type === "volume").map(({ source }) => source));
  for (const name of names) await inTurn(core, runtime, name, async () => runtime.volumes?.create(name, {}));
}

/** One step at a time for each volume. A sandbox's own turn may wait for this one, and never the other way round. */
async function inTurn<T>(core: Core, runtime: Runtime, name: string, step: () => Promise<T>): Promise<T> {
  try {
    return await core.mutex.run(`volume ${runtime.name} ${name}`, step);
  } catch (cause) {
    throw asWarrenError(cause, `something went wrong with the volume ${name}`);
  }
}

/** Sandboxes that have it in what was asked of them, whatever their state. */
function usersOf(core: Core, runtime: Runtime, name: string) {
  return core.table
    .all()
    .filter(
      (record) =>
        record.runtime === runtime.name &&
        record.request.storage?.volumes?.some((volume) => volume.name === name),
    );
}

function volumeName(wanted: string): string {
  return parseInput(VolumeName, wanted);
}

function notFound(name: string): WarrenError {
  return new WarrenError("volume_not_found", `there is no volume ${name}`, {
    hint: "warren volume ls shows the volumes that exist",
  });
}

function inUse(name: string, users: { id: string; name?: string | undefined }[]): WarrenError {
  const named = users.slice(0, MOST_NAMED).map((user) => user.name ?? user.id);
  const more = users.length > named.length ? ` and ${users.length - named.length} more` : "";
  return new WarrenError("in_use", `the volume ${name} is mounted by ${named.join(", ")}${more}`, {
    hint: `remove them first: warren rm ${named.join(" ")}; or all at once: warren volume rm --force ${name}`,
  });
}

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
