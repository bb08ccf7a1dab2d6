import { WarrenError } from "../../contracts/errors.ts";
import type { RuntimeMount, VolumeStore } from "../../contracts/runtime.ts";
import { type VolumeInfo, VolumeName } from "../../contracts/volumes.ts";
import { ContainerList, DiskUsage, readAnswer, Volume, VolumeList } from "./answers.ts";
import { EngineRefusal, engineFailure } from "./api-client.ts";
import { diskUsage } from "./disk-usage.ts";
import type { Flavor } from "./flavor.ts";

const OWNER_LABEL = "warren.owner";
const NAME_LABEL = "warren.volume";
/** Before each of the user's own labels, so that none of them is taken for one of ours. */
const USER_LABEL = "warren.label.";
const MOST_LABELS = 64;
const MAX_LABEL_NAME = 256;
const MAX_LABEL = 4096;
/** The engine looks at every file for it. */
const USAGE_TIMEOUT_MS = 600_000;

export interface VolumesOptions {
  flavor: Pick<Flavor, "client" | "name" | "asOwner">;
  ownerId: string;
  removeSandbox(id: string): Promise<void>;
}

export interface Volumes extends VolumeStore {
  /** The engine's own name of it. */
  engineName(name: string): string;
  /**
   * An engine would make a volume that a container names and that isn't there, without labels.
   * @throws WarrenError `volume_not_found`
   */
  require(mounts: readonly RuntimeMount[]): Promise<void>;
}

/** A container engine's volumes, those of this owner. */
export function createVolumes(options: VolumesOptions): Volumes {
  const { flavor, ownerId, removeSandbox } = options;
  const { client, name: runtime } = flavor;
  // Of any other machine the mount points mean nothing here.
  const isLocal = client.endpoint.kind === "unix";
  const engineName = (name: string) => {
    if (VolumeName.safeParse(name).success) return `warren-${ownerId}-${name}`;
    throw new WarrenError("invalid_request", `${JSON.stringify(name)} can't be a volume's name`);
  };
  const pathOf = (name: string) => `/volumes/${encodeURIComponent(engineName(name))}`;

  /** Undefined for what isn't ours. */
  const describe = (volume: Volume): VolumeInfo | undefined => {
    const labels = volume.Labels ?? {};
    const name = labels[NAME_LABEL] ?? "";
    if (labels[OWNER_LABEL] !== ownerId || !VolumeName.safeParse(name).success) return undefined;
    if (volume.Name !== engineName(name)) return undefined;
    const own = Object.entries(labels).filter(([key]) => key.startsWith(USER_LABEL));
    const created = new Date(volume.CreatedAt ?? Number.NaN);
    return {
      name,
      runtime,
      labels: Object.fromEntries(own.map(([key, value]) => [key.slice(USER_LABEL.length), value])),
      ...(Number.isNaN(created.getTime()) ? {} : { created_at: created.toISOString() }),
      ...(volume.Mountpoint ? { mountpoint: volume.Mountpoint } : {}),
    };
  };

  const list = async (prefix: string): Promise<VolumeInfo[]> => {
    const filters = { label: [`${OWNER_LABEL}=${ownerId}`] };
    const answer = await client.json({ path: "/volumes", query: { filters } }).catch((error: unknown) => {
      throw engineFailure(error, "the volumes can't be listed");
    });
    return (readAnswer(VolumeList, answer).Volumes ?? [])
      .flatMap((volume) => describe(volume) ?? [])
      .filter(({ name }) => name.startsWith(prefix))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  };

  const inspect = async (name: string): Promise<VolumeInfo | undefined> => {
    try {
      return describe(readAnswer(Volume, await client.json({ path: pathOf(name) })));
    } catch (error) {
      if (error instanceof EngineRefusal && error.status === 404) return undefined;
      throw engineFailure(error, `the volume ${name} can't be looked at`);
    }
  };

  /** Ids of our sandboxes that have it, whether they run or not. */
  const users = async (name: string): Promise<string[]> => {
    const filters = { volume: [engineName(name)], label: [`${OWNER_LABEL}=${ownerId}`] };
    const answer = await client
      .json({ path: "/containers/json", query: { all: true, filters } })
      .catch((error: unknown) => {
        throw engineFailure(error, `who uses the volume ${name} can't be told`);
      });
    return readAnswer(ContainerList, answer).flatMap(({ Labels, Names }) => {
      const id = Labels?.["warren.id"];
      // Anybody's container has the labels of its image.
      const isOurs =
        id !== undefined && Names?.some((own) => own.replace(/^\//, "") === `warren-${ownerId}-${id}`);
      return isOurs ? [id] : [];
    });
  };

  /** By the engine, which takes the length of a file for what it has on disk. -1: it doesn't know. */
  const tellSizes = async (): Promise<Map<string, number | undefined>> => {
    const answer = await client
      .json({ path: "/system/df", query: { type: "volume" }, timeoutMs: USAGE_TIMEOUT_MS })
      .catch((error: unknown) => {
        throw engineFailure(error, "the sizes of the volumes can't be told");
      });
    const all = readAnswer(DiskUsage, answer).Volumes ?? [];
    return new Map(all.map(({ Name, UsageData }) => [Name, UsageData?.Size]));
  };

  return {
    engineName,
    inspect,
    list,
    async create(name, labels) {
      checkLabels(labels);
      const own = Object.entries(labels).map(([key, value]) => [`${USER_LABEL}${key}`, value]);
      const body = {
        Name: engineName(name),
        Driver: "local",
        Labels: { ...Object.fromEntries(own), [OWNER_LABEL]: ownerId, [NAME_LABEL]: name },
      };
      const made = await client.json({ method: "POST", path: "/volumes/create", body }).then(
        (answer) => describe(readAnswer(Volume, answer)),
        async (error: unknown) => {
          // Podman fails one of two who make it at the same moment.
          const found = error instanceof EngineRefusal ? await inspect(name) : undefined;
          if (found) return found;
          throw engineFailure(error, `the volume ${name} can't be made`, { 400: "invalid_request" });
        },
      );
      if (made) return made;
      throw new WarrenError("name_taken", `${runtime} has a volume ${engineName(name)} that is not ours`);
    },
    async remove(name, { force = false } = {}) {
      if (force) for (const id of await users(name)) await removeSandbox(id);
      if (!(await inspect(name))) return;
      try {
        // Never with force, which ends whatever uses it.
        await client.json({ method: "DELETE", path: pathOf(name) });
      } catch (error) {
        if (error instanceof EngineRefusal && error.status === 404) return;
        const hint =
          "remove the sandboxes and containers that have it, or remove the sandboxes with it by force";
        throw engineFailure(error, `the volume ${name} can't be removed`, { 409: "in_use" }, hint);
      }
    },
    async diskUsage(prefix) {
      const found = await list(prefix);
      const paths = found.flatMap(({ mountpoint }) => mountpoint ?? []);
      const measured = isLocal ? await diskUsage(paths, flavor.asOwner) : new Map<string, number>();
      const told = paths.every((path) => measured.has(path)) ? undefined : await tellSizes();
      return found.flatMap(({ name, mountpoint = "" }) => {
        const size = measured.get(mountpoint) ?? told?.get(engineName(name)) ?? -1;
        return size < 0 ? [] : [{ name, runtime, size }];
      });
    },
    async require(mounts) {
      for (const { type, source } of mounts) {
        if (type !== "volume" || (await inspect(source))) continue;
        throw new WarrenError("volume_not_found", `there is no volume ${source}`, {
          hint: `create it first: warren volume create ${source}`,
        });
      }
    },
  };
}

function checkLabels(labels: Readonly<Record<string, string>>): void {
  const refuse = (why: string): never => {
    throw new WarrenError("invalid_request", `labels: ${why}`);
  };
  const entries = Object.entries(labels);
  if (entries.length > MOST_LABELS) refuse(`there are more than ${MOST_LABELS}`);
  for (const [key, value] of entries) {
    const called = JSON.stringify(key.slice(0, 64));
    if (key === "" || key.length > MAX_LABEL_NAME)
      refuse(`${called} has not 1 to ${MAX_LABEL_NAME} characters`);
    if (value.length > MAX_LABEL) refuse(`the value of ${called} has more than ${MAX_LABEL} characters`);
    if (/\p{Cc}/u.test(key + value)) refuse(`${called} has control characters`);
  }
}
