import { describe, expect, it } from "vitest";
import { findAccount, firstFile } from "../../../src/runtimes/podman/accounts.ts";
import { capabilitiesOf } from "../../../src/runtimes/podman/capabilities.ts";
import { idMapping, mapOf } from "../../../src/runtimes/podman/id-mapping.ts";
import type { PodmanInfo } from "../../../src/runtimes/podman/info.ts";
import { findingsOf } from "../../../src/runtimes/podman/probe.ts";

const root: PodmanInfo = {
  version: "4.3.1",
  isRootless: false,
  hasSeccomp: true,
  hasSlirp4netns: true,
  cgroupVersion: 1,
  controllers: ["cpu", "memory", "pids"],
  storageDriver: "overlay",
  program: { name: "crun", version: "1.8.1" },
};
const rootless: PodmanInfo = { ...root, isRootless: true, cgroupVersion: 2, ids: 65_537 };

describe("an image's users", () => {
  const files = {
    passwd:
      "root:x:0:0::/root:/bin/sh\ndev:x:1234:1235::/home/dev:/bin/sh\nodd:x:99999999999:-1::/:\nshort\n",
    group: "root:x:0:\nwheel:x:10:dev\n",
  };
  const find = (name: string, group?: string) => findAccount(files, name, group, name);

  it("are found by name and number", () => {
    expect(find("dev")).toEqual({ uid: 1234, gid: 1235 });
    expect(find("dev", "wheel")).toEqual({ uid: 1234, gid: 10 });
    expect(find("dev", "7")).toEqual({ uid: 1234, gid: 7 });
    expect(find("1234")).toEqual({ uid: 1234, gid: 1235 });
    expect(find("77")).toEqual({ uid: 77, gid: 0 });
    expect(find("root")).toEqual({ uid: 0, gid: 0 });
  });

  it.each<[string, string?]>([["nobody"], ["dev", "nogroup"], ["odd"], ["short"], [""], ["4294967295"]])(
    "are refused when they aren't there, or no ids: %s %s",
    (name, group) => {
      expect(() => find(name, group)).toThrow(expect.objectContaining({ code: "invalid_request" }));
    },
  );

  it("are read from a plain file, and from nothing else that an image may have in its place", () => {
    const tar = (type: string, size: string, content: string) => {
      const head = Buffer.alloc(512);
      head.write("passwd", 0);
      head.write(size, 124);
      head.write(type, 156);
      return Buffer.concat([head, Buffer.from(content.padEnd(512, "\0"))]);
    };
    expect(firstFile(tar("0", "00000000005\0", "hello"))).toBe("hello");
    expect(firstFile(tar("2", "00000000000\0", ""))).toBeUndefined();
    expect(firstFile(tar("5", "00000000000\0", ""))).toBeUndefined();
    expect(firstFile(tar("0", "77777777777\0", "x"))).toBeUndefined();
    expect(firstFile(tar("0", "00000002000\0", "cut short"))).toBeUndefined();
    expect(firstFile(tar("0", "garbage", "x"))).toBeUndefined();
    expect(firstFile(Buffer.alloc(100))).toBeUndefined();
  });
});

describe("who a user inside is outside", () => {
  it("is the one who runs Podman, and all others are others", () => {
    expect(mapOf(0, 100)).toEqual([
      { container_id: 0, host_id: 0, size: 1 },
      { container_id: 1, host_id: 1, size: 99 },
    ]);
    expect(mapOf(30, 100)).toEqual([
      { container_id: 0, host_id: 1, size: 30 },
      { container_id: 30, host_id: 0, size: 1 },
      { container_id: 31, host_id: 31, size: 69 },
    ]);
    for (const id of [99, 100, 5000]) {
      expect(mapOf(id, 100)).toEqual([
        { container_id: 0, host_id: 1, size: 99 },
        { container_id: id, host_id: 0, size: 1 },
      ]);
    }
  });

  it("is left as it is as root, for root inside, and without a bind", async () => {
    const bind = { type: "bind" as const, source: "/x", target: "/x", readonly: false };
    const spec = { image: { id: "i" }, user: "5", mounts: [bind] } as unknown as Parameters<
      typeof idMapping
    >[0];
    const find = async (_: string, user: string) => ({ uid: Number(user), gid: 0 });
    expect(await idMapping(spec, root, find)).toBeUndefined();
    expect(await idMapping({ ...spec, user: "0" }, rootless, find)).toBeUndefined();
    expect(await idMapping({ ...spec, mounts: [] }, rootless, find)).toBeUndefined();
    expect(await idMapping(spec, rootless, find)).toMatchObject({ GIDMap: mapOf(0, 65_537) });
  });
});

describe("what a Podman can do", () => {
  it("is all as root, and rootless what is delegated", () => {
    expect(capabilitiesOf(root)).toMatchObject({ limits: ["memory", "cpu", "pids"], userNamespace: false });
    expect(capabilitiesOf(root)).not.toHaveProperty("limitsMissing");
    expect(capabilitiesOf(rootless)).toMatchObject({
      limits: ["memory", "cpu", "pids"],
      userNamespace: true,
      pause: true,
    });
    const some = capabilitiesOf({ ...rootless, controllers: ["memory", "pids"] });
    expect(some.limits).toEqual(["memory", "pids"]);
    expect(some.limitsMissing?.why).toMatch(/for cpu aren't delegated/);
    const v1 = capabilitiesOf({ ...rootless, cgroupVersion: 1 });
    expect(v1).toMatchObject({ limits: [], pause: false });
    expect(v1.limitsMissing?.why).toMatch(/cgroup v1/);
  });

  it("is told with what mends it", () => {
    expect(findingsOf(root, "unix:///x", 0).map(({ level }) => level)).toEqual(["ok", "ok"]);
    const poor = { ...rootless, ids: 1, storageDriver: "vfs", cgroupVersion: 1 as const };
    const findings = findingsOf(poor, "unix:///x", 1000);
    expect(findings.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^podman 4.3.1, rootless, at unix:\/\/\/x, with crun 1.8.1/),
      expect.stringMatching(/can't limit anything on cgroup v1/),
      expect.stringMatching(/only 1 user ids/),
      expect.stringMatching(/vfs copies/),
    ]);
    expect(findings.slice(1).every(({ fix }) => fix !== undefined)).toBe(true);
    for (const bad of [
      { ...root, version: "3.4.4" },
      { ...root, hasSeccomp: false },
    ]) {
      expect(findingsOf(bad, "x", 0).some(({ level }) => level === "error")).toBe(true);
    }
    const weak = { ...root, version: "4.0.2", program: { name: "runc", version: "1.0.0" } };
    const said = findingsOf(weak, "x", 0).map(({ message }) => message);
    expect(said.join("\n")).toMatch(/CVE-2022-27649[\s\S]*CVE-2024-21626/);
  });
});
