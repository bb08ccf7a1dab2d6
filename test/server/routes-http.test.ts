import { describe, expect, it } from "vitest";
import { NO_EXPIRY } from "../../src/contracts/constants.ts";
import { WarrenError } from "../../src/contracts/errors.ts";
import { PREFIX } from "../../src/server/route.ts";
import { serve } from "./serve.ts";

describe("what den's clients rely on", () => {
  it("is there, with den's statuses and fields", async () => {
    await using served = await serve();
    const call = async (method: string, path: string, body?: unknown) => {
      const response = await fetch(served.url + PREFIX + path, {
        method,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      const text = await response.text();
      return {
        status: response.status,
        type: response.headers.get("content-type"),
        body: text && JSON.parse(text),
      };
    };
    expect(await call("GET", "/health")).toMatchObject({
      status: 200,
      body: { status: "ok", features: ["start"] },
    });
    expect((await call("GET", "/version")).body).toEqual({
      version: "1",
      commit: "c",
      build_date: "d",
      features: ["start"],
    });
    const created = await call("POST", "/sandboxes", { image: "x", workdir: null });
    expect(created).toMatchObject({ status: 201, type: "application/json" });
    expect(created.body).toMatchObject({ id: "box", image: "x", status: "running", expires_at: NO_EXPIRY });
    expect(created.body).not.toHaveProperty("ports");
    expect((await call("GET", "/sandboxes")).body).toHaveLength(1);
    expect((await call("POST", "/sandboxes/box/stop")).body).toMatchObject({ status: "stopped" });
    expect((await call("POST", "/sandboxes/box/start")).body).toMatchObject({ status: "running" });
    expect((await call("POST", "/sandboxes/box/exec", { cmd: ["echo", "hi"] })).body).toEqual({
      exit_code: 0,
      stdout: "hi\n",
      stderr: "",
    });
    expect(await call("PUT", "/sandboxes/box/files?path=/x", "x")).toMatchObject({
      status: 200,
      body: { success: true },
    });
    for (const [method, path] of [
      ["DELETE", "/sandboxes/box/files?path=/x"],
      ["POST", "/sandboxes/box/files/mkdir?path=/d"],
    ] as const) {
      expect(await call(method, path)).toMatchObject({ status: 200, body: { success: true } });
    }
    expect((await call("GET", "/sandboxes/box/files/list")).body).toEqual([]);
    expect((await call("GET", "/sandboxes/box/ports")).body).toEqual([]);
    const mapping = { sandbox_port: 80, host_port: 8080, protocol: "TCP" };
    expect(await call("POST", "/sandboxes/box/ports", mapping)).toMatchObject({
      status: 201,
      body: { sandbox_port: 80, host_port: 8080, protocol: "tcp", address: "127.0.0.1" },
    });
    expect(await call("DELETE", "/sandboxes/box/ports/80")).toMatchObject({ status: 204 });
    for (const port of ["0", "65536", "1e3", "80%2f1"]) {
      expect(await call("DELETE", `/sandboxes/box/ports/${port}`)).toMatchObject({ status: 400 });
    }
    expect((await call("GET", "/stats")).body).toEqual({
      total_sandboxes: 1,
      running_sandboxes: 1,
      stopped_sandboxes: 0,
      total_snapshots: 0,
    });
    expect(Object.keys((await call("GET", "/sandboxes/box/stats")).body)).toContain("network_rx");
    expect(await call("DELETE", "/sandboxes/box")).toEqual({ status: 204, type: null, body: "" });
    expect(await call("GET", "/sandboxes/nobody")).toMatchObject({
      status: 404,
      body: { error: "sandbox not found", code: "sandbox_not_found" },
    });
  });
});

describe("everything else", () => {
  it("is JSON too", async () => {
    await using served = await serve();
    for (const path of [
      "/",
      "/api",
      PREFIX,
      `${PREFIX}/nope`,
      `${PREFIX}/sandboxes/`,
      `//${PREFIX}/health`,
    ]) {
      const response = await fetch(served.url + path);
      expect(response.status, path).toBe(404);
      expect(await response.json()).toEqual({ error: "no such route", code: "route_not_found" });
    }
    const wrong = await fetch(`${served.url}${PREFIX}/sandboxes`, { method: "PATCH" });
    expect(wrong.status).toBe(405);
    expect(wrong.headers.get("allow")).toBe("POST, GET");
    expect(await wrong.json()).toMatchObject({ code: "method_not_allowed" });
  });

  it("that fails unexpectedly tells nothing of the inside", async () => {
    await using served = await serve();
    served.api.failNext(new TypeError("a secret of the engine"));
    const response = await fetch(`${served.url}${PREFIX}/sandboxes`);
    expect(response.status).toBe(500);
    expect(await response.json()).toEqual({
      error: "something went wrong in the engine",
      code: "internal",
      hint: "its log has the cause",
    });
  });

  it("that fails by name gives its code, sentence and hint, and not its cause", async () => {
    await using served = await serve();
    served.api.failNext(
      new WarrenError("host_under_pressure", "no memory left", { hint: "wait", cause: new Error("secret") }),
    );
    const response = await fetch(`${served.url}${PREFIX}/sandboxes`);
    expect(response.status).toBe(503);
    expect(await response.json()).toEqual({
      error: "no memory left",
      code: "host_under_pressure",
      hint: "wait",
    });
  });

  it("filters by labels and refuses what is no label", async () => {
    await using served = await serve();
    const asked: unknown[] = [];
    const list = served.api.list.bind(served.api);
    served.api.list = (filter) => {
      asked.push(filter);
      return list(filter);
    };
    await fetch(`${served.url}${PREFIX}/sandboxes?label=a%3Db%3Dc&label=d%3D`);
    expect(asked).toEqual([{ labels: { a: "b=c", d: "" } }]);
    expect((await fetch(`${served.url}${PREFIX}/sandboxes?label=x`)).status).toBe(400);
  });

  it("ends a command whose client goes away", async () => {
    await using served = await serve();
    const stop = new AbortController();
    const call = fetch(`${served.url}${PREFIX}/sandboxes/box/exec`, {
      method: "POST",
      body: '{"cmd":["sleep","60"]}',
      signal: stop.signal,
    });
    await expect.poll(() => served.api.running.size).toBe(1);
    stop.abort();
    await expect(call).rejects.toThrow();
    await expect.poll(() => served.api.running.size).toBe(0);
  });
});
