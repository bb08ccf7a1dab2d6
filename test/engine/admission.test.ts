import { describe, expect, it } from "vitest";
import type { Capabilities, Runtime } from "../../src/contracts/runtime.ts";
import { CreateSandbox } from "../../src/contracts/sandbox.ts";
import { admit, changedLimits, chooseRuntime } from "../../src/engine/admission.ts";
import { defaultConfig } from "../../src/engine/config.ts";
import { runtimeSpec } from "../../src/engine/spec.ts";
import { parseInput } from "../../src/lib/parse.ts";

const everything: Capabilities = {
  networkModes: ["none", "filtered"],
  networkCapture: true,
  limits: ["memory", "cpu", "pids"],
  readonlyRoot: true,
  tmpfs: true,
  userNamespace: true,
  rootless: false,
  pause: false,
  snapshots: false,
  isolation: ["container"],
  images: ["host", "directory", "tar", "oci"],
  imageStore: true,
  volumes: true,
  binds: true,
};
const nothing: Capabilities = {
  ...everything,
  limits: [],
  readonlyRoot: false,
  tmpfs: false,
  images: ["host"],
  volumes: false,
  binds: false,
};
const missing = { why: "alice has no cgroup here", fix: "ask root" };
const gvisorToo: Capabilities = { ...everything, isolation: ["container", "gvisor"] };
// Admission reads a runtime's name and capabilities, nothing else.
const runtimes = {
  able: { name: "able", capabilities: everything } as Runtime,
  unable: { name: "unable", capabilities: nothing } as Runtime,
  rootless: { name: "rootless", capabilities: { ...nothing, limitsMissing: missing } } as Runtime,
  walled: { name: "walled", capabilities: gvisorToo } as Runtime,
};
const config = { ...defaultConfig(), defaultTimeoutS: 60, defaultCpuNano: 5e8 };
const admitted = (input: CreateSandbox, settings = config) => {
  const request = parseInput(CreateSandbox, input);
  const name = chooseRuntime(request.runtime, { names: Object.keys(runtimes), defaultName: "able" });
  return admit(request, runtimes[name as keyof typeof runtimes], settings);
};

describe("what is refused", () => {
  it.each<[string, CreateSandbox, string]>([
    [
      "storage.volumes",
      { runtime: "unable", storage: { volumes: [{ name: "v", mount_path: "/v" }] } },
      "unsupported",
    ],
    [
      "storage.binds",
      { runtime: "unable", storage: { binds: [{ source: "/v", mount_path: "/v" }] } },
      "unsupported",
    ],
    [
      "storage.volumes.0.name",
      { storage: { volumes: [{ name: "../v", mount_path: "/v" }] } },
      "invalid_request",
    ],
    [
      "storage.volumes.0.mount_path",
      { storage: { volumes: [{ name: "v", mount_path: "/proc/v" }] } },
      "invalid_request",
    ],
    [
      "storage.binds.0.source",
      { storage: { binds: [{ source: "v", mount_path: "/v" }] } },
      "invalid_request",
    ],
    [
      "storage.binds.0.mount_path",
      {
        storage: { tmpfs: [{ path: "/v/", size: "1m" }], binds: [{ source: "/v", mount_path: "/v" }] },
      },
      "invalid_request",
    ],
    ["storage.s3", { storage: { s3: { bucket: "b", mode: "hooks" } } }, "unsupported"],
    ["disk_limit", { disk_limit: 1 }, "unsupported"],
    ["network_mode", { network_mode: "open" }, "unsupported"],
    ["network_mode", { network_mode: "NONE" }, "unsupported"],
    ["runtime", { runtime: "podman" }, "unsupported"],
    ["runtime", { runtime: "__proto__" }, "unsupported"],
    ["memory", { runtime: "unable", memory: 2 ** 30 }, "unsupported"],
    ["cpu", { runtime: "unable", cpu: 1e9 }, "unsupported"],
    ["pid_limit", { runtime: "unable", pid_limit: 10 }, "unsupported"],
    ["readonly_fs", { runtime: "unable", readonly_fs: true }, "unsupported"],
    ["readonly_fs", { runtime: "unable", writable_rootfs: false }, "unsupported"],
    ["storage.tmpfs", { runtime: "unable", storage: { tmpfs: [{ path: "/a", size: "1m" }] } }, "unsupported"],
    ["image", { runtime: "unable", image: "debian:12" }, "unsupported"],
    ["image", { runtime: "unable", image: "/some/where" }, "unsupported"],
    ["isolation", { isolation: "gvisor" }, "unsupported"],
    ["isolation", { isolation: "vm" as never }, "invalid_request"],
    ["image", { image: "a\0b" }, "invalid_request"],
    ["memory", { memory: 4095 }, "invalid_request"],
    ["memory", { memory: -1 }, "invalid_request"],
    ["memory", { memory: 1.5 }, "invalid_request"],
    ["cpu", { cpu: 1 }, "invalid_request"],
    ["cpu", { cpu: Number.MAX_SAFE_INTEGER }, "invalid_request"],
    ["pid_limit", { pid_limit: 1 }, "invalid_request"],
    ["pid_limit", { pid_limit: 2 ** 40 }, "invalid_request"],
    ["name", { name: "Not_A_Name" }, "invalid_request"],
    ["name", { name: "../x" }, "invalid_request"],
    ["user", { user: "root; id" }, "invalid_request"],
    ["workdir", { workdir: "relative" }, "invalid_request"],
    ["cmd", { cmd: [] }, "invalid_request"],
    ["cmd.0", { cmd: ["a\0b"] }, "invalid_request"],
    ["env.A", { env: { A: "\0" } }, "invalid_request"],
    ["env", { env: { "A=B": "" } }, "invalid_request"],
    ["timeout", { timeout: 1e12 }, "invalid_request"],
    ["timeout", { timeout: Number.NaN }, "invalid_request"],
    ["writable_rootfs", { readonly_fs: true, writable_rootfs: true }, "invalid_request"],
  ])("%s in %j: %s", (field, input, code) => {
    expect(() => admitted(input)).toThrow(
      expect.objectContaining({ code, message: expect.stringContaining(field) }),
    );
  });

  it.each([
    ["relative", "1m", ""],
    ["/", "1m", ""],
    ["//", "1m", ""],
    ["/proc", "1m", ""],
    ["/proc/x", "1m", ""],
    ["/./sys/", "1m", ""],
    ["/dev/shm", "1m", ""],
    ["/.warren/x", "1m", ""],
    ["/tmp/..", "1m", ""],
    ["/tmp/../etc", "1m", ""],
    ["/a\0b", "1m", ""],
    [`/${"a".repeat(5000)}`, "1m", ""],
    ["/a", "0", ""],
    ["/a", "5g", ""],
    ["/a", "1t", ""],
    ["/a", "-1", ""],
    ["/a", "1m", "suid"],
    ["/a", "1m", "rw,dev"],
    ["/a", "1m", "size=1g"],
    ["/a", "1m", "bind"],
  ])("a tmpfs at %j of %j with %j", (path, size, options) => {
    expect(() => admitted({ storage: { tmpfs: [{ path, size, options }] } })).toThrow(
      expect.objectContaining({
        code: "invalid_request",
        message: expect.stringContaining("storage.tmpfs.0"),
      }),
    );
  });

  it("two tmpfs at one place", () => {
    const tmpfs = [
      { path: "/a", size: "1m" },
      { path: "/a/", size: "1m" },
    ];
    expect(() => admitted({ storage: { tmpfs } })).toThrow(/mounted twice/);
  });

  it("nothing that is merely empty", () => {
    const empty = { ports: [], storage: { volumes: [], tmpfs: [] }, disk_limit: 0, network_mode: "" };
    expect(() => admitted({ ...empty, runtime: "unable" })).not.toThrow();
    expect(() => admitted({ network_mode: "none" })).not.toThrow();
  });
});

describe("isolation", () => {
  const gvisor = { runtime: "walled", isolation: "gvisor" } as const;

  it("is a container's unless asked for, and part of the spec", () => {
    const image = { id: "i", reference: "i", env: {} };
    expect(runtimeSpec("id", admitted({}), image).isolation).toBe("container");
    expect(runtimeSpec("id", admitted({ isolation: "container", runtime: "unable" }), image).isolation).toBe(
      "container",
    );
    expect(runtimeSpec("id", admitted(gvisor), image).isolation).toBe("gvisor");
  });

  it("names what the runtime can do where it can't do that", () => {
    expect(() => admitted({ isolation: "gvisor" })).toThrow(
      expect.objectContaining({
        message: 'isolation: the runtime able can\'t do "gvisor" here',
        hint: expect.stringContaining("container"),
      }),
    );
  });

  it("needs more memory and more threads with gVisor, of those who ask and of the defaults", () => {
    const little = { memory: 32 * 1024 ** 2 };
    expect(admitted(little).limits.memoryBytes).toBe(little.memory);
    expect(() => admitted({ ...gvisor, ...little })).toThrow(/^memory: must be at least 64 MiB with gvisor/);
    expect(() => admitted({ ...gvisor, pid_limit: 32 })).toThrow(
      /^pid_limit: must be at least 64 .* with gvisor/,
    );
    const tight = { ...config, defaultMemoryBytes: 8 * 1024 ** 2, defaultPids: 16 };
    expect(admitted(gvisor, tight).limits).toMatchObject({
      memoryBytes: 64 * 1024 ** 2,
      pids: 64,
    });
    const before = { isolation: "gvisor" as const, limits: admitted(gvisor).limits };
    expect(() => changedLimits(little, before, runtimes.walled, config)).toThrow(/with gvisor/);
  });
});

describe("defaults", () => {
  it("limits a sandbox that asks for none, as far as the runtime can", () => {
    expect(admitted({}).limits).toEqual({
      memoryBytes: config.defaultMemoryBytes,
      cpuNano: 5e8,
      pids: 512,
    });
    expect(admitted({ memory: 0, cpu: 0, pid_limit: 0 }).limits).toEqual(admitted({}).limits);
    expect(admitted({ runtime: "unable" }).limits).toEqual({ memoryBytes: 0, cpuNano: 0, pids: 0 });
    expect(config.defaultMemoryBytes).toBeGreaterThanOrEqual(512 * 1024 ** 2);
  });

  it("expires a sandbox after the server's default unless told otherwise", () => {
    expect(admitted({}).timeoutS).toBe(60);
    expect(admitted({ timeout: 0 }).timeoutS).toBe(60);
    expect(admitted({ timeout: 5 }).timeoutS).toBe(5);
    expect(admitted({ timeout: -7 }).timeoutS).toBeUndefined();
    expect(defaultConfig().defaultTimeoutS).toBe(1800);
  });

  it("gives a read-only root its writable places, parents before children", () => {
    const { readonlyRoot, tmpfs } = admitted({ readonly_fs: true });
    expect(readonlyRoot).toBe(true);
    expect(tmpfs.map((mount) => mount.path)).toEqual(["/home/sandbox", "/root", "/run", "/tmp", "/var/tmp"]);
    expect(admitted({ writable_rootfs: false }).tmpfs).toEqual(tmpfs);
    expect(admitted({}).tmpfs).toEqual([]);
  });

  it("lets a request replace those places, and normalises its paths", () => {
    const asked = [
      { path: "/tmp/", size: "1M", options: "ro,exec" },
      { path: "/data//cache/.", size: "65536" },
      { path: "/data", size: "1g", options: "exec,noexec" },
    ];
    const { tmpfs } = admitted({ readonly_fs: true, storage: { tmpfs: asked } });
    expect(tmpfs.find((mount) => mount.path === "/tmp")).toMatchObject({
      sizeBytes: 1024 ** 2,
      readonly: true,
      exec: true,
    });
    const paths = tmpfs.map((mount) => mount.path);
    expect(paths.indexOf("/data")).toBeLessThan(paths.indexOf("/data/cache"));
    expect(tmpfs.find((mount) => mount.path === "/data")).toMatchObject({ readonly: false, exec: false });
  });
});

describe("the spec", () => {
  it("mounts volumes and binds, parents first, instead of a default tmpfs", () => {
    const { mounts, tmpfs } = admitted({
      readonly_fs: true,
      storage: {
        volumes: [{ name: "cache", mount_path: "/w/cache/", read_only: true }],
        binds: [
          { source: "/home/a//b/", mount_path: "/w" },
          { source: "/x", mount_path: "/root" },
        ],
      },
    });
    expect(mounts).toEqual([
      { type: "bind", source: "/x", target: "/root", readonly: false },
      { type: "bind", source: "/home/a/b", target: "/w", readonly: false },
      { type: "volume", source: "cache", target: "/w/cache", readonly: true },
    ]);
    expect(tmpfs.map(({ path }) => path)).toEqual(["/home/sandbox", "/run", "/tmp", "/var/tmp"]);
  });

  const image = {
    id: "sha256:1",
    reference: "img",
    env: { A: "image", B: "image" },
    workdir: "/srv",
    user: "www",
    cmd: ["bash"],
  };

  it("takes the image's defaults where the request is silent, but not its command", () => {
    const spec = runtimeSpec("id", admitted({ env: { A: "mine" } }), image);
    expect(spec).toMatchObject({
      env: { A: "mine", B: "image" },
      workdir: "/srv",
      user: "www",
      hostname: "id",
      network: "none",
    });
    expect(spec).not.toHaveProperty("cmd");
  });

  it("prefers the request", () => {
    const spec = runtimeSpec("id", admitted({ name: "web", user: "1:2", workdir: "/x", cmd: ["a"] }), image);
    expect(spec).toMatchObject({ user: "1:2", workdir: "/x", cmd: ["a"], hostname: "web" });
  });

  it("does not trust an image's directory", () => {
    expect(runtimeSpec("id", admitted({}), { ...image, workdir: "../.." }).workdir).toBe("/");
  });
});

describe("limits that a host could have and doesn't enforce", () => {
  it.each<[string, CreateSandbox]>([
    ["memory", {}],
    ["memory", { memory: 2 ** 30 }],
    ["cpu", { unlimited: true, cpu: 1e9 }],
    ["pid_limit", { unlimited: true, pid_limit: 10 }],
  ])("refuses %s of %j with the reason and what mends it", (field, input) => {
    const refusal = () => admitted({ runtime: "rootless", ...input });
    expect(refusal).toThrowError(expect.objectContaining({ code: "unsupported" }));
    expect(refusal).toThrowError(new RegExp(`^${field}: .*${missing.why}`));
    expect(refusal).toThrowError(expect.objectContaining({ hint: expect.stringContaining(missing.fix) }));
  });

  it("goes without them when it is asked to, for a sandbox or for all", () => {
    const none = { memoryBytes: 0, cpuNano: 0, pids: 0 };
    expect(admitted({ runtime: "rootless", unlimited: true }).limits).toEqual(none);
    const unlimited = { ...config, defaultMemoryBytes: 0, defaultCpuNano: 0, defaultPids: 0 };
    expect(admitted({ runtime: "rootless" }, unlimited).limits).toEqual(none);
    expect(admitted({ unlimited: true, memory: 2 ** 30 }).limits).toEqual({ ...none, memoryBytes: 2 ** 30 });
  });
});
