import { execFileSync } from "node:child_process";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openTestRuntime, type TestRuntime } from "../../runtimes/oci/support/open.ts";

const top = mkdtempSync(join(tmpdir(), "wimg-"));
let test: TestRuntime;
beforeAll(async () => {
  test = await openTestRuntime("crun");
  mkdirSync(join(top, "tree/bin"), { recursive: true });
  for (const name of ["busybox", "sh", "stat"]) {
    execFileSync("cp", ["/bin/busybox", join(top, "tree/bin", name)]);
  }
  writeFileSync(join(top, "tree/private"), "x", { mode: 0o600 });
  // As mkdtemp makes it: the owner's alone, who is not the user any more once it is an image.
  chmodSync(join(top, "tree"), 0o700);
});
afterAll(async () => {
  await test.close();
  rmSync(top, { recursive: true });
});

/** Owners of files of the image, as inside. */
async function owners(reference: string): Promise<string> {
  const box = await test.box({ image: await test.runtime.images.ensure(reference) });
  const said = await box.sh("stat -c %u:%g /bin/sh; stat -c %u:%g /private; echo y >>/private; echo ok");
  await test.runtime.remove(box.id);
  return said;
}

describe("an ordinary user's image", () => {
  it("from a directory of the user's is root's inside, and copied anew when it has changed", async () => {
    const path = join(top, "tree");
    expect(await owners(path)).toBe("0:0\n0:0\nok\n");
    const before = (await test.runtime.images.ensure(path)).id;
    expect((await test.runtime.images.ensure(path)).id).toBe(before);
    writeFileSync(join(path, "more"), "");
    expect((await test.runtime.images.ensure(path)).id).not.toBe(before);
  });

  it("from a tar file keeps its owners", async () => {
    const file = join(top, "image.tar");
    execFileSync("tar", ["-cf", file, "--owner=1234", "--group=4321", "-C", join(top, "tree"), "./private"]);
    execFileSync("tar", ["-rf", file, "--owner=0", "--group=0", "-C", join(top, "tree"), "./bin"]);
    expect(await owners(file)).toBe("0:0\n1234:4321\nok\n");
  });

  it("from an OCI layout keeps its owners", async () => {
    const layout = join(top, "layout");
    const umoci = (...args: string[]) => execFileSync("umoci", args, { stdio: "pipe" });
    umoci("init", "--layout", layout);
    umoci("new", "--image", `${layout}:1`);
    umoci("insert", "--rootless", "--image", `${layout}:1`, join(top, "tree"), "/");
    const said = await owners(`oci:${layout}:1`);
    expect(said).toMatch(/^\d+:\d+\n\d+:\d+\nok\n$/);
  });
});
