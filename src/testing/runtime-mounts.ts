import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import type { RuntimeMount } from "../contracts/runtime.ts";
import { expectFailure } from "./failures.ts";
import { readAll, runInside, shellInside } from "./guest-tools.ts";
import type { Box, RuntimeContext } from "./runtime-fixture.ts";

const MIB = 1024 ** 2;

const mountOf =
  (type: RuntimeMount["type"]) =>
  (source: string, target: string, readonly = false): RuntimeMount => ({ type, source, target, readonly });
const volume = mountOf("volume");
const bind = mountOf("bind");

/** Volumes, binds, and how mounts lie in one another. */
export function testMounts(context: RuntimeContext): void {
  testVolumes(context);
  testBinds(context);
  testNesting(context);
}

function testVolumes({ test, fixture, unless }: RuntimeContext): void {
  const lacking = { unless: unless("volumes") };

  test(
    "makes a volume once, and tells of it",
    async () => {
      const { volumes, volumeName, runtime } = fixture();
      const name = volumeName();
      expect(await volumes().inspect(name)).toBeUndefined();
      const made = await volumes().create(name, { "test.label": "a b=c" });
      expect(made).toMatchObject({ name, runtime: runtime.name, labels: { "test.label": "a b=c" } });
      expect(Date.parse(made.created_at ?? "")).toBeGreaterThan(Date.now() - 600_000);
      expect((await volumes().create(name, { other: "x" })).labels).toEqual(made.labels);
      expect(await volumes().inspect(name)).toEqual(made);
      const other = volumeName();
      await Promise.all([1, 2, 3].map(() => volumes().create(other, {})));
      expect((await volumes().list(name)).map((found) => found.name)).toEqual([name]);
      const listed = (await volumes().list("wtest-")).map((found) => found.name);
      expect(listed).toEqual(expect.arrayContaining([name, other]));
      for (let i = 0; i < 2; i++) await volumes().remove(name);
      expect(await volumes().inspect(name)).toBeUndefined();
      expect(await volumes().list(name)).toEqual([]);
    },
    lacking,
  );

  test(
    "keeps a volume over stop and removal, and shares it between sandboxes",
    async () => {
      const { runtime, box, volumes, volumeName } = fixture();
      const name = volumeName();
      await volumes().create(name, {});
      const one = await box({ mounts: [volume(name, "/srv/data")] });
      const owner = await shellInside(one.guest, "cd /srv/data && ls -A && stat -c '%u:%g %a' .");
      expect(owner.stdout).toBe("0:0 755\n");
      await shell(one, "mkdir /srv/data/dir && echo one >/srv/data/dir/file && chmod 640 /srv/data/dir/file");
      await runtime.stop(one.id, { timeoutMs: 0 });
      await runtime.start(one.id);
      expect(await shell(one, "cat /srv/data/dir/file; stat -c %a /srv/data/dir/file")).toBe("one\n640\n");
      const two = await box({ mounts: [volume(name, "/elsewhere")] });
      await shell(two, "echo two >>/elsewhere/dir/file");
      expect(await shell(one, "cat /srv/data/dir/file")).toBe("one\ntwo\n");
      await Promise.all([one, two].map(({ id }) => runtime.remove(id)));
      const three = await box({ mounts: [volume(name, "/srv/data")] });
      expect(await shell(three, "cat /srv/data/dir/file")).toBe("one\ntwo\n");
    },
    lacking,
  );

  test(
    "removes no volume that a sandbox has, but by force",
    async () => {
      const { runtime, box, volumes, volumeName } = fixture();
      const name = volumeName();
      await volumes().create(name, {});
      const { id } = await box({ mounts: [volume(name, "/data")] });
      await expectFailure(volumes().remove(name), "in_use");
      await runtime.stop(id, { timeoutMs: 0 });
      await expectFailure(volumes().remove(name), "in_use");
      await runtime.start(id);
      await volumes().remove(name, { force: true });
      expect(await runtime.inspect(id)).toBeUndefined();
      expect(await volumes().inspect(name)).toBeUndefined();
      await volumes().remove(name, { force: true });
    },
    lacking,
  );

  test(
    "refuses a volume that is not there",
    async () => {
      const { runtime, spec, volumeName } = fixture();
      const wanted = await spec({ mounts: [volume(volumeName(), "/data")] });
      await expectFailure(runtime.create(wanted), "volume_not_found");
      expect(await runtime.inspect(wanted.id)).toBeUndefined();
    },
    lacking,
  );

  test(
    "tells how much of the disk a volume takes",
    async () => {
      const { runtime, box, volumes, volumeName } = fixture();
      const name = volumeName();
      await volumes().create(name, {});
      const sizeOf = async () => {
        const [found, ...others] = await volumes().diskUsage(name);
        expect(others).toEqual([]);
        expect(found).toMatchObject({ name, runtime: runtime.name });
        return found?.size ?? Number.NaN;
      };
      expect(await sizeOf()).toBeLessThan(MIB);
      const made = await box({ mounts: [volume(name, "/data")] });
      const script = `cd /data && mkdir closed && dd if=/dev/urandom of=closed/file bs=1024 count=4096 2>/dev/null && sync
        ln closed/file hard && ln -s / out && chmod 000 closed && truncate -s 1G sparse`;
      await shell(made, script);
      const size = await sizeOf();
      expect(size).toBeGreaterThanOrEqual(4 * MIB);
      expect(size).toBeLessThan(6 * MIB);
    },
    lacking,
  );
}

function testBinds({ test, fixture, unless }: RuntimeContext): void {
  const lacking = { unless: unless("binds") };

  test(
    "binds a directory and a file, and keeps their owner",
    async () => {
      using project = hostDirectory();
      const { runtime, box } = fixture();
      mkdirSync(project.at("src"));
      writeFileSync(project.at("src/main"), "main");
      writeFileSync(project.at("config"), "config");
      const made = await box({
        mounts: [bind(project.at("src"), "/home/project/src"), bind(project.at("config"), "/opt/app.conf")],
      });
      expect(await shell(made, "cat /home/project/src/main /opt/app.conf")).toBe("mainconfig");
      await shell(
        made,
        "cd /home/project/src && echo new >made && mkdir dir && echo more >>main && echo x >>/opt/app.conf",
      );
      expect(readFileSync(project.at("src/main"), "utf8")).toBe("mainmore\n");
      expect(readFileSync(project.at("config"), "utf8")).toBe("configx\n");
      // Whoever runs the runtime, to whom the project belongs, is root inside.
      for (const name of ["src/made", "src/dir"])
        expect(statSync(project.at(name)).uid).toBe(process.getuid?.());
      expect(await shell(made, "stat -c %u /home/project/src/main /opt/app.conf")).toBe("0\n0\n");
      await runtime.stop(made.id, { timeoutMs: 0 });
      await runtime.start(made.id);
      expect(await shell(made, "cat /home/project/src/made")).toBe("new\n");
      await runtime.remove(made.id);
      expect(readdirSync(project.at("src")).sort()).toEqual(["dir", "made", "main"]);
    },
    lacking,
  );

  test(
    "keeps read-only what is mounted so",
    async () => {
      using project = hostDirectory();
      const { box } = fixture();
      writeFileSync(project.at("file"), "kept");
      const made = await box({
        mounts: [
          bind(project.path, "/ro", true),
          bind(project.at("file"), "/one", true),
          bind(project.path, "/rw"),
        ],
      });
      for (const script of [
        "echo x >/ro/file",
        "echo x >/one",
        "touch /ro/new",
        "rm /ro/file",
        "chmod 777 /ro",
      ]) {
        expect((await shellInside(made.guest, script)).exit_code, script).not.toBe(0);
      }
      for (const remount of ["rw", "bind,rw"]) {
        expect(
          (await runInside(made.guest, ["mount", "-o", `remount,${remount}`, "/ro"])).exit_code,
        ).not.toBe(0);
      }
      expect(readFileSync(project.at("file"), "utf8")).toBe("kept");
      await shell(made, "echo control >/rw/file");
      expect(readFileSync(project.at("file"), "utf8")).toBe("control\n");
    },
    lacking,
  );

  test(
    "stays stopped and whole when a source has gone",
    async () => {
      using project = hostDirectory();
      const { runtime, box, spec } = fixture();
      const none = await spec({ mounts: [bind(project.at("nothing"), "/data")] });
      await expectFailure(runtime.create(none), "file_not_found");
      expect(await runtime.inspect(none.id)).toBeUndefined();
      mkdirSync(project.at("src"));
      const { id, guest } = await box({ mounts: [bind(project.at("src"), "/data")] });
      await guest.writeFile("/opt/kept", Buffer.from("kept"), { parents: true });
      await runtime.stop(id, { timeoutMs: 0 });
      rmSync(project.at("src"), { recursive: true });
      await expectFailure(runtime.start(id), "file_not_found");
      expect((await runtime.inspect(id))?.state).toMatch(/^(created|stopped)$/);
      expect(existsSync(project.at("src"))).toBe(false);
      mkdirSync(project.at("src"));
      await runtime.start(id);
      expect((await readAll((await guest.readFile("/opt/kept")).body)).toString()).toBe("kept");
    },
    lacking,
  );

  test(
    "does not follow a link of the image to the host",
    async () => {
      using project = hostDirectory();
      const { runtime, box } = fixture();
      // What the links lead to is there on both sides.
      const inside = join("root", project.at("outside"));
      for (const name of ["root/bin", "outside", "src", inside])
        mkdirSync(project.at(name), { recursive: true });
      copyFileSync("/bin/busybox", project.at("root/bin/busybox"));
      symlinkSync(project.at("outside"), project.at("root/data"));
      symlinkSync(`../../../../../../..${project.at("outside")}`, project.at("root/dots"));
      writeFileSync(project.at("src/file"), "mounted");
      const image = await runtime.images.ensure(project.at("root"));
      const made = await box({
        image,
        mounts: [bind(project.at("src"), "/data/deep/er"), bind(project.at("src"), "/dots/x")],
      });
      const busybox = async (...argv: string[]) =>
        (await runInside(made.guest, ["/bin/busybox", ...argv])).stdout;
      expect(await busybox("cat", "/data/deep/er/file", "/dots/x/file")).toBe("mountedmounted");
      // Inside, the link leads to a directory of the sandbox's own.
      expect(await busybox("cat", `${project.at("outside")}/x/file`)).toBe("mounted");
      expect(readdirSync(project.at("outside"))).toEqual([]);
      await runtime.remove(made.id);
    },
    { unless: unless("binds", "directory") },
  );
}

function testNesting({ test, fixture, unless }: RuntimeContext): void {
  test(
    "mounts what lies in another mount over it",
    async () => {
      using project = hostDirectory();
      const { runtime, box, volumes, volumeName } = fixture();
      const name = volumeName();
      await volumes().create(name, {});
      writeFileSync(project.at("file"), "bound");
      const tmpfs = (path: string) => ({
        path,
        sizeBytes: 16 * MIB,
        readonly: false,
        exec: true,
        mode: 0o1777,
      });
      const made = await box({
        tmpfs: [tmpfs("/project/a/scratch"), tmpfs("/project")],
        // A runtime need not sort by length of names, nor take the order that it is given.
        mounts: [
          volume(name, "/project/a"),
          bind(project.path, "/project/a/scratch/project"),
          volume(name, "/again"),
        ],
      });
      const check = async () => {
        expect(await shell(made, "cat /project/a/scratch/project/file")).toBe("bound");
        const types = await shell(made, "stat -f -c %T /project /project/a/scratch");
        expect(types).toBe("tmpfs\ntmpfs\n");
        await shell(
          made,
          "touch /project/gone /project/a/kept /project/a/scratch/gone && test -e /again/kept",
        );
      };
      await check();
      await runtime.stop(made.id, { timeoutMs: 0 });
      await runtime.start(made.id);
      expect(await shell(made, "ls /project /project/a/scratch")).not.toContain("gone");
      expect(await shell(made, "ls /project/a")).toContain("kept");
      await check();
    },
    { unless: unless("volumes", "binds", "tmpfs") },
  );
}

/** Standard output of a script; fails when it doesn't exit with 0. */
async function shell({ guest }: Box, script: string): Promise<string> {
  const result = await shellInside(guest, script);
  expect(result.exit_code, `${script}: ${result.stderr}`).toBe(0);
  return result.stdout;
}

/** A directory of the host, which sandboxes have mounted. */
function hostDirectory(): { path: string; at(name: string): string } & Disposable {
  const path = realpathSync(mkdtempSync(join(tmpdir(), "warren-mounts-")));
  chmodSync(path, 0o755);
  return {
    path,
    at: (name) => join(path, name),
    [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }),
  };
}
