import { expect } from "vitest";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";

/** What no volume can be called. */
const badNames = [
  "",
  ".",
  "..",
  "../up",
  "a/b",
  "/abs",
  "-rf",
  ".hidden",
  "__proto__",
  "with space",
  "new\nline",
  "nul\0",
  "esc\u001b[2J",
  "ünï",
  "x".repeat(65),
];

const mounting = (name: string, mount_path = "/v", read_only?: boolean): CreateSandbox => ({
  storage: { volumes: [{ name, mount_path, ...(read_only === undefined ? {} : { read_only }) }] },
});

/** Storage that outlives sandboxes. */
export function testApiVolumes({ test, fixture, unless }: ApiContext): void {
  const able = { unless: unless("volumes") };

  if (unless("volumes")) {
    test("refuses volumes where the runtime has none", async () => {
      const { api, box } = fixture();
      for (const call of [
        () => api.volumes.create({ name: "v" }),
        () => api.volumes.get("v"),
        () => api.volumes.list(),
        () => api.volumes.remove("v"),
        () => api.volumes.remove("v", { force: true }),
        () => api.volumes.usage(),
        () => box(mounting("v")),
      ]) {
        await expectFailure(call(), "unsupported");
      }
      expect(await api.list()).toEqual([]);
    });
  }

  test(
    "makes volumes, finds them again, and removes them",
    async () => {
      const { api } = fixture();
      const labels = { team: "a", "odd\nname": "x y=ü\u0001" };
      const made = await api.volumes.create({ name: "cache-1", labels });
      expect(made).toMatchObject({ name: "cache-1", labels, runtime: expect.stringMatching(/./) });
      expect(Date.parse(made.created_at ?? "")).toBeGreaterThan(Date.now() - 60_000);
      expect(await api.volumes.get("cache-1")).toEqual(made);
      expect(await api.volumes.get("cache-1", { runtime: made.runtime })).toEqual(made);
      expect(await api.volumes.create({ name: "cache-1", labels: { team: "b" } })).toEqual(made);
      const other = await api.volumes.create({ name: "Other_2.x" });
      const named = async (filter?: { prefix?: string; runtime?: string }) =>
        (await api.volumes.list(filter)).map(({ name }) => name);
      expect(await api.volumes.list()).toEqual([other, made]);
      expect(await named({ prefix: "cache" })).toEqual(["cache-1"]);
      expect(await named({ prefix: "Cache" })).toEqual([]);
      expect(await named({ prefix: "", runtime: made.runtime })).toEqual(["Other_2.x", "cache-1"]);
      await api.volumes.remove("cache-1");
      expect(await named()).toEqual(["Other_2.x"]);
      for (const call of [() => api.volumes.get("cache-1"), () => api.volumes.remove("cache-1")]) {
        const error = await expectFailure(call(), "volume_not_found");
        expect(error.hint).toBeTruthy();
      }
      // None of what went before is there again.
      expect(await api.volumes.create({ name: "cache-1" })).toMatchObject({ labels: {} });
    },
    able,
  );

  test(
    "keeps what is written in a volume for the sandboxes that come after",
    async () => {
      const { api, box, shell } = fixture();
      const first = await box(mounting("data", "/srv/data"));
      expect(first.mounts).toEqual([
        { type: "volume", source: "data", mount_path: "/srv/data", read_only: false },
      ]);
      expect(
        (await shell(first.id, "echo kept > /srv/data/f; mkdir /srv/data/d; chmod 700 /srv/data/d"))
          .exit_code,
      ).toBe(0);
      const beside = await box(mounting("data", "/elsewhere", true));
      expect((await shell(beside.id, "cat /elsewhere/f")).stdout).toBe("kept\n");
      expect((await shell(beside.id, "echo no > /elsewhere/g")).exit_code).not.toBe(0);
      await shell(first.id, "echo more >> /srv/data/f");
      expect((await shell(beside.id, "cat /elsewhere/f")).stdout).toBe("kept\nmore\n");
      await api.stop(first.id, { timeoutMs: 0 });
      await api.start(first.id);
      expect((await shell(first.id, "cat /srv/data/f")).stdout).toBe("kept\nmore\n");
      await Promise.all([api.remove(first.id), api.remove(beside.id)]);
      const after = await box(mounting("data", "/a/b/c"));
      const seen = await shell(after.id, "cat /a/b/c/f; ls /a/b/c; echo x > /a/b/c/d/mine && echo fine");
      expect(seen.stdout).toBe("kept\nmore\nd\nf\nfine\n");
    },
    able,
  );

  test(
    "mounts a volume below another and below a tmpfs",
    async () => {
      const { box, shell } = fixture();
      const { id } = await box({
        readonly_fs: true,
        storage: {
          tmpfs: [{ path: "/project", size: "1m" }],
          volumes: [
            { name: "inner", mount_path: "/project/outer/inner" },
            { name: "outer", mount_path: "/project/outer" },
          ],
        },
      });
      const write =
        "for d in /project /project/outer /project/outer/inner; do echo $d > $d/f || exit 1; done";
      expect(
        (await shell(id, `${write}; cat /project/f /project/outer/f /project/outer/inner/f`)).stdout,
      ).toBe("/project\n/project/outer\n/project/outer/inner\n");
      const other = await box(mounting("inner"));
      expect((await shell(other.id, "cat /v/f")).stdout).toBe("/project/outer/inner\n");
    },
    able,
  );

  test(
    "tells what volumes take",
    async () => {
      const { api, box, shell } = fixture();
      const { id } = await box(mounting("big"));
      await api.volumes.create({ name: "small" });
      await shell(id, "head -c 3000000 /dev/urandom > /v/file");
      const usage = await api.volumes.usage();
      expect(usage.map(({ name }) => name)).toEqual(["big", "small"]);
      expect(usage[0]?.size).toBeGreaterThanOrEqual(3_000_000);
      expect(usage[0]?.size).toBeLessThan(4_000_000);
      expect(usage[1]?.size).toBeLessThan(100_000);
      expect((await api.volumes.usage({ prefix: "s" })).map(({ name }) => name)).toEqual(["small"]);
    },
    able,
  );

  test(
    "makes a volume that a sandbox names, and keeps it when the sandbox goes",
    async () => {
      const { api, box } = fixture();
      const { id } = await box(mounting("made-here"));
      expect(await api.volumes.get("made-here")).toMatchObject({ name: "made-here" });
      await api.remove(id);
      expect(await api.volumes.get("made-here")).toMatchObject({ name: "made-here" });
    },
    able,
  );

  test(
    "removes no volume that a sandbox has, but with force",
    async () => {
      const { api, box, shell } = fixture();
      const running = await box({ name: "uses-it", ...mounting("shared") });
      const stopped = await box(mounting("shared", "/w", true));
      const other = await box(mounting("other"));
      await api.stop(stopped.id, { timeoutMs: 0 });
      const error = await expectFailure(api.volumes.remove("shared"), "in_use");
      expect(error.message).toContain("uses-it");
      expect(error.message).toContain(stopped.id);
      expect(error.hint).toBeTruthy();
      await api.remove(running.id);
      await expectFailure(api.volumes.remove("shared", { force: false }), "in_use");
      expect(await api.get(stopped.id)).toMatchObject({ status: "stopped" });
      await box(mounting("shared"));
      await api.volumes.remove("shared", { force: true });
      expect((await api.list()).map(({ id }) => id)).toEqual([other.id]);
      await expectFailure(api.volumes.get("shared"), "volume_not_found");
      expect((await shell(other.id, "echo x > /v/f")).exit_code).toBe(0);
      await expectFailure(api.volumes.remove("shared", { force: true }), "volume_not_found");
    },
    able,
  );

  test(
    "takes creating and removing one volume in turn, whoever asks",
    async () => {
      const { api, box, shell } = fixture();
      const made = await Promise.all(
        ["a", "b", "c"].map((who) => api.volumes.create({ name: "once", labels: { who } })),
      );
      expect(new Set(made.map((info) => JSON.stringify(info))).size).toBe(1);
      for (const force of [false, true, false, true]) {
        const [created, removed] = await Promise.allSettled([
          box(mounting("once")),
          api.volumes.remove("once", { force }),
        ]);
        if (created.status === "rejected") throw created.reason;
        if (removed.status === "rejected") expect(removed.reason).toMatchObject({ code: "in_use" });
        const there = (await api.list()).some(({ id }) => id === created.value.id);
        // Either the sandbox came first and was removed with it, or it has a whole volume.
        if (there) {
          expect((await shell(created.value.id, "echo x > /v/f && cat /v/f")).stdout).toBe("x\n");
          await expectFailure(api.volumes.remove("once"), "in_use");
          await api.remove(created.value.id);
        } else {
          expect(force).toBe(true);
          await expectFailure(api.volumes.get("once"), "volume_not_found");
        }
        await api.volumes.create({ name: "once" });
      }
      const both = await Promise.allSettled([api.volumes.remove("once"), api.volumes.remove("once")]);
      expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
    },
    able,
  );

  test(
    "refuses names that no volume can have, and makes nothing then",
    async () => {
      const { api, box } = fixture();
      for (const name of badNames) {
        await expectFailure(api.volumes.create({ name }), "invalid_request");
        await expectFailure(api.volumes.get(name), "invalid_request");
        await expectFailure(api.volumes.remove(name, { force: true }), "invalid_request");
        await expectFailure(box(mounting(name)), "invalid_request");
      }
      for (const prefix of ["../", "a/", "*", "\0", "x".repeat(65)]) {
        await expectFailure(api.volumes.list({ prefix }), "invalid_request");
        await expectFailure(api.volumes.usage({ prefix }), "invalid_request");
      }
      for (const target of ["relative", "/proc/v", "/", "/a/../b", "/nul\0"]) {
        await expectFailure(box(mounting("v", target)), "invalid_request");
      }
      await expectFailure(api.volumes.create({ name: "v", labels: { "": "x" } }), "invalid_request");
      await expectFailure(api.volumes.create({ name: "v", labels: { nul: "\0" } }), "invalid_request");
      for (const runtime of ["no-such-runtime", "__proto__", "../x", ""]) {
        await expectFailure(api.volumes.create({ name: "v", runtime }), "unsupported");
        await expectFailure(api.volumes.list({ runtime }), "unsupported");
        await expectFailure(api.volumes.get("v", { runtime }), "unsupported");
      }
      expect(await api.volumes.list()).toEqual([]);
      expect(await api.list()).toEqual([]);
    },
    able,
  );
}
