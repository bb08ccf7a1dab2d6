import type { RuntimeSpec } from "../../contracts/runtime.ts";
import type { Account } from "./accounts.ts";
import type { PodmanInfo } from "./info.ts";

/** Ids inside, and what they are among those that a rootless Podman has, of which 0 is the user who runs it. */
interface IdRange {
  container_id: number;
  host_id: number;
  size: number;
}

/** As Podman takes it. */
export interface IdMapping {
  UIDMap: IdRange[];
  GIDMap: IdRange[];
}

/**
 * By default root inside is the user who runs Podman, and so owns what is bound. Where the commands are somebody else's, that
 * one is the user, so that what they make in a project stays its owner's.
 */
export async function idMapping(
  { user, image, mounts }: RuntimeSpec,
  { ids }: Pick<PodmanInfo, "ids">,
  find: (image: string, user: string) => Promise<Account>,
): Promise<IdMapping | undefined> {
  if (!ids || !user || !mounts.some((mount) => mount.type === "bind")) return undefined;
  const { uid, gid } = await find(image.id, user);
  return uid === 0 ? undefined : { UIDMap: mapOf(uid, ids), GIDMap: mapOf(gid, ids) };
}

/** All of `count` ids, with `id` as the user's own. */
export function mapOf(id: number, count: number): IdRange[] {
  const below = Math.min(id, count - 1);
  return [
    { container_id: 0, host_id: 1, size: below },
    { container_id: id, host_id: 0, size: 1 },
    { container_id: id + 1, host_id: below + 1, size: count - 1 - below },
  ].filter(({ size }) => size > 0);
}
