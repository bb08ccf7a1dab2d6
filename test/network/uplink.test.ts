import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { eventually } from "../../src/testing/wait.ts";
import { type Lab, makeLab } from "./support/lab.ts";
import { type LabEngine, serveInLab } from "./support/serve.ts";

let lab: Lab;
let engine: LabEngine;
beforeAll(async () => {
  lab = await makeLab();
});
afterAll(() => lab.end());

interface Uplink {
  pid: number;
  name: string;
  cgroup: string;
  status: string;
}

/** Keepers and stacks that belong to a cgroup of this sandbox, or of all sandboxes of an engine. */
function uplinks(id: string): Uplink[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [name = "", cgroup = "", status = ""] = ["comm", "cgroup", "status"].map((file) =>
          readFileSync(`/proc/${pid}/${file}`, "utf8").trim(),
        );
        const isOne =
          /^(warren-uplink|slirp4netns|pasta|passt)/.test(name) && !/^State:\s+[ZX]/m.test(status);
        return isOne && cgroup.includes(`warren-`) && cgroup.includes(id)
          ? [{ pid: Number(pid), name, cgroup, status }]
          : [];
      } catch {
        return []; // it has ended
      }
    });
}

const keeperOf = (id: string) => uplinks(id).find(({ name }) => name === "warren-uplink");
const stackOf = (id: string) => uplinks(id).find(({ name }) => name !== "warren-uplink");

async function reaches(id: string, ...hosts: string[]): Promise<string> {
  const dial = `use IO::Socket::IP; print join " ", map { IO::Socket::IP->new(PeerHost => $_, PeerPort => ${lab.places.port}, Timeout => 4) ? "open" : "shut" } @ARGV`;
  return (await engine.api.exec(id, { cmd: ["perl", "-e", dial, ...hosts] })).stdout;
}
const usual = () => [lab.places.outside[0], lab.places.named];

describe.each([
  // CAP_NET_BIND_SERVICE, and with pasta CAP_SYS_ADMIN, by which it enters the sandbox's network namespace.
  { uplink: "slirp4netns", stack: /^slirp4netns$/, capabilities: "400" },
  { uplink: "pasta", stack: /^(pasta|passt)/, capabilities: "200400" },
])("what carries open network: $uplink", ({ uplink, stack, capabilities }) => {
  beforeAll(async () => {
    engine = await serveInLab(lab, ["--runtime", "oci", "--uplink", uplink]);
  });
  afterAll(async () => {
    const owner = readFileSync(join(engine.stateDir, "owner"), "utf8").trim();
    await engine.close();
    expect(uplinks(`warren-${owner}`)).toEqual([]);
  });

  it("has no privilege, counts as the sandbox's, and ends with it", async () => {
    const { api } = engine;
    const { id, pid } = await api.create({ network_mode: "open" });
    const found = uplinks(id);
    expect(found).toHaveLength(2);
    expect(stackOf(id)?.name).toMatch(stack);
    const rootInside = Number(readFileSync(`/proc/${pid}/uid_map`, "utf8").trim().split(/\s+/)[1]);
    for (const { status, name } of found) {
      expect(status).toMatch(new RegExp(`^Uid:\\s+${rootInside}\\s+${rootInside}\\s+${rootInside}\\s`, "m"));
      // Of the sandbox's user namespace.
      const held = name === "warren-uplink" ? "0" : capabilities;
      expect(status).toMatch(new RegExp(`^CapEff:\\s+0*${held}$`, "m"));
      expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
      if (name !== "warren-uplink") expect(status).toMatch(/^Seccomp:\s+2$/m);
    }
    await api.stop(id);
    expect(uplinks(id)).toEqual([]);
    await api.start(id);
    expect(uplinks(id)).toHaveLength(2);
    await api.remove(id);
    expect(uplinks(id)).toEqual([]);
  });

  it("is started again when it was killed, with nothing opened meanwhile", async () => {
    const { id } = await engine.api.create({ network_mode: "open" });
    const before = stackOf(id);
    process.kill(before?.pid ?? 0, "SIGKILL");
    await eventually("another stack", () => {
      const now = stackOf(id);
      return now !== undefined && now.pid !== before?.pid;
    });
    await eventually("the network", async () => (await reaches(id, ...usual())) === "open shut");
  });

  it("takes the sandbox with it when its keeper was killed, which can be started again", async () => {
    const { api } = engine;
    const { id } = await api.create({ network_mode: "open" });
    process.kill(keeperOf(id)?.pid ?? 0, "SIGKILL");
    await eventually("the end", async () => (await api.get(id)).status === "stopped");
    expect(uplinks(id)).toEqual([]);
    await api.start(id);
    expect(await reaches(id, ...usual())).toBe("open shut");
  });

  it("goes on without the engine, and is the next one's", async () => {
    const { id } = await engine.api.create({ network_mode: "open" });
    const before = uplinks(id).map(({ pid }) => pid);
    await engine.kill();
    expect(uplinks(id).map(({ pid }) => pid)).toEqual(before);
    await engine.start();
    expect(uplinks(id).map(({ pid }) => pid)).toEqual(before);
    expect(await engine.api.get(id)).toMatchObject({ status: "running", network_mode: "open" });
    expect(await reaches(id, ...usual())).toBe("open shut");
    await engine.api.remove(id);
    expect(uplinks(id)).toEqual([]);
  });

  it("ends with its keeper, and the sandbox with both, also while no engine looks", async () => {
    const { id } = await engine.api.create({ network_mode: "open" });
    await engine.kill();
    process.kill(keeperOf(id)?.pid ?? 0, "SIGKILL");
    await eventually("the end", () => uplinks(id).length === 0);
    await engine.start();
    expect(await engine.api.get(id)).toMatchObject({ status: "stopped" });
    await engine.api.remove(id);
  });

  it("ends with a sandbox whose first process was killed", async () => {
    const { api } = engine;
    const { id, pid } = await api.create({ network_mode: "open" });
    process.kill(pid ?? 0, "SIGKILL");
    await eventually("the end", () => uplinks(id).length === 0);
    await eventually("the state", async () => (await api.get(id)).status === "stopped");
  });

  it("gives a sandbox with network host the machine's own", async () => {
    const { id } = await engine.api.create({ network_mode: "host" });
    expect(uplinks(id)).toEqual([]);
    expect(await reaches(id, "127.0.0.1", lab.places.outside[0], lab.places.named, "outside.test")).toBe(
      "open open open open",
    );
    const inside = await engine.api.exec(id, { cmd: ["readlink", "/proc/self/ns/net"] });
    expect(inside.stdout.trim()).toBe(readlinkSync(`/proc/${lab.hostPid}/ns/net`));
    expect((await engine.api.exec(id, { cmd: ["ip", "link", "set", "up0", "down"] })).exit_code).not.toBe(0);
    await engine.api.stop(id);
    await engine.api.start(id);
    expect(await reaches(id, "127.0.0.1")).toBe("open");
  });
});
