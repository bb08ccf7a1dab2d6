import { expect } from "vitest";
import { expectFailure } from "./failures.ts";
import { noLimits, shellInside } from "./guest-tools.ts";
import type { RuntimeContext } from "./runtime-fixture.ts";
import { eventually } from "./wait.ts";

const MIB = 1024 ** 2;

/** Limits, and roots and mounts that can't be written to. */
export function testLimits({ test, fixture, unless }: RuntimeContext): void {
  test(
    "holds the memory limit, and counts what was killed for it",
    async () => {
      const { runtime, box } = fixture();
      const { id, guest } = await box({ limits: { ...noLimits, memoryBytes: 64 * MIB } });
      expect((await runtime.stats(id)).memory_limit).toBe(64 * MIB);
      expect(runtime.oomKills(id)).toBe(0);
      const hog = await shellInside(
        guest,
        "exec perl -e '$x = \"x\" x (200 * 1024 * 1024); print length $x'",
      );
      expect(hog).toMatchObject({ exit_code: 137, signal: "SIGKILL", stdout: "" });
      await eventually("the kill to be counted", () => (runtime.oomKills(id) ?? 0) > 0);
      expect((await shellInside(guest, "echo fine")).stdout).toBe("fine\n");
    },
    { unless: unless("memory") },
  );

  test(
    "holds the limit of processes",
    async () => {
      const { runtime, box } = fixture();
      const { id, guest } = await box({ limits: { ...noLimits, pids: 20 } });
      const script = "for i in $(seq 60); do sleep 600 & done; echo all";
      const bomb = await shellInside(guest, script);
      expect(bomb.stdout).not.toBe("all\n");
      expect((await runtime.stats(id)).pid_count).toBeLessThanOrEqual(20);
    },
    { unless: unless("pids") },
  );

  test(
    "holds the CPU limit",
    async () => {
      const { runtime, box } = fixture();
      const { id, guest } = await box({ limits: { ...noLimits, cpuNano: 100_000_000 } });
      const before = await runtime.stats(id);
      const startedAt = performance.now();
      await shellInside(guest, "while :; do :; done", { timeoutMs: 1500 });
      const after = await runtime.stats(id);
      const cores = (after.cpuTotalNs - before.cpuTotalNs) / 1e6 / (performance.now() - startedAt);
      // A tenth of a core was granted; the bound allows for the burst at the beginning.
      expect(cores).toBeLessThan(0.4);
    },
    { unless: unless("cpu") },
  );

  test(
    "keeps a read-only root as it is",
    async () => {
      const { box } = fixture();
      const tmpfs = [{ path: "/tmp", sizeBytes: 4 * MIB, readonly: false, exec: true, mode: 0o1777 }];
      const { guest } = await box({ readonlyRoot: true, tmpfs });
      for (const path of ["/note", "/opt/note", "/etc/passwd", "/root/note"]) {
        const result = await shellInside(guest, 'echo x >> "$1"', { args: [path] });
        expect(result.exit_code, path).not.toBe(0);
        expect(result.stderr).toMatch(/read-only|permission denied/i);
      }
      expect((await shellInside(guest, "echo x > /tmp/note && cat /tmp/note")).stdout).toBe("x\n");
      const remount = await shellInside(guest, "mount -o remount,rw / 2>&1");
      expect(remount.exit_code).not.toBe(0);
    },
    { unless: unless("readonlyRoot", "tmpfs") },
  );

  test(
    "changes limits while it runs, and keeps them for later starts",
    async () => {
      const { runtime, box } = fixture();
      const { id, guest } = await box({ limits: { ...noLimits, memoryBytes: 64 * MIB } });
      const take = "exec perl -e '$x = \"x\" x (100 << 20); print length $x'";
      expect((await shellInside(guest, take)).exit_code).toBe(137);
      await runtime.updateLimits(id, { ...noLimits, memoryBytes: 256 * MIB, memoryHighBytes: 200 * MIB });
      expect((await shellInside(guest, take)).stdout).toBe(String(100 * MIB));
      await runtime.updateLimits(id, { ...noLimits, memoryBytes: 96 * MIB });
      expect((await shellInside(guest, take)).exit_code).toBe(137);
      await runtime.stop(id, { timeoutMs: 0 });
      await runtime.start(id);
      expect((await runtime.stats(id)).memory_limit).toBe(96 * MIB);
      await runtime.updateLimits(id, noLimits);
      expect((await shellInside(guest, take)).stdout).toBe(String(100 * MIB));
    },
    { unless: unless("memory") },
  );

  test(
    "refuses to limit what it can't",
    async () => {
      const { runtime, box } = fixture();
      const { id } = await box();
      await expectFailure(runtime.updateLimits(id, { ...noLimits, memoryBytes: 64 * MIB }), "unsupported");
    },
    { unless: unless("memory") === undefined && "a runtime that limits memory" },
  );

  test(
    "freezes and thaws, and ends what is frozen",
    async () => {
      const { runtime, box, guest } = fixture();
      const { id, pid } = await box();
      await runtime.pause(id);
      await runtime.pause(id);
      expect(await runtime.inspect(id)).toMatchObject({ state: "paused", pid });
      const asked = guest(id).hello();
      await runtime.resume(id);
      await runtime.resume(id);
      await asked;
      expect(await runtime.inspect(id)).toMatchObject({ state: "running", pid });
      await runtime.pause(id);
      await runtime.stop(id, { timeoutMs: 2000 });
      expect(await runtime.inspect(id)).toMatchObject({ state: "stopped" });
      await expectFailure(runtime.pause(id), "sandbox_wrong_state");
      await runtime.start(id);
      await runtime.pause(id);
      await runtime.remove(id);
      expect(await runtime.inspect(id)).toBeUndefined();
    },
    { unless: unless("pause") },
  );

  const mounts = [
    { path: "/small", sizeBytes: MIB, readonly: false, exec: true, mode: 0o700 },
    { path: "/still", sizeBytes: MIB, readonly: true, exec: true, mode: 0o1777 },
    { path: "/data/inner", sizeBytes: MIB, readonly: false, exec: false, mode: 0o1777 },
  ];

  test(
    "mounts tmpfs with size, mode and options",
    async () => {
      const { guest } = await fixture().box({ tmpfs: mounts });
      const table = (await shellInside(guest, "cat /proc/mounts")).stdout.split("\n");
      for (const { path } of mounts) {
        const [, , type, options] = table.find((line) => line.split(" ")[1] === path)?.split(" ") ?? [];
        expect(type).toBe("tmpfs");
        expect(options?.split(",")).toEqual(expect.arrayContaining(["nosuid", "nodev"]));
      }
      expect(await guest.stat("/small")).toMatchObject({ permissions: 0o700 });
      expect(await guest.stat("/data/inner")).toMatchObject({ permissions: 0o1777 });
      const fill = await shellInside(guest, "dd if=/dev/zero of=/small/big bs=65536 count=64 2>&1");
      expect(fill.exit_code).not.toBe(0);
      expect((await guest.stat("/small/big")).size).toBeLessThanOrEqual(MIB);
      expect((await shellInside(guest, "echo x > /still/file")).exit_code).not.toBe(0);
    },
    { unless: unless("tmpfs") },
  );

  test(
    "runs no program from a tmpfs without exec",
    async () => {
      const { guest } = await fixture().box({ tmpfs: mounts });
      const script = 'cp /bin/true "$1/true" && "$1/true"';
      expect((await shellInside(guest, script, { args: ["/small"] })).exit_code).toBe(0);
      expect((await shellInside(guest, script, { args: ["/data/inner"] })).exit_code).toBe(126);
    },
    { unless: unless("tmpfs") },
  );
}
