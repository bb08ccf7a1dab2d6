import { execFileSync } from "node:child_process";
import { chmod, copyFile, mkdir, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { StorageConfig } from "../../src/contracts/storage.ts";
import { type Canary, plantCanary } from "./support/canary.ts";
import { ATTACKS, type Lab, openLab, outcomesOf, outputOf } from "./support/lab.ts";
import { raceStarts, raceTimeoutMs } from "./support/long.ts";
import { startOnHost } from "./support/on-host.ts";

let lab: Lab;
let canary: Canary;
beforeAll(async () => {
  lab = await openLab({ programs: ["racer", "links", "cat", "who"] });
  canary = await plantCanary(join(lab.dir, "canary"));
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** A directory of the host in which `p` holds a file `secret`, and `q` is a link to the canary. */
async function raceTrack(name: string): Promise<string> {
  const dir = join(lab.dir, name);
  await mkdir(join(dir, "p"), { recursive: true });
  await writeFile(join(dir, "p/secret"), "inside");
  await symlink(canary.dir, join(dir, "q"));
  return dir;
}

/** Starts an attacker that exchanges `p` and `q` of what it has mounted at /shared. */
async function attacker(storage: StorageConfig): Promise<{ swaps(): Promise<number> }> {
  const id = await lab.sandbox({ storage });
  const session = await lab.engine.execStream(id, { cmd: [`${ATTACKS}/racer`, "/shared/p", "/shared/q"] });
  const text = (async () => {
    let all = "";
    for await (const { data } of session.output) all += Buffer.from(data).toString();
    return all;
  })();
  return {
    async swaps() {
      await session.signal("SIGTERM");
      const swaps = Number(/swaps (\d+)/.exec(await text)?.[1]);
      await lab.engine.remove(id);
      return swaps;
    },
  };
}

/** Starts the victim again and again; what it saw at `file`, and how often it was refused. */
async function startAgainAndAgain(storage: StorageConfig, file: string): Promise<Map<string, number>> {
  const outcomes = new Map<string, number>();
  const count = (outcome: string) => outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
  for (let i = 0; i < raceStarts; i++) {
    try {
      const id = await lab.sandbox({ storage });
      try {
        const seen = await lab.attack(id, "cat", [file]);
        count(seen.exit_code === 0 ? seen.stdout : "nothing");
      } finally {
        await lab.engine.remove(id);
      }
    } catch (error) {
      if (!(error instanceof WarrenError)) throw error;
      count(error.code);
    }
  }
  return outcomes;
}

describe("a directory that another sandbox exchanges for a link to the host's, as fast as it can", () => {
  it(
    "is not followed as the source of a bind",
    async () => {
      const before = await canary.state();
      const track = await raceTrack("source");
      const race = await attacker({ binds: [{ source: track, mount_path: "/shared" }] });
      const binds = [{ source: join(track, "p"), mount_path: "/victim" }];
      const outcomes = await startAgainAndAgain({ binds }, "/victim/secret");
      expect(await race.swaps()).toBeGreaterThan(100);
      // What was refused was a link in that moment, when it was looked at or when it was opened.
      const [inside = 0, refused = 0] = [outcomes.get("inside"), outcomes.get("invalid_request")];
      expect(inside).toBeGreaterThan(0);
      expect(refused).toBeGreaterThan(0);
      const late = outcomes.get("runtime_failed") ?? 0;
      expect(inside + refused + late).toBe(raceStarts);
      expect(await canary.state()).toEqual(before);
      await rm(track, { recursive: true });
    },
    raceTimeoutMs,
  );

  it(
    "is not followed as the place of a mount",
    async () => {
      const before = await canary.state();
      const track = await raceTrack("target");
      const source = join(lab.dir, "source-of-target");
      await mkdir(source);
      await writeFile(join(source, "secret"), "mounted");
      const race = await attacker({ binds: [{ source: track, mount_path: "/shared" }] });
      const binds = [
        { source: track, mount_path: "/victim" },
        { source, mount_path: "/victim/p/made/by/mount" },
      ];
      const outcomes = await startAgainAndAgain({ binds }, "/victim/p/made/by/mount/secret");
      expect(await race.swaps()).toBeGreaterThan(100);
      expect(outcomes.get("mounted")).toBeGreaterThan(0);
      expect([...outcomes.keys()].filter((outcome) => outcome.includes(canary.token))).toEqual([]);
      expect(await canary.state()).toEqual(before);
      await rm(track, { recursive: true });
    },
    raceTimeoutMs,
  );

  it("without the guard, a host that makes the place of a mount by its path makes it where the link leads", async () => {
    const track = await raceTrack("naive");
    const decoy = join(lab.dir, "decoy");
    await mkdir(decoy);
    await rm(join(track, "q"));
    await symlink(decoy, join(track, "q"));
    using racer = await startOnHost(lab.program("racer"), [join(track, "p"), join(track, "q")]);
    const until = Date.now() + 45_000;
    while ((await readdir(decoy)).length === 0 && Date.now() < until) {
      await mkdir(join(track, "p/made"), { recursive: true }).catch(() => {});
    }
    await racer.stop();
    expect(await readdir(decoy)).toEqual(["made"]);
    await rm(track, { recursive: true });
  });
});

describe("what somebody of the host puts on a volume", () => {
  it("gives no device and no other user's rights inside", async () => {
    const volume = await lab.engine.volumes.create({ name: "planted" });
    const data = volume.mountpoint as string;
    execFileSync("mknod", ["-m", "666", join(data, "null"), "c", "1", "3"]);
    await copyFile(lab.program("who"), join(data, "who"));
    await chmod(join(data, "who"), 0o4755);
    const id = await lab.sandbox({
      storage: { volumes: [{ name: "planted", mount_path: "/planted" }] },
    });
    const run = (argv: string[], user: string) => lab.engine.exec(id, { cmd: argv, user, timeout: 20 });
    const inside = outcomesOf(await run(["/planted/who", "/planted/null"], "mallory"));
    expect(inside.get("euid")).toBe("1000");
    expect(inside.get("/planted/null")).toBe("E13");
    expect(outcomesOf(await run(["/planted/who", "/planted/null"], "root")).get("/planted/null")).toBe("E13");
    const mounts = outputOf(await lab.attack(id, "cat", ["/proc/mounts"]));
    expect(mounts).toMatch(/ \/planted \S+ rw,nosuid,nodev/);
    // Without the guard, here on the host, both work.
    await chmod(lab.stateDir, 0o711);
    const way = data.slice(lab.stateDir.length + 1).split("/");
    for (let i = 1; i < way.length; i++) await chmod(join(lab.stateDir, ...way.slice(0, i)), 0o711);
    const nobody = ["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"];
    const said = execFileSync("setpriv", [...nobody, join(data, "who"), join(data, "null")], {
      encoding: "utf8",
    });
    expect(said).toBe(`euid\t0\n${join(data, "null")}\tok\n`);
    await lab.engine.remove(id);
    await lab.engine.volumes.remove("planted");
  });

  it("can't be left through a link on it", async () => {
    const volume = await lab.engine.volumes.create({ name: "rooted" });
    await writeFile(join(volume.mountpoint as string, "file"), "x");
    const id = await lab.sandbox({ storage: { volumes: [{ name: "rooted", mount_path: "/rooted" }] } });
    outputOf(await lab.attack(id, "links", ["../../../../../../..", "/rooted/up"]));
    const seen = await lab.attack(id, "cat", [`/rooted/up${canary.file}`, "/rooted/../../volume.json"]);
    expect(seen.exit_code).not.toBe(0);
    expect(seen.stdout).not.toContain(canary.token);
    await lab.engine.remove(id);
    await lab.engine.volumes.remove("rooted");
  });
});

it("an image whose links lead a mount to the sandbox's own places is refused", async () => {
  const source = join(lab.dir, "own-places");
  await mkdir(source);
  for (const place of ["/", "/proc", "/sys/fs", "/dev/pts", "/.warren"]) {
    const image = join(lab.dir, "image-of-links");
    execFileSync("cp", ["-a", lab.image, image]);
    await symlink(place, join(image, "mounted"));
    for (const [mount_path, code] of [["/mounted", "runtime_failed"]] as const) {
      const made = lab.sandbox({ image, storage: { binds: [{ source, mount_path }] } });
      await expect(made, place).rejects.toMatchObject({ code });
    }
    await rm(image, { recursive: true });
  }
  expect(await readdir(source)).toEqual([]);
  expect(await readFile(canary.file, "utf8")).toBe(canary.token);
});
