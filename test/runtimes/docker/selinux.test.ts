import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { createApiClient } from "../../../src/runtimes/containers/api-client.ts";
import { createRequest } from "../../../src/runtimes/containers/container-config.ts";
import { dockerCapabilities } from "../../../src/runtimes/docker/capabilities.ts";
import { openDockerRig } from "./support/open.ts";

// What SELinux itself does with it can't be seen on a machine without.
it("a daemon with SELinux is asked to label what is ours, and nothing else", async () => {
  const rig = await openDockerRig();
  const client = createApiClient({ kind: "unix", path: rig.daemon.socket });
  try {
    const dirs = ["guest", "run", "project"].map((name) => join(rig.stateDir, name));
    for (const dir of dirs) mkdirSync(dir);
    const [guestDir = "", socketDir = "", project = ""] = dirs;
    const guardFile = join(rig.stateDir, "items");
    writeFileSync(guardFile, "");
    const mounts = [{ type: "bind" as const, source: project, target: "/project", readonly: false }];
    const spec = await rig.fixture.spec({ mounts });
    await client.json(
      createRequest("labelled", {
        ...{ spec, labels: {}, nameServers: [], volumeName: (name: string) => name },
        guest: { type: "bind", dir: guestDir, socketDir, ownFiles: {}, guardFile },
        flavor: {
          ...{ name: "docker", client, capabilities: dockerCapabilities, rlimits: {}, relabels: true },
          seccomp: "unconfined",
          probe: async () => ({ runtime: "docker", usable: true, findings: [] }),
          close: async () => {},
        },
      }),
    );
    const made = JSON.parse(await rig.daemon.cli("inspect", "labelled"))[0];
    expect(made.HostConfig.Binds).toEqual([
      `${guestDir}:/.warren:ro,z`,
      `${socketDir}:/.warren/run:z`,
      `${guardFile}:/.warren/guard:ro,z`,
    ]);
    const byPath = Object.fromEntries(
      made.Mounts.map((mount: { Destination: string }) => [mount.Destination, mount]),
    );
    expect(byPath["/.warren"]).toMatchObject({ Mode: "ro,z", RW: false });
    expect(byPath["/.warren/run"]).toMatchObject({ Mode: "z", RW: true });
    expect(byPath["/.warren/guard"]).toMatchObject({ Mode: "ro,z", RW: false });
    expect(byPath["/project"].Mode).not.toContain("z");
    await rig.daemon.cli("rm", "labelled");
  } finally {
    client.close();
    await rig.close();
  }
});
