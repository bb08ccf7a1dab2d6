import { readFileSync } from "node:fs";
import { WarrenError } from "../contracts/errors.ts";
import { readCgroupHost } from "../runtimes/common/cgroup.ts";
import { prepareUserCgroups } from "../runtimes/oci/user-cgroups.ts";

/**
 * Gives a user, by name or by number, a cgroup of their own in each hierarchy. The directories.
 * @throws WarrenError `permission_denied` when we aren't root, `invalid_request` for a user who doesn't exist
 */
export async function prepareCgroups(user: string): Promise<string[]> {
  if (process.getuid?.() !== 0) {
    throw new WarrenError("permission_denied", "cgroups of a user are made by root", {
      hint: `sudo npx warren doctor --prepare-cgroups ${user}`,
    });
  }
  const uid = userId(user);
  if (uid === undefined || uid === 0) {
    throw new WarrenError(
      "invalid_request",
      `there is no ordinary user ${JSON.stringify(user)} in /etc/passwd`,
    );
  }
  return prepareUserCgroups(await readCgroupHost(), { uid });
}

function userId(user: string): number | undefined {
  for (const line of readFileSync("/etc/passwd", "utf8").split("\n")) {
    const [name, , uid] = line.split(":");
    if (name === user || uid === user) return Number(uid);
  }
  return undefined;
}
