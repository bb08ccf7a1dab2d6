// Side by side in one run: Warren through HTTP and SDK, and its peers as their users drive them. Subjects take turns within
// each round, so that a slow moment of the machine hits all of them. Raw samples go to bench/results/.
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { cpus, release, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { summarise, timed } from "./measure.ts";
import type { Box, Subject } from "./subject.ts";
import { bubblewrap } from "./subjects/bubblewrap.ts";
import { engineCli } from "./subjects/engine-cli.ts";
import { bareOci } from "./subjects/oci-bare.ts";
import { warren } from "./subjects/warren.ts";

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "30" },
    burst: { type: "string", default: "100" },
    idle: { type: "string", default: "0" },
    only: { type: "string" },
    out: { type: "string", default: "bench/results/latest.json" },
  },
});
const rounds = Number(values.rounds);
const MIB = 1 << 20;

type Samples = Record<string, Record<string, number[]>>;
const samples: Samples = {};
const record = (what: string, who: string, ms: number): void => {
  samples[what] ??= {};
  const row = samples[what];
  row[who] ??= [];
  row[who].push(ms);
};
const say = (line: string): void => void process.stderr.write(`${line}\n`);

const scratch = await mkdtemp(join(tmpdir(), "warren-bench-"));
const rootfs = join(scratch, "rootfs");
const crun = warren("crun");
const all: Subject[] = [
  crun,
  warren("runc"),
  bareOci("crun"),
  bareOci("runc"),
  bubblewrap(),
  engineCli("podman"),
  engineCli("docker"),
];
const subjects: Subject[] = [];
const absent: Record<string, string> = {};
try {
  await makeRootfs();
  for (const subject of all) {
    if (values.only && !values.only.split(",").some((part) => subject.name.includes(part))) continue;
    const why = await subject.unavailable();
    if (why) {
      absent[subject.name] = why;
      say(`left out: ${subject.name}: ${why}`);
      continue;
    }
    await subject.prepare(rootfs, scratch);
    subjects.push(subject);
  }
  await lifecycleRounds();
  await execRounds();
  await fileRounds();
  if (subjects.includes(crun)) {
    await burst(Number(values.burst));
    if (Number(values.idle) > 0) await idle(Number(values.idle));
  }
} catch (error) {
  say(`stopped: ${error instanceof Error ? error.stack : String(error)}`);
  process.exitCode = 1;
} finally {
  for (const subject of subjects) await subject.close();
  await rm(scratch, { recursive: true, force: true });
}
await report();
process.exit();

async function makeRootfs(): Promise<void> {
  for (const dir of ["bin", "tmp", "proc", "dev", "sys", "etc", "run"])
    await mkdir(join(rootfs, dir), { recursive: true });
  await cp("/bin/busybox", join(rootfs, "bin/busybox"));
  for (const name of ["sh", "echo", "sleep", "true", "cat"])
    await symlink("busybox", join(rootfs, "bin", name));
}

async function lifecycleRounds(): Promise<void> {
  for (let round = -2; round < rounds; round++) {
    for (const subject of subjects) {
      let box: Box | undefined;
      const create = await timed(async () => {
        box = await subject.create();
      });
      const destroy = await timed(async () => box?.destroy());
      if (round < 0) continue; // warm-up
      record("create to first stdout", subject.name, create);
      record("destroy", subject.name, destroy);
    }
  }
  say("create and destroy: done");
}

async function execRounds(): Promise<void> {
  const boxes = new Map<Subject, Box>();
  for (const subject of subjects) boxes.set(subject, await subject.create());
  for (let round = -5; round < rounds * 3; round++) {
    for (const [subject, box] of boxes) {
      const ms = await timed(() => box.exec(["/bin/true"]));
      if (round >= 0) record("exec /bin/true", subject.name, ms);
    }
  }
  for (const box of boxes.values()) await box.destroy();
  say("exec: done");
}

async function fileRounds(): Promise<void> {
  const small = new Uint8Array(1024).fill(7);
  const large = new Uint8Array(100 * MIB).fill(7);
  for (const subject of subjects) {
    const box = await subject.create();
    const { write, read } = box;
    if (write && read) {
      for (let round = -5; round < rounds * 3; round++) {
        const up = await timed(() => write("/tmp/small", small));
        const down = await timed(() => read("/tmp/small"));
        if (round < 0) continue;
        record("write 1 KiB", subject.name, up);
        record("read 1 KiB", subject.name, down);
      }
      for (let round = 0; round < Math.max(3, rounds / 10); round++) {
        record("write 100 MiB", subject.name, await timed(() => write("/tmp/large", large)));
        record("read 100 MiB", subject.name, await timed(() => read("/tmp/large")));
      }
    }
    await box.destroy();
  }
  say("files: done");
}

/** All creates at once. How long `health` takes meanwhile shows how long the engine's event loop is held up. */
async function burst(count: number): Promise<void> {
  let going = true;
  const probe = (async () => {
    while (going) {
      record("health during burst", crun.name, await timed(() => crun.api().health()));
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  const boxes: Box[] = [];
  const whole = await timed(async () => {
    boxes.push(...(await Promise.all(Array.from({ length: count }, () => crun.create()))));
  });
  going = false;
  await probe;
  record(`burst of ${count} creates, whole`, crun.name, whole);
  record(
    `destroy of ${count}, whole`,
    crun.name,
    await timed(() => Promise.all(boxes.map((box) => box.destroy()))),
  );
  say("burst: done");
}

async function idle(count: number): Promise<void> {
  const available = async (): Promise<number> => {
    const { readFile } = await import("node:fs/promises");
    return Number(/MemAvailable:\s+(\d+)/.exec(await readFile("/proc/meminfo", "utf8"))?.[1]) / 1024;
  };
  const before = await available();
  const boxes: Box[] = [];
  while (boxes.length < count) {
    const group = Math.min(8, count - boxes.length);
    boxes.push(...(await Promise.all(Array.from({ length: group }, () => crun.create()))));
  }
  record(`memory of ${count} idle sandboxes, MiB`, crun.name, before - (await available()));
  for (let round = 0; round < 200; round++) {
    const box = boxes[(round * 37) % boxes.length];
    if (box)
      record(`exec with ${count} idle sandboxes`, crun.name, await timed(() => box.exec(["/bin/true"])));
  }
  for (let at = 0; at < boxes.length; at += 8)
    await Promise.all(boxes.slice(at, at + 8).map((box) => box.destroy()));
  say("idle: done");
}

async function report(): Promise<void> {
  const machine = {
    kernel: release(),
    cpu: cpus()[0]?.model,
    cores: cpus().length,
    memoryMiB: Math.round(totalmem() / MIB),
    node: process.version,
  };
  await mkdir("bench/results", { recursive: true });
  await writeFile(
    values.out,
    `${JSON.stringify({ date: new Date().toISOString(), machine, rounds, absent, samples }, null, 1)}\n`,
  );
  const lines = ["| what | who | p50 ms | p99 ms | n | p50 / Warren's |", "|---|---|---|---|---|---|"];
  for (const [what, rows] of Object.entries(samples)) {
    const base = rows[crun.name] && summarise(rows[crun.name] ?? []).p50;
    for (const [who, list] of Object.entries(rows)) {
      const s = summarise(list);
      const ratio = base ? (s.p50 / base).toFixed(2) : "";
      lines.push(`| ${what} | ${who} | ${s.p50.toFixed(2)} | ${s.p99.toFixed(2)} | ${s.n} | ${ratio} |`);
    }
  }
  process.stdout.write(`${lines.join("\n")}\n`);
}
