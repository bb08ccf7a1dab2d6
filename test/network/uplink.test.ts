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

  it("shares no UDP port of the machine with another sandbox's", async () => {
    const { api } = engine;
    const [first, second] = await Promise.all([1, 2].map(() => api.create({ network_mode: "open" })));
    if (!first || !second) throw new Error("no sandboxes");
    // From the same port, to the same server. Says what it gets, and sends once more when there is a file.
    const talk = `use Socket; $| = 1; socket(my $s, AF_INET, SOCK_DGRAM, 0); bind($s, sockaddr_in(40000, INADDR_ANY));
      my ($word, $host, $file) = @ARGV; my $to = sockaddr_in(${lab.places.port}, inet_aton($host));
      send($s, $word, 0, $to); print "sent\\n";
      my $end = time + 30; while ($file && !-e $file && time < $end) { select undef, undef, undef, 0.02 }
      send($s, "again", 0, $to) if $file;
      while (1) { vec(my $r = "", fileno $s, 1) = 1; select($r, undef, undef, 1) or last; recv($s, my $got, 99, 0); print "$got\\n" }`;
    const host = lab.places.outside[0];
    const cmd = ["perl", "-e", talk, "hold", host, "/tmp/go"];
    const holding = await api.execStream(first.id, { cmd });
    let said = "";
    const listening = (async () => {
      for await (const { stream, data } of holding.output)
        if (stream === "stdout") said += Buffer.from(data).toString();
    })();
    await eventually("the question", () => said.includes("sent"));
    const other = await api.exec(second.id, { cmd: ["perl", "-e", talk, "mine", host] });
    expect(other.stdout).not.toContain("held");
    await api.files.write(first.id, "/tmp/go", Buffer.from("go"));
    await listening;
    expect(said).toContain("held\n");
    await Promise.all([first, second].map(({ id }) => api.remove(id)));
  });

  it.skipIf(process.env.WARREN_LONG !== "1")(
    "carries as many connections as the guard lets through [runs with WARREN_LONG=1]",
    async () => {
      const { id } = await engine.api.create({ network_mode: "open" });
      const dial = `use IO::Socket::IP; my @s; for (1..4200) { my $s = IO::Socket::IP->new(PeerHost => $ARGV[0],
        PeerPort => ${lab.places.port}, Timeout => 4) or next; push @s, $s } print scalar @s`;
      const cmd = ["perl", "-e", dial, lab.places.outside[0]];
      expect((await engine.api.exec(id, { cmd, timeout: 120 })).stdout).toBe("4096");
    },
    150_000,
  );

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
    // The stack hears of its keeper's end by a signal of its own.
    await eventually("the stack's end", () => uplinks(id).length === 0);
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
