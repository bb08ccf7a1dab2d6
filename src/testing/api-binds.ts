import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";

const binding = (source: string, mount_path: string, read_only = false): CreateSandbox => ({
  storage: { binds: [{ source, mount_path, read_only }] },
});

/** Directories and files of the engine's machine, which must be the test's. */
export function testApiBinds({ test, fixture, unless }: ApiContext): void {
  const able = { unless: unless("binds") };

  if (unless("binds")) {
    test("refuses binds where the runtime has none", async () => {
      const { api, box } = fixture();
      await expectFailure(box(binding("/tmp", "/b")), "unsupported");
      expect(await api.list()).toEqual([]);
    });
  }

  test(
    "shares a directory of the host, whose files stay their owner's",
    async () => {
      const { api, box, shell } = fixture();
      using dir = hostDir("with space, 'quote' and:colon");
      writeFileSync(join(dir.path, "note"), "from outside\n");
      const { id, mounts } = await box(binding(`${dir.path}/`, "/project/project"));
      expect(mounts).toEqual([
        { type: "bind", source: dir.path, mount_path: "/project/project", read_only: false },
      ]);
      expect((await shell(id, "cat note; echo inside > made", { workdir: "/project/project" })).stdout).toBe(
        "from outside\n",
      );
      expect(readFileSync(join(dir.path, "made"), "utf8")).toBe("inside\n");
      expect(statSync(join(dir.path, "made")).uid).toBe(process.getuid?.());
      writeFileSync(join(dir.path, "note"), "changed\n");
      expect((await shell(id, "cat /project/project/note")).stdout).toBe("changed\n");
      await api.remove(id);
      expect(readFileSync(join(dir.path, "note"), "utf8")).toBe("changed\n");
    },
    able,
  );

  test(
    "shares a directory that can't be written from inside",
    async () => {
      const { box, shell } = fixture();
      using dir = hostDir("ro");
      writeFileSync(join(dir.path, "note"), "as it was");
      const { id } = await box(binding(dir.path, "/b", true));
      const attack = "echo x > /b/note; rm -f /b/note; mount -o remount,rw /b; echo x > /b/new; cat /b/note";
      expect((await shell(id, attack)).stdout).toBe("as it was");
      expect(readFileSync(join(dir.path, "note"), "utf8")).toBe("as it was");
    },
    able,
  );

  test(
    "shares a single file",
    async () => {
      const { box, shell } = fixture();
      using dir = hostDir("file");
      const file = join(dir.path, "config");
      writeFileSync(file, "one\n");
      const { id } = await box(binding(file, "/etc/my/config"));
      expect((await shell(id, "cat /etc/my/config; echo two >> /etc/my/config")).stdout).toBe("one\n");
      expect(readFileSync(file, "utf8")).toBe("one\ntwo\n");
    },
    able,
  );

  test(
    "refuses to share what is not there, and makes nothing then",
    async () => {
      const { api, box } = fixture();
      using dir = hostDir("empty");
      const absent = join(dir.path, "absent");
      const error = await expectFailure(box(binding(absent, "/b")), "invalid_request", "file_not_found");
      expect(error.message).toContain("absent");
      expect(() => statSync(absent)).toThrow();
      for (const source of ["relative", "", "./x", "~/x", "/nul\0"]) {
        await expectFailure(box(binding(source, "/b")), "invalid_request");
      }
      for (const target of ["relative", "/", "/proc", "/dev/x", "/sys/../b", "/.warren/x"]) {
        await expectFailure(box(binding(dir.path, target)), "invalid_request");
      }
      expect(await api.list()).toEqual([]);
    },
    able,
  );
}

function hostDir(name: string): Disposable & { path: string } {
  const parent = mkdtempSync(join(tmpdir(), "warren-bind-"));
  const path = join(parent, name);
  mkdirSync(path);
  return { path, [Symbol.dispose]: () => rmSync(parent, { recursive: true, force: true }) };
}
