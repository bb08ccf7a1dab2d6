import { resolve } from "node:path";
import { describe, expect, it } from "vitest";
import { type Mount, parseMount, parseVolume, storageOf } from "../../src/cli/mounts.ts";
import { UsageError } from "../../src/cli/report.ts";

const mount = (type: Mount["type"], source: string, target: string, readOnly = false): Mount => ({
  type,
  source,
  target,
  readOnly,
});

describe("--volume", () => {
  it.each<[string, Mount]>([
    ["cache:/c", mount("volume", "cache", "/c")],
    ["cache:/c:ro", mount("volume", "cache", "/c", true)],
    ["cache:/c:rw", mount("volume", "cache", "/c")],
    ["/srv/x:/x", mount("bind", "/srv/x", "/x")],
    ["./x:/x:ro", mount("bind", "./x", "/x", true)],
    [".:/x", mount("bind", ".", "/x")],
    ["..:/x", mount("bind", "..", "/x")],
    ["../x y:/x", mount("bind", "../x y", "/x")],
    // No path: the engine says what a volume may be called.
    [".hidden:/x", mount("volume", ".hidden", "/x")],
    ["a/b:/x", mount("volume", "a/b", "/x")],
  ])("%s", (entry, expected) => {
    expect(parseVolume(entry)).toEqual(expected);
  });

  it.each(["", "x", ":", ":/x", "x:", "x:relative", "x:/x:", "x:/x:exec", "/a:b:/x:ro", "/a:b:/c"])(
    "refuses %j",
    (entry) => {
      expect(() => parseVolume(entry)).toThrow(UsageError);
    },
  );

  it("tells of --mount where a path has a colon", () => {
    expect(() => parseVolume("/a:b:/x:ro")).toThrow(
      expect.objectContaining({ hint: expect.stringContaining("--mount type=bind") }),
    );
  });
});

describe("--mount", () => {
  it.each<[string, Mount]>([
    ["type=bind,source=/a:b,target=/x", mount("bind", "/a:b", "/x")],
    ["type=bind,src=./a=b,dst=/x,readonly", mount("bind", "./a=b", "/x", true)],
    ["target=/x,ro=true,source=cache,type=volume", mount("volume", "cache", "/x", true)],
    ["type=volume,source=cache,destination=/x,readonly=false", mount("volume", "cache", "/x")],
  ])("%s", (entry, expected) => {
    expect(parseMount(entry)).toEqual(expected);
  });

  it.each([
    "",
    "type=bind",
    "type=tmpfs,source=a,target=/x",
    "type=bind,source=/a",
    "type=bind,target=/x",
    "type=bind,source=/a,target=x",
    "type=bind,source=/a,target=/x,readonly=perhaps",
    "type=bind,source=/a,target=/x,propagation=shared",
    "type=bind,source=/a,src=/b,target=/x",
    "__proto__=x",
    "constructor=x,type=bind,source=/a,target=/x",
  ])("refuses %j", (entry) => {
    expect(() => parseMount(entry)).toThrow(UsageError);
  });
});

it("makes paths of this machine absolute, where the engine is on it", () => {
  const mounts = [mount("bind", "./x", "/x", true), mount("volume", "v", "/v"), mount("bind", "/abs", "/y")];
  expect(storageOf(mounts, true)).toEqual({
    volumes: [{ name: "v", mount_path: "/v" }],
    binds: [
      { source: resolve("x"), mount_path: "/x", read_only: true },
      { source: "/abs", mount_path: "/y" },
    ],
  });
  expect(() => storageOf(mounts, false)).toThrow(UsageError);
  expect(storageOf([mount("bind", "/abs", "/y")], false)).toEqual({
    binds: [{ source: "/abs", mount_path: "/y" }],
  });
});
