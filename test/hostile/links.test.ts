import { randomBytes } from "node:crypto";
import { appendFile, mkdir, readFile, rm, symlink, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { type Lab, openLab, outputOf } from "./support/lab.ts";
import { someOf } from "./support/long.ts";

let lab: Lab;
let sandbox: string;
/** One in a temporary directory, one in the state directory, one in another sandbox's directory there. */
let canaries: Canary[];
let other: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["links", "cat"] });
  sandbox = await lab.sandbox();
  other = await lab.sandbox();
  const otherDir = join(lab.stateDir, "oci", "sandboxes", other);
  canaries = [
    await plantCanary(join(lab.dir, "canary")),
    await plantCanary(join(lab.stateDir, "canary")),
    await plantCanary(join(otherDir, "fs", "upper", "canary")),
  ];
});
afterAll(() => lab?.[Symbol.asyncDispose]());

let before: unknown[];
beforeEach(async () => {
  before = await Promise.all(canaries.map((canary) => canary.state()));
});
afterEach(async () => {
  expect(await Promise.all(canaries.map((canary) => canary.state()))).toEqual(before);
});

/** Where links may point: prefix + the host's path of a canary. All that a name could lead through. */
const prefixes = [
  "",
  "../../../../../../../../../..",
  "/proc/1/root",
  "/proc/self/root",
  "/proc/thread-self/root",
  "/proc/1/cwd",
  "/proc/self/cwd",
  "/proc/1/root/proc/1/root/../../..",
  "/dev/fd/3/../../../..",
  "/proc/self/fd/3",
  "/proc/self/fd/5/..",
  "/proc/self/task/1/root",
  "/proc/2/root",
];

/** Every call of the files API on `path`, which is or leads through a link; what each gave, or the code of its error. */
async function callAll(path: string): Promise<string[]> {
  const { files } = lab.engine;
  const scratch = `/tmp/${randomBytes(6).toString("hex")}`;
  const watching = AbortSignal.timeout(30);
  const calls: (() => Promise<unknown>)[] = [
    async () => {
      const { info, body } = await files.read(sandbox, path);
      const chunks: Uint8Array[] = [];
      for await (const chunk of body) chunks.push(chunk);
      return [info, Buffer.concat(chunks).toString()];
    },
    () => files.stat(sandbox, path),
    () => files.list(sandbox, path),
    () => files.chmod(sandbox, path, 0o777),
    () => files.mkdir(sandbox, `${path}/made/inside`),
    () => files.write(sandbox, `${path}/written`, Buffer.from("x")),
    () => files.write(sandbox, path, Buffer.from("x"), { parents: false }),
    () => files.write(sandbox, path, Buffer.from("x"), { append: true }),
    () => files.rename(sandbox, `${path}/secret`, scratch),
    () =>
      files
        .rename(sandbox, "/etc/group", `${path}/group`)
        .then(() => files.rename(sandbox, `${path}/group`, "/etc/group")),
    async () => {
      const events: unknown[] = [];
      for await (const event of files.watch(sandbox, path, { recursive: true, signal: watching }))
        events.push(event);
      return events;
    },
    () => files.remove(sandbox, `${path}/secret`),
    () => files.remove(sandbox, `${path}/sub`),
    () => files.remove(sandbox, path),
  ];
  const results: string[] = [];
  for (const call of calls) {
    results.push(
      await call().then(
        (value) => JSON.stringify(value) ?? "done",
        (error: unknown) => {
          expect(error).toBeInstanceOf(WarrenError);
          return (error as WarrenError).code;
        },
      ),
    );
  }
  await files.remove(sandbox, scratch);
  return results;
}

describe("links made inside", () => {
  it.each(prefixes)(
    "to `%s` + a path of the host lead to nothing of the host, in any call",
    async (prefix) => {
      const turn = prefixes.indexOf(prefix);
      for (const canary of someOf(canaries, turn, 2)) {
        for (const target of someOf([canary.dir, canary.file], turn)) {
          const [link, through] = [
            `/tmp/l${randomBytes(4).toString("hex")}`,
            `/tmp/t${randomBytes(4).toString("hex")}`,
          ];
          outputOf(
            await lab.attack(sandbox, "links", [prefix + target, link, prefix + dirname(target), through]),
          );
          for (const path of [link, `${through}/${target.split("/").at(-1)}`]) {
            const results = await callAll(path);
            expect(results.join()).not.toContain(canary.token);
            expect(results.includes("internal")).toBe(false);
          }
          await lab.engine.files.remove(sandbox, link);
          await lab.engine.files.remove(sandbox, through);
        }
      }
      outputOf(await lab.attack(sandbox, "cat", ["/etc/passwd"]));
    },
  );

  it("lead there without the guard: a host that opens the path itself is had", async () => {
    const [canary] = canaries;
    const root = join(lab.dir, "naive");
    await mkdir(root, { recursive: true });
    await symlink(canary?.file ?? "", join(root, "link"));
    expect(await readFile(join(root, "link"), "utf8")).toBe(canary?.token);
    await rm(root, { recursive: true });
  });
});

describe("paths that are links by nature", () => {
  const paths = [
    ...prefixes.filter((prefix) => prefix.startsWith("/")),
    "/proc/1/exe",
    "/proc/1/fd",
    "/proc/1/map_files",
    "/proc/self/fd",
    "/proc/self/exe",
    "/dev/fd",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/core",
  ];
  it.each(paths)("%s gives and changes nothing of the host, in any call", async (path) => {
    for (const canary of canaries) {
      const results = [
        ...(await Promise.all(
          [`${path}${canary.file}`, `${path}/..${canary.file}`].map((file) =>
            lab.engine.files.read(sandbox, file).then(
              async ({ body }) => {
                let text = "";
                for await (const chunk of body) text += Buffer.from(chunk).toString();
                return text;
              },
              (error: unknown) => {
                expect(error).toBeInstanceOf(WarrenError);
                return (error as WarrenError).code;
              },
            ),
          ),
        )),
      ];
      expect(results.join()).not.toContain(canary.token);
      expect(results.includes("internal")).toBe(false);
    }
  });

  it("/etc/shadow of the host is never what is read inside", async () => {
    const onHost = await readFile("/etc/shadow", "utf8");
    const id = await lab.sandbox({ image: "host" });
    for (const path of [
      "/etc/shadow",
      "/proc/1/root/etc/shadow",
      "/proc/self/root/etc/shadow",
      "/etc/shadow-",
    ]) {
      const text = await lab.engine.files.read(id, path).then(
        async ({ body }) => {
          let all = "";
          for await (const chunk of body) all += Buffer.from(chunk).toString();
          return all;
        },
        () => "",
      );
      expect(text).not.toBe(onHost);
    }
    await lab.engine.remove(id);
  });
});

it("watching a path that has the host's name tells of the sandbox's file only", async () => {
  const dir = join(lab.dir, "watched");
  await mkdir(dir);
  await lab.engine.files.mkdir(sandbox, dir);
  outputOf(await lab.attack(sandbox, "links", [dir, "/tmp/watched", "/", "/tmp/watched-root"]));
  const stop = new AbortController();
  const events: string[] = [];
  const watching = (async () => {
    const options = { recursive: true, signal: stop.signal };
    for await (const { path } of lab.engine.files.watch(sandbox, "/tmp/watched", options)) {
      events.push(path);
      if (path.includes("inside")) stop.abort();
    }
  })().catch(() => {});
  // The watch is begun at some moment: writes go on until one is told.
  const until = Date.now() + 30_000;
  for (let i = 0; !stop.signal.aborted && Date.now() < until; i++) {
    await appendFile(join(dir, "outside"), "x");
    await utimes(join(dir, "outside"), i, i);
    await lab.engine.files.write(sandbox, `${dir}/inside`, Buffer.from("x"));
    await sleep(5);
  }
  stop.abort();
  await watching;
  expect(events.some((path) => path.includes("inside"))).toBe(true);
  expect(events.filter((path) => path.includes("outside"))).toEqual([]);
});
