import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import Database from "libsql";
import { afterAll, beforeAll, expect, it } from "vitest";
import { eventually } from "../../src/testing/wait.ts";
import { type Lab, makeLab } from "./support/lab.ts";
import { type LabEngine, serveInLab } from "./support/serve.ts";

let lab: Lab;
let engine: LabEngine;
beforeAll(async () => {
  lab = await makeLab();
  engine = await serveInLab(lab, ["--runtime", "oci"]);
});
afterAll(async () => {
  await engine.close();
  await lab.end();
});

async function reaches(id: string, ...hosts: string[]): Promise<string> {
  const dial = `use IO::Socket::IP; print join " ", map { IO::Socket::IP->new(PeerHost => $_, PeerPort => ${lab.places.port}, Timeout => 4) ? "open" : "shut" } @ARGV`;
  return (await engine.api.exec(id, { cmd: ["perl", "-e", dial, ...hosts] })).stdout;
}

/** What the audit log has of this sandbox. */
function records(id: string, wanted: "policy" | "decision"): Record<string, unknown>[] {
  return readFileSync(join(engine.stateDir, "audit.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
    .filter(({ type, sandbox }) => type === wanted && sandbox === id);
}
const audited = (id: string) => records(id, "policy").map(({ rules }) => rules);

/** Pids of the processes that hear what this sandbox is denied. */
function watchers(guest: number): number[] {
  return readdirSync("/proc")
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => readText(`/proc/${pid}/cmdline`).includes(`--watch-guard\0${guest}\0`))
    .map(Number);
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // it has ended
  }
}

/** A batch of nf_tables that deletes the table of this name in family inet. */
const deleteTable = `use Socket; my $name = pack("SSa8", 11, 1, "warren");
  my $mark = sub { pack("LSSLLCCn", 20, $_[0], 1, 1, 0, 0, 0, 10) };
  socket(my $n, 16, SOCK_RAW, 12) or die $!;
  send($n, $mark->(16) . pack("LSSLLCCn", 20 + length $name, 0xa02, 5, 2, 0, 1, 0, 0) . $name . $mark->(17), 0, pack("SSLL", 16, 0, 0, 0));
  recv($n, my $answer, 65536, 0); exit(unpack("x16 l", $answer) == 0 ? 0 : 1)`;

it("are the old ones, told and stored so, when the new ones can't be put in force", async () => {
  const { api } = engine;
  const { named, outside } = lab.places;
  const before = { allow: [named] };
  const { id, pid } = await api.create({ network_mode: "open", network: before });
  // As of a guest that has made none which could be changed.
  execFileSync("nsenter", ["-t", String(pid), "-n", "perl", "-e", deleteTable]);
  const refused = { code: "unsupported", hint: expect.stringContaining("warren stop") };
  await expect(api.network.set(id, { deny: [outside[0]] })).rejects.toMatchObject(refused);
  expect(await api.network.get(id)).toMatchObject({ rules: before });
  expect(audited(id)).toEqual([before, { deny: [outside[0]] }, before]);
  await api.stop(id, { timeoutMs: 0 });
  await api.start(id);
  expect(await reaches(id, outside[0], named)).toBe("open open");
  await api.network.set(id, { deny: [outside[0]] });
  expect(await reaches(id, outside[0], named)).toBe("shut shut");
});

it("come one after the other, whoever asks for them at the same time", async () => {
  const { api } = engine;
  const { named, outside } = lab.places;
  const { id } = await api.create({ network_mode: "open" });
  const some = Array.from({ length: 8 }, (_, i) => `10.9.${i}.0/24`);
  await Promise.all(some.map((rule) => api.network.change(id, { allow: [rule] })));
  expect((await api.get(id)).network?.allow?.toSorted()).toEqual(some);
  expect(await reaches(id, outside[0], named)).toBe("open shut");
  await Promise.all([api.network.change(id, { allow: [named] }), api.stop(id), api.start(id)]);
  expect(await reaches(id, outside[0], named)).toBe("open open");
});

it("deny what is audited, by the next engine too, and deny it when nobody is there to tell", async () => {
  const { api } = engine;
  const { named, port } = lab.places;
  const { id, pid = 0 } = await api.create({ network_mode: "open" });
  const denial = { host: named, port, protocol: "tcp", allowed: false, cause: "internal" };
  expect(await reaches(id, named)).toBe("shut");
  expect(records(id, "decision")).toMatchObject([denial]);
  const first = watchers(pid);
  await engine.kill();
  await eventually("its end", () => watchers(pid).length === 0);
  await engine.start();
  expect(await reaches(id, named)).toBe("shut");
  expect(records(id, "decision")).toMatchObject([denial, denial]);
  const [second = 0, ...others] = watchers(pid);
  expect([first.length, others]).toEqual([1, []]);
  process.kill(second, "SIGKILL");
  await eventually("what the network says", async () => !(await api.network.get(id)).records);
  expect(await reaches(id, named)).toBe("shut");
  expect(records(id, "decision")).toHaveLength(2);
  await api.stop(id, { timeoutMs: 0 });
  const { pid: next = 0 } = await api.start(id);
  await eventually("who watches", () => watchers(next).length === 1);
  expect(await api.network.get(id)).toMatchObject({ records: true });
  await api.remove(id);
  await eventually("its end", () => watchers(next).length === 0);
});

it("are in force or the sandbox is stopped, when the next engine can't have them in force", async () => {
  const { api } = engine;
  const { id } = await api.create({ network_mode: "open" });
  await engine.kill();
  const database = new Database(join(engine.stateDir, "engine.db"));
  const broken = `UPDATE sandboxes SET spec = json_set(spec, '$.reach.rules', json('["x"]')) WHERE id = ?`;
  expect(database.prepare(broken).run(id).changes).toBe(1);
  database.close();
  await engine.start();
  expect(await api.get(id)).toMatchObject({ status: "stopped", error: expect.stringContaining("rules") });
  await api.network.set(id, {});
  await api.start(id);
  expect(await reaches(id, lab.places.outside[0], lab.places.named)).toBe("open shut");
});

it("are in force again after the engine was killed, and follow this machine into other networks", async () => {
  const { api } = engine;
  const { named, outside } = lab.places;
  const { id } = await api.create({ network_mode: "open" });
  await api.network.set(id, { allow: [named] });
  await engine.kill();
  const onHost = (...args: string[]) =>
    execFileSync(lab.onHost[0] as string, [...lab.onHost.slice(1), "ip", ...args]);
  onHost("addr", "add", `${outside[0].replace(/\d+$/, "77")}/24`, "dev", "lo");
  try {
    await engine.start();
    expect(await reaches(id, named, outside[0])).toBe("open shut");
    expect(await api.network.explain(id, outside[0], lab.places.port)).toMatchObject({
      allowed: false,
      reason: expect.stringContaining("a network that this machine is in"),
    });
  } finally {
    onHost("addr", "del", `${outside[0].replace(/\d+$/, "77")}/24`, "dev", "lo");
  }
});
