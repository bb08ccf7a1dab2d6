import { describe, expect, it } from "vitest";
import { baseImages } from "../../../src/runtimes/oci/images/base-images.ts";

describe("the images that a Dockerfile starts from", () => {
  it.each<[string, string, Record<string, string>, string[]]>([
    ["one", "FROM debian:12", {}, ["debian:12"]],
    ["lower case, and a platform", "from --platform=linux/amd64 debian:12 as x", {}, ["debian:12"]],
    ["scratch and stages are none", "FROM scratch AS a\nFROM a AS b\nFROM B", {}, []],
    ["each once", "FROM a\nFROM a\nFROM b", {}, ["a", "b"]],
    [
      "comments and lines that go on",
      "# FROM no\nFROM \\\n # between\n  alpine:3 \\\n AS x\n",
      {},
      ["alpine:3"],
    ],
    ["another escape", "# escape=`\nFROM `\nalpine:3", {}, ["alpine:3"]],
    ["a default", "ARG V=12\nFROM debian:$V", {}, ["debian:12"]],
    ["an argument", "ARG V=12\nFROM debian:${V}", { V: "13" }, ["debian:13"]],
    ["arguments that aren't declared count for nothing", "FROM debian:${V:-12}", { V: "13" }, ["debian:12"]],
    ["quotes", 'ARG V="12"\nFROM "debian:${V}"', {}, ["debian:12"]],
    ["after FROM no ARG counts", "FROM a\nARG B=b\nFROM x${B}", {}, ["a", "x"]],
    [
      "COPY --from",
      "FROM scratch AS s\nCOPY --from=s /a /b\nCOPY --chown=1 --from=tools:1 /a /b\nCOPY --from=0 a b",
      {},
      ["tools:1"],
    ],
    [
      "RUN --mount",
      "FROM scratch\nRUN --mount=type=bind,from=tools:1,target=/x make\nRUN echo --mount=from=no",
      {},
      ["tools:1"],
    ],
    ["nothing", "", {}, []],
  ])("%s", (_, dockerfile, args, expected) => {
    expect(baseImages(dockerfile, args)).toEqual(expected);
  });

  it("are few, however long the file", () => {
    const many = Array.from({ length: 10_000 }, (_v, i) => `FROM image${i}`).join("\n");
    expect(baseImages(many)).toHaveLength(64);
  });
});
