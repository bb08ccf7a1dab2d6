import { spawn } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WarrenError } from "../../src/contracts/errors.ts";
import type { ExecSession } from "../../src/contracts/exec.ts";
import { ATTACKS, type Lab, openLab, outputOf } from "./support/lab.ts";

const MIB = 1024 ** 2;
const TIB = 1024 ** 4;
/** What ten floods may add to the memory of the process that runs the engine; each alone moves a GiB in a second or two. */
const GROWTH_BYTES = 200 * MIB;

let lab: Lab;
let sandbox: string;

beforeAll(async () => {
  lab = await openLab({ programs: ["bomb", "tree", "fds"] });
  sandbox = await lab.sandbox({ memory: 512 * MIB });
});
afterAll(() => lab?.[Symbol.asyncDispose]());

/** Resident memory of this process, in which the engine runs: vitest starts one for each file. */
async function residentBytes(): Promise<number> {
  const status = await readFile(`/proc/${process.pid}/status`, "utf8");
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1]) * 1024;
}

/** The most that the memory has grown by, looked at every 20 ms while `work` goes on. */
async function growthDuring(work: () => Promise<void>): Promise<number> {
  const before = await residentBytes();
  let most = before;
  let done = false;
  const watching = (async () => {
    while (!done) {
      most = Math.max(most, await residentBytes());
      await sleep(20);
    }
  })();
  try {
    await work();
  } finally {
    done = true;
    await watching;
  }
  return most - before;
}

describe("output without an end", () => {
  const flood = [`${ATTACKS}/bomb`, "flood"];

  it("that nobody reads costs the host no memory", async () => {
    const sessions: ExecSession[] = [];
    const growth = await growthDuring(async () => {
      for (let i = 0; i < 10; i++) sessions.push(await lab.engine.execStream(sandbox, { cmd: flood }));
      // Time for a careless host to take in gigabytes; nothing is awaited but that.
      await sleep(1500);
      outputOf(await lab.attack(sandbox, "fds"));
    });
    expect(growth).toBeLessThan(GROWTH_BYTES);
    await Promise.all(sessions.map((session) => session[Symbol.asyncDispose]()));
  });

  it("that is read for an answer is cut and told to be, in little memory", async () => {
    const growth = await growthDuring(async () => {
      const results = await Promise.all(
        Array.from({ length: 4 }, () =>
          lab.engine.exec(sandbox, { cmd: [...flood, "512"], timeout: 25, max_output: MIB }),
        ),
      );
      for (const { exit_code, stdout, stdout_truncated } of results) {
        expect([exit_code, stdout.length, stdout_truncated]).toEqual([0, MIB, true]);
      }
    });
    expect(growth).toBeLessThan(GROWTH_BYTES);
  });

  it("that a slow reader takes is held back at its source", async () => {
    await using session = await lab.engine.execStream(sandbox, { cmd: flood });
    const growth = await growthDuring(async () => {
      let chunks = 0;
      for await (const _ of session.output) {
        if (++chunks > 20) break;
        await sleep(20);
      }
    });
    expect(growth).toBeLessThan(GROWTH_BYTES);
  });

  it("takes all that there is from a host that has no guard and keeps what comes", async () => {
    const child = spawn(lab.program("bomb"), ["flood"], { stdio: ["ignore", "pipe", "ignore"] });
    const kept: Buffer[] = [];
    let bytes = 0;
    await new Promise<void>((resolve) => {
      child.stdout.on("data", (chunk: Buffer) => {
        kept.push(chunk);
        bytes += chunk.length;
        if (bytes > GROWTH_BYTES) resolve();
      });
    });
    child.kill("SIGKILL");
    expect(Buffer.concat(kept).length).toBeGreaterThan(GROWTH_BYTES);
  });
});

describe("files without an end", () => {
  it("a directory of 100 000 entries is listed or refused, in bounded memory", async () => {
    const dir = "/tmp/many";
    outputOf(await lab.attack(sandbox, "tree", ["many", dir, "100000"], { timeout: 60 }));
    const growth = await growthDuring(async () => {
      const listed = await lab.engine.files.list(sandbox, dir).catch((error: unknown) => error);
      if (listed instanceof WarrenError) expect(listed.code).toBe("too_large");
      else expect(listed).toHaveLength(100_000);
    });
    expect(growth).toBeLessThan(GROWTH_BYTES);
    await lab.engine.files.remove(sandbox, dir);
    await expect(lab.engine.files.stat(sandbox, dir)).rejects.toMatchObject({ code: "file_not_found" });
  }, 90_000);

  it("a directory 10 000 levels deep is removed", async () => {
    outputOf(await lab.attack(sandbox, "tree", ["deep", "/tmp/deep", "10000"], { timeout: 60 }));
    await lab.engine.files.remove(sandbox, "/tmp/deep");
    await expect(lab.engine.files.stat(sandbox, "/tmp/deep")).rejects.toMatchObject({
      code: "file_not_found",
    });
  }, 90_000);

  it("a path of such a depth is refused by every call", async () => {
    const { files } = lab.engine;
    const path = "/d".repeat(10_000);
    const calls = [
      files.stat(sandbox, path),
      files.read(sandbox, path),
      files.list(sandbox, path),
      files.mkdir(sandbox, path),
      files.write(sandbox, path, Buffer.from("x")),
      files.remove(sandbox, path),
      files.rename(sandbox, path, "/tmp/x"),
      files.chmod(sandbox, path, 0o600),
    ];
    for (const result of await Promise.allSettled(calls)) {
      expect(result).toMatchObject({ status: "rejected", reason: { code: "invalid_path" } });
    }
  });

  it("a sandbox with both is removed, and nothing of it stays on the host's disk", async () => {
    const id = await lab.sandbox();
    outputOf(await lab.attack(id, "tree", ["deep", "/deep", "3000"], { timeout: 60 }));
    outputOf(await lab.attack(id, "tree", ["many", "/many", "5000"], { timeout: 60 }));
    await lab.engine.remove(id);
    const oci = join(lab.stateDir, "oci");
    const left = async () => [
      ...(await readdir(join(oci, "sandboxes"))).filter((name) => name.includes(id)),
      ...(await readdir(join(oci, "trash"))),
    ];
    // What is thrown away may be deleted after the answer.
    await expect.poll(left, { timeout: 30_000, interval: 100 }).toEqual([]);
  }, 90_000);

  it("a sparse file of 10 TiB is streamed, from anywhere, and its reading can be given up", async () => {
    const path = "/root/sparse";
    outputOf(await lab.attack(sandbox, "tree", ["sparse", path, String(10 * TIB)]));
    const { files } = lab.engine;
    expect((await files.stat(sandbox, path)).size).toBe(10 * TIB);

    const growth = await growthDuring(async () => {
      const { info, body } = await files.read(sandbox, path);
      expect(info.size).toBe(10 * TIB);
      let bytes = 0;
      for await (const chunk of body) {
        bytes += chunk.length;
        if (bytes > 64 * MIB) break;
      }
      expect(bytes).toBeGreaterThan(64 * MIB);
    });
    expect(growth).toBeLessThan(GROWTH_BYTES);

    const end = await files.read(sandbox, path, { offset: 10 * TIB - 7 });
    let text = "";
    for await (const chunk of end.body) text += Buffer.from(chunk).toString();
    expect(text).toBe("the end");

    const stop = new AbortController();
    const given = await files.read(sandbox, path, { signal: stop.signal });
    const reading = (async () => {
      for await (const _ of given.body) stop.abort();
    })();
    await expect(reading).rejects.toMatchObject({ code: "cancelled" });
    // Nothing inside goes on reading for nobody.
    await expect
      .poll(async () => (await lab.engine.stats(sandbox)).pid_count, { timeout: 10_000 })
      .toBeLessThan(3);
    await files.remove(sandbox, path);
  });
});
