import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openTestRuntime, type TestRuntime } from "../../runtimes/oci/support/open.ts";

let test: TestRuntime;
let top = "";
beforeAll(async () => {
  top = realpathSync(mkdtempSync(join(tmpdir(), "wmounts-")));
  test = await openTestRuntime("crun");
});
afterAll(async () => {
  await test.close();
  rmSync(top, { recursive: true });
});

const user = process.getuid?.();
/** The host's ids of a sandbox: its first process's map. */
const idMap = (pid: number) => readFileSync(`/proc/${pid}/uid_map`, "utf8").trim().split(/\s+/);

describe("an ordinary user's mounts", () => {
  it("make the user root of this sandbox, and of no other", async () => {
    const project = join(top, "project");
    mkdirSync(project, { mode: 0o700 });
    writeFileSync(join(project, "mine"), "mine", { mode: 0o600 });
    const bound = await test.box({
      mounts: [{ type: "bind", source: project, target: "/project", readonly: false }],
    });
    expect(await bound.sh("id -u; cat /project/mine; stat -c %u /project/mine")).toBe("0\nmine0\n");
    await bound.sh(
      "cd /project && echo made >made && mkdir -p deep/er && echo x >deep/er/file && chown 7:7 deep/er",
    );
    expect(statSync(join(project, "made")).uid).toBe(user);
    expect(statSync(join(project, "deep")).uid).toBe(user);
    expect(statSync(join(project, "deep/er")).uid).not.toBe(user);
    await bound.sh("rm -r /project/deep");
    // What the image has is root's all the same.
    expect(await bound.sh("stat -c %u / /etc /etc/hostname /root; touch /etc/new && echo ok")).toBe(
      "0\n0\n0\n0\nok\n",
    );
    await test.runtime.stop(bound.id, { timeoutMs: 0 });
    await test.runtime.start(bound.id);
    expect(await bound.sh("stat -c %u /etc/new /project/made")).toBe("0\n0\n");
    const plain = await test.box();
    expect(idMap(plain.pid).slice(0, 1)).toEqual(["0"]);
    expect(statSync(`/proc/${plain.pid}`).uid).not.toBe(user);
    await Promise.all([bound, plain].map(({ id }) => test.runtime.remove(id)));
  });

  it("of a volume are the user's as well, so that sandboxes with and without binds share it", async () => {
    await test.runtime.volumes?.create("shared", {});
    const volume = { type: "volume", source: "shared", target: "/shared", readonly: false } as const;
    const one = await test.box({ mounts: [volume] });
    await one.sh(
      "echo one >/shared/file && chmod 600 /shared/file && mkdir /shared/closed && chmod 000 /shared/closed",
    );
    const two = await test.box({
      mounts: [volume, { type: "bind", source: top, target: "/bound", readonly: true }],
    });
    expect(await two.sh("stat -c %u /shared/file && cat /shared/file && ! touch /bound/x 2>/dev/null")).toBe(
      "0\none\n",
    );
    const [usage] = (await test.runtime.volumes?.diskUsage("shared")) ?? [];
    expect(usage?.size).toBeGreaterThan(0);
    await test.runtime.volumes?.remove("shared", { force: true });
    expect(await test.runtime.list()).toEqual([]);
  });

  it("work with an image that was unpacked, whose files keep their owners", async () => {
    const tree = join(top, "tree");
    mkdirSync(join(tree, "bin"), { recursive: true });
    for (const name of ["busybox", "sh", "stat", "cat", "touch"]) {
      writeFileSync(join(tree, "bin", name), readFileSync("/bin/busybox"));
      chmodSync(join(tree, "bin", name), 0o755);
    }
    const image = await test.runtime.images.ensure(tree);
    const mounts = [{ type: "bind", source: top, target: "/bound", readonly: false }] as const;
    const box = await test.box({ image, mounts: [...mounts] });
    expect(await box.sh("stat -c %u:%g /bin/sh; touch /bin/new /bound/from-image && echo ok")).toBe(
      "0:0\nok\n",
    );
    expect(statSync(join(top, "from-image")).uid).toBe(user);
    await test.runtime.remove(box.id);
  });

  it("of what is another user's stay closed", async () => {
    const box = await test.box({
      mounts: [{ type: "bind", source: "/etc", target: "/host-etc", readonly: false }],
    });
    expect(
      await box.sh(
        "stat -c %U /host-etc/passwd; ! cat /host-etc/shadow 2>/dev/null && ! touch /host-etc/x 2>/dev/null && echo closed",
      ),
    ).toBe("nobody\nclosed\n");
    await test.runtime.remove(box.id);
  });
});
