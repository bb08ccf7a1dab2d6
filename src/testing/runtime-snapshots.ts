import { expect } from "vitest";
import { expectFailure } from "./failures.ts";
import { shellInside } from "./guest-tools.ts";
import type { Box, RuntimeContext } from "./runtime-fixture.ts";
import { eventually } from "./wait.ts";

const MIB = 1024 ** 2;

/** Everything that a file system knows of a file, and what the image had that is gone. */
const prepare = `
  mkdir -p /opt/dir/deep /opt/empty && echo kept >/opt/dir/deep/file && chmod 0700 /opt/dir && touch -d @1000000000 /opt/dir/deep
  printf 'a\\0b' >'/opt/dir/odd
name' && ln -s deep/file /opt/dir/link && ln -s /nowhere /opt/dir/dangling && ln /opt/dir/deep/file /opt/dir/hard && mkfifo /opt/dir/fifo
  cp /bin/true /opt/dir/setuid && chmod 4755 /opt/dir/setuid && mkdir /opt/dir/sticky && chmod 3777 /opt/dir/sticky
  touch /opt/dir/owned && chown 12:34 /opt/dir/owned
  rm /etc/group && rm -r /var && mkdir /var && echo new >/var/only`;
const look = `
  cat /opt/dir/link && od -An -c '/opt/dir/odd
name' && readlink /opt/dir/link /opt/dir/dangling && test -p /opt/dir/fifo && ls -A /opt/empty /var && test ! -e /etc/group
  cd /opt && stat -c '%a %u:%g %F %n' dir dir/deep dir/setuid dir/sticky dir/owned dir/link && stat -c '%Y' dir/deep && stat -c '%h' dir/hard`;

/** Renames a file into each of eight directories in turn: at each instant they differ by at most one. */
const turning = `for ($n = 1; ; $n++) { for $f (0 .. 7) {
  open F, ">/opt/next"; print F $n; close F; rename "/opt/next", "/opt/turns/$f/turn" } }`;
/** Beside each lies what takes a copy some time. */
const makeTurns =
  "for f in 0 1 2 3 4 5 6 7; do mkdir -p /opt/turns/$f; head -c 4194304 /dev/urandom >/opt/turns/$f/pad; done";

/** A sandbox's root filesystem as it was, and sandboxes that are made of it. */
export function testSnapshots(
  { test, fixture, unless }: RuntimeContext,
  leftovers: (id: string) => Promise<string[]> | string[],
): void {
  // What runs has to be held still.
  const lacking = { unless: unless("snapshots", "pause") };

  test(
    "keeps a root filesystem as it was at one instant, and nothing of what is mounted in it",
    async () => {
      const { runtime, box, snapshots, snapshotId, volumes, volumeName } = fixture();
      const tmpfs = unless("tmpfs")
        ? []
        : [{ path: "/scratch", sizeBytes: 4 * MIB, readonly: false, exec: true, mode: 0o1777 }];
      const volume = unless("volumes") ? undefined : volumeName();
      if (volume !== undefined) await volumes().create(volume, {});
      const mounts =
        volume === undefined
          ? []
          : [{ type: "volume" as const, source: volume, target: "/data", readonly: false }];
      const original = await box({ tmpfs, mounts });
      await shell(original, prepare);
      const looked = await shell(original, look);
      expect(looked).toContain("kept\n");
      if (tmpfs.length > 0) await shell(original, "echo gone >/scratch/file");
      if (volume !== undefined) await shell(original, "echo gone >/data/file");
      await shell(original, makeTurns);
      const { pid } = await original.guest.spawn({ argv: ["perl", "-e", turning], env: {}, detached: true });
      await eventually("all files", async () => (await shell(original, "ls /opt/turns/7")).includes("turn"));

      const id = snapshotId();
      const { image, ...told } = await snapshots().create(original.id, id);
      expect(told).toEqual({ id, sizeBytes: expect.any(Number) });
      expect(told.sizeBytes).toBeGreaterThan(0);
      expect((await snapshots().list()).map((one) => one.id)).toContain(id);
      const { id: _, ...defaults } = original.spec.image;
      expect(image).toMatchObject(defaults);

      // The original goes on.
      expect(await runtime.inspect(original.id)).toEqual({
        id: original.id,
        state: "running",
        pid: original.pid,
      });
      const before = await turns(original);
      await eventually("a next turn", async () => (await turns(original))[7] !== before[7]);
      await shell(original, `kill ${pid}; echo later >/opt/later; echo changed >/opt/dir/deep/file`);

      const restored = await box({ image });
      expect(await shell(restored, look)).toBe(looked);
      const turned = await turns(restored);
      expect(Math.max(...turned) - Math.min(...turned), turned.join()).toBeLessThanOrEqual(1);
      expect(await shell(restored, "ls /opt")).not.toContain("later");
      expect(await shell(restored, "ls -A /scratch /data 2>&1 || :")).not.toMatch(/^(file|gone)/m);
      expect(await shell(restored, "echo /proc/[0-9]*/comm | xargs cat 2>/dev/null || :")).not.toContain(
        "perl",
      );

      // Nobody's writes reach anybody else.
      await shell(restored, "rm -r /opt/dir && echo mine >/opt/mine");
      expect(await shell(original, "cat /opt/dir/deep/file; ls /opt")).toMatch(/^changed\n(?!.*mine)/s);
      const second = await box({ image });
      expect(await shell(second, look)).toBe(looked);
    },
    { ...lacking, timeoutMs: 120_000 },
  );

  test(
    "outlives its sandbox, and sandboxes that are made of it outlive it",
    async () => {
      const { runtime, box, snapshots, snapshotId } = fixture();
      const original = await box();
      await shell(original, "echo one >/opt/one && echo two >/opt/two");
      const first = await snapshots().create(original.id, snapshotId());
      await runtime.remove(original.id);
      const child = await box({ image: first.image });
      await shell(child, "rm /opt/two && echo three >/opt/three");
      const second = await snapshots().create(child.id, snapshotId());
      for (let i = 0; i < 2; i++) await snapshots().remove(first.id);
      expect((await snapshots().list()).map(({ id }) => id)).toEqual([second.id]);
      await runtime.stop(child.id, { timeoutMs: 0 });
      await runtime.start(child.id);
      expect(await shell(child, "cat /opt/one /opt/three; ls /opt")).toMatch(/^one\nthree\n(?!.*two)/s);
      await runtime.remove(child.id);
      const grandchild = await box({ image: second.image });
      expect(await shell(grandchild, "cat /opt/one /opt/three; ls /opt")).toMatch(/^one\nthree\n(?!.*two)/s);
      await snapshots().remove(second.id);
      expect(await shell(grandchild, "cat /opt/one && echo more >/opt/one")).toBe("one\n");
      await runtime.remove(grandchild.id);
      expect(await snapshots().list()).toEqual([]);
      for (const id of [original.id, child.id, grandchild.id, first.id, second.id]) {
        await eventually(`nothing to be left of ${id}`, async () => (await leftovers(id)).length === 0);
      }
    },
    lacking,
  );

  test(
    "leaves what is paused paused and what is stopped stopped",
    async () => {
      const { runtime, box, snapshots, snapshotId } = fixture();
      const { id, guest, pid, spec } = await box();
      const made = { id, guest, pid, spec };
      await shell(made, "echo kept >/opt/file");
      if (unless("pause") === undefined) {
        await runtime.pause(id);
        const { image } = await snapshots().create(id, snapshotId());
        expect(await runtime.inspect(id)).toEqual({ id, state: "paused", pid });
        expect(await shell(await box({ image }), "cat /opt/file")).toBe("kept\n");
        await runtime.resume(id);
        expect(await shell(made, "cat /opt/file")).toBe("kept\n");
      }
      await runtime.stop(id, { timeoutMs: 0 });
      const { image } = await snapshots().create(id, snapshotId());
      expect(await runtime.inspect(id)).toEqual({ id, state: "stopped" });
      expect(await shell(await box({ image }), "cat /opt/file")).toBe("kept\n");
      await runtime.start(id);
      expect(await shell(made, "cat /opt/file")).toBe("kept\n");
    },
    { unless: unless("snapshots") },
  );

  test(
    "leaves nothing of a snapshot that fails or is given up",
    async () => {
      const { runtime, box, snapshots, snapshotId } = fixture();
      await expect(snapshots().create("tnosuchsandboxxx", snapshotId())).rejects.toThrow();
      const made = await box();
      await expectFailure(
        snapshots().create(made.id, snapshotId(), { signal: AbortSignal.abort() }),
        "cancelled",
      );
      await shell(made, "head -c 33554432 /dev/urandom >/opt/large");
      const late = snapshotId();
      const giveUp = new AbortController();
      const attempt = snapshots().create(made.id, late, { signal: giveUp.signal });
      setTimeout(() => giveUp.abort(), 5);
      const outcome = await attempt.then(
        () => "made",
        (error: { code?: string }) => error.code,
      );
      expect(["made", "cancelled"]).toContain(outcome);
      const left = (await snapshots().list()).map(({ id }) => id);
      expect(left).toEqual(outcome === "made" ? [late] : []);
      expect(await runtime.inspect(made.id)).toMatchObject({ state: "running", pid: made.pid });
      expect(await shell(made, "echo fine")).toBe("fine\n");
      // The same id again is another attempt.
      await snapshots().remove(late);
      await snapshots().create(made.id, late);
      await snapshots().remove("snap-nosuchsnapshot");
    },
    lacking,
  );
}

async function turns(box: Box): Promise<number[]> {
  const said = await shell(box, "for f in /opt/turns/*/turn; do cat $f; echo; done");
  const numbers = said.trim().split("\n").map(Number);
  expect(numbers).toHaveLength(8);
  return numbers;
}

/** Standard output of a script; fails when it doesn't exit with 0. */
async function shell({ guest }: Box, script: string): Promise<string> {
  const result = await shellInside(guest, script);
  expect(result.exit_code, `${script}: ${result.stderr}`).toBe(0);
  return result.stdout;
}
