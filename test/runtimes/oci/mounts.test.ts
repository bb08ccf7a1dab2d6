import { execFileSync } from "node:child_process";
import {
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { RuntimeMount } from "../../../src/contracts/runtime.ts";
import { ociPrograms } from "../../../src/runtimes/oci/programs.ts";
import { expectFailure } from "../../../src/testing/failures.ts";
import { noGvisor } from "./support/gvisor.ts";
import { openTestRuntime, type TestRuntime } from "./support/open.ts";

const bind = (source: string, target = "/mnt/bound", readonly = false): RuntimeMount => ({
  type: "bind",
  source,
  target,
  readonly,
});

describe.each([...ociPrograms, ...(noGvisor ? [] : (["runsc"] as const))])("mounts with %s", (program) => {
  let made: TestRuntime;
  let base = "";
  beforeAll(async () => {
    base = realpathSync(mkdtempSync(join(tmpdir(), "wmounts-")));
    made = await openTestRuntime(program);
  });
  afterAll(async () => {
    await made.close();
    rmSync(base, { recursive: true });
  });

  const directory = (name: string): string => {
    const path = join(base, name);
    mkdirSync(path, { recursive: true });
    return path;
  };

  it("keeps owners as they are on both sides", async () => {
    const project = directory("owners");
    writeFileSync(join(project, "theirs"), "x");
    chownSync(join(project, "theirs"), 1234, 4321);
    const box = await made.box({ mounts: [bind(project)] });
    await box.sh(
      "cd /mnt/bound && stat -c %u:%g theirs >said && touch ours && touch other && chown 7:8 other && echo y >>theirs",
    );
    expect(readFileSync(join(project, "said"), "utf8")).toBe("1234:4321\n");
    expect(statSync(join(project, "ours"))).toMatchObject({ uid: 0, gid: 0 });
    expect(statSync(join(project, "other"))).toMatchObject({ uid: 7, gid: 8 });
    await made.runtime.remove(box.id);
    expect(readFileSync(join(project, "theirs"), "utf8")).toBe("xy\n");
  });

  it("holds read-only for what is mounted below as well", async () => {
    const outer = directory("recursive");
    const inner = directory("recursive/inner");
    execFileSync("mount", ["-t", "tmpfs", "warren-test", inner]);
    try {
      writeFileSync(join(inner, "file"), "inner");
      const box = await made.box({ mounts: [bind(outer, "/mnt/ro", true), bind(outer, "/mnt/rw")] });
      expect(await box.sh("cat /mnt/ro/inner/file")).toBe("inner");
      await box.sh("! touch /mnt/ro/x && ! touch /mnt/ro/inner/x && ! sh -c 'echo x >/mnt/ro/inner/file'");
      await box.sh(
        "! mount -o remount,rw /mnt/ro && ! mount -o remount,bind,rw /mnt/ro/inner && ! umount /mnt/ro",
      );
      await box.sh("touch /mnt/rw/inner/control");
      expect(existsSync(join(inner, "control"))).toBe(true);
      await made.runtime.remove(box.id);
    } finally {
      execFileSync("umount", [inner]);
    }
  });

  it("follows no link in a source, neither one that is there nor one that comes later", async () => {
    const [one, two] = [directory("one/dir"), directory("two/dir")];
    writeFileSync(join(one, "name"), "one");
    symlinkSync(join(base, "one"), join(base, "link"));
    for (const path of [join(base, "link"), join(base, "link/dir")]) {
      const spec = await made.spec({ mounts: [bind(path)] });
      const error = await expectFailure(made.runtime.create(spec), "invalid_request");
      expect(error.hint).toContain(path.replace("link", "one"));
    }
    const box = await made.box({ mounts: [bind(one)] });
    await made.runtime.stop(box.id, { timeoutMs: 0 });
    renameSync(one, `${one}-away`);
    symlinkSync(two, one);
    await expectFailure(made.runtime.start(box.id), "invalid_request");
    expect((await made.runtime.inspect(box.id))?.state).toBe("stopped");
    rmSync(one);
    renameSync(`${one}-away`, one);
    await made.runtime.start(box.id);
    expect(await box.sh("cat /mnt/bound/name")).toBe("one");
    await made.runtime.remove(box.id);
  });

  it("refuses what no sandbox may see, and what is no file", async () => {
    const refused = async (source: string, ...codes: Parameters<typeof expectFailure>[1][]) => {
      const spec = await made.spec({ mounts: [bind(source)] });
      await expectFailure(made.runtime.create(spec), ...(codes as [Parameters<typeof expectFailure>[1]]));
      expect(await made.runtime.inspect(spec.id)).toBeUndefined();
    };
    for (const place of ["/", "/proc", "/sys", "/dev", "/proc/self", "/dev/shm", "/dev/null"]) {
      await refused(place, "invalid_request");
    }
    const alias = directory("alias");
    for (const place of [
      made.stateDir,
      join(made.stateDir, ".."),
      tmpdir(),
      join(made.stateDir, "oci/volumes"),
    ]) {
      await refused(place, "invalid_request");
    }
    // Under another name too.
    execFileSync("mount", ["--bind", join(made.stateDir, ".."), alias]);
    try {
      await refused(alias, "invalid_request");
    } finally {
      execFileSync("umount", [alias]);
    }
    symlinkSync("/proc", join(base, "proc-link"));
    await refused(join(base, "proc-link"), "invalid_request");
    await refused(join(base, "nothing"), "file_not_found");
    await refused("relative", "invalid_request");
    await refused(`${base}/../x`, "invalid_request");
    execFileSync("mkfifo", [join(base, "fifo")]);
    await refused(join(base, "fifo"), "invalid_request");
    const server = createServer().listen(join(base, "socket"));
    await new Promise((resolve) => server.once("listening", resolve));
    await refused(join(base, "socket"), "invalid_request");
    server.close();
  });

  it("refuses a filesystem whose ids can't be mapped, and what has one below it", async () => {
    const outer = directory("unmappable");
    const inner = directory("unmappable/proc");
    execFileSync("mount", ["-t", "proc", "proc", inner]);
    try {
      const spec = await made.spec({ mounts: [bind(outer)] });
      const error = await expectFailure(made.runtime.create(spec), "unsupported");
      expect(error.hint).toContain("ext4");
    } finally {
      execFileSync("umount", [inner]);
    }
    const box = await made.box({ mounts: [bind(outer)] });
    await made.runtime.remove(box.id);
  });
});
