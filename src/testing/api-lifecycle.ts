import { expect } from "vitest";
import { NO_EXPIRY } from "../contracts/constants.ts";
import type { CreateSandbox } from "../contracts/sandbox.ts";
import type { ApiContext } from "./api-fixture.ts";
import { expectFailure } from "./failures.ts";
import { readAll } from "./guest-tools.ts";
import { eventually } from "./wait.ts";

/** An id that no sandbox has. */
export const UNKNOWN_ID = "zzzzzzzzzzzzzzzz";

/** Creating, finding, stopping, starting, removing, extending. */
export function testApiLifecycle({ test, fixture }: ApiContext): void {
  test("creates a sandbox that runs, and finds it again", async () => {
    const { api, box } = fixture();
    const before = Date.now();
    const info = await box({ labels: { team: "a" }, name: "web-1" });
    expect(info).toMatchObject({ status: "running", name: "web-1", labels: { team: "a" } });
    expect(info.id).toMatch(/^[a-z][a-z2-7]{15}$/);
    expect(info.pid).toBeGreaterThan(1);
    expect(info.network_mode).toBe("none");
    expect(Date.parse(info.created_at)).toBeGreaterThanOrEqual(before - 1000);
    for (const id of [info.id, "web-1", info.id.slice(0, 4)]) expect(await api.get(id)).toEqual(info);
    expect(await api.list()).toEqual([info]);
    expect(await api.systemStats()).toMatchObject({ total_sandboxes: 1, running_sandboxes: 1 });
  });

  test("gives commands the sandbox's environment, directory and host name", async () => {
    const { box, shell } = fixture();
    const workdir = "/made/for me";
    const { id } = await box({ env: { A: "1", B: "x y\n=ü" }, workdir, name: "host-name" });
    const result = await shell(id, 'pwd; uname -n; printf "%s|%s" "$A" "$B"');
    expect(result.stdout).toBe(`${workdir}\nhost-name\n1|x y\n=ü`);
    expect((await shell(id, 'printf "%s" "$A$C"', { env: { A: "2", C: "3" } })).stdout).toBe("23");
  });

  test("lists the oldest first, and by labels", async () => {
    const { api, box } = fixture();
    const one = await box({ labels: { team: "a", x: "1" } });
    const two = await box({ labels: { team: "b" } });
    const three = await box({ labels: { team: "a" } });
    const ids = async (labels?: Record<string, string>) =>
      (await api.list(labels === undefined ? {} : { labels })).map((sandbox) => sandbox.id);
    expect(await ids()).toEqual([one.id, two.id, three.id]);
    expect(await ids({ team: "a" })).toEqual([one.id, three.id]);
    expect(await ids({ team: "a", x: "1" })).toEqual([one.id]);
    expect(await ids({ team: "c" })).toEqual([]);
  });

  test("finds nothing under an unknown id", async () => {
    const { api } = fixture();
    const calls: Record<string, (id: string) => Promise<unknown>> = {
      get: (id) => api.get(id),
      start: (id) => api.start(id),
      stop: (id) => api.stop(id),
      logs: async (id) => {
        for await (const _ of api.logs(id)) return;
      },
      wait: (id) => api.wait(id),
      pause: (id) => api.pause(id),
      resume: (id) => api.resume(id),
      update: (id) => api.update(id, { pid_limit: 100 }),
      remove: (id) => api.remove(id),
      extend: (id) => api.extend(id, 60),
      exec: (id) => api.exec(id, { cmd: ["true"] }),
      execStream: (id) => api.execStream(id, { cmd: ["true"] }),
      stats: (id) => api.stats(id),
      read: (id) => api.files.read(id, "/etc/passwd"),
      write: (id) => api.files.write(id, "/x", Buffer.from("x")),
      "remove a file": (id) => api.files.remove(id, "/x"),
      list: (id) => api.files.list(id, "/"),
      stat: (id) => api.files.stat(id, "/"),
      mkdir: (id) => api.files.mkdir(id, "/x"),
      rename: (id) => api.files.rename(id, "/x", "/y"),
      chmod: (id) => api.files.chmod(id, "/x", 0o600),
    };
    for (const [name, call] of Object.entries(calls)) {
      const error = await expectFailure(call(UNKNOWN_ID), "sandbox_not_found");
      expect(error.hint, name).toBeTruthy();
    }
    for (const id of ["nope", "a b", "..", "../../etc", "ü", "x".repeat(3000), "%2e%2e", "a?b#c"]) {
      await expectFailure(api.get(id), "sandbox_not_found");
    }
  });

  test("keeps names unique among those that live", async () => {
    const { api, box } = fixture();
    const { id } = await box({ name: "only" });
    await expectFailure(box({ name: "only" }), "name_taken");
    await api.remove(id);
    await box({ name: "only" });
    const racers = await Promise.allSettled([1, 2, 3].map(() => box({ name: "race" })));
    expect(racers.map((racer) => racer.status).sort()).toEqual(["fulfilled", "rejected", "rejected"]);
    expect(await api.list()).toHaveLength(2);
  });

  test("refuses what makes no sense, and makes nothing then", async () => {
    const { api, box } = fixture();
    const nonsense: [CreateSandbox, ...string[]][] = [
      [{ name: "Upper Case" }, "invalid_request"],
      [{ name: "../up" }, "invalid_request"],
      [{ env: { "A=B": "x" } }, "invalid_request"],
      [{ env: { A: "nul\0" } }, "invalid_request"],
      [{ workdir: "relative" }, "invalid_request"],
      [{ workdir: `/${"x".repeat(5000)}` }, "invalid_request"],
      [{ cmd: [] }, "invalid_request"],
      [{ memory: -1 }, "invalid_request"],
      [{ cpu: 0.5 }, "invalid_request"],
      [{ timeout: 1e15 }, "invalid_request"],
      [{ image: "" }, "invalid_request"],
      [{ user: "root; id" }, "invalid_request"],
      [{ storage: { tmpfs: [{ path: "/proc", size: "1m" }] } }, "invalid_request"],
      [{ storage: { tmpfs: [{ path: "/a", size: "1m", options: "suid" }] } }, "invalid_request"],
      [{ image: "/nonexistent/warren-image" }, "image_not_found"],
      [{ ports: [{ sandbox_port: 0, host_port: 8080 }] }, "invalid_request"],
      [{ ports: [{ sandbox_port: 80, protocol: "sctp" }] }, "invalid_request"],
      [{ ports: [{ sandbox_port: 80, address: "example.com" }] }, "invalid_request", "forbidden"],
      [{ network_mode: "mesh" }, "unsupported"],
      [{ storage: { s3: { bucket: "b", mode: "hooks" } } }, "unsupported"],
      [{ disk_limit: 1 << 30 }, "unsupported"],
      [{ runtime: "no-such-runtime" }, "unsupported"],
    ];
    for (const [request, ...codes] of nonsense) await expectFailure(box(request), ...codes);
    expect(await api.list()).toEqual([]);
  });

  test("makes nothing for a caller who has given up", async () => {
    const { api } = fixture();
    await expectFailure(api.create({}, { signal: AbortSignal.abort() }), "cancelled");
    const soon = new AbortController();
    const call = api.create({}, { signal: soon.signal });
    setTimeout(() => soon.abort(), 5);
    const outcome = await call.then(
      () => "made" as const,
      () => "given up" as const,
    );
    // Unless the create was faster, nothing is left, at the latest when it has been taken back.
    if (outcome === "given up") await eventually("nothing", async () => (await api.list()).length === 0);
    else expect(await api.list()).toHaveLength(1);
  });

  test("creates side by side", async () => {
    const { api, box, shell } = fixture();
    const boxes = await Promise.all([box(), box(), box(), box()]);
    expect(new Set(boxes.map((info) => info.id)).size).toBe(4);
    const names = await Promise.all(boxes.map(({ id }) => shell(id, "uname -n")));
    expect(names.map((result) => result.stdout.trim())).toEqual(boxes.map(({ id }) => id));
    await Promise.all(boxes.map(({ id }) => api.remove(id)));
    expect(await api.list()).toEqual([]);
  });

  test("stops and starts with all files kept", async () => {
    const { api, box, shell } = fixture();
    const { id } = await box();
    await shell(id, "mkdir -p /opt/d && echo kept > /opt/d/file && chmod 640 /opt/d/file");
    const stopped = await api.stop(id);
    expect(stopped).toMatchObject({ id, status: "stopped" });
    expect(stopped.stopped_at).toBeTruthy();
    expect(stopped).not.toHaveProperty("pid");
    expect(await api.stop(id)).toEqual(stopped);
    expect(await api.get(id)).toEqual(stopped);
    const started = await api.start(id);
    expect(started).toMatchObject({ id, status: "running" });
    expect(started).not.toHaveProperty("stopped_at");
    expect(await api.start(id)).toEqual(started);
    expect((await readAll((await api.files.read(id, "/opt/d/file")).body)).toString()).toBe("kept\n");
  });

  test("refuses to work in a stopped sandbox", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await api.stop(id, { timeoutMs: 0 });
    const calls = [
      api.exec(id, { cmd: ["true"] }),
      api.execStream(id, { cmd: ["true"] }),
      api.stats(id),
      api.files.read(id, "/etc/passwd"),
      api.files.write(id, "/x", Buffer.from("x")),
      api.files.remove(id, "/x"),
      api.files.list(id, "/"),
      api.files.stat(id, "/"),
      api.files.mkdir(id, "/x"),
      api.files.rename(id, "/x", "/y"),
      api.files.chmod(id, "/x", 0o600),
    ];
    // All are under way at once: one that fails before its turn is not an unhandled failure.
    for (const call of calls) call.catch(() => {});
    for (const call of calls) {
      const error = await expectFailure(call, "sandbox_wrong_state");
      expect(error.hint).toBeTruthy();
    }
  });

  test("removes once", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    await api.remove(id);
    await expectFailure(api.remove(id), "sandbox_not_found");
    await expectFailure(api.get(id), "sandbox_not_found");
    const { id: other } = await box();
    const both = await Promise.allSettled([api.remove(other), api.remove(other)]);
    expect(both.map((outcome) => outcome.status).sort()).toEqual(["fulfilled", "rejected"]);
    expect(await api.list()).toEqual([]);
  });

  test("takes steps of one sandbox one after the other", async () => {
    const { api, box } = fixture();
    const { id } = await box();
    const steps = [api.stop(id), api.start(id), api.stop(id), api.start(id), api.start(id)];
    const states = (await Promise.all(steps)).map((info) => info.status);
    expect(states).toEqual(["stopped", "running", "stopped", "running", "running"]);
    expect((await api.exec(id, { cmd: ["true"] })).exit_code).toBe(0);
  });

  test("tells when a sandbox expires, and lets that be changed", async () => {
    const { api, box } = fixture();
    const near = (time: string, seconds: number) =>
      expect(Math.abs(Date.parse(time) - Date.now() - seconds * 1000)).toBeLessThan(30_000);
    const { id, expires_at } = await box({ timeout: 600 });
    near(expires_at, 600);
    near((await api.extend(id, 7200)).expires_at, 7200);
    near((await api.get(id)).expires_at, 7200);
    expect((await api.extend(id, -1)).expires_at).toBe(NO_EXPIRY);
    near((await api.extend(id, 315_360_000)).expires_at, 315_360_000);
    for (const bad of [-2, 1.5, 1e15, Number.NaN])
      await expectFailure(api.extend(id, bad), "invalid_request");
    expect((await box({ timeout: -1 })).expires_at).toBe(NO_EXPIRY);
    await api.stop(id, { timeoutMs: 0 });
    near((await api.extend(id, 60)).expires_at, 60);
  });

  test("removes a sandbox whose time has come", async () => {
    const { api, box } = fixture();
    const { id } = await box({ timeout: 1 });
    await eventually("the expiry", () =>
      api.get(id).then(
        () => false,
        (error: { code?: unknown }) => error.code === "sandbox_not_found",
      ),
    );
  });

  test("gives a read-only root with writable places", async () => {
    const { box, shell } = fixture();
    const info = await box({ readonly_fs: true, storage: { tmpfs: [{ path: "/data", size: "1m" }] } });
    expect(info.readonly_fs).toBe(true);
    expect((await shell(info.id, "echo x > /opt/x")).exit_code).not.toBe(0);
    const places = "/tmp /run /var/tmp /home/sandbox /root /data";
    const result = await shell(info.id, `for d in ${places}; do echo x > $d/x || exit 1; done; echo all`);
    expect(result.stdout).toBe("all\n");
  });
}
